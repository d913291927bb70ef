/** File names as people and other nodes write them, and as the list of adapter files has them. */

import { parted } from "../../lib/library.js";

const FOLDER = "loras/";
const SUFFIXES = [".safetensors", ".sft"];

/**
 * The listed name that a written one means: itself, with its folder and suffix, or, where none is written, the only file
 * that is called so. What is not found is taken for a file in models/loras.
 * @param {string} written
 * @param {string[]} names
 */
export function listedName(written, names) {
  const plain = written.replaceAll("\\", "/");
  const inFolder = FOLDER + plain;
  const exact = [inFolder, plain, ...SUFFIXES.map((suffix) => inFolder + suffix)].find((name) => names.includes(name));
  return exact ?? onlyCalled(plain, names) ?? inFolder;
}

/**
 * @param {string} written
 * @param {string[]} names
 */
function onlyCalled(written, names) {
  const [folder, stem] = parted(written);
  if (folder) return undefined; // it is another file that lies elsewhere
  const called = names.filter((name) => parted(name)[1].toLowerCase() === stem.toLowerCase());
  const inFolder = called.filter((name) => name.startsWith(FOLDER));
  const [only, another] = inFolder.length ? inFolder : called;
  return another ? undefined : only;
}

/**
 * The name of a file in models/loras as a stock loader lists it; null for a file that lies elsewhere.
 * @param {string} file
 * @param {string[]} options
 */
export function stockName(file, options) {
  if (!file.startsWith(FOLDER)) return null;
  const name = file.slice(FOLDER.length);
  return options.find((option) => option.replaceAll("\\", "/") === name) ?? name;
}
