/** A square over two adapters: one drag sets both scales. */

/**
 * @typedef {import("./mix.js").DeskMix} DeskMix
 * @typedef {import("./mix.js").PadState} PadState
 */

import { button, element, plainText } from "../lib/dom.js";
import { drag, placeIn } from "../lib/drag.js";
import { recordChange, tellDrag } from "../lib/graph.js";
import { arrowOf } from "../lib/keys.js";
import { text } from "../lib/texts.js";
import { nameChoices } from "./settings.js";

const SIDE = 180; // pixels, as in style.css
const AXES = 30;
const RANGE = 2; // scales from 0 to here
const STEP = 0.05;

export class Pad {
  /**
   * @param {DeskMix} mix
   * @param {() => void} onChange of scales
   * @param {() => void} onLayout after it was opened or closed
   */
  constructor(mix, onChange, onLayout) {
    this.mix = mix;
    this.onChange = onChange;
    this.onLayout = onLayout;
    /** @type {number[]} */
    this.slots = [];
    this.switch = button(text("merge.pad"), text("merge.pad_meaning"), () => this.setOpen(!this.isOpen()), { class: "qr-lora-merge-switch" });
    this.choices = { x: this.choice("x"), y: this.choice("y") };
    this.thumb = element("div", {
      class: "qr-lora-pad-thumb",
      role: "slider",
      tabindex: "0",
      "aria-roledescription": text("merge.pad_role"),
      "aria-valuemin": "0",
      "aria-valuemax": String(RANGE),
      keydown: (event) => this.pressKey(event),
    });
    this.square = element("div", { class: "qr-lora-pad-square" }, element("div", { class: "qr-lora-pad-one" }), this.thumb);
    this.square.addEventListener("pointerdown", (event) => this.startDrag(event));
    const labels = /** @type {const} */ (["y", "x"]).map((axis) => {
      const face = element("span", { class: "qr-lora-quiet", text: axis === "x" ? "→" : "↑" });
      return element("label", {}, face, this.choices[axis]);
    });
    this.root = element("div", { class: "qr-lora-pad" }, this.square, element("div", { class: "qr-lora-pad-axes" }, ...labels));
  }

  /** @param {"x" | "y"} axis */
  choice(axis) {
    const label = text(axis === "x" ? "merge.pad_across" : "merge.pad_up");
    const made = element("select", { "aria-label": label, title: label });
    made.addEventListener("change", () => {
      const axes = this.axes();
      const slot = Number(made.value);
      const other = axis === "x" ? "y" : "x";
      this.save({ ...axes, [axis]: slot, [other]: axes[other] === slot ? axes[axis] : axes[other] });
    });
    return made;
  }

  isOpen() {
    return Boolean(this.mix.pad()?.open) && this.slots.length > 1;
  }

  height() {
    return this.isOpen() ? SIDE + AXES + 8 : 0;
  }

  /** @param {boolean} open */
  setOpen(open) {
    this.save({ ...this.axes(), open });
  }

  /** Content across and style up: the first two rows, until others are chosen. */
  axes() {
    const chosen = this.mix.pad() ?? { open: false, x: 0, y: 0 };
    const x = this.slots.includes(chosen.x) ? chosen.x : this.slots.find((slot) => slot !== chosen.y);
    const y = this.slots.includes(chosen.y) ? chosen.y : this.slots.find((slot) => slot !== x);
    return { open: Boolean(chosen.open), x: x ?? 0, y: y ?? 0 };
  }

  /** @param {PadState} pad */
  save(pad) {
    this.mix.setPad(pad.open ? pad : undefined);
    this.onLayout();
    recordChange();
  }

  /** @param {number[]} slots */
  setSlots(slots) {
    this.slots = slots;
    for (const choice of Object.values(this.choices)) {
      choice.replaceChildren(...slots.map((slot) => element("option", { value: slot })));
    }
  }

  refresh() {
    const open = this.isOpen();
    this.root.hidden = !open;
    this.switch.disabled = this.slots.length < 2;
    this.switch.setAttribute("aria-pressed", String(open));
    if (open) this.show();
  }

  show() {
    const { x, y } = this.axes();
    const [a, b] = [x, y].map((slot) => this.mix.scaleOf(slot));
    const names = [x, y].map((slot) => plainText(this.mix.nameOf(slot), 200));
    const place = (/** @type {number} */ scale) => Math.min(1, Math.max(0, scale / RANGE));
    this.thumb.style.left = `${place(a) * 100}%`;
    this.thumb.style.bottom = `${place(b) * 100}%`;
    this.thumb.setAttribute("aria-label", text("merge.pad_label", { x: names[0], y: names[1] }));
    this.thumb.setAttribute("aria-valuenow", String(a));
    this.thumb.setAttribute("aria-valuetext", `${names[0]} ${a}, ${names[1]} ${b}`);
    for (const [choice, slot] of /** @type {const} */ ([[this.choices.x, x], [this.choices.y, y]])) {
      nameChoices(this.mix, choice);
      choice.value = String(slot);
    }
  }

  /**
   * @param {number} a
   * @param {number} b
   */
  set(a, b) {
    const { x, y } = this.axes();
    const snapped = [a, b].map((scale) => Math.round(Math.min(RANGE, Math.max(0, scale)) / STEP) * STEP);
    this.mix.setScale(x, snapped[0]);
    this.mix.setScale(y, snapped[1]);
    this.onChange();
  }

  /** @param {PointerEvent} event */
  startDrag(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.thumb.focus();
    const follow = (/** @type {PointerEvent} */ at) => {
      const { share, up } = placeIn(this.square, at);
      this.set(share * RANGE, up * RANGE);
      tellDrag();
    };
    follow(event);
    drag(this.square, event, follow);
  }

  /** @param {KeyboardEvent} event */
  pressKey(event) {
    const arrow = arrowOf(event);
    if (!arrow) return;
    event.preventDefault();
    const { x, y } = this.axes();
    const [a, b] = [x, y].map((slot) => this.mix.scaleOf(slot));
    this.set(a + arrow[0] * STEP, b + arrow[1] * STEP);
    tellDrag();
    recordChange();
  }
}
