/** Keys that mean the same in every panel. */

/**
 * What an arrow does: steps to the right, steps up.
 * @type {Record<string, [number, number]>}
 */
const ARROWS = {
  ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1],
};

/**
 * Where an arrow leads, null for another key.
 * @param {KeyboardEvent} event
 */
export function arrowOf({ key }) {
  return ARROWS[key] ?? null;
}

/**
 * How far an arrow goes in a list whose rows hold so many; 0 for another key.
 * @param {KeyboardEvent} event
 * @param {number} columns
 */
export function stepInGrid(event, columns) {
  const [right, up] = arrowOf(event) ?? [0, 0];
  return right - up * columns;
}

/**
 * How far an arrow goes down a list; 0 for another key.
 * @param {KeyboardEvent} event
 */
export function stepInList(event) {
  return -(arrowOf(event)?.[1] ?? 0);
}
