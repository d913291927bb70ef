/** Only the sockets that are in use, and one that is free. Where this file is not loaded, all of them are there. */

import { isLinked } from "../lib/graph.js";
import { SLOTS, connectedSlots, fixTargets } from "./mix.js";

const INPUT = 1; // the host's number for this kind of slot

/** What the node was made with: the sockets without a widget, in order. */
export function rememberSockets(node) {
  node.qrLoRASockets = node.inputs
    .filter((input) => !input.widget)
    .map(({ name, type, shape, localized_name }) => ({ name, type, shape, localized_name }));
}

/**
 * A node is restored with all sockets of its definition. Links that are restored afterwards, as when pasting, know
 * their sockets by place: so those that were saved are put back first.
 */
export function keepSocketLayout(nodeType) {
  const configure = nodeType.prototype.configure;
  nodeType.prototype.configure = function (data) {
    const saved = data.inputs?.map((input) => input.name);
    configure.call(this, data);
    if (saved && this.qrLoRASockets) arrange(this, new Set(saved));
  };
}

export function showNeededSockets(node) {
  const connected = connectedSlots(node);
  const free = SLOTS.find((slot) => !connected.includes(slot));
  const unneeded = SLOTS.flatMap((slot) => [
    ...(connected.includes(slot) || slot === free ? [] : [`adapter_${slot}`]),
    ...(connected.includes(slot) || isLinked(node, `schedule_${slot}`) ? [] : [`schedule_${slot}`]),
  ]);
  arrange(node, new Set(node.qrLoRASockets.map(({ name }) => name).filter((name) => !unneeded.includes(name))));
}

function arrange(node, wanted) {
  const before = node.inputs.map((input) => input.name).join();
  const order = node.qrLoRASockets.map(({ name }) => name);
  const kept = node.inputs.filter((input) => !order.includes(input.name) || wanted.has(input.name) || input.link != null);
  if (kept.length < node.inputs.length) node.inputs.splice(0, node.inputs.length, ...kept);
  for (const { name, type, ...look } of node.qrLoRASockets) {
    if (wanted.has(name) && !node.inputs.some((input) => input.name === name)) node.addInput(name, type, look);
  }
  const place = (input) => (order.includes(input.name) ? order.indexOf(input.name) : order.length);
  node.inputs.sort((a, b) => place(a) - place(b));
  if (node.inputs.map((input) => input.name).join() === before) return;
  fixTargets(node);
  refreshSlots(node);
}

/** Tell the renderer that draws nodes as elements. */
export function refreshSlots(node) {
  const nothing = { slotIndex: 0, connected: false, linkId: null };
  node.graph?.trigger("node:slot-links:changed", { nodeId: node.id, slotType: INPUT, ...nothing });
  node.setDirtyCanvas?.(true, true);
}
