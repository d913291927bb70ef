/** The mixing desk on `QRLoRA_Merge`. */

/** @typedef {import("../desk/result.js").Told} Told */

import { Desk } from "../desk/desk.js";
import { chained, debounced, onExecuted, onGraphChange, onWidgetChange, recordChange, sourceOf } from "../lib/graph.js";
import { addPanel, replaceHostText } from "../lib/panel.js";
import { standFor } from "../lib/rows.js";
import { text } from "../lib/texts.js";
import { showBaseWarning } from "../load/load.js";
import * as mix from "./mix.js";
import { Row } from "./row.js";
import { MergeMix } from "./rows.js";
import { rememberSockets, showNeededSockets } from "./sockets.js";

export { keepSocketLayout } from "./sockets.js";

export const PANEL = "qr_lora_desk";
const NARROWEST = 400;

/** @param {LGraphNode} node */
export function attachMerge(node) {
  rememberSockets(node);
  const names = node.widgets.map((widget) => widget.name);
  const rows = new MergeMix(node);
  const desk = (node.qrLoRADesk = new Desk(rows, (...how) => new Row(rows, ...how), { hint: () => text("merge.empty") }));
  const panel = addPanel(node, PANEL, text("merge.rows"), desk.root, () => desk.height());
  desk.onResize = panel.resize;
  desk.onMove = standFor(node, panel, names, (name) => desk.socketOf(name));
  const update = () => {
    if (!node.graph) return;
    mix.settle(node);
    showNeededSockets(node);
    desk.update();
  };
  const soon = debounced(update);
  panel.onSight = update;
  node.onConnectionsChange = chained(node.onConnectionsChange, soon);
  node.onGraphConfigured = chained(node.onGraphConfigured, update);
  onWidgetChange(node, names, soon);
  replaceHostText(node, () => {});
  onExecuted(node, (output) => showResult(node, output.qr_lora_merge?.[0]));
  onGraphChange(updateDesk);
  node.setSize([Math.max(NARROWEST, node.size[0]), node.computeSize()[1]]);
  soon();
}

/**
 * @param {LGraphNode} node
 * @param {Told | undefined} told
 */
function showResult(node, told) {
  node.qrLoRADesk?.showResult(told);
  told?.slots.forEach((slot, index) => {
    const source = sourceOf(node, `adapter_${slot}`)?.node;
    if (source) showBaseWarning(source, told.adapters[index].other_base);
  });
}

/**
 * Put scales into rows, as numbers by slot, as one step for undo.
 * @param {LGraphNode} node
 * @param {Record<number, number>} scales
 */
export function setScales(node, scales) {
  mix.setScales(node, scales);
  node.qrLoRADesk?.update();
  recordChange();
}

/**
 * Names of files and titles change elsewhere.
 * @param {LGraphNode} node
 */
function updateDesk(node) {
  node.qrLoRADesk?.update();
}
