/** Nodes, their widgets and where their inputs come from. */

/**
 * @typedef {{ node: LGraphNode, slot: number }} Source an output of a node
 * @typedef {Record<string, LLink | null>} Links by the name of the input that each comes into
 */

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

const FAR_AWAY = 1000; // more than a node has inputs

/**
 * The widget that decides on an input: the node's own, or the one that stands for it on the node of its subgraph.
 * @param {LGraphNode} node
 * @param {string} name
 */
export function widgetOf(node, name) {
  return decider(node, name).widget ?? ownWidget(node, name);
}

/**
 * @param {LGraphNode} node
 * @param {string} name
 */
function ownWidget(node, name) {
  return node.widgets?.find((widget) => widget.name === name);
}

/**
 * Set a widget as a user would, so that both renderers and other extensions see it.
 * @param {LGraphNode} node
 * @param {string} name
 * @param {WidgetValue} value
 */
export function setWidget(node, name, value) {
  const widget = widgetOf(node, name);
  if (!widget || widget.value === value) return;
  widget.value = value;
  widget.callback?.(value);
  if (widget !== ownWidget(node, name)) node.qrLoRAChanged?.();
}

/**
 * Set a text that belongs to what a person did before, and is no step for undo of its own.
 * @param {LGraphNode} node
 * @param {string} name
 * @param {string} text
 */
export function setWidgetUnrecorded(node, name, text) {
  const before = widgetOf(node, name)?.value;
  setWidget(node, name, text);
  const recorded = changeTracker()?.activeState;
  if (before && recorded) replaceText(recorded, before, text);
}

/**
 * The size that a node takes by itself is no step for undo either: it belongs to what was recorded last.
 * @param {LGraphNode} node
 */
export function setSizeUnrecorded(node) {
  const recorded = recordedOf(node);
  if (recorded) recorded.size = [...node.size];
}

/**
 * The same for the place of a node that nobody moved.
 * @param {LGraphNode} node
 */
export function setPlaceUnrecorded(node) {
  const recorded = recordedOf(node);
  if (recorded) recorded.pos = [...node.pos];
}

/**
 * A node as it was recorded last.
 * @param {LGraphNode} node
 */
function recordedOf({ id, graph }) {
  const recorded = graph ? changeTracker()?.activeState : null;
  const inside = recorded?.definitions?.subgraphs?.find((subgraph) => subgraph.id === graph?.id);
  return (inside ?? recorded)?.nodes?.find((other) => String(other.id) === String(id));
}

/**
 * @param {object} tree
 * @param {string} before
 * @param {string} after
 */
function replaceText(tree, before, after) {
  for (const [key, value] of Object.entries(tree)) {
    if (value === before) Object.assign(tree, { [key]: after });
    else if (value && typeof value === "object") replaceText(value, before, after);
  }
}

/**
 * @param {LGraphNode} node
 * @param {string} name
 */
export function inputOf(node, name) {
  return node.inputs?.find((input) => input.name === name);
}

/**
 * The link that comes into an input, null where there is none.
 * @param {LGraphNode} node
 * @param {string} name
 */
export function linkInto(node, name) {
  return node.graph?.getLink(inputOf(node, name)?.link) ?? null;
}

/**
 * Put the inputs of a node in another order, or fewer of them; their links go along.
 * @param {LGraphNode} node
 * @param {NodeInput[]} inputs
 */
export function setInputs(node, inputs) {
  const links = linksOf(node);
  node.inputs.splice(0, node.inputs.length, ...inputs);
  placeLinks(node, links);
}

/**
 * Exchange what is connected to two inputs.
 * @param {LGraphNode} node
 * @param {string} first
 * @param {string} second
 */
export function exchangeLinks(node, first, second) {
  const links = linksOf(node);
  const [a, b] = [first, second].map((name) => inputOf(node, name));
  if (!a || !b) return;
  if (Object.hasOwn(a, "link")) [a.link, b.link] = [b.link, a.link]; // else the host asks the links for their place
  placeLinks(node, { ...links, [first]: links[second], [second]: links[first] });
}

/**
 * @param {LGraphNode} node
 * @returns {Links}
 */
function linksOf(node) {
  return Object.fromEntries(node.inputs.map(({ name }) => [name, linkInto(node, name)]));
}

/**
 * A link knows the place of its input. No two may ever be at one place: where the host finds them by it, one is lost.
 * @param {LGraphNode} node
 * @param {Links} links
 */
function placeLinks(node, links) {
  const moved = node.inputs.flatMap(({ name }, place) => {
    const link = links[name];
    return link && link.target_slot !== place ? [{ link, place }] : [];
  });
  for (const away of [FAR_AWAY, 0]) for (const { link, place } of moved) link.target_slot = away + place;
}

/**
 * Whether something else decides on an input: a widget on the node of a subgraph is still for the user to set.
 * @param {LGraphNode} node
 * @param {string} name
 */
export function isLinked(node, name) {
  const { node: deciding, name: decided } = decider(node, name);
  return linkInto(deciding, decided) != null;
}

/**
 * Where an input is decided on: at the node itself, or outside where it is shown on the node of its subgraph. Of a
 * subgraph that is used more than once, each has a value of its own, none of which is that of the node inside.
 * @param {LGraphNode} node
 * @param {string} name
 * @returns {{ node: LGraphNode, name: string, widget?: Widget }}
 */
function decider(node, name) {
  const link = linkInto(node, name);
  const [outer, another] = link?.originIsIoNode ? nodesOf(node.graph) : [];
  const input = link && outer?.inputs[link.origin_slot];
  const widget = input && !another ? outer.getWidgetFromSlot?.(input) : null;
  if (!input || !widget) return { node, name };
  const { widget: further, ...place } = decider(outer, input.name);
  return { ...place, widget: further ?? widget };
}

/**
 * The nodes that stand for a subgraph.
 * @param {LGraph | null} subgraph
 */
function nodesOf(subgraph) {
  return allNodes().filter((node) => node.subgraph === subgraph);
}

/**
 * The node and output that feed an input, through reroutes and across subgraphs; null where nothing does.
 * @param {LGraphNode} node
 * @param {string} name
 * @returns {Source | null}
 */
export function sourceOf(node, name) {
  const link = linkInto(node, name);
  return link && node.graph ? originOf(node.graph, link) : null;
}

/**
 * @param {LGraph} graph
 * @param {LLink} link
 * @returns {Source | null}
 */
function originOf(graph, link) {
  if (link.originIsIoNode) return fromOutside(graph, link.origin_slot);
  const node = graph.getNodeById(link.origin_id);
  if (!node) return null;
  if (node.subgraph && node.isSubgraphNode?.()) return fromInside(node.subgraph, link.origin_slot);
  if (node.type === "Reroute") return sourceOf(node, node.inputs[0]?.name ?? "");
  return { node, slot: link.origin_slot };
}

/**
 * What an input is called at the edge of its subgraph; null for one that nothing outside may feed.
 * @param {LGraphNode} node
 * @param {string} name
 */
export function outerNameOf(node, name) {
  const link = linkInto(node, name);
  const input = link?.originIsIoNode ? /** @type {Subgraph} */ (node.graph).inputs[link.origin_slot] : null;
  return input ? (input.label ?? input.name) : null;
}

/**
 * @param {LGraph} graph
 * @param {number} slot
 */
function fromOutside(graph, slot) {
  const [outer] = nodesOf(graph);
  const input = outer?.inputs[slot];
  return input ? sourceOf(outer, input.name) : null;
}

/**
 * @param {Subgraph} subgraph
 * @param {number} slot
 */
function fromInside(subgraph, slot) {
  const link = subgraph.getLink(subgraph.outputs[slot]?.linkIds[0]);
  return link ? originOf(subgraph, link) : null;
}

/** The graph of the workflow, whichever of its subgraphs is open. */
export function rootGraph() {
  return app.graph?.rootGraph ?? app.graph;
}

/**
 * Every node of the workflow, those within subgraphs too.
 * @param {LGraph | null} [graph]
 * @returns {LGraphNode[]}
 */
export function allNodes(graph = rootGraph()) {
  return (graph?.nodes ?? []).flatMap((node) => [node, ...(node.subgraph ? allNodes(node.subgraph) : [])]);
}

/**
 * The node with an id such as the server uses: `12`, or `7:12` for node 12 within subgraph node 7.
 * @param {NodeId} executionId
 */
export function nodeByExecutionId(executionId) {
  /** @type {LGraph | null | undefined} */
  let graph = rootGraph();
  const path = String(executionId).split(":");
  for (const id of path.slice(0, -1)) graph = graph?.getNodeById(id)?.subgraph;
  return graph?.getNodeById(path.at(-1)) ?? null;
}

/**
 * Call a function whenever the node has run, with what it sent to the page.
 * @param {LGraphNode} node
 * @param {(output: NodeOutputs) => void} tell
 */
export function onExecuted(node, tell) {
  const before = node.onExecuted;
  node.qrLoRASilent = true;
  node.qrLoRATell = (output) => {
    node.qrLoRASilent = false;
    tell(output ?? {});
  };
  node.onExecuted = function (output, ...rest) {
    before?.call(this, output, ...rest);
    node.qrLoRATell?.(output);
  };
}

/**
 * Tell the nodes what they sent when they last ran, where the host has kept it: a run of the past was opened.
 * @param {Record<string, NodeOutputs> | undefined} outputs
 */
export function tellKeptOutputs(outputs) {
  for (const node of allNodes()) {
    const kept = outputs?.[!node.graph || node.graph.isRootGraph ? node.id : `${node.graph.id}:${node.id}`];
    if (kept) node.qrLoRATell?.(kept);
  }
}

/**
 * Call a function when one of these widgets changes, and when all of them were read from a file.
 * @param {LGraphNode} node
 * @param {string[]} names
 * @param {() => void} tell
 */
export function onWidgetChange(node, names, tell) {
  for (const widget of node.widgets.filter(({ name }) => names.includes(name))) widget.callback = chained(widget.callback, tell);
  node.qrLoRAChanged = tell; // by one that stands for it
  node.onConfigure = chained(node.onConfigure, tell);
}

/** @type {Set<(node: LGraphNode) => void>} */
const graphHearers = new Set();

/**
 * Tell a function of every node after each change of the workflow: what is inside a subgraph, or is called by another
 * node's title, hears nothing of it. One that is told already is not told twice.
 * @param {(node: LGraphNode) => void} tell
 */
export function onGraphChange(tell) {
  if (graphHearers.has(tell)) return;
  graphHearers.add(tell);
  api.addEventListener("graphChanged", () => allNodes().forEach(tell));
}

/**
 * A method that does what it did, and then tells of it and of what it was given.
 * @template This
 * @param {((this: This, ...given: any[]) => unknown) | undefined} before
 * @param {(...given: any[]) => void} tell
 */
export function chained(before, tell) {
  /**
   * @this {This}
   * @param {...any} given
   */
  return function (...given) {
    const result = before?.apply(this, given);
    tell(...given);
    return result;
  };
}

/**
 * Do it once the present burst of changes is over.
 * @param {() => void} action
 */
export function debounced(action) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    queueMicrotask(() => {
      waiting = false;
      action();
    });
  };
}

/**
 * Whatever happens until the function is called that this returns is one step for undo: else the end of a run, which
 * the host takes for a moment to look at the workflow, makes one of its own.
 */
export function oneChange() {
  const tracker = changeTracker();
  tracker?.beforeChange();
  return () => {
    orderNodes();
    tracker?.afterChange();
  };
}

/** The host numbers nodes in the order of their links only when it sends a prompt: that would be a step of its own. */
function orderNodes() {
  for (const graph of new Set([app.graph, app.canvas.graph])) graph?.updateExecutionOrder();
}

/** The host's record of the workflow, for undo. */
function changeTracker() {
  return app.extensionManager.workflow?.activeWorkflow?.changeTracker;
}

/** One step for undo, after a change that the host does not see by itself. */
export function recordChange() {
  oneChange()();
}

let lastTold = 0;
const RARELY = 150; // milliseconds
const QUEUES_HEAR = /** @type {const} */ (["graphChanged", "autoQueueGraphChanged"]); // the first of older hosts, the second of newer ones

/** While something is dragged: run again where the host is set to run on change, without a step for undo. */
export function tellDrag() {
  if (app.extensionManager.queueSettings?.mode !== "change") return;
  const now = performance.now();
  if (now - lastTold < RARELY) return;
  lastTold = now;
  const graph = app.graph.serialize();
  for (const event of QUEUES_HEAR) api.dispatchCustomEvent(event, graph);
}
