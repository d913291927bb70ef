/** From other nodes to a Mixer and back: entries of a node's menu, and commands for the node that is chosen. */

/** @typedef {import("./refusal.js").Note} Note */

import { app } from "../../../../scripts/app.js";

import { plainText } from "../../lib/dom.js";
import { listAdapters } from "../../lib/library.js";
import { text } from "../../lib/texts.js";
import { isLoader, mixerForChain } from "./chain.js";
import { carryOut } from "./exchange.js";
import { isMixer, loadersForMixer } from "./loaders.js";
import { isPowerLoader, mixerForPower } from "./power.js";
import { hasTags, mixerForPrompt } from "./prompt.js";
import { wordsOf } from "./refusal.js";

const SHOWN_FOR = 10_000; // milliseconds

/**
 * What can be made of a node: a text's key, an icon and a function each.
 * @type {{ id: string, key: string, icon: string, fits: (node: LGraphNode) => boolean, convert: (node: LGraphNode) => Promise<Note[]> }[]}
 */
const CONVERSIONS = [
  {
    id: "QRLoRA.ConvertToMixer",
    key: "convert.to_mixer",
    icon: "pi pi-sliders-h",
    fits: (node) => isLoader(node) || isPowerLoader(node) || hasTags(node),
    convert: toMixer,
  },
  { id: "QRLoRA.ConvertToLoaders", key: "convert.to_loaders", icon: "pi pi-list", fits: isMixer, convert: toLoaders },
];

/**
 * The entries for a node's menu.
 * @param {LGraphNode} node
 */
export function menuEntries(node) {
  return CONVERSIONS.filter(({ fits }) => fits(node)).map(({ key, convert }) => ({ content: text(key), callback: () => run(convert, node) }));
}

/** The same as commands, for keys, and for frontends whose menu has no place for entries. */
export const COMMANDS = CONVERSIONS.map(({ id, key, icon, fits, convert }) => ({
  id,
  icon,
  label: () => text(key),
  function: () => {
    const node = [...app.canvas.selectedItems].find((item) => isNode(item) && fits(item));
    return node ? run(convert, /** @type {LGraphNode} */ (node)) : tell("info", text("convert.nothing_chosen"));
  },
}));

/**
 * The commands that are offered above a chosen node; the renderer that draws on the canvas has them in its menu.
 * @param {object} item
 */
export function commandsFor(item) {
  if (!LiteGraph.vueNodesMode || !isNode(item)) return [];
  return CONVERSIONS.filter(({ fits }) => fits(item)).map(({ id }) => id);
}

/**
 * @param {object} item
 * @returns {item is LGraphNode}
 */
function isNode(item) {
  return "type" in item && "inputs" in item && "outputs" in item;
}

/**
 * @param {(node: LGraphNode) => Promise<Note[]>} convert
 * @param {LGraphNode} node
 */
async function run(convert, node) {
  try {
    for (const note of await convert(node)) tell("info", wordsOf(note));
  } catch (error) {
    tell("error", plainText(/** @type {Error} */ (error).message));
  }
}

/**
 * @param {"info" | "error"} severity
 * @param {string} detail
 */
function tell(severity, detail) {
  app.extensionManager.toast.add({ severity, summary: text(severity === "error" ? "convert.not_done" : "convert.done"), detail, life: SHOWN_FOR });
}

/**
 * @param {LGraphNode} node
 * @returns {Promise<Note[]>}
 */
async function toMixer(node) {
  if (isLoader(node)) {
    const { exchange, notes } = mixerForChain(node);
    make(exchange);
    return notes;
  }
  const names = (await listAdapters()).map(({ name }) => name);
  make(isPowerLoader(node) ? mixerForPower(node, names) : mixerForPrompt(node, names));
  return [];
}

/** @param {import("./exchange.js").Exchange} exchange with a Mixer in it */
function make(exchange) {
  for (const node of carryOut(exchange)) node.qrLoRAMixer?.noteContents();
}

/**
 * @param {LGraphNode} node
 * @returns {Promise<Note[]>}
 */
async function toLoaders(node) {
  const { losses } = loadersForMixer(node);
  if (losses.length && !(await isAgreed(losses))) return [];
  carryOut(loadersForMixer(node).exchange); // anew: somebody may have changed it meanwhile
  return [];
}

/** @param {Note[]} losses */
function isAgreed(losses) {
  return app.extensionManager.dialog.confirm({
    title: text("convert.to_loaders"),
    message: text("convert.losses"),
    itemList: losses.map(wordsOf),
  });
}
