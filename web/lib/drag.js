/** A pointer that is held down over an element and moved. */

/** @typedef {{ share: number, up: number }} Place shares from the left and from the bottom, 0 to 1 */

/**
 * Follow the pointer until it is let go, as often as the page is drawn.
 * @param {HTMLElement} target
 * @param {PointerEvent} start
 * @param {(event: PointerEvent) => void} follow
 * @param {() => void} [end]
 */
export function drag(target, start, follow, end) {
  target.setPointerCapture(start.pointerId);
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
  const stop = () => {
    target.removeEventListener("pointermove", note);
    tell();
    end?.();
  };
  target.addEventListener("pointermove", note);
  target.addEventListener("lostpointercapture", stop, { once: true });
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
