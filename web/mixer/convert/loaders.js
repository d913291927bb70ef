/** A Mixer as a chain of stock LoRA loaders, so that nobody is bound to it. */

/**
 * @typedef {import("../document.js").Mix} Mix
 * @typedef {import("../document.js").MixRow} MixRow
 * @typedef {import("./exchange.js").Exchange} Exchange
 * @typedef {import("./exchange.js").Making} Making
 * @typedef {import("./refusal.js").Note} Note
 */

import { isSilent, parseMix } from "../document.js";
import { linkInto, widgetOf } from "../../lib/graph.js";
import { ALWAYS, BYPASSED, graphOf } from "./chain.js";
import { ownTitle } from "./exchange.js";
import { isBound, linksFrom, outputOf, startOf } from "./links.js";
import { stockName } from "./names.js";
import { calledOf, Refusal } from "./refusal.js";
import { MIXER } from "./rows.js";

const [MODEL, CLIP] = [0, 1]; // outputs
const KEPT_OUTPUTS = 2;
const APART = 180; // pixels
const PLAIN_MODE = "add";

/** @param {LGraphNode} node */
export function isMixer({ type }) {
  return type === MIXER;
}

/**
 * The loaders for a Mixer, and what they cannot hold.
 * @param {LGraphNode} node
 * @returns {{ exchange: Exchange, losses: Note[] }}
 */
export function loadersForMixer(node) {
  const mix = mixOf(node);
  const known = optionsOf("LoraLoader");
  const rows = mix.rows.flatMap((row) => {
    const name = stockName(row.file, known);
    return name === null ? [] : [{ row, name }];
  });
  if (!rows.length) throw new Refusal("convert.no_rows");
  const [model, clip] = [startOf(node, "model"), startOf(node, "clip")];
  const made = rows.map(({ row, name }, place) => loaderOf(node, row, {
    name,
    place,
    isOff: isSilent(mix, row),
    hasClip: clip !== null && row.clip_scale !== 0,
  }));
  const encoders = made.flatMap(({ type }, place) => (type === "LoraLoader" ? [place] : []));
  made.forEach(({ inputs }, place) => {
    inputs.model = place ? { made: place - 1, slot: MODEL } : model;
    const before = encoders.filter((other) => other < place).at(-1);
    if (encoders.includes(place)) inputs.clip = before === undefined ? clip : { made: before, slot: CLIP };
  });
  const last = encoders.at(-1);
  const lastClip = last === undefined ? clip : { made: last, slot: CLIP }; // of loaders of models alone, past them
  /** @type {Exchange["moved"]} */
  const moved = [{ from: outputOf(node, MODEL), to: { made: made.length - 1, slot: MODEL } }];
  if (lastClip) moved.push({ from: outputOf(node, CLIP), to: lastClip });
  return { exchange: { graph: graphOf(node), made, moved, removed: [node] }, losses: lossesOf(node, mix) };
}

/**
 * @param {LGraphNode} node
 * @returns {Mix}
 */
function mixOf(node) {
  if (isBound(node, "mix")) throw new Refusal("convert.linked", { node: calledOf(node), input: "mix" });
  const mix = parseMix(String(widgetOf(node, "mix")?.value ?? ""));
  if (!mix) throw new Refusal("convert.unreadable", { node: calledOf(node) });
  return mix;
}

/**
 * The files that a stock loader offers, as it spells them.
 * @param {string} type
 * @returns {string[]}
 */
function optionsOf(type) {
  const node = LiteGraph.createNode(type);
  if (!node) throw new Refusal("convert.no_node", { node: type });
  return widgetOf(node, "lora_name")?.options?.values ?? [];
}

/**
 * @param {LGraphNode} node
 * @param {MixRow} row
 * @param {{ name: string, place: number, isOff: boolean, hasClip: boolean }} how
 * @returns {Making}
 */
function loaderOf(node, { scale, clip_scale }, { name, place, isOff, hasClip }) {
  /** @type {Making["values"]} */
  const ofEncoder = hasClip ? { strength_clip: clip_scale ?? scale } : {};
  return {
    type: hasClip ? "LoraLoader" : "LoraLoaderModelOnly",
    title: place ? undefined : ownTitle(node),
    pos: [node.pos[0], node.pos[1] + APART * place],
    mode: isOff && node.mode === ALWAYS ? BYPASSED : node.mode,
    values: { lora_name: name, strength_model: scale, ...ofEncoder },
    inputs: {},
  };
}

/**
 * @param {LGraphNode} node
 * @param {Mix} mix
 * @returns {Note[]}
 */
function lossesOf(node, { rows }) {
  const ofRows = rows.flatMap(({ file, blocks, schedule }, place) => {
    const values = { row: place + 1, file };
    if (stockName(file, []) === null) return [{ key: "convert.loss_file", values }];
    const lost = [...(blocks.trim() ? ["blocks"] : []), ...(schedule.trim() ? ["schedule"] : [])];
    return lost.map((name) => ({ key: `convert.loss_${name}`, values }));
  });
  const mode = widgetOf(node, "mode")?.value;
  const ofMode = isBound(node, "mode") || (mode !== undefined && mode !== PLAIN_MODE) ? [{ key: "convert.loss_mode", values: { mode } }] : [];
  const ofInputs = linkInto(node, "lora_stack") ? [{ key: "convert.loss_input", values: { input: "lora_stack" } }] : [];
  const graph = graphOf(node);
  const ofOutputs = node.outputs.flatMap((output, slot) => {
    const isLost = slot >= KEPT_OUTPUTS && linksFrom(graph, outputOf(node, slot)).length;
    return isLost ? [{ key: "convert.loss_output", values: { output: output.label ?? output.name } }] : [];
  });
  return [...ofRows, ...ofMode, ...ofInputs, ...ofOutputs];
}
