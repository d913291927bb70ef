/** A chain of stock LoRA loaders as a Mixer. */

/**
 * @typedef {import("./exchange.js").Exchange} Exchange
 * @typedef {import("./refusal.js").Note} Note
 */

import { linkInto, widgetOf } from "../../lib/graph.js";
import { ownTitle } from "./exchange.js";
import { isBound, isSame, linksFrom, outputOf, startOf } from "./links.js";
import { calledOf, Refusal } from "./refusal.js";
import { mixerOf, newRow, strengthOf } from "./rows.js";

const [MODEL, CLIP] = [0, 1]; // outputs
export const [ALWAYS, BYPASSED] = [0, 4];
/** Type to its widgets. @type {Record<string, string[]>} */
const LOADERS = {
  LoraLoader: ["lora_name", "strength_model", "strength_clip"],
  LoraLoaderModelOnly: ["lora_name", "strength_model"],
};

/** @param {LGraphNode} node */
export function isLoader({ type }) {
  return Object.hasOwn(LOADERS, type);
}

/** @param {LGraphNode} node */
function hasClip({ type }) {
  return type === "LoraLoader";
}

/**
 * The Mixer for the chain that a loader is part of, and why it ends where other loaders follow.
 * @param {LGraphNode} node
 * @returns {{ exchange: Exchange, notes: Note[] }}
 */
export function mixerForChain(node) {
  const own = stopOf(node);
  if (own) throw new Refusal(own.key, own.values);
  const { line, notes } = lineOf(node);
  const chain = piecesOf(line).find((piece) => piece.includes(node)) ?? [node];
  const encoders = chain.filter(hasClip);
  const graph = graphOf(node);
  const [first, last] = [chain[0], chain[chain.length - 1]];
  const mixer = mixerOf(chain.map((loader) => rowFor(loader, encoders.length > 0)), {
    title: chain.map(ownTitle).find(Boolean),
    pos: first.pos,
    mode: ALWAYS,
    inputs: { model: startOf(first, "model"), clip: encoders.length ? startOf(encoders[0], "clip") : null },
  });
  const moved = [{ from: outputOf(last, MODEL), to: { made: 0, slot: MODEL } }];
  for (const encoder of encoders.slice(-1)) moved.push({ from: outputOf(encoder, CLIP), to: { made: 0, slot: CLIP } });
  return { exchange: { graph, made: [mixer], moved, removed: chain }, notes };
}

/** @param {LGraphNode} node */
export function graphOf({ graph }) {
  if (!graph) throw new Refusal("convert.changed");
  return graph;
}

/**
 * A loader without a scale for the text encoder leaves it as it is, which a mix says where it has one.
 * @param {LGraphNode} loader
 * @param {boolean} isWithClip
 */
function rowFor(loader, isWithClip) {
  const value = (/** @type {string} */ name) => widgetOf(loader, name)?.value;
  const file = value("lora_name");
  if (typeof file !== "string" || !file) throw new Refusal("convert.no_file", { node: calledOf(loader) });
  const scale = strengthOf(value("strength_model"), loader);
  const ofEncoder = hasClip(loader) ? strengthOf(value("strength_clip"), loader) : 0;
  return newRow({
    file: `loras/${file.replaceAll("\\", "/")}`,
    on: loader.mode !== BYPASSED,
    scale,
    clip_scale: isWithClip ? ofEncoder : null,
  });
}

/**
 * Why a loader cannot be part of a chain; null where it can.
 * @param {LGraphNode} loader
 * @returns {Note | null}
 */
function stopOf(loader) {
  const node = calledOf(loader);
  if (loader.mode !== ALWAYS && loader.mode !== BYPASSED) return { key: "convert.muted", values: { node } };
  const bound = LOADERS[loader.type].find((name) => isBound(loader, name));
  return bound ? { key: "convert.linked", values: { node, input: bound } } : null;
}

/**
 * The loaders before and behind one whose model goes from each to the next and nowhere else, in their order.
 * @param {LGraphNode} node
 */
function lineOf(node) {
  const line = [node];
  /** @type {Note[]} */
  const notes = [];
  for (const [step, put] of /** @type {const} */ ([[loaderBefore, "unshift"], [loaderBehind, "push"]])) {
    let found = step(node);
    while (found && !line.includes(found)) {
      const stop = stopOf(found);
      if (stop) notes.push(stop);
      if (stop) break;
      line[put](found);
      found = step(found);
    }
  }
  return { line, notes };
}

/** @param {LGraphNode} node */
function loaderBefore(node) {
  const link = linkInto(node, "model");
  const before = link && !link.originIsIoNode ? graphOf(node).getNodeById(link.origin_id) : null;
  return before && isLoader(before) && link?.origin_slot === MODEL && isOnly(before) ? before : null;
}

/** @param {LGraphNode} node */
function loaderBehind(node) {
  const [link] = linksFrom(graphOf(node), outputOf(node, MODEL));
  const behind = link && !link.targetIsIoNode && isOnly(node) ? graphOf(node).getNodeById(link.target_id) : null;
  return behind && isLoader(behind) ? behind : null;
}

/**
 * Whether the model of a loader goes to one place.
 * @param {LGraphNode} loader
 */
function isOnly(loader) {
  return linksFrom(graphOf(loader), outputOf(loader, MODEL)).length === 1;
}

/**
 * A line in pieces, each of which is one mix: parted where the text encoder goes another way than the model.
 * @param {LGraphNode[]} line
 */
function piecesOf(line) {
  /** @type {LGraphNode[][]} */
  const pieces = [];
  for (const loader of line) {
    const piece = pieces.at(-1);
    if (piece && goesOn(piece.findLast(hasClip), loader)) piece.push(loader);
    else pieces.push([loader]);
  }
  return pieces;
}

/**
 * Whether the text encoder goes from one loader to another and nowhere else, as the model does.
 * @param {LGraphNode | undefined} before
 * @param {LGraphNode} loader
 */
function goesOn(before, loader) {
  if (!before || !hasClip(loader)) return true;
  const from = linksFrom(graphOf(before), outputOf(before, CLIP));
  const link = linkInto(loader, "clip");
  return from.length === 1 && link != null && isSame(link.origin_id, before.id) && link.origin_slot === CLIP;
}
