/** The preset that is chosen, what the last training by it took, and the button that makes its values one's own. */

/**
 * @typedef {Record<string, WidgetValue>} Values by the name of the widget
 * @typedef {{ name: string, family: string, values: Values, source: string }} Preset
 */

import { button, element } from "../lib/dom.js";
import { text } from "../lib/texts.js";

export class PresetLine {
  /** @param {(values: Values) => void} take */
  constructor(take) {
    this.chosen = "";
    this.isOpen = false;
    /** @type {Preset | null} */
    this.told = null;
    this.said = element("span", { class: "qr-lora-train-preset-name" });
    this.button = button(text("train.take"), text("train.take_meaning"), () => this.told && take(this.told.values));
    this.root = element("div", { class: "qr-lora-train-preset" }, this.said, this.button);
  }

  /**
   * The line has its place as long as a preset is chosen, so that nothing moves when a training tells of it.
   * @param {string} name empty for none
   * @param {boolean} isOpen whether another can be chosen
   */
  choose(name, isOpen) {
    this.chosen = name;
    this.isOpen = isOpen;
    this.update();
  }

  /** @param {Preset | null} told of by a training */
  show(told) {
    this.told = told;
    this.update();
  }

  update() {
    const { chosen, told } = this;
    const isTold = told?.name === chosen;
    this.root.hidden = !chosen;
    this.said.textContent = isTold ? text("train.preset", { name: chosen, family: told.family }) : text("train.preset_untold", { name: chosen });
    this.said.title = isTold ? text("train.preset_source", { source: told.source }) : text("train.preset_wait");
    this.button.disabled = !isTold || !this.isOpen;
  }
}
