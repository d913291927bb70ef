/** A file's row in a mix: what every desk has, a switch, a preview, and details to unfold. */

/**
 * @typedef {import("../desk/row.js").Actions} Actions
 * @typedef {import("./mixer.js").Mixer} Mixer
 */

import { Row } from "../desk/row.js";
import { button, element, plainText } from "../lib/dom.js";
import { text } from "../lib/texts.js";
import { Details } from "./details.js";
import { pictureAddress } from "./files.js";

export class MixerRow extends Row {
  /**
   * @param {Mixer} mixer
   * @param {number} slot
   * @param {Actions} actions
   */
  constructor(mixer, slot, actions) {
    super(mixer.rows, slot, actions);
    this.mixer = mixer;
    /** @type {Details | null} */
    this.details = null;
    this.switch = element("button", {
      type: "button", class: "qr-lora-switch", role: "switch", click: () => this.do(() => mixer.rows.toggleMuted(slot)),
    });
    this.picture = element("span", { class: "qr-lora-mixer-picture" });
    this.more = button("⋯", "", () => mixer.toggleDetails(slot));
    this.missing = element("span", { class: "qr-lora-mixer-absent", text: text("mixer.missing") });
    this.named = element("span", { class: "qr-lora-mixer-named" });
    this.line.classList.add("qr-lora-mixer-row");
    this.name.replaceWith(this.named);
    this.named.append(this.name, this.missing);
    this.handle.after(this.switch, this.picture);
    this.line.append(this.more);
    this.handle.title = text("mixer.handle");
    this.handle.setAttribute("aria-keyshortcuts", "ArrowUp ArrowDown Delete D");
    this.root = element("div", { class: "qr-lora-mixer-item" }, this.line);
  }

  /** @override */
  height() {
    return super.height() + (this.mixer.isOpen(this.slot) ? this.opened().height() : 0);
  }

  /** @override */
  controls() {
    return [...super.controls(), this.switch, this.handle];
  }

  opened() {
    this.details ??= new Details(this.mixer, this.slot);
    return this.details;
  }

  /**
   * @override
   * @param {KeyboardEvent} event
   */
  pressKey(event) {
    const remove = () => this.mixer.remove(this.slot);
    const act = { Delete: remove, Backspace: remove, d: () => this.mixer.duplicate(this.slot) }[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return super.pressKey(event);
    event.preventDefault();
    act();
  }

  /** @override */
  show() {
    super.show();
    const { file, on } = this.mixer.rows.row(this.slot);
    const isMissing = this.mixer.isMissing(this.slot);
    this.switch.setAttribute("aria-checked", String(on));
    this.line.classList.toggle("qr-lora-mixer-missing", isMissing && on);
    this.line.classList.toggle("qr-lora-mixer-refused", this.mixer.check?.row === this.slot);
    this.missing.hidden = !isMissing;
    this.name.title = plainText(file);
    this.showPicture(file);
    this.showDetails();
  }

  /** @override */
  showName(/** @type {[string, boolean]} */ ...given) {
    super.showName(...given);
    const [name] = given;
    for (const [control, key] of /** @type {const} */ ([[this.switch, "mixer.switch_of"], [this.more, "mixer.more_of"], [this.solo, "mixer.solo_of"]])) {
      control.setAttribute("aria-label", text(key, { name }));
    }
    this.switch.title = text("mixer.switch");
    this.more.title = text("mixer.more");
  }

  showDetails() {
    const isOpen = this.mixer.isOpen(this.slot);
    this.more.setAttribute("aria-expanded", String(isOpen));
    if (isOpen) this.opened().show();
    if (isOpen && !this.details?.root.isConnected) this.root.append(this.opened().root);
    if (!isOpen) this.details?.root.remove();
  }

  /**
   * The preview of a file, or its first letter, unless that is what is there.
   * @param {string} file
   */
  showPicture(file) {
    const hasPicture = this.mixer.hasPicture(file);
    const shown = JSON.stringify([file, hasPicture]);
    if (this.picture.dataset.shown === shown) return;
    this.picture.dataset.shown = shown;
    const letter = [...plainText(this.mixer.rows.nameOf(this.slot))][0]?.toUpperCase() ?? "";
    this.picture.replaceChildren(
      hasPicture ? element("img", { src: pictureAddress(file), alt: "", loading: "lazy", draggable: "false" }) : element("span", { class: "qr-lora-quiet", text: letter }),
    );
  }
}
