/** A dialog to choose an adapter file: search, folders, pictures. */

/**
 * @typedef {import("./library.js").AdapterFile} AdapterFile
 * @typedef {AdapterFile & { found: string }} Listed `found` is what is searched
 */

import { button, childrenOf, element, fill, plainText } from "../lib/dom.js";
import { stepInGrid, stepInList } from "../lib/keys.js";
import { text } from "../lib/texts.js";
import { pictureAddress } from "./library.js";

const MOST_SHOWN = 240;

/**
 * Ask for one of the files; resolves to its name, or to null. `later` brings the list again, fresh and with more.
 * @param {AdapterFile[]} files
 * @param {string} chosen
 * @param {Promise<AdapterFile[]>[]} later
 * @returns {Promise<string | null>}
 */
export function pickAdapter(files, chosen, later) {
  return new Promise((resolve) => new Picker(files, chosen, resolve).open(later));
}

class Picker {
  /**
   * @param {AdapterFile[]} files
   * @param {string} chosen
   * @param {(name: string | null) => void} resolve
   */
  constructor(files, chosen, resolve) {
    this.files = listed(files);
    this.chosen = chosen;
    this.resolve = resolve;
    this.folder = "";
    /** Cards by the name of their file. @type {Map<string, HTMLElement>} */
    this.made = new Map();
    /** @type {string | null} */
    this.picked = null;
    this.search = element("input", {
      type: "search",
      class: "qr-lora-load-search",
      placeholder: text("load.search"),
      "aria-label": text("load.search"),
      autofocus: true,
      input: () => this.find(),
      keydown: (event) => this.#searchKeys(event),
    });
    this.folders = element("div", { class: "qr-lora-load-folders qr-lora-scroll", role: "group", "aria-label": text("load.folders") });
    this.cards = element("div", { class: "qr-lora-load-cards qr-lora-scroll", role: "listbox", "aria-label": text("load.files") });
    this.count = element("div", { class: "qr-lora-quiet", role: "status" });
    this.root = this.#dialog();
  }

  /** @param {Promise<AdapterFile[]>[]} later */
  open(later) {
    document.body.append(this.root);
    this.root.showModal();
    this.refresh(this.files);
    this.search.focus();
    for (const list of later) list.then((files) => this.root.open && this.refresh(files), (error) => this.#tell(error));
  }

  /**
   * Show others than before. Who is at a card or a folder stays there.
   * @param {AdapterFile[]} files
   */
  refresh(files) {
    const isChosen = (/** @type {AdapterFile} */ file) => file.name === this.chosen;
    const ordered = [...files.filter(isChosen), ...files.filter((file) => !isChosen(file))];
    this.files = listed(ordered);
    this.showFolders();
    this.show();
    if (!this.root.contains(document.activeElement)) this.search.focus(); // the file is gone
  }

  showFolders() {
    const counts = countFolders(this.files);
    if (!counts.has(this.folder)) this.folder = "";
    const all = this.#folderButton("", text("load.all_folders"), this.files.length, 0);
    const below = [...counts].filter(([folder]) => folder).sort(([a], [b]) => (a < b ? -1 : 1));
    const made = below.slice(0, MOST_SHOWN).map(([folder, count]) => this.#folderButton(folder, ...lastPart(folder, count)));
    fill(this.folders, all, ...made);
    this.#markFolder();
  }

  /** Show what is found from its start. */
  find() {
    this.show();
    this.cards.scrollTop = 0;
    roveTo(childrenOf(this.cards)[0], false);
  }

  show() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = this.files.filter(
      (file) => isBelow(file.name, this.folder) && words.every((word) => file.found.includes(word)),
    );
    fill(this.cards, ...found.slice(0, MOST_SHOWN).map((file) => this.#card(file)));
    const more = found.length - MOST_SHOWN;
    const key = more > 0 ? "load.more" : found.length ? "load.found" : "load.none_found";
    this.count.textContent = text(key, { count: Math.min(found.length, MOST_SHOWN), more });
    const cards = childrenOf(this.cards);
    roveTo(cards.find((card) => card === document.activeElement) ?? cards[0], false);
  }

  #dialog() {
    const title = text("load.choose_title");
    const head = element(
      "div",
      { class: "qr-lora-load-head" },
      element("strong", { text: title }),
      this.search,
      button("✕", text("load.close"), () => this.root.close(), { class: "qr-lora-load-close" }),
    );
    const body = element("div", { class: "qr-lora-load-body" }, this.folders, this.cards);
    const root = element("dialog", { class: "qr-lora qr-lora-load-picker", "aria-label": title }, head, body, this.count);
    root.addEventListener("close", () => this.#closed());
    root.addEventListener("click", (event) => event.target === root && root.close()); // beside it
    // The host's shortcuts are not meant while one types here.
    for (const kind of ["keydown", "keyup", "copy", "cut", "paste"]) root.addEventListener(kind, (event) => event.stopPropagation());
    this.cards.addEventListener("keydown", (event) => this.#cardKeys(event));
    this.folders.addEventListener("keydown", (event) => this.#folderKeys(event));
    return root;
  }

  #closed() {
    this.root.remove();
    this.resolve(this.picked);
  }

  /** @param {string} name */
  #choose(name) {
    this.picked = name;
    this.root.close();
  }

  /** @param {Error} error */
  #tell(error) {
    this.count.textContent = plainText(error.message);
    this.count.className = "qr-lora-warning";
  }

  /**
   * @param {string} folder
   * @param {string} label
   * @param {number} count
   * @param {number} depth
   */
  #folderButton(folder, label, count, depth) {
    return element(
      "button",
      {
        type: "button",
        class: "qr-lora-load-folder",
        title: plainText(folder) || label,
        dataset: { key: folder },
        style: { paddingInlineStart: `${6 + 12 * depth}px` },
        click: () => this.#enter(folder),
      },
      element("span", { text: plainText(label) }),
      element("span", { class: "qr-lora-quiet", text: count }),
    );
  }

  /** @param {string} folder */
  #enter(folder) {
    this.folder = folder;
    this.#markFolder();
    this.find();
  }

  #markFolder() {
    for (const item of childrenOf(this.folders)) {
      const isHere = item.dataset.key === this.folder;
      item.setAttribute("aria-pressed", String(isHere));
      item.tabIndex = isHere ? 0 : -1;
    }
  }

  /**
   * The card of a file, the same one as long as the dialog is open.
   * @param {AdapterFile} file
   */
  #card(file) {
    const card = this.made.get(file.name) ?? this.#newCard(file);
    this.made.set(file.name, card);
    card.title = searched(file).map((told) => plainText(told)).filter(Boolean).join("\n");
    showPicture(/** @type {HTMLElement} */ (card.firstElementChild), file);
    return card;
  }

  /** @param {AdapterFile} file */
  #newCard(file) {
    const name = plainText(file.name);
    const [folder, stem] = parted(name);
    return element(
      "button",
      {
        type: "button",
        role: "option",
        class: "qr-lora-load-card",
        tabindex: -1,
        "aria-selected": String(file.name === this.chosen),
        click: () => this.#choose(file.name),
      },
      element("span", { class: "qr-lora-load-thumb" }),
      element("span", { class: "qr-lora-load-stem", text: stem }),
      element("span", { class: "qr-lora-load-place qr-lora-quiet", text: folder }),
    );
  }

  /** @param {KeyboardEvent} event */
  #searchKeys(event) {
    if (event.isComposing) return;
    const cards = childrenOf(this.cards);
    if (event.key === "ArrowDown") roveTo(cards.find(isReached), true);
    else if (event.key === "Enter") cards[0]?.click();
    else return;
    event.preventDefault();
  }

  /** @param {KeyboardEvent} event */
  #cardKeys(event) {
    const cards = childrenOf(this.cards);
    const at = cards.findIndex((card) => card === document.activeElement);
    const columns = cards.filter((card) => card.offsetTop === cards[0].offsetTop).length;
    const step = stepInGrid(event, columns);
    if (step) {
      if (at + step < 0 && event.key === "ArrowUp") this.search.focus();
      else roveTo(cards[Math.min(Math.max(at + step, 0), cards.length - 1)], true);
    } else if (event.key === "Home" || event.key === "End") roveTo(cards.at(event.key === "Home" ? 0 : -1), true);
    else return this.#typeOn(event);
    event.preventDefault();
  }

  /**
   * A letter goes on with the search.
   * @param {KeyboardEvent} event
   */
  #typeOn(event) {
    const isLetter = event.key.length === 1 && event.key !== " " && !event.ctrlKey && !event.metaKey && !event.altKey;
    if (isLetter || event.key === "Backspace") this.search.focus();
  }

  /** @param {KeyboardEvent} event */
  #folderKeys(event) {
    const folders = childrenOf(this.folders);
    const step = stepInList(event);
    const next = step && folders[folders.findIndex((folder) => folder === document.activeElement) + step];
    if (!next) return;
    event.preventDefault();
    next.focus();
    this.#enter(next.dataset.key ?? "");
  }
}

/**
 * The preview of a file, or its first letter, unless that is what is there.
 * @param {HTMLElement} thumb
 * @param {AdapterFile} file
 */
function showPicture(thumb, { name, picture }) {
  if (thumb.dataset.picture === String(picture)) return;
  thumb.dataset.picture = String(picture);
  const [, stem] = parted(plainText(name));
  thumb.replaceChildren(
    picture
      ? element("img", { loading: "lazy", decoding: "async", alt: "", src: pictureAddress(name), draggable: "false" })
      : element("span", { class: "qr-lora-load-letter", text: [...stem][0]?.toUpperCase() ?? "" }),
  );
}

/**
 * Of many items, one can be reached with Tab.
 * @param {HTMLElement | null | undefined} item
 * @param {boolean} hasFocus
 */
function roveTo(item, hasFocus) {
  if (!item) return;
  for (const other of childrenOf(item.parentElement).filter(isReached)) other.tabIndex = -1;
  item.tabIndex = 0;
  if (hasFocus) item.focus();
}

/** @param {HTMLElement} item */
function isReached(item) {
  return item.tabIndex === 0;
}

/**
 * @param {AdapterFile[]} files
 * @returns {Listed[]}
 */
function listed(files) {
  return files.map((file) => ({ ...file, found: searched(file).map((told) => plainText(told)).join("\n").toLowerCase() }));
}

/** @param {AdapterFile} file */
function searched({ name, base = "", triggers = "" }) {
  return [name, base, triggers];
}

/**
 * How many files lie in each folder and below.
 * @param {AdapterFile[]} files
 */
function countFolders(files) {
  const counts = new Map([["", files.length]]);
  for (const { name } of files) {
    for (let end = name.indexOf("/"); end > 0; end = name.indexOf("/", end + 1)) {
      const folder = name.slice(0, end);
      counts.set(folder, (counts.get(folder) ?? 0) + 1);
    }
  }
  return counts;
}

/**
 * @param {string} folder
 * @param {number} count
 * @returns {[string, number, number]}
 */
function lastPart(folder, count) {
  const parts = folder.split("/");
  return [parts[parts.length - 1], count, parts.length - 1];
}

/**
 * @param {string} name
 * @param {string} folder
 */
function isBelow(name, folder) {
  return !folder || name.startsWith(`${folder}/`);
}

/**
 * Folder and name without its suffix.
 * @param {string} name
 */
export function parted(name) {
  const start = name.lastIndexOf("/") + 1;
  return [name.slice(0, Math.max(0, start - 1)), name.slice(start).replace(/\.(safetensors|sft)$/i, "")];
}
