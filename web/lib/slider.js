/** A slider. The browser's own is an input, and while an input has the focus the host undoes nothing. */

/**
 * @typedef {{ min: number, max: number, step: number, reset?: number }} Range
 * @typedef {Range & { onInput: (value: number) => void, onChange: () => void }} Options
 * @typedef {HTMLDivElement & { show: (value: number) => void }} Slider
 */

import { element } from "./dom.js";

const PAGE = 5; // steps
const FINE = 0.2; // of a step, with Shift

/**
 * Arguments: range and step; `onInput(value)` while it moves, `onChange()` once it has moved. Set it with `.show(value)`;
 * a value outside the range widens it.
 * @param {Options} options
 * @returns {Slider}
 */
export function slider({ min, max, step, onInput, onChange, reset }) {
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
    drag(made, event, ({ share }) => move(range.min + share * (range.max - range.min)), onChange);
  });
  made.addEventListener("dblclick", () => {
    if (reset === undefined || isDisabled(made)) return;
    onInput(reset);
    onChange();
  });
  made.addEventListener("keydown", (event) => {
    const to = targetOf(event, value, { ...range, step });
    if (to === null || isDisabled(made)) return;
    event.preventDefault();
    move(to, event.shiftKey ? step * FINE : step);
    onChange();
  });
  show(min);
  return Object.assign(made, { show });
}

/**
 * Follow the pointer over an element: shares from the left and from the bottom, 0 to 1, as often as it is drawn.
 * @param {HTMLElement} target
 * @param {PointerEvent} start
 * @param {(place: { share: number, up: number }) => void} follow
 * @param {() => void} end
 */
export function drag(target, start, follow, end) {
  target.setPointerCapture(start.pointerId);
  const box = target.getBoundingClientRect();
  /** @type {PointerEvent | null} */
  let latest = null;
  const tell = () => {
    if (!latest) return;
    const { clientX, clientY } = latest;
    latest = null;
    follow({ share: clamped((clientX - box.left) / box.width), up: clamped((box.bottom - clientY) / box.height) });
  };
  const note = (/** @type {PointerEvent} */ event) => {
    if (!latest) requestAnimationFrame(tell);
    latest = event;
  };
  const stop = () => {
    target.removeEventListener("pointermove", note);
    tell();
    end();
  };
  latest = start;
  tell();
  target.addEventListener("pointermove", note);
  target.addEventListener("lostpointercapture", stop, { once: true });
}

/** @param {number} share */
function clamped(share) {
  return Math.min(1, Math.max(0, share));
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
function targetOf({ key, shiftKey }, value, { min, max, step }) {
  const small = shiftKey ? step * FINE : step;
  /** @type {Record<string, number>} */
  const steps = { ArrowLeft: -small, ArrowDown: -small, ArrowRight: small, ArrowUp: small, PageUp: PAGE * step, PageDown: -PAGE * step };
  if (key in steps) return value + steps[key];
  return { Home: min, End: max }[key] ?? null;
}

/**
 * To the grid, without the dust of binary fractions.
 * @param {number} value
 * @param {number} grid
 */
function round(value, grid) {
  return Number((Math.round(value / grid) * grid).toFixed(6));
}
