/** Nodes in the place of others: made, linked and removed as one step for undo, or not at all. */

/**
 * @typedef {import("./links.js").End} End
 * @typedef {{ made: number, slot: number }} Coming an output of a node that is yet to be made, by its place among them
 * @typedef {{ type: string, title?: string, pos: [number, number], mode: number, values: Record<string, WidgetValue>, inputs: Record<string, End | Coming | null> }} Making
 * @typedef {{ from: End, to: End | Coming }} Move all links that start at one place start at another
 * @typedef {{ node: LGraphNode, name: string, value: WidgetValue }} Setting
 * @typedef {{ graph: LGraph | Subgraph, made: Making[], moved: Move[], removed?: LGraphNode[], set?: Setting[] }} Exchange
 */

import { inputOf, oneChange, setPlaceUnrecorded, setSizeUnrecorded, setWidget, widgetOf } from "../../lib/graph.js";
import { linksFrom } from "./links.js";
import { Refusal } from "./refusal.js";

const FRAMES = 30; // within which a new node is drawn

/** @typedef {{ act: () => void, back?: () => unknown }} Step */

/**
 * What goes wrong on the way is taken back before the error is passed on. Returns the new nodes.
 * @param {Exchange} exchange
 */
export function carryOut(exchange) {
  const nodes = exchange.made.map(create);
  /** @type {Step[]} */
  const taken = [];
  const record = oneChange();
  try {
    for (const step of stepsOf(exchange, nodes)) {
      taken.unshift(step);
      step.act();
    }
  } catch (error) {
    for (const { back } of taken) back?.();
    throw error;
  } finally {
    record();
  }
  settle(nodes);
  return nodes;
}

/**
 * The renderer that draws nodes as elements measures new ones soon after: that is no step for undo of its own.
 * @param {LGraphNode[]} nodes
 * @param {number} [frames]
 */
function settle(nodes, frames = FRAMES) {
  if (!LiteGraph.vueNodesMode || !frames) return;
  for (const node of nodes) {
    setSizeUnrecorded(node);
    setPlaceUnrecorded(node);
  }
  requestAnimationFrame(() => settle(nodes, frames - 1));
}

/**
 * What starts a link now is asked before any of it is done.
 * @param {Exchange} exchange
 * @param {LGraphNode[]} nodes
 * @returns {Step[]}
 */
function stepsOf({ graph, made, moved, removed = [], set = [] }, nodes) {
  return [
    ...nodes.map((node, place) => ({ act: () => put(graph, node, made[place].values), back: () => graph.remove(node) })),
    ...nodes.map((node, place) => ({ act: () => connectAll(graph, node, made[place].inputs, nodes) })),
    ...moved.flatMap(({ from, to }) => linksFrom(graph, from).map((link) => moveOf(graph, link, from, to, nodes))),
    ...set.map(({ node, name, value }) => {
      const before = widgetOf(node, name)?.value;
      return { act: () => setWidget(node, name, value), back: () => setWidget(node, name, before) };
    }),
    ...removed.map((node) => ({ act: () => graph.remove(node) })),
  ];
}

/**
 * @param {LGraph | Subgraph} graph
 * @param {LLink} link
 * @param {End} from
 * @param {End | Coming} to
 * @param {LGraphNode[]} nodes
 * @returns {Step}
 */
function moveOf(graph, link, from, to, nodes) {
  const target = targetOf(link);
  return {
    act: () => lead(graph, startAt(graph, to, nodes), target),
    back: () => graph.getLink(link.id) ?? lead(graph, startAt(graph, from, nodes), target), // one that was refused is still there
  };
}

/**
 * @param {Making} making
 * @returns {LGraphNode}
 */
function create({ type, title, pos, mode }) {
  const node = LiteGraph.createNode(type);
  if (!node) throw new Refusal("convert.no_node", { node: type });
  if (title) node.title = title;
  return Object.assign(node, { pos: [...pos], mode });
}

/**
 * The host rounds what a user enters; what is taken over stays as it is.
 * @param {LGraph} graph
 * @param {LGraphNode} node
 * @param {Record<string, WidgetValue>} values
 */
function put(graph, node, values) {
  graph.add(node);
  for (const [name, value] of Object.entries(values)) {
    setWidget(node, name, value);
    const widget = widgetOf(node, name);
    if (widget) widget.value = value;
  }
  node.qrLoRAMixer?.update(); // takes its height now: later it would be a step of its own
}

/**
 * @typedef {(target: LGraphNode, input: number, after?: number) => unknown} Start makes a link to an input of a node
 * @typedef {(edge: EdgeSlot, after?: number) => unknown} StartToEdge makes a link to an output of the subgraph
 */

/**
 * @param {LGraph | Subgraph} graph
 * @param {End | Coming} end
 * @param {LGraphNode[]} nodes
 * @returns {{ start: Start, toEdge: StartToEdge, after?: number }}
 */
function startAt(graph, end, nodes) {
  if ("isEdge" in end && end.isEdge) return { ...startAtEdge(/** @type {Subgraph} */ (graph).inputs[end.slot]), after: end.after };
  const node = "made" in end ? nodes[end.made] : graph.getNodeById(end.id);
  if (!node) throw new Refusal("convert.changed");
  return {
    start: (target, input, after) => node.connect(end.slot, target, input, after),
    toEdge: (edge, after) => edge.connect(node.outputs[end.slot], node, after),
    after: "after" in end ? end.after : undefined,
  };
}

/** @param {EdgeSlot} edge */
function startAtEdge(edge) {
  return {
    /** @type {Start} */
    start: (target, input, after) => edge.connect(target.inputs[input], target, after),
    toEdge: () => null, // the host has no link from edge to edge
  };
}

/**
 * @param {LGraph | Subgraph} graph
 * @param {LGraphNode} node
 * @param {Making["inputs"]} inputs
 * @param {LGraphNode[]} nodes
 */
function connectAll(graph, node, inputs, nodes) {
  for (const [name, end] of Object.entries(inputs)) if (end) connect(startAt(graph, end, nodes), node, name);
}

/**
 * @param {{ start: Start, after?: number }} from
 * @param {LGraphNode} target
 * @param {string} name
 */
function connect({ start, after }, target, name) {
  const input = inputOf(target, name);
  if (!input || !start(target, target.inputs.indexOf(input), after)) throw new Refusal("convert.not_linked", { node: target.type, input: name });
}

/**
 * Where a link ends, kept while the link itself is replaced.
 * @param {LLink} link
 */
function targetOf({ target_id, target_slot, targetIsIoNode, parentId }) {
  return { id: target_id, slot: target_slot, isEdge: Boolean(targetIsIoNode), after: parentId };
}

/**
 * @param {LGraph | Subgraph} graph
 * @param {{ start: Start, toEdge: StartToEdge }} from
 * @param {End} target
 */
function lead(graph, { start, toEdge }, { id, slot, isEdge, after }) {
  const node = isEdge ? null : graph.getNodeById(id);
  const link = node ? start(node, slot, after) : toEdge(/** @type {Subgraph} */ (graph).outputs[slot], after);
  if (!link) throw new Refusal("convert.not_linked", { node: node?.type ?? "", input: node?.inputs[slot]?.name ?? slot });
}

/**
 * The title that somebody gave a node; undefined where it is called as all of its type.
 * @param {LGraphNode} node
 */
export function ownTitle({ title, type, constructor: { title: usual, nodeData } }) {
  return [usual, type, nodeData?.display_name].includes(title) ? undefined : title;
}
