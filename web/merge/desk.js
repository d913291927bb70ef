/** The view of a merge: a row per adapter, how they are merged, the pad, and what came of it. */

/** @typedef {import("./result.js").Told} Told */

import { element, fill } from "../lib/dom.js";
import { debounced, isLinked, recordChange } from "../lib/graph.js";
import { text } from "../lib/texts.js";
import * as mix from "./mix.js";
import { Pad } from "./pad.js";
import { Result } from "./result.js";
import { Row } from "./row.js";
import { Settings } from "./settings.js";
import { refreshSlots } from "./sockets.js";

// Heights in pixels, as in style.css.
const ROW = 26;
const BETWEEN = 15;
const LINE = 26;
const RESULT = 74;
const GAP = 4;
const EMPTY = 40;

export class Desk {
  /** @param {LGraphNode} node */
  constructor(node) {
    this.node = node;
    /** @type {Row[]} */
    this.rows = [];
    /** @type {HTMLElement[]} */
    this.between = [];
    this.shape = "";
    this.shownHeight = 0;
    this.onResize = this.onMove = () => {};
    this.refresh = debounced(() => this.draw()); // one change is told of in several ways
    this.list = element("div", { class: "qr-lora-merge-rows", role: "group", "aria-label": text("merge.rows") });
    this.settings = new Settings(node, () => this.update());
    this.pad = new Pad(node, () => this.refresh());
    this.result = new Result(node);
    this.root = element("div", {}, this.list, this.settings.root, this.pad.root, this.result.root);
  }

  height() {
    return this.rowsHeight() + this.settings.lines().length * (LINE + GAP) + this.pad.height() + RESULT + 3 * GAP;
  }

  /**
   * How far below the top the socket of a widget is: at its row, or at the line of a setting that is linked.
   * @param {string} name
   */
  socketOf(name) {
    const row = this.rows.findIndex(({ slot }) => name === `scale_${slot}`);
    if (row >= 0) return row * (ROW + BETWEEN) + ROW / 2;
    const line = this.settings.lines().findIndex((names) => names.includes(name));
    return line >= 0 && isLinked(this.node, name) ? this.rowsHeight() + GAP + line * (LINE + GAP) + LINE / 2 : null;
  }

  rowsHeight() {
    return this.rows.length ? this.rows.length * (ROW + BETWEEN) - BETWEEN : EMPTY;
  }

  /** After a change of connections, names or settings. */
  update() {
    const shape = JSON.stringify([mix.connectedSlots(this.node), this.settings.lines()]);
    if (shape !== this.shape) this.rebuild();
    this.shape = shape;
    this.refresh();
    const height = this.height();
    if (height !== this.shownHeight) this.onResize();
    this.shownHeight = height;
    this.onMove();
  }

  rebuild() {
    const slots = mix.connectedSlots(this.node);
    /** @type {import("./row.js").Actions} */
    const actions = { refresh: () => this.refresh(), move: (...how) => this.move(...how), slotAt: (found) => this.slotAt(found) };
    this.rows = slots.map((slot) => this.rows.find((row) => row.slot === slot) ?? new Row(this.node, slot, actions));
    this.between = slots.slice(1).map((_, index) => this.between[index] ?? element("div", { class: "qr-lora-merge-between qr-lora-quiet" }));
    const parts = this.rows.flatMap(({ root }, index) => [...(index ? [this.between[index - 1]] : []), root]);
    const hint = element("div", { class: "qr-lora-merge-empty qr-lora-quiet", text: text("merge.empty") });
    fill(this.list, ...(parts.length ? parts : [hint]));
    this.settings.rebuild(this.pad.switch);
    this.pad.setSlots(slots);
  }

  /** Show the present values: `refresh` does, once the present burst of changes is over. */
  draw() {
    const state = mix.stateOf(this.node);
    for (const row of this.rows) row.show(state);
    for (const [index, strip] of this.between.entries()) {
      this.result.showBetween(strip, [this.rows[index].slot, this.rows[index + 1].slot]);
    }
    this.settings.refresh();
    this.pad.refresh();
    this.node.setDirtyCanvas?.(true, false);
  }

  /**
   * What the node sent after it ran.
   * @param {Told | undefined} told
   */
  showResult(told) {
    this.result.show(told);
    this.refresh();
  }

  /** @param {Element} found */
  slotAt(found) {
    const row = /** @type {HTMLElement | null} */ (found.closest(".qr-lora-merge-row"));
    return row && this.list.contains(row) ? Number(row.dataset.slot) : null;
  }

  /**
   * Exchange a row with the one before or after; returns where it is then, if it could.
   * @param {number} slot
   * @param {number} step
   */
  move(slot, step) {
    const place = this.rows.findIndex((row) => row.slot === slot) + step;
    if (!this.rows[place]) return null;
    mix.exchange(this.node, slot, this.rows[place].slot);
    this.result.show(null); // it was measured of others
    refreshSlots(this.node);
    this.update();
    recordChange();
    return this.rows[place];
  }
}
