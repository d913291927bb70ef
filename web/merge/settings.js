/** How the adapters are merged: the node's other widgets, those that the present mode needs. */

import { element, plainText } from "../lib/dom.js";
import { isLinked, recordChange, setWidget, widgetOf } from "../lib/graph.js";
import * as mix from "./mix.js";

export class Settings {
  constructor(node, onChange) {
    Object.assign(this, { node, onChange });
    this.root = element("div", { class: "qr-lora-merge-settings" });
  }

  /** Names of widgets, line by line. */
  lines() {
    const mode = widgetOf(this.node, "mode")?.value;
    const extra = Object.keys(optionalInputs(this.node)).filter((name) => toldOf(this.node, name).qr_lora_mode === mode);
    const clip = isLinked(this.node, "clip") ? ["clip_scale"] : [];
    return [["apply", "mode"], [...extra, ...clip]].filter((line) => line.length);
  }

  /** Put the controls anew, and at the end of the first line another one. */
  rebuild(last) {
    const made = this.lines().map((names) => element("div", { class: "qr-lora-merge-line" }, ...names.map((name) => this.control(name))));
    made[0].append(last);
    this.root.replaceChildren(...made);
  }

  control(name) {
    const widget = widgetOf(this.node, name);
    const field = toldOf(this.node, name).qr_lora_slot ? choiceOf(mix.connectedSlots(this.node)) : fieldFor(widget);
    field.dataset.widget = name;
    field.addEventListener("change", () => {
      const value = typeof widget.value === "number" ? Number(field.value) : field.value;
      if (field.value !== "" && !Number.isNaN(value)) setWidget(this.node, name, value);
      this.onChange();
      recordChange();
    });
    const label = element("span", { class: "qr-lora-quiet", text: widget.label ?? name });
    return element("label", { title: widget.tooltip }, label, field);
  }

  refresh() {
    for (const field of this.root.querySelectorAll("[data-widget]")) {
      const name = field.dataset.widget;
      if (toldOf(this.node, name).qr_lora_slot) nameChoices(this.node, field);
      field.value = String(widgetOf(this.node, name).value);
      field.disabled = isLinked(this.node, name);
    }
  }
}

function optionalInputs(node) {
  return node.constructor.nodeData?.input?.optional ?? {};
}

/** What the server tells of an input besides its widget: the merge mode that it belongs to, whether it names a slot. */
function toldOf(node, name) {
  return optionalInputs(node)[name]?.[1] ?? {};
}

function fieldFor({ options: { values, min, max } }) {
  return values ? choiceOf(values) : element("input", { type: "number", min, max, step: "any" });
}

function choiceOf(values) {
  return element("select", {}, ...values.map((value) => element("option", { value, text: value })));
}

/** Call the options of a choice of slots as their rows are called. */
export function nameChoices(node, choice) {
  for (const option of choice.options) option.textContent = plainText(mix.nameOf(node, Number(option.value)), 200);
}
