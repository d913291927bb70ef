/** `<lora:name:0.8:0.6>` in a prompt: a file, its strength in the model, and in the text encoder where that is another. */

/** @typedef {{ name: string, scale: number, clip_scale: number | null }} Tag */

const NUMBER = "[+-]?(?:\\d+\\.?\\d*|\\.\\d+)";
const TAG = new RegExp(`<lora:([^<>:]+)(?::(${NUMBER}))?(?::(${NUMBER}))?>`, "gi");

/**
 * The tags of a text, and the text without them: of the commas around a tag one is left, and none at an end.
 * @param {string} text
 * @returns {{ tags: Tag[], rest: string }}
 */
export function partedTags(text) {
  const found = [...text.matchAll(TAG)];
  if (!found.length) return { tags: [], rest: text };
  const starts = [0, ...found.map((match) => match.index + match[0].length)];
  const between = starts.map((start, place) => text.slice(start, found[place]?.index));
  return { tags: found.map(tagOf), rest: between.reduce(joined) };
}

/**
 * @param {RegExpMatchArray} match
 * @returns {Tag}
 */
function tagOf([, name, scale = "1", clip_scale]) {
  return { name: name.trim(), scale: Number(scale), clip_scale: clip_scale === undefined ? null : Number(clip_scale) };
}

/**
 * @param {string} before
 * @param {string} after
 */
function joined(before, after) {
  const [left, right] = [before.replace(/[ \t]+$/, ""), after.replace(/^[ \t]+/, "")];
  if (!right.trim()) return left.replace(/,$/, "") + right.trimEnd();
  if (/(^|[,\n])$/.test(left)) return spaced(left, right.replace(/^,[ \t]*/, ""));
  return /^[,.;\n]/.test(right) ? left + right : spaced(left, right);
}

/**
 * @param {string} left
 * @param {string} right
 */
function spaced(left, right) {
  return left && !left.endsWith("\n") ? `${left} ${right}` : left + right;
}
