/** The files of the picker: what is searched in each, and which of them a folder shows. */

/**
 * @typedef {import("../lib/library.js").AdapterFile} AdapterFile
 * @typedef {import("./kept.js").Kept} Kept
 * @typedef {AdapterFile & { told: string, found: string }} Listed `told` is what is known of it, `found` what is searched
 */

import { plainText } from "../lib/dom.js";

// Two folders of no disk; no file's name begins so.
export const FAVOURITES = "/favourites";
export const USED = "/used";
const MOST_USED = 24;

/**
 * @param {AdapterFile[]} files
 * @returns {Listed[]}
 */
export function listed(files) {
  return files.map((file) => {
    const { name, base = "", triggers = "" } = file;
    const told = [name, base, triggers].map((part) => plainText(part)).filter(Boolean).join("\n");
    return { ...file, told, found: told.toLowerCase() };
  });
}

/**
 * Those in which all words stand.
 * @param {Listed[]} files
 * @param {string[]} words
 */
export function search(files, words) {
  return files.filter((file) => words.every((word) => file.found.includes(word)));
}

/**
 * @param {string} folder
 * @param {Listed[]} files
 * @param {Kept} kept
 */
export function filesIn(folder, files, { favourites, used }) {
  if (folder === FAVOURITES) return filesOf(new Set(favourites), files);
  if (folder === USED) return inOrder(used, files).slice(0, MOST_USED);
  return folder ? files.filter(({ name }) => name.startsWith(`${folder}/`)) : files;
}

/**
 * How many files each folder shows, `""` being all of them.
 * @param {Listed[]} files
 * @param {Kept} kept
 */
export function countFolders(files, kept) {
  const counts = new Map([FAVOURITES, USED, ""].map((folder) => [folder, filesIn(folder, files, kept).length]));
  for (const { name } of files) {
    for (let end = name.indexOf("/"); end > 0; end = name.indexOf("/", end + 1)) {
      const folder = name.slice(0, end);
      counts.set(folder, (counts.get(folder) ?? 0) + 1);
    }
  }
  return counts;
}

/**
 * In the order in which all files stand.
 * @param {Set<string>} names
 * @param {Listed[]} files
 */
function filesOf(names, files) {
  return files.filter(({ name }) => names.has(name));
}

/**
 * In the order of the names. One whose file is not there is passed over.
 * @param {string[]} names
 * @param {Listed[]} files
 */
function inOrder(names, files) {
  const byName = new Map(filesOf(new Set(names), files).map((file) => [file.name, file]));
  return names.flatMap((name) => byName.get(name) ?? []);
}
