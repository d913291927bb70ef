/** The list of folders: a button each, of which one is pressed. */

import { childrenOf, element, fill, plainText } from "../lib/dom.js";
import { stepInList } from "../lib/keys.js";
import { text } from "../lib/texts.js";
import { FAVOURITES, USED } from "./files.js";

const MOST_SHOWN = 240;
const INDENT = [6, 12]; // pixels, and what each level adds

export class Folders {
  /** @param {() => void} onEnter */
  constructor(onEnter) {
    this.here = "";
    /** The same buttons as long as the dialog is open. @type {Map<string, HTMLElement>} */
    this.made = new Map();
    this.onEnter = onEnter;
    this.root = element("div", {
      class: "qr-lora-picker-folders qr-lora-scroll",
      role: "group",
      "aria-label": text("picker.folders"),
      keydown: (event) => this.#keys(event),
    });
  }

  /**
   * Show how many files are in each. A folder that is no longer there is left for all folders.
   * @param {Map<string, number>} counts
   */
  show(counts) {
    if (!counts.has(this.here)) this.here = "";
    const top = [
      this.#item(FAVOURITES, `★ ${text("picker.favourites")}`, counts),
      this.#item(USED, text("picker.used"), counts),
      this.#item("", text("picker.all_folders"), counts),
    ];
    const below = [...counts.keys()].filter((folder) => folder && !folder.startsWith("/")).sort();
    fill(this.root, ...top, ...below.slice(0, MOST_SHOWN).map((folder) => this.#below(folder, counts)));
    this.#mark();
  }

  /**
   * @param {string} folder
   * @param {Map<string, number>} counts
   */
  #below(folder, counts) {
    const parts = folder.split("/");
    return this.#item(folder, parts[parts.length - 1], counts, parts.length - 1);
  }

  /**
   * @param {string} folder
   * @param {string} label
   * @param {Map<string, number>} counts
   * @param {number} [depth]
   */
  #item(folder, label, counts, depth = 0) {
    const item = this.made.get(folder) ?? this.#newItem(folder, plainText(label), depth);
    this.made.set(folder, item);
    /** @type {Element} */ (item.lastElementChild).textContent = String(counts.get(folder));
    return item;
  }

  /**
   * @param {string} folder
   * @param {string} label
   * @param {number} depth
   */
  #newItem(folder, label, depth) {
    const [start, level] = INDENT;
    return element(
      "button",
      {
        type: "button",
        class: "qr-lora-picker-folder",
        title: depth ? plainText(folder) : label,
        dataset: { key: folder },
        style: { paddingInlineStart: `${start + level * depth}px` },
        click: () => this.#enter(folder),
      },
      element("span", { text: label }),
      element("span", { class: "qr-lora-quiet" }),
    );
  }

  /** @param {string} folder */
  #enter(folder) {
    this.here = folder;
    this.#mark();
    this.onEnter();
  }

  #mark() {
    for (const item of childrenOf(this.root)) {
      const isHere = item.dataset.key === this.here;
      item.setAttribute("aria-pressed", String(isHere));
      item.tabIndex = isHere ? 0 : -1;
    }
  }

  /** @param {KeyboardEvent} event */
  #keys(event) {
    const items = childrenOf(this.root);
    const step = stepInList(event);
    const next = step && items[items.findIndex((item) => item === document.activeElement) + step];
    if (!next) return;
    event.preventDefault();
    next.focus();
    this.#enter(next.dataset.key ?? "");
  }
}
