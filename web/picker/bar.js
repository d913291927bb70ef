/** The line below the files: how many there are, the star of the one that the keys act on, and what is chosen. */

import { button, element, plainText } from "../lib/dom.js";
import { parted } from "../lib/library.js";
import { text } from "../lib/texts.js";
import { MOST_SHOWN } from "./cards.js";

export class Bar {
  /**
   * @param {boolean} isSeveral
   * @param {{ onStar: () => void, onAdd: () => void }} acts
   */
  constructor(isSeveral, { onStar, onAdd }) {
    this.count = element("div", { class: "qr-lora-quiet", role: "status" });
    this.problem = element("div", { class: "qr-lora-warning", role: "status" });
    this.star = element("button", { type: "button", class: "qr-lora-picker-favourite", click: onStar });
    this.chosen = element("div", { class: "qr-lora-picker-chosen", role: "status" });
    this.add = button("", "", onAdd, { class: "qr-lora-picker-add" });
    const line = element("div", { class: "qr-lora-picker-line" }, this.count, this.star);
    if (isSeveral) line.append(this.chosen, this.add);
    this.root = element("div", { class: "qr-lora-picker-bar" }, this.problem, line);
  }

  /**
   * @param {number} found
   * @param {string} empty key of the text where there are none
   */
  showFound(found, empty) {
    const more = found - MOST_SHOWN;
    const key = more > 0 ? "picker.more" : found ? "picker.found" : empty;
    this.count.textContent = text(key, { count: Math.min(found, MOST_SHOWN), more });
  }

  /** @param {string} message */
  showProblem(message) {
    this.problem.textContent = plainText(message);
  }

  /**
   * @param {string} name none where no file is shown
   * @param {boolean} isFavourite
   */
  showStar(name, isFavourite) {
    const [, stem] = parted(plainText(name));
    const label = text("picker.favourite", { name: stem });
    this.star.textContent = `${isFavourite ? "★" : "☆"} ${stem}`;
    this.star.title = label;
    this.star.setAttribute("aria-label", label);
    this.star.setAttribute("aria-pressed", String(isFavourite));
    this.star.hidden = !name;
  }

  /** @param {string[]} names */
  showChosen(names) {
    const stems = names.map((name) => parted(plainText(name))[1]).join(", ");
    this.chosen.textContent = this.chosen.title = names.length ? text("picker.chosen", { count: names.length, names: stems }) : "";
    const label = text("picker.add", { count: names.length });
    this.add.textContent = this.add.title = label;
    this.add.setAttribute("aria-label", label);
    this.add.disabled = !names.length;
  }
}
