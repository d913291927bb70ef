/** Recipes of a Mixer: a dialog to keep the present mix under a name, to take another one, and to carry them as files. */

/**
 * @typedef {import("./mixer.js").Mixer} Mixer
 * @typedef {import("./shelf.js").Recipe} Recipe
 */

import { button, childrenOf, element, fill, plainText } from "../lib/dom.js";
import { stepInList } from "../lib/keys.js";
import { text } from "../lib/texts.js";
import { inputsOfModes } from "../desk/modes.js";
import { parseMix, textOf } from "./document.js";
import { contentOf } from "./files.js";
import { checked, deleteRecipe, keepRecipe, keepText, keptText, listRecipes, readRecipe } from "./shelf.js";

const KINDS = ".json,image/png,image/jpeg,image/webp";
const LONGEST_NAME = 200;
const KEPT_FROM_HOST = /** @type {const} */ (["keydown", "keyup", "copy", "cut", "paste", "drop", "dragover"]);

/**
 * Put the button "Recipes" on a Mixer.
 * @param {Mixer} mixer
 */
export function attachRecipes(mixer) {
  const opener = button(text("recipes.open"), text("recipes.open_meaning"), () => new Recipes(mixer, opener).open(), { "aria-haspopup": "dialog" });
  mixer.addTool(opener);
}

class Recipes {
  /**
   * @param {Mixer} mixer
   * @param {HTMLElement} opener
   */
  constructor(mixer, opener) {
    this.mixer = mixer;
    this.opener = opener;
    /** @type {string[]} */
    this.names = [];
    this.search = element("input", { type: "search", placeholder: text("recipes.search"), "aria-label": text("recipes.search"), input: () => this.show() });
    this.name = element("input", { type: "text", maxlength: LONGEST_NAME, placeholder: text("recipes.name"), "aria-label": text("recipes.name") });
    this.chooser = element("input", { type: "file", accept: KINDS, hidden: true });
    this.chooser.addEventListener("change", () => this.takeFiles(this.chooser.files));
    this.list = element("ul", { class: "qr-lora-recipes-list qr-lora-scroll", "aria-label": text("recipes.kept") });
    this.status = element("div", { class: "qr-lora-recipes-status", role: "status" });
    this.root = this.dialog();
  }

  open() {
    document.body.append(this.root);
    this.root.showModal();
    this.name.focus();
    this.do(() => this.refresh());
  }

  dialog() {
    const title = text("recipes.title");
    const close = button("✕", text("load.close"), () => this.root.close(), { class: "qr-lora-recipes-close" });
    const save = element("button", { type: "submit", text: text("recipes.save") });
    const form = element("form", { class: "qr-lora-recipes-line", submit: (event) => this.submit(event) }, this.name, save);
    const choose = button(text("recipes.import"), text("recipes.import_meaning"), () => this.chooser.click());
    const root = element(
      "dialog",
      { class: "qr-lora qr-lora-recipes", "aria-label": title },
      element("div", { class: "qr-lora-recipes-line" }, element("strong", { text: title }), this.search, close),
      form,
      this.list,
      element("div", { class: "qr-lora-recipes-line" }, choose, this.chooser, element("span", { class: "qr-lora-quiet", text: text("recipes.drop") })),
      this.status,
    );
    root.addEventListener("close", () => this.closed());
    root.addEventListener("click", (event) => event.target === root && root.close()); // beside it
    root.addEventListener("dragover", (event) => event.preventDefault());
    root.addEventListener("drop", (event) => this.drop(event));
    for (const kind of KEPT_FROM_HOST) root.addEventListener(kind, (event) => event.stopPropagation());
    this.list.addEventListener("keydown", (event) => this.listKeys(event));
    return root;
  }

  closed() {
    this.root.remove();
    this.opener.focus();
  }

  /**
   * What goes wrong is told below.
   * @param {() => unknown} action
   */
  async do(action) {
    try {
      this.tell("");
      await action();
    } catch (error) {
      this.tell(/** @type {Error} */ (error).message, { isBad: true });
    }
  }

  /**
   * @param {string} said
   * @param {{ isBad?: boolean, choices?: [string, () => unknown][] }} [how]
   */
  tell(said, { isBad = false, choices = [] } = {}) {
    const buttons = choices.map(([face, act]) => element("button", { type: "button", text: face, click: () => this.do(act) }));
    this.status.classList.toggle("qr-lora-bad", isBad);
    this.status.replaceChildren(element("span", { text: plainText(said) }), ...buttons);
  }

  async refresh() {
    this.names = await listRecipes();
    this.show();
  }

  show() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = this.names.filter((name) => words.every((word) => name.toLowerCase().includes(word)));
    const none = element("li", { class: "qr-lora-quiet", text: text(this.names.length ? "recipes.none_found" : "recipes.none") });
    fill(this.list, ...(found.length ? found.map((name) => this.line(name)) : [none]));
  }

  /** @param {string} name */
  line(name) {
    const shown = plainText(name, LONGEST_NAME);
    const tool = (/** @type {string} */ key, /** @type {() => unknown} */ act) =>
      button(text(`recipes.${key}`), text(`recipes.${key}_of`, { name: shown }), () => this.do(act), { dataset: { key: `${key} ${name}` } });
    return element(
      "li",
      {},
      element("span", { class: "qr-lora-recipes-name", text: shown, title: shown }),
      tool("apply", () => this.apply(name)),
      tool("export", () => this.export(name)),
      tool("delete", () => this.delete(name)),
    );
  }

  /**
   * Up and down from line to line, in the same column.
   * @param {KeyboardEvent} event
   */
  listKeys(event) {
    const lines = childrenOf(this.list);
    const at = lines.findIndex((line) => line.contains(document.activeElement));
    const step = stepInList(event);
    if (!step || at < 0) return;
    event.preventDefault();
    const column = childrenOf(lines[at]).findIndex((tool) => tool === document.activeElement);
    childrenOf(lines[at + step] ?? null)[column]?.focus();
  }

  /** @param {Event} event */
  submit(event) {
    event.preventDefault();
    this.do(async () => {
      const recipe = await recipeOf(this.mixer, this.name.value.trim());
      await this.keep(await checked(JSON.stringify(recipe)));
      this.name.value = "";
    });
  }

  /**
   * Keep a recipe; where its name is taken, ask what to do.
   * @param {Recipe} recipe
   * @param {boolean} [mayReplace]
   */
  async keep(recipe, mayReplace = false) {
    if (!(await keepRecipe(recipe, mayReplace))) return this.askAbout(recipe);
    this.search.value = "";
    await this.refresh();
    this.tell(text("recipes.saved", { name: recipe.name }));
    /** @type {HTMLElement | null} */ (this.list.querySelector(`[data-key="${CSS.escape(`apply ${recipe.name}`)}"]`))?.focus();
  }

  /** @param {Recipe} recipe */
  askAbout(recipe) {
    this.tell(text("recipes.taken", { name: recipe.name }), {
      choices: [
        [text("recipes.replace"), () => this.keep(recipe, true)],
        [text("recipes.keep_both"), () => this.keep({ ...recipe, name: freeName(recipe.name, this.names) })],
      ],
    });
    /** @type {HTMLElement | null} */ (this.status.querySelector("button"))?.focus();
  }

  /**
   * Put a recipe in place of what is there; where it is for other models than that of the last run, ask first.
   * @param {string} name
   * @param {boolean} [mayDiffer]
   */
  async apply(name, mayDiffer = false) {
    const recipe = await readRecipe(name);
    if (this.mixer.rows.isFixed()) return this.tell(text("mixer.linked"), { isBad: true });
    if (!mayDiffer && isForOthers(recipe, this.mixer.family)) return this.askOfFamily(name, recipe.family);
    const mix = parseMix(JSON.stringify(recipe.mix));
    if (mix) this.mixer.setMix(mix, settingsOf(this.mixer.node, recipe));
    this.root.close();
  }

  /**
   * @param {string} name
   * @param {string | undefined} family
   */
  askOfFamily(name, family) {
    const said = text("recipes.other_family", { name, family: plainText(family, LONGEST_NAME), model: this.mixer.family });
    this.tell(said, { choices: [[text("recipes.apply_anyway"), () => this.apply(name, true)]] });
    /** @type {HTMLElement | null} */ (this.status.querySelector("button"))?.focus();
  }

  /** @param {string} name */
  async export(name) {
    const link = element("a", { href: URL.createObjectURL(new Blob([await keptText(name)], { type: "application/json" })), download: `${name}.json` });
    link.click();
    URL.revokeObjectURL(link.href);
  }

  /** @param {string} name */
  async delete(name) {
    const content = await keptText(name);
    await deleteRecipe(name);
    await this.refresh();
    const bring = async () => {
      if (!(await keepText(name, content, false))) throw new Error(text("recipes.taken", { name }));
      await this.refresh();
    };
    this.tell(text("recipes.deleted", { name }), { choices: [[text("recipes.bring_back"), bring]] });
    /** @type {HTMLElement | null} */ (this.status.querySelector("button"))?.focus();
  }

  /** @param {DragEvent} event */
  drop(event) {
    event.preventDefault();
    this.takeFiles(event.dataTransfer?.files ?? null);
  }

  /** @param {FileList | null} files */
  takeFiles(files) {
    const [file] = files ?? [];
    if (!file) return;
    this.do(async () => this.keep(await checked(file, file.name.replace(/\.[^.]*$/, ""))));
    this.chooser.value = ""; // so that the same file can be chosen again
  }
}

/**
 * The recipe for what a Mixer holds now. What is known of its files by content goes along.
 * @param {Mixer} mixer
 * @param {string} name
 * @returns {Promise<Recipe>}
 */
async function recipeOf(mixer, name) {
  const { rows } = mixer.mix();
  if (!rows.length) throw new Error(text("recipes.empty"));
  const known = await Promise.all(rows.map(async (row) => (row.sha256 ? row : { ...row, ...(await contentOf(row.file)) })));
  const { apply, mode, ...rest } = mixer.settings();
  const needed = inputsOfModes(mixer.node).filter((input) => input.mode === mode);
  const settings = Object.fromEntries(needed.map((input) => [input.name, rest[input.name]]));
  const family = mixer.family ? { family: mixer.family } : {};
  return { qr_lora_recipe: 1, name, ...family, apply, mode, settings, mix: JSON.parse(textOf({ on: true, rows: known })) };
}

/**
 * Whether both are known and differ.
 * @param {Recipe} recipe
 * @param {string} model
 */
function isForOthers({ family }, model) {
  return Boolean(family && model && family.toLowerCase() !== model.toLowerCase());
}

/**
 * What a recipe says of the settings; what it leaves out is as on a new node.
 * @param {LGraphNode} node
 * @param {Recipe} recipe
 * @returns {Record<string, WidgetValue>}
 */
function settingsOf(node, { apply, mode, settings = {} }) {
  const chosen = { apply: apply ?? usual(node, "apply"), mode: mode ?? usual(node, "mode") };
  const needed = inputsOfModes(node).filter((input) => input.mode === chosen.mode);
  return { ...chosen, ...Object.fromEntries(needed.map(({ name }) => [name, settings[name] ?? usual(node, name)])) };
}

/**
 * What a widget of a new node holds.
 * @param {LGraphNode} node
 * @param {string} name
 * @returns {any}
 */
function usual(node, name) {
  const [kind, about] = node.constructor.nodeData?.input?.optional?.[name] ?? [];
  const options = Array.isArray(kind) ? kind : about?.options;
  return about?.default ?? (Array.isArray(options) ? options[0] : undefined);
}

/**
 * A name like another that nobody has.
 * @param {string} name
 * @param {string[]} taken
 */
function freeName(name, taken) {
  let number = 2;
  while (taken.includes(`${name} ${number}`)) number += 1;
  return `${name} ${number}`;
}
