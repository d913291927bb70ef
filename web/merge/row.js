/** One adapter's row: handle, name, slider, exact scale, mute and solo. */

import { button, element, plainText } from "../lib/dom.js";
import { isLinked, recordChange, tellDrag } from "../lib/graph.js";
import { slider } from "../lib/slider.js";
import { text } from "../lib/texts.js";
import * as mix from "./mix.js";

const RANGE = { min: 0, max: 2, step: 0.05, reset: 1 };

/** ``actions``: `refresh()`, `move(slot, step)` with -1 or 1, `slotAt(element)`. */
export class Row {
  constructor(node, slot, actions) {
    Object.assign(this, { node, slot, actions });
    const slide = (scale) => {
      this.set(scale);
      tellDrag();
    };
    this.handle = element("button", { type: "button", class: "qr-lora-merge-handle", text: "⠿", title: text("merge.move") });
    this.name = element("span", { class: "qr-lora-merge-name" });
    this.slider = slider({ ...RANGE, onInput: slide, onChange: recordChange });
    this.exact = element("input", { type: "number", step: RANGE.step, class: "qr-lora-merge-number", change: () => this.enter() });
    this.mute = button("M", text("merge.mute"), () => this.toggle("muted"));
    this.solo = button("S", text("merge.solo"), () => this.toggle("solo"));
    const parts = [this.handle, this.name, this.slider, this.exact, this.mute, this.solo];
    this.root = element("div", { class: "qr-lora-merge-row", dataset: { slot } }, ...parts);
    this.handle.addEventListener("keydown", (event) => this.pressKey(event));
    this.handle.addEventListener("pointerdown", (event) => this.startDrag(event));
  }

  set(scale) {
    if (Number.isFinite(scale)) mix.setScale(this.node, this.slot, scale);
    this.actions.refresh();
  }

  enter() {
    this.set(this.exact.valueAsNumber);
    recordChange();
  }

  toggle(list) {
    mix.toggle(this.node, list, this.slot);
    this.actions.refresh();
    recordChange();
  }

  pressKey(event) {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    this.actions.move(this.slot, step)?.handle.focus();
  }

  /** Rows change places while the handle is dragged over them. */
  startDrag(event) {
    if (event.button !== 0) return;
    let slot = this.slot;
    const follow = ({ clientX, clientY }) => {
      const over = document.elementsFromPoint(clientX, clientY).map(this.actions.slotAt).find(Boolean);
      if (!over || over === slot) return;
      slot = this.actions.move(slot, Math.sign(over - slot))?.slot ?? slot;
    };
    const stop = () => {
      window.removeEventListener("pointermove", follow, true);
      window.removeEventListener("pointerup", stop, true);
    };
    window.addEventListener("pointermove", follow, true);
    window.addEventListener("pointerup", stop, true);
  }

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

  showScale(scale, linked) {
    this.slider.show(scale);
    this.slider.setAttribute("aria-disabled", String(linked));
    if (document.activeElement !== this.exact) this.exact.value = String(scale);
    for (const control of [this.exact, this.mute, this.solo]) control.disabled = linked;
  }

  showName(name, linked) {
    this.name.textContent = name;
    this.name.title = linked ? text("merge.linked", { name }) : name;
    const labels = { handle: "merge.move_of", slider: "merge.scale_of", exact: "merge.exact_scale_of" };
    for (const [part, key] of Object.entries(labels)) this[part].setAttribute("aria-label", text(key, { name }));
  }
}
