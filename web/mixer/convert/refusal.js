/** What keeps a conversion from being done, or what to know of one that was, in words for the user. */

import { plainText } from "../../lib/dom.js";
import { text } from "../../lib/texts.js";

/** @typedef {{ key: string, values?: Record<string, unknown> }} Note a text by its key */

const LONGEST = 120; // of a value within a sentence

/** Nothing is changed. */
export class Refusal extends Error {
  /**
   * @param {string} key
   * @param {Record<string, unknown>} [values]
   */
  constructor(key, values) {
    super(wordsOf({ key, values }));
  }
}

/**
 * The sentence of a note. What a workflow says within it is text and short.
 * @param {Note} note
 */
export function wordsOf({ key, values = {} }) {
  return text(key, Object.fromEntries(Object.entries(values).map(([name, value]) => [name, plainText(value, LONGEST)])));
}

/**
 * What a node is called in a sentence.
 * @param {LGraphNode} node
 */
export function calledOf(node) {
  return `${node.title || node.type} (${node.id})`;
}
