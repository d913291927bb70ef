/** Only the sockets that are in use, and one that is free. Where this file is not loaded, all of them are there. */

/** @typedef {Pick<NodeInput, "name" | "type" | "shape" | "localized_name">} Socket */

import { inputOf, isLinked, setInputs } from "../lib/graph.js";
import { SLOTS, connectedSlots } from "./mix.js";

const INPUT = 1; // the host's number for this kind of slot

/**
 * What the node was made with: the sockets without a widget, in order.
 * @param {LGraphNode} node
 */
export function rememberSockets(node) {
  node.qrLoRASockets = node.inputs
    .filter((input) => !input.widget)
    .map(({ name, type, shape, localized_name }) => ({ name, type, shape, localized_name }));
}

/**
 * A node is restored with all sockets of its definition. Links that are restored with it, or afterwards as when
 * pasting, know their sockets by the place that was saved: so those that were saved are put back first.
 * @param {{ prototype: LGraphNode }} nodeType
 */
export function keepSocketLayout(nodeType) {
  const configure = nodeType.prototype.configure;
  nodeType.prototype.configure = function (data) {
    const saved = data.inputs?.map((input) => input.name);
    configure.call(this, data);
    if (saved && this.qrLoRASockets) this.inputs.splice(0, this.inputs.length, ...arranged(this, new Set(saved)));
  };
}

/** @param {LGraphNode} node */
export function showNeededSockets(node) {
  const connected = connectedSlots(node);
  const free = SLOTS.find((slot) => !connected.includes(slot));
  const unneeded = SLOTS.flatMap((slot) => [
    ...(connected.includes(slot) || slot === free ? [] : [`adapter_${slot}`]),
    ...(connected.includes(slot) || isLinked(node, `schedule_${slot}`) ? [] : [`schedule_${slot}`]),
  ]);
  const sockets = node.qrLoRASockets ?? [];
  const wanted = new Set(sockets.map(({ name }) => name).filter((name) => !unneeded.includes(name)));
  for (const { name, type, ...look } of sockets) {
    if (wanted.has(name) && !inputOf(node, name)) node.addInput(name, type, look);
  }
  const inputs = arranged(node, wanted);
  if (inputs.length === node.inputs.length && inputs.every((input, place) => input === node.inputs[place])) return;
  setInputs(node, inputs);
  refreshSlots(node);
}

/**
 * The inputs of a node in the order of its definition, without the sockets that are not wanted.
 * @param {LGraphNode} node
 * @param {Set<string>} wanted
 */
function arranged(node, wanted) {
  const order = node.qrLoRASockets?.map(({ name }) => name) ?? [];
  const place = (/** @type {NodeInput} */ { name }) => (order.includes(name) ? order.indexOf(name) : order.length);
  return node.inputs.filter(({ name }) => !order.includes(name) || wanted.has(name)).sort((a, b) => place(a) - place(b));
}

/**
 * Tell the renderer that draws nodes as elements.
 * @param {LGraphNode} node
 */
export function refreshSlots(node) {
  const nothing = { slotIndex: 0, connected: false, linkId: null };
  node.graph?.trigger("node:slot-links:changed", { nodeId: node.id, slotType: INPUT, ...nothing });
  node.setDirtyCanvas?.(true, true);
}
