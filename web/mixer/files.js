/**
 * What the server tells of the files of a mix, and the dialog to choose some.
 *
 * @typedef {import("../lib/library.js").Facts} Facts
 * @typedef {{ name: string, same: boolean }} Likely a file that may be meant; `same` where its content is
 * @typedef {{ found: boolean, likely: Likely[] }} Found of one row
 * @typedef {{ rows?: Found[], error?: string, row?: number, reason?: string }} Check what the server says of a mix; the error may be of a `row`, for a `reason`
 */

import { api } from "../../../scripts/api.js";
import { factsOf as askFacts, listAdapters, pictureAddress } from "../lib/library.js";
import { text } from "../lib/texts.js";
import { pickAdapter, pickAdapters } from "../picker/picker.js";

export { pictureAddress };

const MOST_REMEMBERED = 300;

/** @type {Promise<Set<string>> | null} */
let pictured = null;
/** @type {Map<string, Promise<Facts>>} */
const facts = new Map();

/** Files may have come and gone. */
export function forgetFiles() {
  pictured = null;
  facts.clear();
}

/** The files that have a preview; asked for once for all nodes. */
export function filesWithPicture() {
  pictured ??= listAdapters().then((files) => new Set(files.filter(({ picture }) => picture).map(({ name }) => name)));
  return pictured;
}

/**
 * What a file says of itself; asked for once.
 * @param {string} file
 */
export function factsOf(file) {
  const told = facts.get(file) ?? askFacts(file);
  facts.set(file, told);
  if (facts.size > MOST_REMEMBERED) facts.delete([...facts.keys()][0]);
  return told;
}

/**
 * Ask for files to add, in the order in which they are chosen; none where the dialog was closed.
 * @returns {Promise<string[]>}
 */
export async function pickFiles() {
  const files = await pickAdapters([], fresh());
  forgetFiles();
  return files;
}

/**
 * Ask for a file in place of another; null where the dialog was closed.
 * @param {string} chosen
 */
export async function pickFile(chosen) {
  const file = await pickAdapter([], chosen, fresh());
  forgetFiles();
  return file;
}

/** All files, and then with what each says of itself. */
function fresh() {
  const files = listAdapters();
  return [files, files.then(() => listAdapters({ cards: true }))];
}

/**
 * Whether the server reads a mix and has its files; null where it cannot tell.
 * @param {string} mix
 * @returns {Promise<Check | null>}
 */
export async function checkMix(mix) {
  try {
    const headers = { "Content-Type": "application/json" };
    const answer = await api.fetchApi("/qr_lora/mix", { method: "POST", headers, body: mix });
    const told = await answer.json();
    if (answer.ok) return { rows: told.rows };
    return told.error ? { error: refusal(told), row: Number(told.values?.row) || undefined, reason: told.values?.reason } : null;
  } catch {
    return null; // an older server, or none
  }
}

/**
 * In the language of the page, where it has the sentence.
 * @param {{ error: string, key: string, values: Record<string, unknown> }} told
 */
export function refusal({ error, key, values }) {
  const said = text(key ?? "", values ?? {});
  return said === key ? error : said;
}

/**
 * Size and hash of a file; null where they cannot be had.
 * @param {string} file
 * @returns {Promise<{ size: number, sha256: string } | null>}
 */
export async function contentOf(file) {
  try {
    const answer = await api.fetchApi(`/qr_lora/hash?${new URLSearchParams({ name: file })}`);
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}
