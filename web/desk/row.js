/** One adapter's row: handle, name, slider, exact scale, solo, and what a desk has besides. */

/**
 * @typedef {import("./mix.js").DeskMix} DeskMix
 * @typedef {{ refresh: () => void, move: (slot: number, step: number) => Row | null, slotAt: (element: Element) => number | null, scroll: (clientY: number) => boolean }} Actions
 */

import { button, element, plainText } from "../lib/dom.js";
import { drag } from "../lib/drag.js";
import { recordChange, tellDrag } from "../lib/graph.js";
import { stepInList } from "../lib/keys.js";
import { slider } from "../lib/slider.js";
import { text } from "../lib/texts.js";

const HEIGHT = 26; // pixels, as in style.css
const RANGE = { min: 0, max: 2, step: 0.05, reset: 1 };

/** The step of `actions.move` is -1 or 1; `actions.scroll` says whether the list did. */
export class Row {
  /**
   * @param {DeskMix} mix
   * @param {number} slot
   * @param {Actions} actions
   */
  constructor(mix, slot, actions) {
    this.mix = mix;
    this.slot = slot;
    this.actions = actions;
    const slide = (/** @type {number} */ scale) => {
      this.set(scale);
      tellDrag();
    };
    this.handle = element("button", { type: "button", class: "qr-lora-merge-handle", text: "⠿", title: text("merge.move") });
    this.name = element("span", { class: "qr-lora-merge-name" });
    this.slider = slider({ ...RANGE, onInput: slide });
    this.exact = element("input", { type: "number", step: RANGE.step, class: "qr-lora-merge-number", change: () => this.enter() });
    this.solo = button("S", text("merge.solo"), () => this.do(() => mix.toggleSolo(slot)));
    this.line = element("div", { class: "qr-lora-merge-row", dataset: { slot } }, this.handle, this.name, this.slider, this.exact, this.solo);
    this.root = this.line;
    this.handle.addEventListener("keydown", (event) => this.pressKey(event));
    this.handle.addEventListener("pointerdown", (event) => this.startDrag(event));
  }

  height() {
    return HEIGHT;
  }

  /** Controls that are of no use while a link decides. @returns {(HTMLInputElement | HTMLButtonElement)[]} */
  controls() {
    return [this.exact, this.solo];
  }

  /** @param {number} scale */
  set(scale) {
    if (Number.isFinite(scale)) this.mix.setScale(this.slot, scale);
    this.actions.refresh();
  }

  enter() {
    this.set(this.exact.valueAsNumber);
    recordChange();
  }

  /**
   * A change that is one step for undo.
   * @param {() => void} change
   */
  do(change) {
    change();
    this.actions.refresh();
    recordChange();
  }

  /** @param {KeyboardEvent} event */
  pressKey(event) {
    const step = stepInList(event);
    if (!step) return;
    event.preventDefault();
    this.actions.move(this.slot, step)?.handle.focus();
  }

  /**
   * Rows change places while the handle is dragged over them. At the edge of the list it scrolls, also while the pointer
   * stays there.
   * @param {PointerEvent} event
   */
  startDrag(event) {
    if (event.button !== 0) return;
    let slot = this.slot;
    let latest = event;
    let isOver = false;
    const swap = () => {
      const over = document.elementsFromPoint(latest.clientX, latest.clientY).map(this.actions.slotAt).find(Boolean);
      if (!over || over === slot) return;
      slot = this.actions.move(slot, Math.sign(over - slot))?.slot ?? slot;
    };
    const scroll = () => {
      if (isOver) return;
      if (this.actions.scroll(latest.clientY)) swap();
      requestAnimationFrame(scroll);
    };
    const follow = (/** @type {PointerEvent} */ at) => {
      latest = at;
      swap();
    };
    drag(this.handle, event, follow, () => (isOver = true));
    scroll();
  }

  show() {
    const name = plainText(this.mix.nameOf(this.slot), 200);
    const locked = this.mix.isLocked(this.slot);
    this.showScale(this.mix.scaleOf(this.slot), locked);
    this.showName(name, locked);
    this.solo.setAttribute("aria-pressed", String(this.mix.isSolo(this.slot)));
    this.line.classList.toggle("qr-lora-merge-silent", this.mix.isSilent(this.slot) && !locked);
    this.line.classList.toggle("qr-lora-merge-linked", locked);
  }

  /**
   * @param {number} scale
   * @param {boolean} locked
   */
  showScale(scale, locked) {
    this.slider.show(scale);
    this.slider.setAttribute("aria-disabled", String(locked));
    if (document.activeElement !== this.exact) this.exact.value = String(scale);
    for (const control of this.controls()) control.disabled = locked;
  }

  /**
   * @param {string} name
   * @param {boolean} locked
   */
  showName(name, locked) {
    this.name.textContent = name;
    this.name.title = locked ? text("merge.linked", { name }) : name;
    this.handle.setAttribute("aria-label", text("merge.move_of", { name }));
    this.slider.setAttribute("aria-label", text("merge.scale_of", { name }));
    this.exact.setAttribute("aria-label", text("merge.exact_scale_of", { name }));
  }
}
