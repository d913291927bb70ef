/** A slider. The browser's own is an input, and while an input has the focus the host undoes nothing. */

/**
 * @typedef {{ min: number, max: number, step: number, reset?: number }} Range
 * @typedef {Range & { onInput: (value: number) => void }} Options
 * @typedef {HTMLDivElement & { show: (value: number) => void }} Slider
 */

import { element } from "./dom.js";
import { drag, placeIn } from "./drag.js";
import { recordChange } from "./graph.js";
import { arrowOf } from "./keys.js";

const PAGE = 5; // steps
const FINE = 0.2; // of a step, with Shift

/**
 * Arguments: range and step; `onInput(value)` while it moves. A drag, a key and a double click are one step for undo each.
 * Set it with `.show(value)`; a value outside the range widens it.
 * @param {Options} options
 * @returns {Slider}
 */
export function slider({ min, max, step, onInput, reset }) {
  const made = element("div", { class: "qr-lora-slider", role: "slider", tabindex: "0" });
  let value = min;
  let range = { min, max };

  const show = (/** @type {number} */ shown) => {
    value = shown;
    range = { min: Math.min(min, value), max: Math.max(max, value) };
    made.style.setProperty("--qr-share", String((value - range.min) / (range.max - range.min)));
    for (const [name, told] of Object.entries({ ...range, now: value })) made.setAttribute(`aria-value${name}`, String(told));
  };

  const move = (/** @type {number} */ to, grid = step) => onInput(round(Math.min(range.max, Math.max(range.min, to)), grid));

  made.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || isDisabled(made)) return;
    event.preventDefault();
    made.focus();
    const follow = (/** @type {PointerEvent} */ at) => move(range.min + placeIn(made, at).share * (range.max - range.min));
    follow(event);
    drag(made, event, follow);
  });
  made.addEventListener("dblclick", () => {
    if (reset === undefined || isDisabled(made)) return;
    onInput(reset);
    recordChange();
  });
  made.addEventListener("keydown", (event) => {
    const to = targetOf(event, value, { ...range, step });
    if (to === null || isDisabled(made)) return;
    event.preventDefault();
    move(to, event.shiftKey ? step * FINE : step);
    recordChange();
  });
  show(min);
  return Object.assign(made, { show });
}

/** @param {HTMLElement} made */
function isDisabled(made) {
  return made.getAttribute("aria-disabled") === "true";
}

/**
 * @param {KeyboardEvent} event
 * @param {number} value
 * @param {Range} range
 * @returns {number | null}
 */
function targetOf(event, value, { min, max, step }) {
  const arrow = arrowOf(event);
  if (arrow) return value + (arrow[0] + arrow[1]) * (event.shiftKey ? step * FINE : step);
  return { PageUp: value + PAGE * step, PageDown: value - PAGE * step, Home: min, End: max }[event.key] ?? null;
}

/**
 * To the grid, without the dust of binary fractions.
 * @param {number} value
 * @param {number} grid
 */
function round(value, grid) {
  return Number((Math.round(value / grid) * grid).toFixed(6));
}
