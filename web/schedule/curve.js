/** The curves of `QRLoRA_Schedule`, number for number as qrlora_core/schedule.py computes them. */

/** @typedef {[number, number]} Point share of the window, or progress, and factor */

export const CUSTOM = "custom";
/** @type {Record<string, Point[]>} */
const CURVES = {
  constant: [[0, 1], [1, 1]],
  "ramp up": [[0, 0], [1, 1]],
  "ramp down": [[0, 1], [1, 0]],
  early: [[0, 1], [0.4, 1], [0.6, 0]],
  late: [[0.4, 0], [0.6, 1], [1, 1]],
};
export const CURVE_NAMES = Object.keys(CURVES);
const DIGITS = String.raw`\d+(?:_\d+)*`;
const NUMBER = new RegExp(`^[+-]?(?:${DIGITS}(?:\\.(?:${DIGITS})?)?|\\.${DIGITS})(?:e[+-]?${DIGITS})?$`, "i");

/** `key` and `values` are for texts.js. */
export class ScheduleError extends Error {
  /**
   * @param {string} key
   * @param {Record<string, unknown>} [values]
   */
  constructor(key, values = {}) {
    super(key);
    this.values = values;
  }
}

/**
 * `0:1, 0.5:0.3, 1:0` as pairs of progress and factor, as the server reads it.
 * @param {string} written
 */
export function parsePoints(written) {
  const parts = written.split(/[,\n]/).map((part) => part.trim()).filter(Boolean);
  return checked(parts.map(parsePoint));
}

/**
 * @param {string} part
 * @returns {Point}
 */
function parsePoint(part) {
  const numbers = part.split(":").map((number) => number.trim());
  if (numbers.length !== 2 || !numbers.every((number) => NUMBER.test(number))) throw new ScheduleError("schedule.unreadable", { part });
  const [progress, factor] = numbers.map((number) => Number(number.replaceAll("_", "")));
  return [progress, factor];
}

/** @param {Point[]} points */
function checked(points) {
  if (!points.length) throw new ScheduleError("schedule.no_points");
  for (const [progress, factor] of points) {
    if (!(0 <= progress && progress <= 1 && Number.isFinite(factor))) throw new ScheduleError("schedule.outside", { point: `${progress}:${factor}` });
  }
  if (points.some(([progress], index) => progress < points[index - 1]?.[0])) throw new ScheduleError("schedule.order");
  return points;
}

/**
 * The points of a curve over its window's own 0 to 1. Those of `constant` say that it is off outside.
 * @param {string} curve
 * @param {string} written
 * @param {number} start
 * @param {number} end
 * @returns {Point[]}
 */
export function shapeOf(curve, written, start, end) {
  if (curve === CUSTOM) return parsePoints(written);
  if (curve !== "constant") return CURVES[curve];
  /** @type {Point[]} */
  const [before, after] = [[0, 0], [1, 0]];
  return [...(start > 0 ? [before] : []), ...CURVES.constant, ...(end < 1 ? [after] : [])];
}

/**
 * The points of a curve over the whole sampling.
 * @param {string} curve
 * @param {string} written
 * @param {number} start
 * @param {number} end
 */
export function makeCurve(curve, written, start, end) {
  if (!(0 <= start && start < end && end <= 1)) throw new ScheduleError("schedule.window");
  return checked(shapeOf(curve, written, start, end).map(([share, factor]) => [place(share, start, end), factor]));
}

/**
 * Where in the sampling a share of the window lies.
 * @param {number} share
 * @param {number} start
 * @param {number} end
 */
export function place(share, start, end) {
  return start + share * (end - start);
}

/**
 * The factor at a progress from 0 to 1.
 * @param {Point[]} points
 * @param {number} progress
 */
export function factorAt(points, progress) {
  const after = points.filter(([passed]) => passed <= progress).length;
  if (after === 0) return points[0][1];
  if (after === points.length) return points[after - 1][1];
  const [[left, first], [right, last]] = [points[after - 1], points[after]];
  return first + ((last - first) * (progress - left)) / (right - left);
}

/** @param {Point[]} points */
export function formatPoints(points) {
  return points.map((point) => point.join(":")).join(", ");
}
