/** How the adapters are merged: the node's other widgets, those that the present mode needs. */

/** @typedef {import("./mix.js").DeskMix} DeskMix */

import { element, fill, plainText } from "../lib/dom.js";
import { isLinked, recordChange, setWidget, widgetOf } from "../lib/graph.js";
import { inputsOfModes, namesSlot } from "./modes.js";

export class Settings {
  /**
   * @param {DeskMix} mix
   * @param {() => void} onChange
   */
  constructor(mix, onChange) {
    this.mix = mix;
    this.node = mix.node;
    this.onChange = onChange;
    this.root = element("div", { class: "qr-lora-merge-settings" });
    /** @type {Map<string, HTMLInputElement | HTMLSelectElement>} */
    this.fields = new Map();
  }

  /** Names of widgets, line by line. */
  lines() {
    const mode = widgetOf(this.node, "mode")?.value;
    const extra = inputsOfModes(this.node).filter((input) => input.mode === mode).map(({ name }) => name);
    return [["apply", "mode"], [...extra, ...this.mix.extraSettings()]].filter((line) => line.length);
  }

  /**
   * Put the controls anew, and at the end of the first line another one.
   * @param {HTMLElement} last
   */
  rebuild(last) {
    this.fields.clear();
    const made = this.lines().map((names) => element("div", { class: "qr-lora-merge-line" }, ...names.map((name) => this.control(name))));
    made[0].append(last);
    fill(this.root, ...made);
  }

  /**
   * One of those that the node has by its definition.
   * @param {string} name
   */
  widget(name) {
    return /** @type {Widget} */ (widgetOf(this.node, name));
  }

  /** @param {string} name */
  control(name) {
    const widget = this.widget(name);
    const field = namesSlot(this.node, name) ? choiceOf(this.mix.slots()) : fieldFor(widget);
    field.dataset.key = name;
    this.fields.set(name, field);
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
    for (const [name, field] of this.fields) {
      if (namesSlot(this.node, name)) nameChoices(this.mix, /** @type {HTMLSelectElement} */ (field));
      field.value = String(this.widget(name).value);
      field.disabled = isLinked(this.node, name);
    }
  }
}

/** @param {Widget} widget */
function fieldFor({ options: { values, min, max } }) {
  return values ? choiceOf(values) : element("input", { type: "number", min, max, step: "any" });
}

/** @param {(string | number)[]} values */
function choiceOf(values) {
  return element("select", {}, ...values.map((value) => element("option", { value, text: value })));
}

/**
 * Call the options of a choice of slots as their rows are called.
 * @param {DeskMix} mix
 * @param {HTMLSelectElement} choice
 */
export function nameChoices(mix, choice) {
  for (const option of choice.options) {
    const name = plainText(mix.nameOf(Number(option.value)), 200);
    if (option.textContent !== name) option.textContent = name;
  }
}
