/** What the Load node shows of its file. All heights are fixed, so that another file moves nothing. */

/**
 * @typedef {import("../lib/library.js").Facts} Facts
 * @typedef {import("../lib/library.js").Picture} Picture
 */

import { copyButton } from "../lib/copy.js";
import { button, element, fill, plainText } from "../lib/dom.js";
import { parted, pictureAddress } from "../lib/library.js";
import { text } from "../lib/texts.js";

const HEIGHT = 211;
const SETTINGS_HEIGHT = 124;
const MEBIBYTE = 2 ** 20;

export class Card {
  /** @param {() => void} onChoose */
  constructor(onChoose) {
    this.onResize = () => {};
    /** The file's name, undefined until one was looked for. @type {string | undefined} */
    this.shown = undefined;
    this.copied = "";
    this.picture = element("div", { class: "qr-lora-load-picture" });
    this.name = element("div", { class: "qr-lora-load-name qr-lora-load-line" });
    this.kind = element("div", { class: "qr-lora-load-line" });
    this.base = element("div", { class: "qr-lora-load-line" });
    this.strip = element("div", { class: "qr-lora-load-strip qr-lora-scroll", role: "group", "aria-label": text("load.pictures") });
    this.triggers = element("div", { class: "qr-lora-load-line qr-lora-load-triggers" });
    this.copy = copyButton(() => this.copied);
    this.choose = button(text("load.choose"), text("picker.one"), onChoose);
    this.more = button("", text("load.settings_meaning"), () => this.#toggle(), { "aria-expanded": "false" });
    this.settings = element("div", { class: "qr-lora-load-settings qr-lora-scroll", tabindex: 0, role: "group", "aria-label": text("load.settings") });
    this.report = element("div", { class: "qr-lora-load-report qr-lora-scroll qr-lora-text", role: "status", tabindex: 0 });
    this.root = this.#arranged();
    this.#labelMore(false);
  }

  height() {
    return HEIGHT + (this.isOpen ? SETTINGS_HEIGHT : 0);
  }

  /**
   * Nothing is known of it yet.
   * @param {string} name
   */
  showName(name) {
    const [folder, stem] = parted(plainText(name));
    this.name.textContent = stem;
    this.name.title = plainText(name);
    this.kind.textContent = folder;
    this.#say(this.base, "");
    this.#say(this.report, "");
    this.#say(this.triggers, "");
    this.copy.disabled = true;
    this.strip.replaceChildren();
    this.settings.replaceChildren();
    this.#showPicture(null);
  }

  /**
   * @param {string} name
   * @param {Facts} facts
   */
  showFacts(name, facts) {
    this.kind.textContent = this.kind.title = described(facts);
    this.baseText = facts.base ? text("load.base", { base: plainText(facts.base, 200) }) : text("load.no_base");
    this.showWarning(this.warning ?? "");
    this.#showTriggers(facts.triggers, facts.tags);
    this.#showSettings([...toldBeside(facts), ...facts.about, ...facts.training]);
    this.#showPictures(name, facts.pictures);
  }

  /**
   * That the model it is used with is not its base; an empty sentence takes it back.
   * @param {string} sentence
   */
  showWarning(sentence) {
    this.warning = plainText(sentence);
    this.#say(this.base, this.warning ? text("load.other_base") : (this.baseText ?? ""), this.warning);
    this.base.classList.toggle("qr-lora-load-badge", Boolean(this.warning));
    this.base.classList.toggle("qr-lora-quiet", !this.warning);
    if (this.warning) this.#say(this.report, this.warning);
  }

  /** @param {string} told */
  showReport(told) {
    this.#say(this.report, told);
    this.report.classList.remove("qr-lora-warning");
  }

  /** @param {string} message */
  showError(message) {
    this.baseText = "";
    this.#say(this.report, message);
    this.report.classList.add("qr-lora-warning");
  }

  #arranged() {
    const facts = element("div", { class: "qr-lora-load-facts" }, this.name, this.kind, this.base, this.strip);
    this.kind.classList.add("qr-lora-quiet");
    return element(
      "div",
      { class: "qr-lora-load" },
      element("div", { class: "qr-lora-load-top" }, this.picture, facts),
      element("div", { class: "qr-lora-load-row" }, this.triggers, this.copy),
      element("div", { class: "qr-lora-load-row" }, this.choose, this.more),
      this.settings,
      this.report,
    );
  }

  /**
   * @param {HTMLElement} place
   * @param {string} told
   * @param {string} [title]
   */
  #say(place, told, title = told) {
    place.textContent = plainText(told);
    place.title = plainText(title);
  }

  /**
   * @param {string} triggers
   * @param {string[]} tags
   */
  #showTriggers(triggers, tags) {
    this.copied = plainText(triggers || tags.join(", "));
    const key = triggers ? "load.triggers" : tags.length ? "load.tags" : "load.no_triggers";
    this.#say(this.triggers, text(key, { words: this.copied }), triggers ? this.copied : text("load.tags_meaning", { words: this.copied }));
    this.triggers.classList.toggle("qr-lora-quiet", !triggers);
    this.copy.disabled = !this.copied;
  }

  /** @param {[string, string][]} pairs */
  #showSettings(pairs) {
    const rows = pairs.map(([name, value]) =>
      element("div", {}, element("span", { class: "qr-lora-quiet", text: plainText(name) }), element("span", { class: "qr-lora-text", text: plainText(value) })),
    );
    this.settings.replaceChildren(...(rows.length ? rows : [element("div", { class: "qr-lora-quiet", text: text("load.no_settings") })]));
  }

  /**
   * @param {string} name
   * @param {Picture[]} pictures
   */
  #showPictures(name, pictures) {
    const addresses = pictures.map((picture, index) => pictureAddress(name, index, picture.version));
    const chosen = this.picture.firstElementChild?.getAttribute("src") ?? "";
    this.#showPicture(addresses.includes(chosen) ? chosen : addresses[0]);
    const few = pictures.length > 1 ? pictures : [];
    fill(
      this.strip,
      ...few.map((picture, index) =>
        element(
          "button",
          {
            type: "button",
            title: plainText(picture.name),
            "aria-label": plainText(picture.name),
            dataset: { key: picture.name },
            click: () => this.#showPicture(addresses[index]),
          },
          element("img", { src: addresses[index], alt: "", loading: "lazy", draggable: "false" }),
        ),
      ),
    );
  }

  /** @param {string | null | undefined} address */
  #showPicture(address) {
    if (address && this.picture.firstElementChild?.getAttribute("src") === address) return;
    const shown = address
      ? element("img", { src: address, alt: text("load.picture_of", { name: this.name.textContent }), draggable: "false" })
      : element("span", { class: "qr-lora-letter", text: [...this.name.textContent][0]?.toUpperCase() ?? "" });
    this.picture.replaceChildren(shown);
  }

  #toggle() {
    this.#labelMore(!this.isOpen);
    this.onResize();
  }

  /** @param {boolean} isOpen */
  #labelMore(isOpen) {
    this.isOpen = isOpen;
    this.settings.hidden = !isOpen;
    this.more.setAttribute("aria-expanded", String(isOpen));
    this.more.textContent = `${text("load.settings")} ${isOpen ? "▴" : "▾"}`;
  }
}

/**
 * What a person or a site told of the file, and in which files.
 * @param {Facts} facts
 * @returns {[string, string][]}
 */
function toldBeside(facts) {
  const strength = facts.strength === null ? facts.strength_range.join(" – ") : String(facts.strength);
  const files = [...new Set(Object.values(facts.beside))].join(", ");
  /** @type {[string, string][]} */
  const told = [["load.strength", strength], ["load.notes", facts.notes], ["load.beside", files]];
  return told.filter(([, value]) => value).map(([key, value]) => [text(key), value]);
}

/**
 * `QR-LoRA, rank 16, 48 layers, 12.3 MB`
 * @param {Facts} facts
 */
function described(facts) {
  const [low, high] = facts.ranks;
  const rank = low === undefined ? "" : low === high ? text("load.rank", { rank: low }) : text("load.ranks", { low, high });
  const size = facts.bytes / MEBIBYTE;
  const told = text("load.size", { size: size.toFixed(size < 10 ? 2 : 0) });
  const kinds = facts.kinds.join(", ");
  const kind = kinds && facts.kind === "lora" ? kinds : text(`load.kind_${facts.kind}`);
  return [kind, facts.kind === "lora" ? "" : kinds, rank, text("load.layers", { count: facts.layers }), told].filter(Boolean).join(" · ");
}
