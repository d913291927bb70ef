/** The panel on `QRLoRA_Load`. The list `adapter_name` stays: the panel shows its file, and chooses for it. */

/** @typedef {import("../lib/library.js").Facts} Facts */

import { chained, debounced, isLinked, onExecuted, onWidgetChange, recordChange, setWidget, widgetOf } from "../lib/graph.js";
import { factsOf, listAdapters } from "../lib/library.js";
import { addPanel, replaceHostText } from "../lib/panel.js";
import { text } from "../lib/texts.js";
import { pickAdapter } from "../picker/picker.js";
import { Card } from "./card.js";

const NARROWEST = 340;
const NAME = "adapter_name";
const MOST_REMEMBERED = 300;

/** @type {WeakMap<LGraphNode, Card>} */
const cards = new WeakMap();
/**
 * Facts by name, for a node that comes back by undo: shown at once, then asked for again.
 * @type {Map<string, Facts>}
 */
const remembered = new Map();

/** @param {LGraphNode} node */
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

/**
 * A badge on a Load node, made for another base than the model it is used with; an empty sentence takes it away.
 * @param {LGraphNode} node
 * @param {string | undefined} sentence
 */
export function showBaseWarning(node, sentence) {
  cards.get(node)?.showWarning(sentence ?? "");
}

/**
 * A node whose output was kept says nothing anew, but tells what it said.
 * @param {Card} card
 * @param {string | undefined} told
 */
function showRun(card, told) {
  if (told && !card.report.textContent) card.showReport(told);
}

/**
 * @param {LGraphNode} node
 * @param {Card} card
 */
async function show(node, card) {
  const linked = isLinked(node, NAME);
  const name = linked ? "" : String(widgetOf(node, NAME)?.value ?? "");
  card.choose.disabled = linked;
  if (name && name === card.shown) return;
  card.shown = name;
  card.showWarning("");
  card.showName(name);
  if (!name) return card.showReport(text(linked ? "load.linked" : "load.empty"));
  const facts = remembered.get(name);
  if (facts) card.showFacts(name, facts);
  await askFacts(card, name);
}

/**
 * @param {Card} card
 * @param {string} name
 */
async function askFacts(card, name) {
  const isStill = () => card.shown === name;
  try {
    const facts = await factsOf(name);
    remember(name, facts);
    if (isStill()) card.showFacts(name, facts);
  } catch (error) {
    remembered.delete(name);
    if (isStill()) card.showError(/** @type {Error} */ (error).message);
  }
}

/**
 * @param {string} name
 * @param {Facts} facts
 */
function remember(name, facts) {
  remembered.delete(name);
  remembered.set(name, facts);
  const [oldest] = remembered.keys();
  if (remembered.size > MOST_REMEMBERED) remembered.delete(oldest);
}

/** @param {LGraphNode} node */
async function choose(node) {
  const widget = widgetOf(node, NAME);
  if (!widget) return;
  const known = (widget.options.values ?? []).map((name) => ({ name, picture: false }));
  const fresh = listAdapters();
  const name = await pickAdapter(known, widget.value, [fresh, fresh.then(() => listAdapters({ cards: true }))]);
  cards.get(node)?.choose.focus();
  if (name === null) return;
  addOption(node, widget, name);
  setWidget(node, NAME, name);
  recordChange();
  node.setDirtyCanvas?.(true, true);
}

/**
 * A file that was saved after the page was opened is not in the list yet.
 * @param {LGraphNode} node
 * @param {Widget} widget
 * @param {string} name
 */
function addOption(node, widget, name) {
  const known = widget.options.values ?? [];
  if (known.includes(name)) return;
  widget.options.values = [...known, name].sort();
  node.widgets = [...node.widgets]; // one renderer keeps a copy of the list, and looks again when this is set
}
