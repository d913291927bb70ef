/** The preset that a training went by, and the button that makes its values one's own. */

/**
 * @typedef {Record<string, WidgetValue>} Values by the name of the widget
 * @typedef {{ name: string, family: string, values: Values, source: string }} Preset
 */

import { button, element } from "../lib/dom.js";
import { text } from "../lib/texts.js";

export class PresetLine {
  /** @param {(values: Values) => void} take */
  constructor(take) {
    /** @type {Preset | null} */
    this.preset = null;
    this.said = element("span", { class: "qr-lora-train-preset-name" });
    this.button = button(text("train.take"), text("train.take_meaning"), () => this.preset && take(this.preset.values));
    this.root = element("div", { class: "qr-lora-train-preset", hidden: true }, this.said, this.button);
  }

  /** @param {Preset | null} preset */
  show(preset) {
    this.preset = preset;
    this.root.hidden = !preset;
    if (!preset) return;
    this.said.textContent = text("train.preset", { name: preset.name, family: preset.family });
    this.said.title = text("train.preset_source", { source: preset.source });
  }

  /** @param {boolean} isOpen */
  allow(isOpen) {
    this.button.disabled = !isOpen;
  }
}
