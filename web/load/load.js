/** The panel on `QRLoRA_Load`. The list `adapter_name` stays: the panel shows its file, and chooses for it. */

import { chained, debounced, isLinked, onExecuted, onWidgetChange, recordChange, setWidget, widgetOf } from "../lib/graph.js";
import { addPanel, replaceHostText } from "../lib/panel.js";
import { text } from "../lib/texts.js";
import { Card } from "./card.js";
import { factsOf, listAdapters } from "./library.js";
import { pickAdapter } from "./picker.js";

const NARROWEST = 340;
const NAME = "adapter_name";
const MOST_REMEMBERED = 300;

const cards = new WeakMap();
/** Facts by name, for a node that comes back by undo: shown at once, then asked for again. */
const remembered = new Map();

export function attachLoad(node) {
  const card = new Card(() => choose(node));
  cards.set(node, card);
  const panel = addPanel(node, "qr_lora_file", text("load.panel"), card.root, () => card.height());
  card.onResize = panel.resize;
  const soon = debounced(() => show(node, card));
  panel.onSight = soon;
  onWidgetChange(node, [NAME], soon);
  node.onConnectionsChange = chained(node.onConnectionsChange, soon);
  replaceHostText(node, (told) => card.showReport(told));
  onExecuted(node, (output) => showRun(card, output.text?.[0]));
  node.setSize([Math.max(NARROWEST, node.size[0]), node.computeSize()[1]]);
  soon();
}

/** A badge on a Load node, made for another base than the model it is used with; an empty sentence takes it away. */
export function showBaseWarning(node, sentence) {
  cards.get(node)?.showWarning(sentence ?? "");
}

/** A node whose output was kept says nothing anew, but tells what it said. */
function showRun(card, told) {
  if (told && !card.report.textContent) card.showReport(told);
}

async function show(node, card) {
  const linked = isLinked(node, NAME);
  const name = linked ? "" : String(widgetOf(node, NAME)?.value ?? "");
  card.choose.disabled = linked;
  if (name && name === card.shown) return;
  card.shown = name;
  card.showWarning("");
  card.showName(name);
  if (!name) return card.showReport(text(linked ? "load.linked" : "load.empty"));
  if (remembered.has(name)) card.showFacts(name, remembered.get(name));
  await askFacts(card, name);
}

async function askFacts(card, name) {
  const isStill = () => card.shown === name;
  try {
    const facts = await factsOf(name);
    remember(name, facts);
    if (isStill()) card.showFacts(name, facts);
  } catch (error) {
    remembered.delete(name);
    if (isStill()) card.showError(error.message);
  }
}

function remember(name, facts) {
  remembered.delete(name);
  remembered.set(name, facts);
  if (remembered.size > MOST_REMEMBERED) remembered.delete(remembered.keys().next().value);
}

async function choose(node) {
  const widget = widgetOf(node, NAME);
  const known = (widget.options.values ?? []).map((name) => ({ name, picture: false }));
  const fresh = listAdapters();
  const name = await pickAdapter(known, widget.value, fresh);
  cards.get(node).choose.focus();
  if (name === null) return;
  addOption(node, widget, name);
  setWidget(node, NAME, name);
  recordChange();
  node.setDirtyCanvas(true, true);
}

/** A file that was saved after the page was opened is not in the list yet. */
function addOption(node, widget, name) {
  if (widget.options.values.includes(name)) return;
  widget.options.values = [...widget.options.values, name].sort();
  node.widgets = [...node.widgets]; // one renderer keeps a copy of the list, and looks again when this is set
}
