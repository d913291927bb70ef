/** One adapter's row: handle, name, slider, exact scale, mute and solo. */

/**
 * @typedef {import("./mix.js").State} State
 * @typedef {{ refresh: () => void, move: (slot: number, step: number) => Row | null, slotAt: (element: Element) => number | null }} Actions
 */

import { button, element, plainText } from "../lib/dom.js";
import { drag } from "../lib/drag.js";
import { isLinked, recordChange, tellDrag } from "../lib/graph.js";
import { stepInList } from "../lib/keys.js";
import { slider } from "../lib/slider.js";
import { text } from "../lib/texts.js";
import * as mix from "./mix.js";

const RANGE = { min: 0, max: 2, step: 0.05, reset: 1 };

/** The step of `actions.move` is -1 or 1. */
export class Row {
  /**
   * @param {LGraphNode} node
   * @param {number} slot
   * @param {Actions} actions
   */
  constructor(node, slot, actions) {
    this.node = node;
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
    this.mute = button("M", text("merge.mute"), () => this.toggle("muted"));
    this.solo = button("S", text("merge.solo"), () => this.toggle("solo"));
    const parts = [this.handle, this.name, this.slider, this.exact, this.mute, this.solo];
    this.root = element("div", { class: "qr-lora-merge-row", dataset: { slot } }, ...parts);
    this.handle.addEventListener("keydown", (event) => this.pressKey(event));
    this.handle.addEventListener("pointerdown", (event) => this.startDrag(event));
  }

  /** @param {number} scale */
  set(scale) {
    if (Number.isFinite(scale)) mix.setScale(this.node, this.slot, scale);
    this.actions.refresh();
  }

  enter() {
    this.set(this.exact.valueAsNumber);
    recordChange();
  }

  /** @param {"muted" | "solo"} list */
  toggle(list) {
    mix.toggle(this.node, list, this.slot);
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
   * Rows change places while the handle is dragged over them.
   * @param {PointerEvent} event
   */
  startDrag(event) {
    if (event.button !== 0) return;
    let slot = this.slot;
    drag(this.handle, event, ({ clientX, clientY }) => {
      const over = document.elementsFromPoint(clientX, clientY).map(this.actions.slotAt).find(Boolean);
      if (!over || over === slot) return;
      slot = this.actions.move(slot, Math.sign(over - slot))?.slot ?? slot;
    });
  }

  /** @param {State} state */
  show(state) {
    const name = plainText(mix.nameOf(this.node, this.slot), 200);
    const linked = isLinked(this.node, `scale_${this.slot}`);
    this.showScale(mix.scaleOf(this.node, this.slot, state), linked);
    this.showName(name, linked);
    this.mute.setAttribute("aria-pressed", String(state.muted.includes(this.slot)));
    this.solo.setAttribute("aria-pressed", String(state.solo.includes(this.slot)));
    this.root.classList.toggle("qr-lora-merge-silent", mix.isSilent(state, this.slot) && !linked);
    this.root.classList.toggle("qr-lora-merge-linked", linked);
  }

  /**
   * @param {number} scale
   * @param {boolean} linked
   */
  showScale(scale, linked) {
    this.slider.show(scale);
    this.slider.setAttribute("aria-disabled", String(linked));
    if (document.activeElement !== this.exact) this.exact.value = String(scale);
    for (const control of [this.exact, this.mute, this.solo]) control.disabled = linked;
  }

  /**
   * @param {string} name
   * @param {boolean} linked
   */
  showName(name, linked) {
    this.name.textContent = name;
    this.name.title = linked ? text("merge.linked", { name }) : name;
    this.handle.setAttribute("aria-label", text("merge.move_of", { name }));
    this.slider.setAttribute("aria-label", text("merge.scale_of", { name }));
    this.exact.setAttribute("aria-label", text("merge.exact_scale_of", { name }));
  }
}
