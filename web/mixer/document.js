/**
 * The mix of a node as the JSON that its widget `mix` holds and the server reads, see nodes/host/mix/document.py.
 *
 * What is not written as it should be is no mix, so that nothing of it is lost by writing it again; the server alone says
 * what is wrong.
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
    return isMix(told) ? { on: told.on ?? true, rows: told.rows.map(rowOf) } : null;
  } catch {
    return null;
  }
}

/** @param {any} told */
function isMix(told) {
  const { version, on = true, rows, ...others } = told;
  const isWhole = version === VERSION && typeof on === "boolean" && Array.isArray(rows) && rows.length <= MOST_ROWS;
  return isWhole && !Object.keys(others).length && rows.every(isRow);
}

/** @param {any} told */
function isRow(told) {
  const fields = Object.entries(told);
  return Boolean(told.file) && fields.every(([name, value]) => Object.hasOwn(DEFAULTS, name) && isLike(name, value));
}

/**
 * A row with these fields; what is missing, or of another type than it should be, is its default.
 * @param {Partial<MixRow> | null} given
 * @returns {MixRow}
 */
export function rowOf(given) {
  const told = /** @type {Record<string, unknown>} */ (given ?? {});
  const fields = Object.entries(DEFAULTS).map(([name, usual]) => [name, name in told && isLike(name, told[name]) ? told[name] : usual]);
  return Object.fromEntries(fields);
}

/**
 * @param {string} name
 * @param {unknown} value
 */
function isLike(name, value) {
  if (typeof value === "number" && !Number.isFinite(value)) return false; // 1e999
  if (name === "clip_scale") return value === null || typeof value === "number";
  return typeof value === typeof DEFAULTS[/** @type {keyof MixRow} */ (name)];
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
