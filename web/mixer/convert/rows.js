/** The rows of a mix from what other nodes hold, and the Mixer that they make. */

/**
 * @typedef {import("../document.js").MixRow} MixRow
 * @typedef {import("./exchange.js").Making} Making
 */

import { LARGEST_SCALE, MOST_ROWS, rowOf, textOf } from "../document.js";
import { calledOf, Refusal } from "./refusal.js";

export const MIXER = "QRLoRA_Mixer";

/**
 * A row; a scale of the text encoder that is the same as that of the model is none of its own.
 * @param {{ file: string, on?: boolean, scale: number, clip_scale?: number | null }} told
 * @returns {MixRow}
 */
export function newRow({ clip_scale = null, ...told }) {
  return rowOf({ ...told, clip_scale: clip_scale === told.scale ? null : clip_scale });
}

/**
 * A strength that a mix can hold.
 * @param {unknown} told
 * @param {LGraphNode} node
 */
export function strengthOf(told, node) {
  if (typeof told === "number" && Math.abs(told) <= LARGEST_SCALE) return told;
  throw new Refusal("convert.bad_strength", { node: calledOf(node), value: told, most: LARGEST_SCALE });
}

/**
 * @param {MixRow[]} rows
 * @param {Omit<Making, "type" | "values">} rest
 * @returns {Making}
 */
export function mixerOf(rows, rest) {
  if (rows.length > MOST_ROWS) throw new Refusal("convert.many_rows", { count: rows.length, most: MOST_ROWS });
  return { type: MIXER, values: { mix: textOf({ on: true, rows }) }, ...rest };
}
