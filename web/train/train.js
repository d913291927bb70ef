/** How a training goes, on `QRLoRA_Train`. */

/** @typedef {import("./view.js").Report} Report */

import { api } from "../../../scripts/api.js";
import { chained, debounced, isLinked, nodeByExecutionId, onExecuted, onWidgetChange, oneChange, rootGraph, setWidget, widgetOf } from "../lib/graph.js";
import { addPanel, replaceHostText } from "../lib/panel.js";
import { foldRows } from "../lib/rows.js";
import { text } from "../lib/texts.js";
import { Fold, NO_PRESET, PRESET } from "./fold.js";
import { PresetLine } from "./preset.js";
import { TrainingView } from "./view.js";

const EVENT = "qr_lora.training";
const ROUTE = "/qr_lora/training";

/** @param {LGraphNode} node */
export function attachTrain(node) {
  const names = node.widgets.map((widget) => widget.name);
  const fold = new Fold(node, () => turn());
  const preset = new PresetLine((values) => takeOver(node, values));
  const view = (node.qrLoRATraining = new TrainingView(stop, fold.root, preset));
  const panel = addPanel(node, "qr_lora_training", text("train.panel"), view.root, () => view.height());
  const arrange = foldRows(node, panel, (name) => fold.isFolded(name), (name) => fold.isClosed(name));
  const refresh = () => {
    fold.update();
    preset.choose(fold.preset(), !isLinked(node, PRESET));
    view.expectSamples(widgetOf(node, "sample_every")?.value > 0);
    arrange();
  };
  const update = () => {
    refresh();
    panel.resize();
  };
  const turn = () => {
    refresh();
    if (LiteGraph.vueNodesMode) panel.tighten(); // how high rows are is known to the page alone
    panel.resize();
  };
  view.onResize = panel.resize;
  panel.onSight = update;
  replaceHostText(node, () => {}); // the report says the same
  node.onDrawBackground = () => {}; // nor does the host need to draw the picture of curve and samples,
  node.hideOutputImages = true; // or to keep room for it
  node.onConfigure = chained(node.onConfigure, (saved) => {
    fold.restore(saved);
    refresh();
    panel.fit();
  });
  node.onConnectionsChange = chained(node.onConnectionsChange, debounced(update));
  onExecuted(node, (output) => view.show(output.qr_lora_training?.[0]));
  onWidgetChange(node, names, update);
  refresh();
  panel.tighten(); // the host made room for every setting
  listen();
  catchUp();
}

/**
 * The values of a preset in the place of the preset, as one step for undo.
 * @param {LGraphNode} node
 * @param {import("./preset.js").Values} values
 */
function takeOver(node, values) {
  const done = oneChange();
  for (const [name, value] of Object.entries(values)) setWidget(node, name, value);
  setWidget(node, PRESET, NO_PRESET);
  done();
}

/**
 * Ask the server to end a training and keep its adapter; whether there was one to end.
 * @param {string} nodeId
 */
async function stop(nodeId) {
  const answer = await api.fetchApi(`${ROUTE}/stop`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ node_id: nodeId }),
  });
  return answer.ok;
}

function listen() {
  if (isListening) return;
  isListening = true;
  api.addEventListener(EVENT, ({ detail }) => show(detail));
}
let isListening = false;

/** What ran before the page or the workflow was opened. */
const catchUp = debounced(async () => {
  const answer = await api.fetchApi(ROUTE);
  if (answer.ok) for (const report of (await answer.json()).running) show(report);
});

/**
 * Nodes of other open workflows may have the same number. A prompt that no page sent is of whatever is open.
 * @param {Report} report
 */
function show(report) {
  if (report.workflow_id != null && report.workflow_id !== rootGraph().id) return;
  nodeByExecutionId(report.node_id)?.qrLoRATraining?.show(report);
}
