/**
 * What is kept for a person on the server: favourites, and the files that were used last; newest first. Names stay there
 * while their files are not: a disk may come back. What is not of this form is as good as no file.
 */

/**
 * @typedef {{ favourites: string[], used: string[] }} Kept
 * @typedef {(kept: Kept) => Kept} Edit
 */

import { api } from "../../../scripts/api.js";

const FILE = "qr_lora/picker.json";
const VERSION = 1;
const MOST_FAVOURITES = 500;
const MOST_USED = 100;
const LONGEST_NAME = 1000;
const MOST_BYTES = 2 ** 22; // all names at their longest, each letter written as six

/** As this page last read or wrote it. @type {Kept} */
let stored = { favourites: [], used: [] };
/** What is to be written. @type {Edit[]} */
const waiting = [];
/** @type {Promise<unknown>} */
let last = Promise.resolve();

/** As far as this page knows. */
export function keptNow() {
  return waiting.reduce((kept, edit) => edit(kept), stored);
}

/** Look what is kept, and what other pages changed. An error's message is for the user. */
export function readKept() {
  return inTurn(async () => {
    stored = await read();
  });
}

/**
 * @param {string} name
 * @param {boolean} isFavourite
 */
export function keepFavourite(name, isFavourite) {
  return change(({ favourites, used }) => {
    const others = favourites.filter((other) => other !== name);
    return bounded(isFavourite ? [name, ...others] : others, used);
  });
}

/** @param {string[]} names the last of them is the newest */
export function keepUsed(names) {
  const newest = [...names].reverse();
  return change(({ favourites, used }) => bounded(favourites, [...newest, ...used]));
}

/**
 * An edit of what is there by then, so that what another page changed stays.
 * @param {Edit} edit
 */
function change(edit) {
  waiting.push(edit);
  return inTurn(async () => {
    try {
      stored = edit(await read());
      await api.storeUserData(FILE, { version: VERSION, ...stored });
    } finally {
      waiting.splice(waiting.indexOf(edit), 1);
    }
  });
}

/**
 * After all that was begun before: in this page, and where the browser has locks, which only safe addresses get, in all of them.
 * @param {() => Promise<void>} work
 */
function inTurn(work) {
  const done = last.then(() => (navigator.locks ? navigator.locks.request(FILE, work) : work()));
  last = done.catch(() => {});
  return done;
}

/** @returns {Promise<Kept>} */
async function read() {
  const answer = await api.getUserData(FILE);
  if (answer.status === 404) return bounded([], []);
  if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
  return parsed(await textOf(answer)) ?? stored;
}

/**
 * Null for what is damaged, or of another version.
 * @param {string} written
 */
function parsed(written) {
  try {
    const { version, favourites, used } = JSON.parse(written);
    return version === VERSION ? bounded(favourites, used) : null;
  } catch {
    return null;
  }
}

/**
 * The text of an answer, none of one that is too long; no more of it is fetched then.
 * @param {Response} answer
 */
async function textOf(answer) {
  const reader = /** @type {ReadableStream<Uint8Array<ArrayBuffer>>} */ (answer.body).getReader();
  const parts = [];
  let size = 0;
  for (let part = await reader.read(); part.value; part = await reader.read()) {
    parts.push(part.value);
    size += part.value.length;
    if (size > MOST_BYTES) return reader.cancel().then(() => "");
  }
  return new Blob(parts).text();
}

/**
 * @param {unknown} favourites
 * @param {unknown} used
 * @returns {Kept}
 */
function bounded(favourites, used) {
  return { favourites: namesIn(favourites, MOST_FAVOURITES), used: namesIn(used, MOST_USED) };
}

/**
 * @param {unknown} list
 * @param {number} most
 */
function namesIn(list, most) {
  const names = Array.isArray(list) ? list.filter((name) => typeof name === "string" && name.length <= LONGEST_NAME) : [];
  return [...new Set(names)].slice(0, most);
}
