/**
 * The rows of a Mixer, numbered from 1. All there is to them is in the widget `mix`, see document.js.
 *
 * @typedef {import("./document.js").Mix} Mix
 * @typedef {import("./document.js").MixRow} MixRow
 * @typedef {import("../desk/mix.js").PadState} PadState
 */

import { fileName } from "../desk/mix.js";
import { inputsOfModes, settingNames } from "../desk/modes.js";
import { isDragging } from "../lib/drag.js";
import { isLinked, setWidget, setWidgetUnrecorded, widgetOf } from "../lib/graph.js";
import { LARGEST_SCALE, MOST_ROWS, isSilent, parseMix, rowOf, textOf } from "./document.js";

export const NAME = "mix";
const PAD = "qr_lora_pad";
const LATER = 300; // milliseconds

/** The interface of `DeskMix`, and what only rows of files have. */
export class MixerMix {
  /** @param {LGraphNode} node */
  constructor(node) {
    this.node = node;
    /** @type {(numbered: (slot: number) => number) => void} */
    this.onRenumber = () => {};
    this.known = "";
    /** @type {Mix | null} */
    this.parsed = parseMix("");
  }

  text() {
    return String(widgetOf(this.node, NAME)?.value ?? "");
  }

  /** What the widget holds, which nobody may change in place; null where it is no mix. */
  read() {
    const text = this.text();
    if (text !== this.known) this.parsed = parseMix(text);
    this.known = text;
    return this.parsed;
  }

  /** @returns {Mix} */
  mix() {
    return this.read() ?? { on: true, rows: [] };
  }

  /** @param {Mix} mix */
  write(mix) {
    setWidget(this.node, NAME, textOf(mix));
  }

  isFixed() {
    return isLinked(this.node, NAME);
  }

  slots() {
    return this.mix().rows.map((_, index) => index + 1);
  }

  /** @param {number} slot */
  row(slot) {
    return this.mix().rows[slot - 1] ?? rowOf(null);
  }

  /**
   * Other values for some fields of a row.
   * @param {number} slot
   * @param {Partial<MixRow>} fields
   */
  change(slot, fields) {
    const { on, rows } = this.mix();
    if (rows[slot - 1]) this.write({ on, rows: rows.with(slot - 1, { ...rows[slot - 1], ...fields }) });
  }

  /** @param {number} slot */
  nameOf(slot) {
    return fileName(this.row(slot).file);
  }

  /** @param {number} slot */
  scaleOf(slot) {
    return this.row(slot).scale;
  }

  /** @param {number} slot */
  sentScale(slot) {
    return this.isSilent(slot) ? 0 : this.scaleOf(slot);
  }

  /**
   * @param {number} slot
   * @param {number} scale
   */
  setScale(slot, scale) {
    this.change(slot, { scale: bounded(scale) });
  }

  /** @param {number} slot */
  isMuted(slot) {
    return !this.row(slot).on;
  }

  /** @param {number} slot */
  isSolo(slot) {
    return this.row(slot).solo;
  }

  /** @param {number} slot */
  isSilent(slot) {
    return isSilent(this.mix(), this.row(slot));
  }

  isLocked() {
    return this.isFixed();
  }

  /** @param {number} slot */
  toggleMuted(slot) {
    this.change(slot, { on: !this.row(slot).on });
  }

  /** @param {number} slot */
  toggleSolo(slot) {
    this.change(slot, { solo: !this.row(slot).solo });
  }

  /**
   * @param {number} a
   * @param {number} b
   */
  exchange(a, b) {
    const { on, rows } = this.mix();
    this.write({ on, rows: rows.with(a - 1, rows[b - 1]).with(b - 1, rows[a - 1]) });
    this.renumber((slot) => ({ [a]: b, [b]: a })[slot] ?? slot);
  }

  /**
   * Put rows for these files at the end; returns for how many there was no room.
   * @param {string[]} files
   */
  add(files) {
    const { on, rows } = this.mix();
    const wanted = [...rows, ...files.map((file) => rowOf({ file }))];
    this.write({ on, rows: wanted.slice(0, MOST_ROWS) });
    return Math.max(0, wanted.length - MOST_ROWS);
  }

  /** @param {number} slot */
  duplicate(slot) {
    const { on, rows } = this.mix();
    if (rows.length >= MOST_ROWS) return;
    this.write({ on, rows: rows.toSpliced(slot, 0, rows[slot - 1]) });
    this.renumber((other) => (other > slot ? other + 1 : other));
  }

  /** @param {number} slot */
  remove(slot) {
    const { on, rows } = this.mix();
    this.write({ on, rows: rows.toSpliced(slot - 1, 1) });
    this.renumber((other) => (other === slot ? 1 : other > slot ? other - 1 : other));
  }

  /**
   * What names a row follows it.
   * @param {(slot: number) => number} numbered
   */
  renumber(numbered) {
    for (const { name, isSlot } of inputsOfModes(this.node)) {
      if (isSlot && !isLinked(this.node, name)) setWidget(this.node, name, numbered(Number(widgetOf(this.node, name)?.value)));
    }
    this.onRenumber(numbered);
    const pad = this.pad();
    if (pad) this.setPad({ ...pad, x: numbered(pad.x), y: numbered(pad.y) });
  }

  /**
   * Size and hash of a file, to know it under another name: nothing that a person did, so no step for undo.
   * @param {string} file
   * @param {{ size: number, sha256: string }} content
   */
  note(file, { size, sha256 }) {
    if (isDragging()) return void setTimeout(() => this.note(file, { size, sha256 }), LATER);
    const mix = this.read();
    if (!mix || this.isFixed()) return;
    const rows = mix.rows.map((row) => (row.file === file && !row.sha256 ? { ...row, size, sha256 } : row));
    setWidgetUnrecorded(this.node, NAME, textOf({ ...mix, rows }));
  }

  /** @returns {string[]} */
  extraSettings() {
    return [];
  }

  /** @returns {PadState | undefined} */
  pad() {
    const pad = this.node.properties[PAD];
    return pad && { ...pad };
  }

  /** @param {PadState | undefined} pad */
  setPad(pad) {
    if (pad) this.node.properties[PAD] = pad;
    else delete this.node.properties[PAD];
  }

  /** The settings beside `mix` that say what happens to it, by the names of their widgets. */
  settings() {
    return Object.fromEntries(settingNames(this.node).map((name) => [name, widgetOf(this.node, name)?.value]));
  }

  /** @param {Record<string, WidgetValue>} given */
  setSettings(given) {
    for (const name of settingNames(this.node)) if (name in given && !isLinked(this.node, name)) setWidget(this.node, name, given[name]);
  }
}

/**
 * Within what the server takes, without the dust of binary fractions.
 * @param {number} scale
 */
export function bounded(scale) {
  return Math.min(LARGEST_SCALE, Math.max(-LARGEST_SCALE, Math.round(scale * 1e4) / 1e4));
}
