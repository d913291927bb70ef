/** A pointer that is held down over an element and moved. */

import { oneChange } from "./graph.js";

/** @typedef {{ share: number, up: number }} Place shares from the left and from the bottom, 0 to 1 */

let held = 0;

/** Whether anything is being dragged. */
export function isDragging() {
  return held > 0;
}

/**
 * Follow the pointer until it is let go, as often as the page is drawn; all of it is one step for undo.
 * @param {HTMLElement} target
 * @param {PointerEvent} start
 * @param {(event: PointerEvent) => void} follow
 * @param {() => void} [end]
 */
export function drag(target, start, follow, end) {
  target.setPointerCapture(start.pointerId);
  held += 1;
  const record = oneChange();
  /** @type {PointerEvent | null} */
  let latest = null;
  const tell = () => {
    const event = latest;
    latest = null;
    if (event) follow(event);
  };
  const note = (/** @type {PointerEvent} */ event) => {
    if (!latest) requestAnimationFrame(tell);
    latest = event;
  };
  const stop = (/** @type {PointerEvent} */ { pointerId }) => {
    if (pointerId !== start.pointerId) return;
    target.removeEventListener("pointermove", note);
    document.removeEventListener("lostpointercapture", stop, true);
    held -= 1;
    tell();
    end?.();
    record();
  };
  target.addEventListener("pointermove", note);
  document.addEventListener("lostpointercapture", stop, true); // the document has it too where the target was removed
}

/**
 * Where a pointer is within an element, at its edge where it is outside.
 * @param {HTMLElement} element
 * @param {MouseEvent} event
 * @returns {Place}
 */
export function placeIn(element, { clientX, clientY }) {
  const box = element.getBoundingClientRect();
  return { share: clamped((clientX - box.left) / box.width), up: clamped((box.bottom - clientY) / box.height) };
}

/** @param {number} share */
function clamped(share) {
  return Math.min(1, Math.max(0, share));
}
