/** What the server tells about adapter files. */

import { api } from "../../../scripts/api.js";

/** `{name, picture}` of every file; `picture` says whether it has a preview. */
export async function listAdapters() {
  return (await ask("/qr_lora/adapters")).adapters;
}

/** What a file says of itself. An error's message is for the user. */
export function factsOf(name) {
  return ask(`/qr_lora/adapter?${new URLSearchParams({ name })}`);
}

/** The address of a picture beside a file; `version` keeps a browser from showing an older one. */
export function pictureAddress(name, index = 0, version = "") {
  return api.apiURL(`/qr_lora/picture?${new URLSearchParams({ name, index, version })}`);
}

async function ask(path) {
  const answer = await api.fetchApi(path);
  const told = await answer.json().catch(() => ({ error: `${answer.status} ${answer.statusText}` }));
  if (!answer.ok) throw new Error(told.error);
  return told;
}
