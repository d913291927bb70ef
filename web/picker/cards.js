/** The cards of the files that are shown: a list of options through which the arrows go. */

/**
 * @typedef {import("./files.js").Listed} Listed
 * @typedef {import("./card.js").Marks} Marks
 */

/**
 * What is done at a card, by the name of its file. `onReach` tells which one the keys act on, `onLeave` that they are meant for the search.
 * @typedef {Record<"onPick" | "onTake" | "onEnter" | "onStar" | "onReach", (name: string) => void> & { onLeave: () => void }} Acts
 */

import { childrenOf, element, fill } from "../lib/dom.js";
import { stepInGrid } from "../lib/keys.js";
import { text } from "../lib/texts.js";
import { newCard, showFile, showMarks } from "./card.js";

export const MOST_SHOWN = 240;

export class Cards {
  /**
   * @param {boolean} isSeveral
   * @param {Acts} acts
   */
  constructor(isSeveral, acts) {
    this.acts = acts;
    /** The same ones as long as the dialog is open, by the names of their files. @type {Map<string, HTMLElement>} */
    this.made = new Map();
    this.root = element("div", {
      class: "qr-lora-picker-cards qr-lora-scroll",
      role: "listbox",
      "aria-label": text("picker.files"),
      "aria-multiselectable": isSeveral && "true",
      keydown: (event) => this.#keys(event),
      focusin: (event) => this.#reach(/** @type {HTMLElement} */ (event.target)),
    });
  }

  /**
   * Show these, as far as they are not too many. Who is at a card stays there, and who went on from it finds it again.
   * @param {Listed[]} files
   */
  show(files) {
    const before = this.#shown().find(isReached);
    fill(this.root, ...files.slice(0, MOST_SHOWN).map((file) => this.#card(file)));
    const cards = this.#shown();
    this.#reach([document.activeElement, before].map((at) => cards.find((card) => card === at)).find(Boolean) ?? cards[0]);
  }

  /** @param {(name: string) => Marks} marksOf */
  mark(marksOf) {
    for (const card of this.#shown()) showMarks(card, marksOf(nameOf(card)));
  }

  /** Go to where the list begins, without the focus. */
  toStart() {
    this.root.scrollTop = 0;
    this.#reach(this.#shown()[0]);
  }

  focus() {
    this.#shown().find(isReached)?.focus();
  }

  /** The first file, none where no file is shown. */
  get first() {
    return this.#shown().slice(0, 1).map(nameOf);
  }

  #shown() {
    return childrenOf(this.root);
  }

  /** @param {Listed} file */
  #card(file) {
    const card = this.made.get(file.name) ?? this.#newCard(file);
    this.made.set(file.name, card);
    showFile(card, file);
    return card;
  }

  /** @param {Listed} file */
  #newCard(file) {
    const { name } = file;
    const card = newCard(file, () => this.acts.onStar(name));
    card.addEventListener("click", (event) => event.detail < 2 && this.acts.onPick(name)); // the second of two is a double one
    card.addEventListener("dblclick", () => this.acts.onTake(name));
    return card;
  }

  /**
   * Of many cards, one can be reached with Tab.
   * @param {HTMLElement | undefined} card
   */
  #reach(card) {
    for (const other of this.#shown().filter(isReached)) other.tabIndex = -1;
    if (card) card.tabIndex = 0;
    this.acts.onReach(card ? nameOf(card) : "");
  }

  /** @param {KeyboardEvent} event */
  #keys(event) {
    const card = this.#shown().find((shown) => shown === document.activeElement);
    if (!card) return;
    if (this.#act(event, nameOf(card)) || this.#move(event, card)) event.preventDefault();
    else if (isTyped(event)) this.acts.onLeave();
  }

  /**
   * A key that is held down acts once.
   * @param {KeyboardEvent} event
   * @param {string} name
   */
  #act(event, name) {
    const { onEnter, onPick, onStar } = this.acts;
    const act = isStarKey(event) ? onStar : { Enter: onEnter, " ": onPick }[event.key];
    if (!event.repeat) act?.(name);
    return Boolean(act);
  }

  /**
   * @param {KeyboardEvent} event
   * @param {HTMLElement} from
   */
  #move(event, from) {
    const cards = this.#shown();
    const columns = cards.filter((card) => card.offsetTop === cards[0].offsetTop).length;
    const step = stepInGrid(event, columns);
    const to = step ? cards.indexOf(from) + step : { Home: 0, End: cards.length - 1 }[event.key];
    if (to === undefined) return false;
    if (to < 0 && event.key === "ArrowUp") this.acts.onLeave();
    else cards[Math.min(Math.max(to, 0), cards.length - 1)].focus();
    return true;
  }
}

/** @param {KeyboardEvent} event */
function isStarKey({ key, ctrlKey, metaKey, altKey }) {
  return key.toLowerCase() === "b" && (ctrlKey || metaKey) && !altKey;
}

/**
 * A letter goes on with the search.
 * @param {KeyboardEvent} event
 */
function isTyped(event) {
  const isLetter = event.key.length === 1 && !event.ctrlKey && !event.metaKey && !event.altKey;
  return isLetter || event.key === "Backspace";
}

/** @param {HTMLElement} card */
function nameOf(card) {
  return card.dataset.name ?? "";
}

/** @param {HTMLElement} card */
function isReached(card) {
  return card.tabIndex === 0;
}
