/**
 * A Power Lora Loader of rgthree-comfy as a Mixer.
 *
 * Each of its rows is a widget with a value `{ on, lora, strength, strengthTwo }`. The second strength counts only where
 * the property "Show Strengths" says so; without it, the first is that of the text encoder, too. Where the pack is not
 * there, the host keeps the values as the workflow has them.
 */

/** @typedef {import("./exchange.js").Exchange} Exchange */

import { graphOf } from "./chain.js";
import { ownTitle } from "./exchange.js";
import { outputOf, startOf } from "./links.js";
import { listedName } from "./names.js";
import { Refusal } from "./refusal.js";
import { mixerOf, newRow, strengthOf } from "./rows.js";

const TYPE = "Power Lora Loader (rgthree)";
const SEPARATE = "Separate Model & Clip";
const NO_FILE = "None";
const SOCKETS = ["model", "clip"]; // outputs in this order, too

/** @param {LGraphNode} node */
export function isPowerLoader({ type }) {
  return type === TYPE;
}

/**
 * @param {LGraphNode} node
 * @param {string[]} names of files
 * @returns {Exchange}
 */
export function mixerForPower(node, names) {
  const isSeparate = node.properties?.["Show Strengths"] === SEPARATE;
  const rows = valuesOf(node).map((value) => newRow({
    file: listedName(value.lora, names),
    on: Boolean(value.on),
    scale: strengthOf(value.strength, node),
    clip_scale: isSeparate ? strengthOf(value.strengthTwo ?? 1, node) : null,
  }));
  if (!rows.length) throw new Refusal("convert.no_rows");
  const inputs = Object.fromEntries(SOCKETS.map((name) => [name, startOf(node, name)]));
  const mixer = mixerOf(rows, { title: ownTitle(node), pos: node.pos, mode: node.mode, inputs });
  const moved = SOCKETS.map((_, slot) => ({ from: outputOf(node, slot), to: { made: 0, slot } }));
  return { graph: graphOf(node), made: [mixer], moved, removed: [node] };
}

/** @typedef {{ on: unknown, lora: string, strength: unknown, strengthTwo?: unknown }} Value */

/**
 * The values of the rows that have a file.
 * @param {LGraphNode} node
 * @returns {Value[]}
 */
function valuesOf(node) {
  const shown = (node.widgets ?? []).map(({ value }) => value).filter(isRow);
  const kept = node.last_serialization?.widgets_values;
  return shown.length ? shown : (Array.isArray(kept) ? kept : []).filter(isRow);
}

/**
 * @param {any} value
 * @returns {value is Value}
 */
function isRow(value) {
  return typeof value?.lora === "string" && value.lora !== "" && value.lora !== NO_FILE;
}
