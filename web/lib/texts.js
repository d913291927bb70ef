/** What the panels say, in the language of the page. */

const FALLBACK = "en";
const LANGUAGES = new Set(["en", "zh", "ja", "fr", "de", "es"]);
/** @type {Record<string, string>} */
let texts = {};

/**
 * Read the texts of a locale such as `fr` or `zh-TW`; what it lacks is English.
 * @param {string | undefined} locale
 */
export async function loadTexts(locale) {
  const language = String(locale ?? FALLBACK).split("-")[0];
  const chosen = LANGUAGES.has(language) ? language : FALLBACK;
  const read = await Promise.all([...new Set([FALLBACK, chosen])].map(readTexts));
  texts = Object.assign({}, ...read);
}

/** @param {string} language */
async function readTexts(language) {
  const answer = await fetch(new URL(`../texts/${language}.json`, import.meta.url));
  return answer.ok ? answer.json() : {};
}

/**
 * The text of a key such as `merge.mute`, with `{name}` replaced by the value of that name.
 * @param {string} key
 * @param {Record<string, unknown>} [values]
 */
export function text(key, values = {}) {
  return (texts[key] ?? key).replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));
}
