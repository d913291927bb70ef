/** The `<lora:...>` tags of a prompt as a Mixer between the loader of its text encoder and all that uses it. */

/**
 * @typedef {import("./exchange.js").Exchange} Exchange
 * @typedef {import("./exchange.js").Setting} Setting
 * @typedef {import("./links.js").End} End
 * @typedef {import("./tags.js").Tag} Tag
 */

import { linkInto } from "../../lib/graph.js";
import { ALWAYS, graphOf } from "./chain.js";
import { isBound, linksFrom, outputOf, startOf } from "./links.js";
import { listedName } from "./names.js";
import { Refusal } from "./refusal.js";
import { mixerOf, newRow, strengthOf } from "./rows.js";
import { partedTags } from "./tags.js";

const [MODEL, CLIP] = [0, 1]; // outputs of a Mixer
const ABOVE = 340; // pixels

/**
 * The texts of a node that have tags and are its own.
 * @param {LGraphNode} node
 */
function taggedTexts(node) {
  return (node.widgets ?? [])
    .filter(isText)
    .map(({ name, value }) => ({ name, ...partedTags(value) }))
    .filter(({ name, tags }) => tags.length && !isBound(node, name));
}

/** @param {Widget} widget */
function isText({ type, element, value }) {
  return typeof value === "string" && (type === "customtext" || element instanceof HTMLTextAreaElement);
}

/** @param {LGraphNode} node */
export function hasTags(node) {
  return taggedTexts(node).length > 0;
}

/**
 * @param {LGraphNode} node
 * @param {string[]} names of files
 * @returns {Exchange}
 */
export function mixerForPrompt(node, names) {
  const graph = graphOf(node);
  const texts = taggedTexts(node);
  const rows = eachOnce(texts.map(({ tags }) => tags)).map(({ name, scale, clip_scale }) => newRow({
    file: listedName(name, names),
    scale: strengthOf(scale, node),
    clip_scale: clip_scale === null ? null : strengthOf(clip_scale, node),
  }));
  if (!rows.length) throw new Refusal("convert.no_rows");
  const clip = clipFor(node);
  const model = modelFor(graph, clip);
  const mixer = mixerOf(rows, { pos: [node.pos[0], node.pos[1] - ABOVE], mode: ALWAYS, inputs: { model, clip } });
  return {
    graph,
    made: [mixer],
    moved: [{ from: model, to: { made: 0, slot: MODEL } }, { from: clip, to: { made: 0, slot: CLIP } }],
    set: texts.map(({ name, rest }) => ({ node, name, value: rest })),
  };
}

/**
 * All tags; one that several texts of a node have is meant once, as for a model that reads two prompts.
 * @param {Tag[][]} tags by text
 */
function eachOnce([first = [], ...more]) {
  const key = (/** @type {Tag} */ tag) => JSON.stringify(Object.values(tag));
  const rows = [...first];
  for (const tags of more) {
    const known = new Set(rows.map(key));
    rows.push(...tags.filter((tag) => !known.has(key(tag))));
  }
  return rows;
}

/**
 * Where the text encoder of a prompt comes from.
 * @param {LGraphNode} node
 */
function clipFor(node) {
  const graph = graphOf(node);
  const ends = encodersFor(node).map((encoder) => beforeReroutes(graph, startOf(encoder, clipInput(encoder) ?? "")));
  const [end, another] = unique(ends.filter((found) => found !== null));
  if (!end) throw new Refusal("convert.no_clip");
  if (another) throw new Refusal("convert.many_clips");
  return end;
}

/**
 * The node itself, where it encodes, else those that its text goes to.
 * @param {LGraphNode} node
 * @param {Set<LGraphNode>} [seen]
 * @returns {LGraphNode[]}
 */
function encodersFor(node, seen = new Set()) {
  if (seen.has(node)) return [];
  seen.add(node);
  if (clipInput(node)) return [node];
  const graph = graphOf(node);
  const behind = (node.outputs ?? []).flatMap((_, slot) => linksFrom(graph, outputOf(node, slot)));
  return behind.flatMap(({ target_id }) => {
    const target = graph.getNodeById(target_id);
    return target ? encodersFor(target, seen) : [];
  });
}

/** @param {LGraphNode} node */
function clipInput(node) {
  return node.inputs?.find(({ name, type }) => type === "CLIP" && linkInto(node, name))?.name;
}

/**
 * @param {LGraph} graph
 * @param {End | null} end
 * @returns {End | null}
 */
function beforeReroutes(graph, end) {
  const node = nodeAt(graph, end);
  if (node?.type !== "Reroute") return end && plain(end);
  return beforeReroutes(graph, startOf(node, node.inputs[0]?.name ?? ""));
}

/**
 * The node whose output an end is; null at the edge of a subgraph.
 * @param {LGraph} graph
 * @param {End | null} end
 */
function nodeAt(graph, end) {
  return end && !end.isEdge ? graph.getNodeById(end.id) : null;
}

/**
 * An end itself, without the reroutes of one of its links.
 * @param {End} end
 * @returns {End}
 */
function plain({ id, slot, isEdge }) {
  return { id, slot, isEdge };
}

/** @param {End[]} ends */
function unique(ends) {
  return [...new Map(ends.map((end) => [`${end.id}:${end.slot}`, end])).values()];
}

/**
 * The model that was loaded with a text encoder; where it was loaded alone, the only model there is.
 * @param {LGraph} graph
 * @param {End} clip
 */
function modelFor(graph, clip) {
  const model = modelBeside(graph, clip) ?? onlyModel(graph);
  const before = nodesBefore(graph, nodeAt(graph, clip));
  if (linksFrom(graph, model).some(({ target_id }) => before.has(String(target_id)))) throw new Refusal("convert.many_models"); // a circle
  return model;
}

/**
 * @param {LGraph} graph
 * @param {End | null} clip
 * @returns {End | null}
 */
function modelBeside(graph, clip) {
  const node = nodeAt(graph, clip);
  if (!node) return null;
  const models = endsOfType(node, "MODEL").filter((end) => linksFrom(graph, end).length);
  if (models.length > 1) throw new Refusal("convert.many_models");
  const input = clipInput(node);
  return models[0] ?? (input ? modelBeside(graph, startOf(node, input)) : null);
}

/**
 * @param {LGraphNode} node
 * @param {string} wanted
 */
function endsOfType(node, wanted) {
  return (node.outputs ?? []).flatMap(({ type }, slot) => (type === wanted ? [outputOf(node, slot)] : []));
}

/** @param {LGraph | Subgraph} graph */
function onlyModel(graph) {
  const loaded = graph.nodes.filter((node) => !node.inputs?.some(({ type }) => type === "MODEL")).flatMap((node) => endsOfType(node, "MODEL"));
  const [model, another] = [...loaded, ...edgesOf(graph)].filter((end) => linksFrom(graph, end).length);
  if (!model) throw new Refusal("convert.no_model");
  if (another) throw new Refusal("convert.many_models");
  return model;
}

/**
 * The models that come from outside a subgraph.
 * @param {LGraph | Subgraph} graph
 * @returns {End[]}
 */
function edgesOf(graph) {
  if (!("inputNode" in graph)) return [];
  const { inputs, inputNode } = graph;
  return inputs.flatMap(({ type }, slot) => (type === "MODEL" ? [{ id: inputNode.id, slot, isEdge: true }] : []));
}

/**
 * The ids of a node and of all that its inputs come from.
 * @param {LGraph} graph
 * @param {LGraphNode | null} node
 * @param {Set<string>} [seen]
 */
function nodesBefore(graph, node, seen = new Set()) {
  if (!node || seen.has(String(node.id))) return seen;
  seen.add(String(node.id));
  for (const { name } of node.inputs ?? []) nodesBefore(graph, nodeAt(graph, startOf(node, name)), seen);
  return seen;
}
