/** The view of a mix: a row per adapter, how they are merged, the pad, and what came of it. */

/**
 * @typedef {import("./mix.js").DeskMix} DeskMix
 * @typedef {import("./result.js").Told} Told
 * @typedef {import("./row.js").Actions} Actions
 * @typedef {import("./row.js").Row} Row
 * @typedef {{ root: HTMLElement, height: () => number }} Part of a desk, of no height where it is hidden
 * @typedef {{ above?: Part[], below?: Part[], hint: () => string, tallest?: number }} Look what stands above and below the
 *   rows, what is said where there are none, and how high the list is before it scrolls
 */

import { element, fill } from "../lib/dom.js";
import { debounced, isLinked, recordChange } from "../lib/graph.js";
import { text } from "../lib/texts.js";
import { Pad } from "./pad.js";
import { Result } from "./result.js";
import { Settings } from "./settings.js";

// Heights in pixels, as in style.css.
const BETWEEN = 15;
const LINE = 26;
const RESULT = 74;
const GAP = 4;
const EMPTY = 40;
// At the edge of a list that scrolls while a row is dragged.
const EDGE = 20; // pixels
const SCROLLED = 8; // pixels a frame

/** @template {Row} [Own=Row] */
export class Desk {
  /**
   * @param {DeskMix} mix
   * @param {(slot: number, actions: Actions) => Own} rowOf
   * @param {Look} look
   */
  constructor(mix, rowOf, look) {
    this.mix = mix;
    this.rowOf = rowOf;
    this.look = { above: [], below: [], tallest: Infinity, ...look };
    /** @type {Own[]} */
    this.rows = [];
    /** @type {HTMLElement[]} */
    this.between = [];
    this.shape = "";
    this.shownHeight = 0;
    this.onResize = this.onMove = () => {};
    this.refresh = debounced(() => this.draw()); // one change is told of in several ways
    this.list = element("div", { class: Number.isFinite(this.look.tallest) ? "qr-lora-merge-rows qr-lora-scroll" : "qr-lora-merge-rows", role: "group", "aria-label": text("merge.rows") });
    this.settings = new Settings(mix, () => this.update());
    this.pad = new Pad(mix, () => this.refresh(), () => this.update());
    this.result = new Result(mix);
    const roots = (/** @type {Part[]} */ parts) => parts.map(({ root }) => root);
    this.root = element("div", {}, ...roots(this.look.above), this.list, ...roots(this.look.below), this.settings.root, this.pad.root, this.result.root);
  }

  height() {
    const settings = this.settings.lines().length * (LINE + GAP);
    return heightOf(this.look.above) + this.listHeight() + heightOf(this.look.below) + settings + this.pad.height() + RESULT + 3 * GAP;
  }

  /**
   * How far below the top the socket of a widget is: at its row, or at the line of a setting that is linked.
   * @param {string} name
   */
  socketOf(name) {
    const row = this.rows.findIndex(({ slot }) => name === `scale_${slot}`);
    if (row >= 0) return this.topOf(row) + LINE / 2;
    const line = this.settings.lines().findIndex((names) => names.includes(name));
    const start = heightOf(this.look.above) + this.listHeight() + heightOf(this.look.below);
    return line >= 0 && isLinked(this.mix.node, name) ? start + GAP + line * (LINE + GAP) + LINE / 2 : null;
  }

  /** @param {number} place of a row */
  topOf(place) {
    return heightOf(this.look.above) + this.rows.slice(0, place).reduce((sum, row) => sum + row.height() + BETWEEN, 0);
  }

  rowsHeight() {
    return this.rows.length ? this.topOf(this.rows.length) - heightOf(this.look.above) - BETWEEN : EMPTY;
  }

  listHeight() {
    return Math.min(this.look.tallest, this.rowsHeight());
  }

  /** After a change of connections, names or settings. */
  update() {
    const shape = JSON.stringify([this.mix.slots(), this.settings.lines(), this.look.hint()]);
    if (shape !== this.shape) this.rebuild();
    this.shape = shape;
    this.refresh();
    const height = this.height();
    if (Number.isFinite(this.look.tallest)) this.list.style.height = `${this.listHeight()}px`;
    if (height !== this.shownHeight) this.onResize();
    this.shownHeight = height;
    this.onMove();
  }

  rebuild() {
    const slots = this.mix.slots();
    /** @type {Actions} */
    const actions = {
      refresh: () => this.refresh(),
      move: (...how) => this.move(...how),
      slotAt: (found) => this.slotAt(found),
      scroll: (clientY) => this.scroll(clientY),
    };
    this.rows = slots.map((slot) => this.rows.find((row) => row.slot === slot) ?? this.rowOf(slot, actions));
    this.between = slots.slice(1).map((_, index) => this.between[index] ?? element("div", { class: "qr-lora-merge-between qr-lora-quiet" }));
    const parts = this.rows.flatMap(({ root }, index) => [...(index ? [this.between[index - 1]] : []), root]);
    const hint = element("div", { class: "qr-lora-merge-empty qr-lora-quiet", text: this.look.hint() });
    fill(this.list, ...(parts.length ? parts : [hint]));
    this.settings.rebuild(this.pad.switch);
    this.pad.setSlots(slots);
  }

  /** Show the present values: `refresh` does, once the present burst of changes is over. */
  draw() {
    for (const row of this.rows) row.show();
    for (const [index, strip] of this.between.entries()) {
      this.result.showBetween(strip, [this.rows[index].slot, this.rows[index + 1].slot]);
    }
    this.settings.refresh();
    this.pad.refresh();
    this.mix.node.setDirtyCanvas?.(true, false);
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
   * Scroll on where the pointer is at an edge of the list; returns whether it did.
   * @param {number} clientY
   */
  scroll(clientY) {
    const { top, bottom } = this.list.getBoundingClientRect();
    const before = this.list.scrollTop;
    if (clientY < top + EDGE) this.list.scrollTop -= SCROLLED;
    else if (clientY > bottom - EDGE) this.list.scrollTop += SCROLLED;
    return this.list.scrollTop !== before;
  }

  /**
   * Exchange a row with the one before or after; returns where it is then, if it could.
   * @param {number} slot
   * @param {number} step
   */
  move(slot, step) {
    const place = this.rows.findIndex((row) => row.slot === slot) + step;
    if (!this.rows[place]) return null;
    this.mix.exchange(slot, this.rows[place].slot);
    this.result.show(null); // it was measured of others
    this.update();
    recordChange();
    return this.rows[place];
  }
}

/** @param {Part[]} parts */
function heightOf(parts) {
  return parts.map((part) => part.height()).reduce((sum, height) => sum + (height && height + GAP), 0);
}
