/** What the server tells about adapter files, and what their names say. */

/**
 * @typedef {{ name: string, picture: boolean, kind?: string, base?: string, triggers?: string }} AdapterFile `picture` says whether it has a preview
 * @typedef {{ name: string, version: number }} Picture
 * @typedef {{ kind: string, kinds: string[], bytes: number, layers: number, ranks: number[], base: string, triggers: string, tags: string[], about: [string, string][], training: [string, string][], pictures: Picture[], notes: string, strength: number | null, strength_range: number[], beside: Record<string, string> }} Facts `beside` names the files that told what the file itself does not
 */

import { api } from "../../../scripts/api.js";

/**
 * All files; with cards also what each says of itself, which takes longer the first time.
 * @param {{ cards?: boolean }} [options]
 * @returns {Promise<AdapterFile[]>}
 */
export async function listAdapters({ cards = false } = {}) {
  return (await ask(`/qr_lora/adapters${cards ? "?cards=1" : ""}`)).adapters;
}

/**
 * What a file says of itself. An error's message is for the user.
 * @param {string} name
 * @returns {Promise<Facts>}
 */
export function factsOf(name) {
  return ask(`/qr_lora/adapter?${new URLSearchParams({ name })}`);
}

/**
 * The address of a picture beside a file; `version` keeps a browser from showing an older one.
 * @param {string} name
 * @param {number} [index]
 * @param {string | number} [version]
 */
export function pictureAddress(name, index = 0, version = "") {
  return api.apiURL(`/qr_lora/picture?${new URLSearchParams({ name, index: String(index), version: String(version) })}`);
}

/**
 * Folder and name without its suffix.
 * @param {string} name
 */
export function parted(name) {
  const start = name.lastIndexOf("/") + 1;
  return [name.slice(0, Math.max(0, start - 1)), name.slice(start).replace(/\.(safetensors|sft)$/i, "")];
}

/**
 * @param {string} path
 * @returns {Promise<any>}
 */
async function ask(path) {
  const answer = await api.fetchApi(path);
  const told = await answer.json().catch(() => ({ error: `${answer.status} ${answer.statusText}` }));
  if (!answer.ok) throw new Error(told.error);
  return told;
}
