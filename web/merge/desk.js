/** The view of a merge: a row per adapter, how they are merged, the pad, and what came of it. */

import { button, element, plainText } from "../lib/dom.js";
import { isLinked, recordChange, setWidget, tellDrag, widgetOf } from "../lib/graph.js";
import { slider } from "../lib/slider.js";
import { text } from "../lib/texts.js";
import * as mix from "./mix.js";
import { Pad } from "./pad.js";
import { refreshSlots } from "./sockets.js";

const ROW = 26; // heights in pixels, as in style.css
const BETWEEN = 15;
const LINE = 26;
const RESULT = 74;
const GAP = 4;
const EMPTY = 40;
const STRONG = 0.25; // interference worth a colour
const SLIDER = { min: 0, max: 2, step: 0.05, reset: 1 };

export class Desk {
  constructor(node) {
    this.node = node;
    this.onResize = () => {};
    this.rows = [];
    this.list = element("div", { class: "qr-lora-merge-rows", role: "group", "aria-label": text("merge.rows") });
    this.settings = element("div", { class: "qr-lora-merge-settings" });
    this.pad = new Pad(node, () => this.refresh());
    this.result = element("div", {
      class: "qr-lora-scroll qr-lora-text qr-lora-merge-result",
      role: "status",
      tabindex: "0",
      "aria-label": text("merge.result"),
    });
    this.root = element("div", {}, this.list, this.settings, this.pad.root, this.result);
    this.showResult(null);
  }

  height() {
    const rows = this.rows.length ? this.rows.length * (ROW + BETWEEN) - BETWEEN : EMPTY;
    return rows + this.settingLines().length * (LINE + GAP) + this.pad.height() + RESULT + 2 * GAP + 4;
  }

  /** Where the canvas shows the socket of a widget: beside its row. */
  socketHeight(name) {
    const row = this.rows.findIndex(({ slot }) => name === `scale_${slot}`);
    return row >= 0 ? row * (ROW + BETWEEN) + GAP : this.rows.length * (ROW + BETWEEN);
  }

  /** After a change of connections, names or settings. */
  update() {
    const shape = JSON.stringify([mix.connectedSlots(this.node), this.settingLines(), this.linkedScales()]);
    if (shape !== this.shape) this.rebuild();
    this.shape = shape;
    this.pad.update(this.rows.map(({ slot }) => slot));
    this.refresh();
    if (this.height() !== this.shownHeight) this.onResize();
    this.shownHeight = this.height();
  }

  linkedScales() {
    return mix.SLOTS.filter((slot) => isLinked(this.node, `scale_${slot}`));
  }

  rebuild() {
    const slots = mix.connectedSlots(this.node);
    this.rows = slots.map((slot) => this.row(slot));
    const between = this.rows.slice(1).map(() => element("div", { class: "qr-lora-merge-between qr-lora-quiet" }));
    this.between = between;
    const parts = this.rows.flatMap(({ root }, index) => [...(index ? [between[index - 1]] : []), root]);
    const hint = element("div", { class: "qr-lora-merge-empty qr-lora-quiet", text: text("merge.empty") });
    this.list.replaceChildren(...(parts.length ? parts : [hint]));
    this.settings.replaceChildren(...this.settingLines().map((line) => this.settingLine(line)));
  }

  /** Show the present values. */
  refresh() {
    const state = mix.stateOf(this.node);
    for (const row of this.rows) row.show(state);
    for (const control of this.settings.querySelectorAll("[data-widget]")) this.showSetting(control);
    this.between?.forEach((strip, index) => this.showBetween(strip, index));
    this.pad.refresh();
    this.node.setDirtyCanvas?.(true, false);
  }

  row(slot) {
    const set = (value) => {
      if (Number.isFinite(value)) mix.setScale(this.node, slot, value);
      this.refresh();
    };
    const slide = (value) => {
      set(value);
      tellDrag();
    };
    const parts = {
      handle: element("button", { type: "button", class: "qr-lora-merge-handle", text: "⠿", title: text("merge.move") }),
      name: element("span", { class: "qr-lora-merge-name" }),
      slider: slider({ ...SLIDER, onInput: slide, onChange: recordChange }),
      number: element("input", { type: "number", step: SLIDER.step, class: "qr-lora-merge-number" }),
      mute: button("M", text("merge.mute"), () => this.toggle("muted", slot)),
      solo: button("S", text("merge.solo"), () => this.toggle("solo", slot)),
    };
    const root = element("div", { class: "qr-lora-merge-row", dataset: { slot } }, ...Object.values(parts));
    parts.number.addEventListener("change", () => {
      set(parts.number.valueAsNumber);
      recordChange();
    });
    this.connectHandle(slot, parts.handle);
    return { slot, root, ...parts, show: (state) => showRow(this.node, slot, root, parts, state) };
  }

  connectHandle(slot, handle) {
    handle.addEventListener("keydown", (event) => {
      const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const place = this.move(slot, step);
      this.rows[place]?.handle.focus();
    });
    handle.addEventListener("pointerdown", (event) => {
      if (event.button === 0) this.startDrag(slot, handle, event.pointerId);
    });
  }

  /** Rows change places while the handle is dragged over them. */
  startDrag(slot, handle, pointer) {
    const follow = (event) => {
      const over = document.elementsFromPoint(event.clientX, event.clientY).find((found) => this.slotOf(found));
      const target = over && this.slotOf(over);
      if (!target || target === slot) return;
      const places = this.rows.map((row) => row.slot);
      this.move(slot, Math.sign(places.indexOf(target) - places.indexOf(slot)));
      slot = target;
    };
    const stop = () => {
      window.removeEventListener("pointermove", follow, true);
      window.removeEventListener("pointerup", stop, true);
    };
    window.addEventListener("pointermove", follow, true);
    window.addEventListener("pointerup", stop, true);
    handle.releasePointerCapture?.(pointer);
  }

  slotOf(found) {
    const row = found.closest?.(".qr-lora-merge-row");
    return row && this.list.contains(row) ? Number(row.dataset.slot) : null;
  }

  /** Exchange a row with the one before or after; returns the new place. */
  move(slot, step) {
    const places = this.rows.map((row) => row.slot);
    const place = places.indexOf(slot) + step;
    if (!(place in places)) return place - step;
    mix.exchange(this.node, slot, places[place]);
    this.forgetResult();
    refreshSlots(this.node);
    this.update();
    recordChange();
    return place;
  }

  toggle(list, slot) {
    mix.toggle(this.node, list, slot);
    this.refresh();
    recordChange();
  }

  // How they are merged

  settingLines() {
    const mode = widgetOf(this.node, "mode")?.value;
    const extra = { null_space: ["protect", "mu"], ties: ["density"] }[mode] ?? [];
    const clip = isLinked(this.node, "clip") ? ["clip_scale"] : [];
    return [["apply", "mode"], [...extra, ...clip]].filter((line) => line.length);
  }

  settingLine(names) {
    const controls = names.map((name) => this.setting(name));
    const pad = names[0] === "apply" ? [this.pad.switch] : [];
    return element("div", { class: "qr-lora-merge-line" }, ...controls, ...pad);
  }

  setting(name) {
    const widget = widgetOf(this.node, name);
    const control = name === "protect" ? this.protectChoice() : controlFor(widget);
    control.dataset.widget = name;
    control.addEventListener("change", () => {
      const value = control.type === "number" || name === "protect" ? Number(control.value) : control.value;
      if (!Number.isNaN(value)) setWidget(this.node, name, value);
      this.update();
      recordChange();
    });
    const label = element("label", { title: widget.tooltip ?? "" });
    label.append(element("span", { class: "qr-lora-quiet", text: widget.label ?? name }), control);
    return label;
  }

  protectChoice() {
    const options = mix.connectedSlots(this.node).map((slot) => element("option", { value: slot }));
    return element("select", {}, ...options);
  }

  showSetting(control) {
    const name = control.dataset.widget;
    if (name === "protect") {
      for (const option of control.options) option.textContent = mix.nameOf(this.node, Number(option.value));
    }
    control.value = String(widgetOf(this.node, name).value);
    control.disabled = isLinked(this.node, name);
  }

  // What came of it

  /** What the node sent after it ran. */
  showResult(told) {
    this.told = told ?? null;
    const lines = told ? resultLines(told) : [{ quiet: true, line: text("merge.not_run") }];
    this.result.replaceChildren(
      ...lines.map(({ line, kind }) => element("div", { class: kind && `qr-lora-${kind}`, text: plainText(line) })),
    );
    if (!told) this.result.firstChild.className = "qr-lora-quiet";
    this.refresh();
  }

  /** Rows have changed places: what was measured is of others. */
  forgetResult() {
    this.showResult(null);
  }

  /** Of two rows that follow each other, at the scales that are shown now. */
  showBetween(strip, index) {
    const slots = [this.rows[index].slot, this.rows[index + 1].slot];
    const known = this.told?.slots.findIndex((slot, at) => slot === slots[0] && this.told.slots[at + 1] === slots[1]);
    const pair = known >= 0 && this.told.neighbours[known];
    const share = pair ? interference(pair, ...slots.map((slot) => mix.sentScale(this.node, slot))) : null;
    strip.textContent = share === null ? "" : text("merge.interference", { share: percent(share) });
    strip.title = share === null ? "" : text("merge.interference_meaning");
    strip.classList.toggle("qr-lora-warning", Math.abs(share) > STRONG);
  }
}

function controlFor(widget) {
  const { values, min, max } = widget.options;
  if (!values) return element("input", { type: "number", min, max, step: "any" });
  return element("select", {}, ...values.map((value) => element("option", { value, text: value })));
}

function showRow(node, slot, root, parts, state) {
  const name = plainText(mix.nameOf(node, slot), 200);
  const linked = isLinked(node, `scale_${slot}`);
  const silent = mix.isSilent(state, slot) && !linked;
  const scale = mix.scaleOf(node, slot, state);
  parts.name.textContent = name;
  parts.name.title = linked ? text("merge.linked", { name }) : name;
  parts.slider.show(scale);
  parts.slider.setAttribute("aria-disabled", String(linked));
  if (document.activeElement !== parts.number) parts.number.value = String(scale);
  for (const control of [parts.number, parts.mute, parts.solo]) control.disabled = linked;
  for (const [control, key] of [[parts.slider, "merge.scale_of"], [parts.number, "merge.exact_scale_of"], [parts.handle, "merge.move_of"]]) {
    control.setAttribute("aria-label", text(key, { name }));
  }
  parts.mute.setAttribute("aria-pressed", String(state.muted.includes(slot)));
  parts.solo.setAttribute("aria-pressed", String(state.solo.includes(slot)));
  root.classList.toggle("qr-lora-merge-silent", silent);
  root.classList.toggle("qr-lora-merge-linked", linked);
}

/** ``2 <a D_a, b D_b> / (|a D_a|^2 + |b D_b|^2)``, as in QR-LoRA Compare. */
function interference({ product, energy_first, energy_second }, a, b) {
  const energy = a * a * energy_first + b * b * energy_second;
  return energy ? (2 * a * b * product) / energy : 0;
}

function percent(share) {
  return `${share < 0 ? "−" : "+"}${(Math.abs(share) * 100).toFixed(1)} %`;
}

function resultLines({ adapters }) {
  if (!adapters.length) return [{ line: text("merge.nothing"), kind: "quiet" }];
  return adapters.flatMap(({ name, layers, applied, rank, basis, warnings }) => [
    { line: text("merge.applied", { name, layers, applied, rank, basis }), kind: applied < layers ? "warning" : "" },
    ...warnings.map((line) => ({ line, kind: line.startsWith("warning") ? "warning" : "quiet" })),
  ]);
}
