/** A dialog to choose adapter files: search, folders, favourites, pictures. */

/** @typedef {import("../lib/library.js").AdapterFile} AdapterFile */

import { button, element } from "../lib/dom.js";
import { text } from "../lib/texts.js";
import { Bar } from "./bar.js";
import { Cards } from "./cards.js";
import { FAVOURITES, USED, countFolders, filesIn, listed, search } from "./files.js";
import { Folders } from "./folders.js";
import { keepFavourite, keepUsed, keptNow, readKept } from "./kept.js";

/** What is said where a folder shows no file. @type {Record<string, string>} */
const EMPTY = { [FAVOURITES]: "picker.no_favourites", [USED]: "picker.no_used" };

/**
 * Ask for one of the files; resolves to its name, or to null. `later` brings the list again, fresh and with more.
 * @param {AdapterFile[]} files
 * @param {string} chosen
 * @param {Promise<AdapterFile[]>[]} later
 * @returns {Promise<string | null>}
 */
export async function pickAdapter(files, chosen, later) {
  const [name] = await ask(files, later, [chosen], false);
  return name ?? null;
}

/**
 * Ask for several of the files; resolves to their names in the order in which they were chosen, none where it was
 * cancelled. `chosen` are those that are when it opens.
 * @param {AdapterFile[]} files
 * @param {Promise<AdapterFile[]>[]} later
 * @param {{ chosen?: string[] }} [options]
 */
export function pickAdapters(files, later, { chosen = [] } = {}) {
  return ask(files, later, chosen, true);
}

/**
 * @param {AdapterFile[]} files
 * @param {Promise<AdapterFile[]>[]} later
 * @param {string[]} chosen
 * @param {boolean} isSeveral
 */
async function ask(files, later, chosen, isSeveral) {
  /** @type {string[]} */
  const names = await new Promise((resolve) => new Picker(chosen, isSeveral, resolve).open(files, later));
  if (names.length) keepUsed(names).catch(() => {}); // nobody waits for it, and the choice stands
  return names;
}

class Picker {
  /**
   * @param {string[]} chosen
   * @param {boolean} isSeveral
   * @param {(names: string[]) => void} resolve
   */
  constructor(chosen, isSeveral, resolve) {
    this.leading = new Set(chosen);
    this.chosen = chosen;
    this.isSeveral = isSeveral;
    this.resolve = resolve;
    /** @type {string[]} */
    this.picked = [];
    /** @type {import("./files.js").Listed[]} */
    this.files = [];
    /** The file that the keys act on. */
    this.reached = "";
    this.search = this.#searchField();
    this.folders = new Folders(() => this.find());
    this.cards = new Cards(isSeveral, this.#acts());
    this.bar = new Bar(isSeveral, { onStar: () => this.#star(this.reached), onAdd: () => this.#finish(this.chosen) });
    this.root = this.#dialog();
  }

  /**
   * @param {AdapterFile[]} files
   * @param {Promise<AdapterFile[]>[]} later
   */
  open(files, later) {
    document.body.append(this.root);
    this.root.showModal();
    this.#take(files);
    this.search.focus();
    for (const list of later) list.then((fresh) => this.root.open && this.#renew(fresh), (error) => this.bar.showProblem(error.message));
    readKept().then(() => this.root.open && this.#refresh(), (error) => this.#tellNotKept(error));
  }

  /** Show what is found from its start. */
  find() {
    this.show();
    this.cards.toStart();
  }

  show() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = search(filesIn(this.folders.here, this.files, keptNow()), words);
    this.cards.show(found);
    this.bar.showFound(found.length, (words.length ? "" : EMPTY[this.folders.here]) || "picker.none_found");
    this.#mark();
  }

  /**
   * Other files than before: what is no longer there cannot be chosen.
   * @param {AdapterFile[]} files
   */
  #renew(files) {
    const names = new Set(files.map(({ name }) => name));
    this.chosen = this.chosen.filter((name) => names.has(name));
    this.#take(files);
  }

  /**
   * What was chosen when it opened stands first.
   * @param {AdapterFile[]} files
   */
  #take(files) {
    const leads = (/** @type {AdapterFile} */ { name }) => this.leading.has(name);
    this.files = listed([...files.filter(leads), ...files.filter((file) => !leads(file))]);
    this.#refresh();
  }

  /** Who is at a card or a folder stays there. */
  #refresh() {
    this.#countFolders();
    this.show();
    if (!this.root.contains(document.activeElement)) this.search.focus(); // the file is gone
  }

  #countFolders() {
    this.folders.show(countFolders(this.files, keptNow()));
  }

  /** Show what is chosen, and what is a favourite. */
  #mark() {
    const favourites = new Set(keptNow().favourites);
    const places = new Map(this.chosen.map((name, index) => [name, index + 1]));
    this.cards.mark((name) => {
      const place = places.get(name) ?? 0;
      return { isChosen: place > 0, place: this.isSeveral ? place : 0, isFavourite: favourites.has(name) };
    });
    this.bar.showChosen(this.chosen);
    this.bar.showStar(this.reached, favourites.has(this.reached));
  }

  #acts() {
    return {
      onPick: (/** @type {string} */ name) => (this.isSeveral ? this.#toggle(name) : this.#finish([name])),
      onTake: (/** @type {string} */ name) => this.#finish(this.isSeveral ? [...new Set([...this.chosen, name])] : [name]),
      onEnter: (/** @type {string} */ name) => this.#confirm([name]),
      onStar: (/** @type {string} */ name) => this.#star(name),
      onReach: (/** @type {string} */ name) => this.#reach(name),
      onLeave: () => this.search.focus(),
    };
  }

  /** @param {string} name */
  #toggle(name) {
    const others = this.chosen.filter((other) => other !== name);
    this.chosen = others.length < this.chosen.length ? others : [...this.chosen, name];
    this.#mark();
  }

  /** @param {string} name */
  #reach(name) {
    this.reached = name;
    this.bar.showStar(name, keptNow().favourites.includes(name));
  }

  /**
   * The star is seen at once. A file that is none any more stays in sight until another folder is entered.
   * @param {string} name
   */
  #star(name) {
    const done = keepFavourite(name, !keptNow().favourites.includes(name));
    const showKept = () => {
      this.#countFolders();
      this.#mark();
    };
    showKept();
    done.then(showKept, (error) => this.#tellNotKept(error)); // by then with what other pages changed
  }

  /** @param {Error} error */
  #tellNotKept(error) {
    this.bar.showProblem(text("picker.not_kept", { reason: error.message }));
    this.#mark();
  }

  /**
   * What is chosen, else what Enter was pressed at.
   * @param {string[]} names
   */
  #confirm(names) {
    const chosen = this.isSeveral && this.chosen.length ? this.chosen : names;
    if (chosen.length) this.#finish(chosen);
  }

  /** @param {string[]} names */
  #finish(names) {
    this.picked = names;
    this.root.close();
  }

  #closed() {
    this.root.remove();
    this.resolve(this.picked);
  }

  #searchField() {
    return element("input", {
      type: "search",
      class: "qr-lora-picker-search",
      placeholder: text("picker.search"),
      "aria-label": text("picker.search"),
      autofocus: true,
      input: () => this.find(),
      keydown: (event) => this.#searchKeys(event),
    });
  }

  #dialog() {
    const title = text(this.isSeveral ? "picker.several" : "picker.one");
    const close = button("✕", text("picker.close"), () => this.root.close(), { class: "qr-lora-picker-close" });
    const head = element("div", { class: "qr-lora-picker-head" }, element("strong", { text: title }), this.search, close);
    const body = element("div", { class: "qr-lora-picker-body" }, this.folders.root, this.cards.root);
    const root = element("dialog", { class: "qr-lora qr-lora-picker", "aria-label": title }, head, body, this.bar.root);
    root.addEventListener("close", () => this.#closed());
    root.addEventListener("click", (event) => event.target === root && root.close()); // beside it
    // The host's shortcuts are not meant while one types here.
    for (const kind of ["keydown", "keyup", "copy", "cut", "paste"]) root.addEventListener(kind, (event) => event.stopPropagation());
    return root;
  }

  /** @param {KeyboardEvent} event */
  #searchKeys(event) {
    if (event.isComposing) return;
    if (event.key === "ArrowDown") this.cards.focus();
    else if (event.key === "Enter" && !event.repeat) this.#confirm(this.cards.first); // held down, it is the one that opened this
    else return;
    event.preventDefault();
  }
}
