/** The panel on `QRLoRA_Mixer`, and what others may do with it. */

/**
 * @typedef {import("./document.js").Mix} Mix
 * @typedef {import("./files.js").Check} Check
 * @typedef {import("./files.js").Found} Found
 * @typedef {import("../desk/result.js").Told} Told
 */

import { Desk } from "../desk/desk.js";
import { button, element, fill, plainText } from "../lib/dom.js";
import { chained, debounced, onExecuted, onGraphChange, onWidgetChange, recordChange, setSizeUnrecorded } from "../lib/graph.js";
import { addPanel, replaceHostText } from "../lib/panel.js";
import { standFor } from "../lib/rows.js";
import { text } from "../lib/texts.js";
import { MOST_ROWS } from "./document.js";
import { checkMix, contentOf, filesWithPicture, forgetFiles, pickFile, pickFiles } from "./files.js";
import { attachHistory } from "./history.js";
import { MixerMix, NAME } from "./mix.js";
import { attachRecipes } from "./recipes.js";
import { MixerRow } from "./row.js";

export const PANEL = "qr_lora_mixer";
const NARROWEST = 440;
const LINE = 26; // pixels, as in style.css
const REFUSAL = 62;
const TALLEST = 12 * 41; // pixels of rows before they scroll
const SOON = 300; // milliseconds

/**
 * The rows whose details are open, by node: undo makes a node anew.
 * @type {Map<string, Set<number>>}
 */
const opened = new Map();

/** @param {LGraphNode} node */
export function attachMixer(node) {
  const mixer = (node.qrLoRAMixer = new Mixer(node));
  attachRecipes(mixer);
  attachHistory(mixer);
}

/**
 * One Mixer, also for those that add to its panel, as recipes and history do.
 *
 * `tools` is a line of buttons above the rows, `below` a place under them. What is put into `below` says its height in
 * pixels in its own `style.height` (`hidden` where it takes none) and calls `resize` when that has changed.
 */
export class Mixer {
  /** @param {LGraphNode} node */
  constructor(node) {
    this.node = node;
    this.rows = new MixerMix(node);
    this.rows.onRenumber = (numbered) => this.setOpen([...this.open()].map(numbered));
    /** What the server says of the present mix. @type {Check | null} */
    this.check = null;
    /** What it says of files, by name. @type {Map<string, Found>} */
    this.found = new Map();
    /** @type {Set<string> | null} */
    this.pictured = null;
    /** @type {((told: Told | undefined) => void)[]} */
    this.hearers = [];
    /** @type {(() => void)[]} */
    this.followers = [];
    this.asked = "";
    /** What the host calls the model of the last run; empty before. */
    this.family = "";
    /** What the last change could not do. */
    this.notice = "";
    this.addButton = button(text("mixer.add"), text("mixer.add_meaning"), () => this.add());
    this.master = element("button", { type: "button", class: "qr-lora-switch", role: "switch", title: text("mixer.master"), "aria-label": text("mixer.master"), click: () => this.toggleAll() });
    this.tools = element("div", { class: "qr-lora-mixer-tools", role: "toolbar", "aria-label": text("mixer.tools") }, this.addButton);
    this.below = element("div", { class: "qr-lora-mixer-below" });
    this.message = element("div", { class: "qr-lora-mixer-message", role: "status" });
    const top = element("div", { class: "qr-lora-mixer-top" }, this.tools, this.master);
    this.desk = new Desk(this.rows, (...how) => new MixerRow(this, ...how), {
      above: [{ root: top, height: () => LINE }, { root: this.message, height: () => this.messageHeight() }],
      below: [{ root: this.below, height: () => heightOf(this.below) }],
      hint: () => (this.rows.read() ? text("mixer.empty") : ""),
      tallest: TALLEST,
    });
    this.attach();
  }

  attach() {
    const { node, desk } = this;
    const names = node.widgets.map((widget) => widget.name);
    const panel = addPanel(node, PANEL, text("mixer.rows"), desk.root, () => desk.height());
    desk.onResize = panel.resize;
    desk.onMove = standFor(node, panel, names, (name) => (name === NAME ? LINE / 2 : desk.socketOf(name)));
    const update = () => this.update();
    const soon = debounced(update);
    panel.onSight = update;
    node.onConnectionsChange = chained(node.onConnectionsChange, soon);
    node.onGraphConfigured = chained(node.onGraphConfigured, soon);
    node.refreshComboInNode = chained(node.refreshComboInNode, () => this.forgetFiles());
    onWidgetChange(node, names, soon);
    replaceHostText(node, () => {});
    onExecuted(node, (output) => this.hear(output.qr_lora_merge?.[0]));
    onGraphChange(updateMixer);
    node.setSize([Math.max(NARROWEST, node.size[0]), node.computeSize()[1]]);
    soon();
  }

  /** What is mixed; empty where the widget holds no mix. @returns {Mix} */
  mix() {
    return this.rows.mix();
  }

  /**
   * Put another mix in its place, as one step for undo. Where the mix comes from a link nothing happens.
   * @param {Mix} mix
   * @param {Record<string, WidgetValue>} [settings] go into the same step
   */
  setMix(mix, settings = {}) {
    if (this.rows.isFixed()) return;
    this.do(() => {
      this.setOpen([]);
      this.rows.write(mix);
      this.rows.setSettings(settings);
      this.desk.result.show(null); // it was measured of others
    });
  }

  /** `apply`, `mode` and the modes' parameters by name. */
  settings() {
    return this.rows.settings();
  }

  /**
   * Set some of these, as one step for undo; other names are left alone.
   * @param {Record<string, WidgetValue>} given
   */
  setSettings(given) {
    this.do(() => this.rows.setSettings(given));
  }

  /**
   * Put a button beside the others above the rows.
   * @param {HTMLElement} tool
   */
  addTool(tool) {
    this.tools.append(tool);
  }

  /**
   * Call a function after each run, with what the node told of it.
   * @param {(told: Told | undefined) => void} hear
   */
  onResult(hear) {
    this.hearers.push(hear);
  }

  /**
   * Call a function whenever what is shown was brought up to date.
   * @param {() => void} follow
   */
  onUpdate(follow) {
    this.followers.push(follow);
  }

  /** Take the height that the panel needs now. */
  resize() {
    this.desk.update();
  }

  /** Show the present values. */
  update() {
    if (!this.node.graph) return;
    this.showTools();
    this.showMessage();
    this.desk.update();
    this.checkSoon();
    this.askPictures();
    for (const follow of this.followers) follow();
  }

  /**
   * A change that is one step for undo.
   * @param {() => void} change
   */
  do(change) {
    this.notice = "";
    change();
    this.update();
    recordChange();
  }

  /** @param {Told | undefined} told */
  hear(told) {
    this.desk.showResult(told && this.isOfTheseRows(told) ? told : undefined);
    this.family = told?.family ?? this.family;
    for (const hear of this.hearers) hear(told);
  }

  /**
   * After undo the host tells again what the node said last, which may have been of others.
   * @param {Told} told
   */
  isOfTheseRows({ slots, adapters }) {
    const ofRows = slots.map((slot, index) => ({ slot, name: adapters[index]?.name ?? "" })).filter(({ slot }) => typeof slot === "number");
    return ofRows.every(({ slot, name }) => name.startsWith(this.rows.nameOf(slot)));
  }

  showTools() {
    const { on, rows } = this.mix();
    const isClosed = this.rows.isFixed() || !this.rows.read();
    this.addButton.disabled = isClosed || rows.length >= MOST_ROWS;
    this.master.disabled = isClosed || !rows.length;
    this.master.setAttribute("aria-checked", String(on));
  }

  messageHeight() {
    if (this.refused() && !this.rows.isFixed()) return REFUSAL;
    return this.rows.isFixed() || this.notice ? LINE : 0;
  }

  /** What is wrong with the mix; empty where nothing is known to be. */
  refused() {
    return this.check?.error ?? (this.rows.read() ? "" : text("mixer.unreadable"));
  }

  /** A text that is no mix stays as it is until somebody says that it may go. */
  showMessage() {
    const isFixed = this.rows.isFixed();
    const refused = isFixed ? "" : this.refused();
    const said = plainText(isFixed ? text("mixer.linked") : refused || this.notice);
    const isUnreadable = !this.rows.read() && !isFixed;
    this.message.hidden = !said;
    this.message.classList.toggle("qr-lora-bad", Boolean(refused));
    const shown = JSON.stringify([said, isUnreadable]);
    if (this.message.dataset.shown === shown) return;
    this.message.dataset.shown = shown;
    const line = element("span", { class: "qr-lora-text qr-lora-scroll", text: said, tabindex: 0, dataset: { key: "said" } });
    const anew = button(text("mixer.anew"), text("mixer.anew_meaning"), () => this.setMix({ on: true, rows: [] }), { dataset: { key: "anew" } });
    fill(this.message, line, ...(isUnreadable ? [anew] : []));
  }

  /** Ask the server about the files and texts of the rows, once they rest. */
  checkSoon() {
    const mix = this.rows.read();
    const told = mix?.rows.map(({ file, blocks, schedule }) => [file, blocks, schedule]);
    const asked = this.rows.isFixed() ? "" : told ? JSON.stringify(told) : this.rows.text();
    if (asked === this.asked) return;
    this.asked = asked;
    clearTimeout(this.checkTimer);
    this.checkTimer = setTimeout(() => this.ask(asked), SOON);
  }

  /** @param {string} asked */
  async ask(asked) {
    const files = this.mix().rows.map(({ file }) => file);
    const check = asked && this.rows.text() ? await checkMix(this.rows.text()) : null;
    if (this.asked !== asked) return;
    this.check = check;
    if (check?.rows) this.found = new Map(check.rows.map((found, index) => [files[index], found]));
    this.update();
  }

  askPictures() {
    if (this.pictured || !this.mix().rows.length) return;
    this.pictured = new Set();
    filesWithPicture().then((files) => {
      this.pictured = files;
      this.desk.refresh();
    }, () => {}); // a letter is shown instead
  }

  /** Files may have come and gone. */
  forgetFiles() {
    forgetFiles();
    this.found.clear();
    this.pictured = null;
    this.asked = "";
    this.update();
  }

  /** @param {string} file */
  hasPicture(file) {
    return Boolean(this.pictured?.has(file));
  }

  /** @param {number} slot */
  isMissing(slot) {
    return this.found.get(this.rows.row(slot).file)?.found === false;
  }

  /** @param {number} slot */
  likelyOf(slot) {
    return this.found.get(this.rows.row(slot).file)?.likely ?? [];
  }

  open() {
    return opened.get(this.owner()) ?? new Set();
  }

  owner() {
    return `${this.node.graph?.id}:${this.node.id}`;
  }

  /** @param {number[]} slots */
  setOpen(slots) {
    if (slots.length) opened.set(this.owner(), new Set(slots));
    else opened.delete(this.owner());
  }

  /** @param {number} slot */
  isOpen(slot) {
    return this.open().has(slot);
  }

  /** @param {number} slot */
  toggleDetails(slot) {
    const open = [...this.open()];
    this.setOpen(this.isOpen(slot) ? open.filter((other) => other !== slot) : [...open, slot]);
    this.update();
    setSizeUnrecorded(this.node);
  }

  toggleAll() {
    const { on, rows } = this.mix();
    this.do(() => this.rows.write({ on: !on, rows }));
  }

  async add() {
    const files = await pickFiles();
    this.addButton.focus();
    if (!files.length || !this.node.graph || this.addButton.disabled) return;
    this.do(() => {
      const left = this.rows.add(files);
      if (left) this.notice = text("mixer.full", { most: MOST_ROWS, left });
    });
    this.desk.list.scrollTop = this.desk.list.scrollHeight;
    for (const file of files) this.noteContent(file);
  }

  /** @param {number} slot */
  async chooseOther(slot) {
    const { file } = this.rows.row(slot);
    const chosen = await pickFile(file);
    if (chosen && this.node.graph && this.rows.row(slot).file === file) this.replace(slot, chosen);
  }

  /**
   * Another file in a row; what is set in the row stays.
   * @param {number} slot
   * @param {string} file
   */
  replace(slot, file) {
    this.do(() => this.rows.change(slot, { file, size: 0, sha256: "" }));
    this.noteContent(file);
  }

  /** @param {number} slot */
  duplicate(slot) {
    if (this.mix().rows.length >= MOST_ROWS) return;
    this.do(() => this.rows.duplicate(slot));
    this.desk.result.show(null);
    this.desk.rows[slot].handle.focus();
  }

  /** @param {number} slot */
  remove(slot) {
    this.setOpen([...this.open()].filter((other) => other !== slot));
    this.do(() => this.rows.remove(slot));
    this.desk.result.show(null);
    const next = this.desk.rows[Math.min(slot, this.desk.rows.length) - 1];
    (next?.handle ?? this.addButton).focus();
  }

  /** Of all rows, as when others wrote them. */
  noteContents() {
    for (const { file, sha256 } of this.mix().rows) if (!sha256) this.noteContent(file);
  }

  /** @param {string} file */
  async noteContent(file) {
    const content = await contentOf(file);
    if (content && this.node.graph) this.rows.note(file, content);
  }
}

/**
 * As the parts say it.
 * @param {HTMLElement} parent
 */
function heightOf(parent) {
  const shown = /** @type {HTMLElement[]} */ ([...parent.children]).filter(({ hidden }) => !hidden);
  return shown.reduce((sum, { style }) => sum + (Number.parseFloat(style.height) || 0), 0);
}

/**
 * Links outside a subgraph change without a word to what is inside.
 * @param {LGraphNode} node
 */
function updateMixer(node) {
  node.qrLoRAMixer?.update();
}
