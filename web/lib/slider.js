/** A slider. The browser's own is an input, and while an input has the focus the host undoes nothing. */

import { element } from "./dom.js";

const PAGE = 5; // steps
const FINE = 0.2; // of a step, with Shift

/**
 * Arguments: range and step; `onInput(value)` while it moves, `onChange()` once it has moved. Set it with `.show(value)`;
 * a value outside the range widens it.
 */
export function slider({ min, max, step, onInput, onChange, reset }) {
  const made = element("div", { class: "qr-lora-slider", role: "slider", tabindex: "0" });
  let value = min;
  let range = { min, max };

  made.show = (shown) => {
    value = shown;
    range = { min: Math.min(min, value), max: Math.max(max, value) };
    made.style.setProperty("--qr-share", String((value - range.min) / (range.max - range.min)));
    for (const [name, told] of [["min", range.min], ["max", range.max], ["now", value]]) made.setAttribute(`aria-value${name}`, String(told));
  };

  const move = (to, grid = step) => onInput(round(Math.min(range.max, Math.max(range.min, to)), grid));

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
  made.show(min);
  return made;
}

/** Follow the pointer over an element: shares from the left and from the bottom, 0 to 1, as often as it is drawn. */
export function drag(target, start, follow, end) {
  target.setPointerCapture(start.pointerId);
  let box = target.getBoundingClientRect();
  let latest = null;
  const tell = () => {
    if (!latest) return;
    const { clientX, clientY } = latest;
    latest = null;
    follow({ share: clamped((clientX - box.left) / box.width), up: clamped((box.bottom - clientY) / box.height) });
  };
  const note = (event) => {
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

function clamped(share) {
  return Math.min(1, Math.max(0, share));
}

function isDisabled(made) {
  return made.getAttribute("aria-disabled") === "true";
}

function targetOf({ key, shiftKey }, value, { min, max, step }) {
  const small = shiftKey ? step * FINE : step;
  const steps = { ArrowLeft: -small, ArrowDown: -small, ArrowRight: small, ArrowUp: small, PageUp: PAGE * step, PageDown: -PAGE * step };
  if (key in steps) return value + steps[key];
  return { Home: min, End: max }[key] ?? null;
}

/** To the grid, without the dust of binary fractions. */
function round(value, grid) {
  return Number((Math.round(value / grid) * grid).toFixed(6));
}
