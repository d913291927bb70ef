/**
 * The mix of a node as the JSON that its widget `mix` holds and the server reads, see nodes/host/mix/document.py.
 *
 * Whatever a text holds, it becomes a mix here: the server alone says what is wrong with it.
 *
 * @typedef {{ file: string, on: boolean, solo: boolean, scale: number, clip_scale: number | null, blocks: string, schedule: string, size: number, sha256: string }} MixRow
 * @typedef {{ on: boolean, rows: MixRow[] }} Mix
 */

const VERSION = 1;
export const MOST_ROWS = 64;
export const LARGEST_SCALE = 100;
/** @type {MixRow} */
const DEFAULTS = { file: "", on: true, solo: false, scale: 1, clip_scale: null, blocks: "", schedule: "", size: 0, sha256: "" };

/**
 * The mix that a text holds; null where it is none.
 * @param {string} text
 * @returns {Mix | null}
 */
export function parseMix(text) {
  if (!text.trim()) return { on: true, rows: [] };
  try {
    const told = JSON.parse(text);
    if (told?.version !== VERSION || !Array.isArray(told.rows) || told.rows.length > MOST_ROWS) return null;
    return { on: told.on !== false, rows: told.rows.map(rowOf) };
  } catch {
    return null;
  }
}

/**
 * A row with these fields; what is missing, or of another type than it should be, is its default.
 * @param {Partial<MixRow> | null} given
 * @returns {MixRow}
 */
export function rowOf(given) {
  const told = /** @type {Record<string, unknown>} */ (given ?? {});
  const fields = Object.entries(DEFAULTS).map(([name, usual]) => [name, isLike(name, told[name], usual) ? told[name] : usual]);
  return Object.fromEntries(fields);
}

/**
 * @param {string} name
 * @param {unknown} value
 * @param {unknown} usual
 */
function isLike(name, value, usual) {
  if (name === "clip_scale") return typeof value === "number";
  return typeof value === typeof usual;
}

/**
 * The text of a mix, on one line; what equals its default is left out, and of no rows it is empty.
 * @param {Mix} mix
 */
export function textOf({ on, rows }) {
  if (!rows.length) return "";
  const told = rows.map((row) => Object.fromEntries(Object.entries(row).filter(([name, value]) => value !== DEFAULTS[/** @type {keyof MixRow} */ (name)])));
  return JSON.stringify({ version: VERSION, ...(on ? {} : { on }), rows: told });
}

/**
 * Whether a row is silent.
 * @param {Mix} mix
 * @param {MixRow} row
 */
export function isSilent({ on, rows }, row) {
  return !on || !row.on || (!row.solo && rows.some(({ solo }) => solo));
}
