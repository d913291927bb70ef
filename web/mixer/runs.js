/**
 * What the runs of this page made of the mixes of a node: kept as long as the page is open, and in no workflow.
 *
 * @typedef {{ node: string, output: NodeOutputs }} Shown pictures as a node showed them, by its id in the run
 * @typedef {{ key: string, text: string, settings: Record<string, WidgetValue>, shown: Shown[] }} Entry `key` is the same for equal mixes
 * @typedef {{ class_type: string, inputs: Record<string, any> }} SentNode
 * @typedef {{ prompt: [number, string, Record<string, SentNode>, { extra_pnginfo?: { workflow?: { id?: string } } }?], outputs: Record<string, NodeOutputs> }} Run
 */

import { api } from "../../../scripts/api.js";
import { nodeByExecutionId, rootGraph } from "../lib/graph.js";
import { settingNames } from "../desk/modes.js";
import { parseMix, textOf } from "./document.js";

const TYPE = "QRLoRA_Mixer";
const MOST = 12;
const MOST_NODES = 64;
const PAUSE = 100; // milliseconds

/** Newest first, by the workflow and the number of a node: undo makes nodes anew. @type {Map<string, Entry[]>} */
const kept = new Map();
/** @param {LGraphNode} node */
function ownerOf({ graph, id }) {
  return `${graph?.id}:${id}`;
}

/**
 * The mixes with which a node ran, newest first.
 * @param {LGraphNode} node
 */
export function entriesOf(node) {
  return kept.get(ownerOf(node)) ?? [];
}

/**
 * What is the same for two mixes that do the same: without what is known of the files' content.
 * @param {string} text
 * @param {Record<string, WidgetValue>} settings
 */
export function keyOf(text, settings) {
  const { rows } = parseMix(text) ?? { rows: [] };
  return JSON.stringify([textOf({ on: true, rows: rows.map((row) => ({ ...row, size: 0, sha256: "" })) }), settings]);
}

/** Note each run of a Mixer once its end is known, and tell the node. */
export function followRuns() {
  if (isFollowing) return;
  isFollowing = true;
  api.addEventListener("execution_success", async ({ detail }) => {
    const run = await pastRun(detail.prompt_id);
    if (run) note(run);
  });
}
let isFollowing = false;

/**
 * A run that has just ended: the host tells of its end before it notes it.
 * @param {string} id
 * @param {number} [tries]
 * @returns {Promise<Run | null>}
 */
async function pastRun(id, tries = 100) {
  const answer = await api.fetchApi(`/history/${encodeURIComponent(id)}`);
  const run = answer.ok ? (await answer.json())[id] : null;
  if (run || !answer.ok || !tries) return run ?? null;
  await new Promise((done) => setTimeout(done, PAUSE));
  return pastRun(id, tries - 1);
}

/** @param {Run} run */
function note({ prompt: [, , sent, extra], outputs }) {
  if (extra?.extra_pnginfo?.workflow?.id !== rootGraph()?.id) return; // of a workflow that is not open
  for (const [id, { class_type, inputs }] of Object.entries(sent)) {
    const node = class_type === TYPE ? nodeByExecutionId(id) : null;
    const mix = node && typeof inputs.mix === "string" ? parseMix(inputs.mix) : null;
    if (!node || !mix?.rows.length) continue;
    if (mix.on) put(node, inputs, shownBehind(sent, id, outputs));
    node.qrLoRAHistory?.({ wasSilent: !mix.on });
  }
}

/**
 * @param {LGraphNode} node
 * @param {Record<string, any>} inputs as they were sent
 * @param {Shown[]} shown
 */
function put(node, inputs, shown) {
  const names = settingNames(node);
  const settings = Object.fromEntries(names.filter((name) => !Array.isArray(inputs[name])).map((name) => [name, inputs[name]]));
  const key = keyOf(inputs.mix, settings);
  const others = entriesOf(node).filter((entry) => entry.key !== key);
  kept.delete(ownerOf(node));
  kept.set(ownerOf(node), [{ key, text: inputs.mix, settings, shown }, ...others].slice(0, MOST));
  const [oldest] = kept.keys();
  if (kept.size > MOST_NODES) kept.delete(oldest);
}

/**
 * The pictures that nodes behind a node showed, in the order of the run.
 * @param {Record<string, SentNode>} sent
 * @param {string} id
 * @param {Record<string, NodeOutputs>} outputs
 */
function shownBehind(sent, id, outputs) {
  const shown = Object.entries(outputs).filter(([node, output]) => output.images?.length && isBehind(sent, node, id));
  return shown.map(([node, output]) => ({ node, output }));
}

/**
 * Whether a node has anything of another.
 * @param {Record<string, SentNode>} sent
 * @param {string} node
 * @param {string} other
 * @param {Set<string>} [seen]
 * @returns {boolean}
 */
function isBehind(sent, node, other, seen = new Set()) {
  if (node === other) return true;
  if (seen.has(node)) return false;
  seen.add(node);
  const sources = Object.values(sent[node]?.inputs ?? {}).filter((value) => Array.isArray(value));
  return sources.some(([source]) => isBehind(sent, String(source), other, seen));
}

/**
 * Show once more what an entry's run showed, as the host does when a node has run.
 * @param {Entry} entry
 */
export function showAgain({ shown }) {
  for (const { node, output } of shown) {
    api.dispatchCustomEvent("executed", { node, display_node: node, output, prompt_id: "" });
  }
}

/**
 * The address of the first picture of an entry; empty where there is none.
 * @param {Entry} entry
 */
export function pictureOf({ shown }) {
  const [picture] = shown.flatMap(({ output }) => output.images);
  return picture ? api.apiURL(`/view?${new URLSearchParams({ filename: picture.filename, subfolder: picture.subfolder, type: picture.type })}`) : "";
}
