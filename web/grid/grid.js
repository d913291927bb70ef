/** The picture of a sweep on `QRLoRA_Grid`: a click on a cell puts its scales into QR-LoRA Merge. */

/**
 * @typedef {import("../lib/graph.js").Source} Source
 * @typedef {{ at: number[], scale_x: number, scale_y: number | null }} Cell
 * @typedef {{ filename: string, subfolder: string, type: string, width: number, height: number, cells: Cell[], name_x: string, name_y: string }} Result
 * @typedef {{ source: Source, scale: number }} Swept
 * @typedef {{ isSet: boolean, key: string, values?: { nodes: string } }} Told what came of a click
 */

import { api } from "../../../scripts/api.js";
import { element, fill, plainText } from "../lib/dom.js";
import { allNodes, onExecuted, sourceOf } from "../lib/graph.js";
import { stepInGrid } from "../lib/keys.js";
import { addPanel } from "../lib/panel.js";
import { text } from "../lib/texts.js";
import { setScales } from "../merge/merge.js";

const EMPTY = 40; // pixels
const HEIGHT = 360;
const SLOTS = [1, 2, 3, 4, 5, 6, 7, 8];
const AXES = /** @type {const} */ (["x", "y"]);

/** @param {LGraphNode} node */
export function attachGrid(node) {
  const view = new GridView((cell) => putIntoMerge(node, cell));
  const panel = addPanel(node, "qr_lora_grid", text("grid.panel"), view.root, () => view.height());
  onExecuted(node, (output) => {
    view.show(output.qr_lora_grid?.[0]);
    panel.resize();
  });
}

class GridView {
  /** @param {(cell: Cell) => Told} choose */
  constructor(choose) {
    this.choose = choose;
    /** @type {HTMLButtonElement[]} */
    this.cells = [];
    this.columns = 0;
    this.picture = element("img", { alt: "", draggable: "false" });
    this.frame = element("div", { class: "qr-lora-grid-frame", role: "group", "aria-label": text("grid.panel") }, this.picture);
    this.frame.hidden = true;
    this.message = element("div", { class: "qr-lora-grid-message qr-lora-quiet", role: "status", text: text("grid.empty") });
    this.root = element("div", {}, element("div", { class: "qr-lora-grid-box" }, this.frame), this.message);
  }

  height() {
    return this.frame.hidden ? EMPTY : HEIGHT;
  }

  /** @param {Result | undefined} result */
  show(result) {
    if (!result) return;
    const { filename, subfolder, type, width, height } = result;
    this.picture.src = api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
    this.frame.style.aspectRatio = `${width} / ${height}`;
    this.frame.style.setProperty("--qr-ratio", String(width / height));
    this.columns = result.cells.filter((cell) => cell.at[1] === result.cells[0].at[1]).length;
    this.cells = result.cells.map((cell, index) => this.newCell(cell, index, result));
    fill(this.frame, this.picture, ...this.cells);
    this.frame.hidden = false;
    this.message.textContent = text("grid.choose");
  }

  /**
   * @param {Cell} cell
   * @param {number} index
   * @param {Result} names
   */
  newCell(cell, index, { name_x, name_y }) {
    const [left, top, width, height] = cell.at.map((share) => `${share * 100}%`);
    const names = { x: plainText(name_x, 100), y: plainText(name_y, 100) };
    const scales = AXES.filter((axis) => cell[`scale_${axis}`] != null).map((axis) => `${names[axis]} ${cell[`scale_${axis}`]}`);
    const label = text("grid.cell", { scales: scales.join(", ") });
    return element("button", {
      type: "button",
      class: "qr-lora-grid-cell",
      title: label,
      "aria-label": label,
      "aria-pressed": "false",
      tabindex: index ? "-1" : "0",
      dataset: { key: index },
      style: { left, top, width, height },
      click: () => this.press(cell, index, scales),
      focus: () => this.cells.forEach((other, place) => (other.tabIndex = place === index ? 0 : -1)),
      keydown: (event) => this.pressKey(event, index),
    });
  }

  /**
   * @param {Cell} cell
   * @param {number} index
   * @param {string[]} scales
   */
  press(cell, index, scales) {
    const told = this.choose(cell);
    this.cells.forEach((other, place) => other.setAttribute("aria-pressed", String(told.isSet && place === index)));
    this.message.textContent = this.message.title = text(told.key, { scales: scales.join(", "), ...told.values });
    this.message.classList.toggle("qr-lora-warning", !told.isSet);
    this.message.classList.toggle("qr-lora-quiet", told.isSet);
  }

  /**
   * One stop for Tab, and arrows from cell to cell.
   * @param {KeyboardEvent} event
   * @param {number} index
   */
  pressKey(event, index) {
    const step = stepInGrid(event, this.columns);
    if (!step) return;
    event.preventDefault();
    this.cells[index + step]?.focus();
  }
}

/**
 * What came of it: a text and whether anything was set.
 * @param {LGraphNode} node
 * @param {Cell} cell
 * @returns {Told}
 */
function putIntoMerge(node, cell) {
  const sweep = sourceOf(node, "grid")?.node;
  if (!sweep) return { isSet: false, key: "grid.no_sweep" };
  const swept = AXES.map((axis) => ({ source: sourceOf(sweep, `adapter_${axis}`), scale: cell[`scale_${axis}`] })).filter(isSwept);
  const fitting = allNodes()
    .filter((other) => other.comfyClass === "QRLoRA_Merge")
    .map((merge) => ({ merge, scales: scalesFor(merge, swept) }))
    .filter(({ scales }) => Object.keys(scales).length);
  if (!fitting.length) return { isSet: false, key: "grid.no_merge" };
  for (const { merge, scales } of fitting) setScales(merge, scales);
  const isWhole = fitting.every(({ scales }) => Object.keys(scales).length >= swept.length);
  return { isSet: true, key: isWhole ? "grid.set" : "grid.set_in_part", values: { nodes: fitting.map(({ merge }) => nameOf(merge)).join(", ") } };
}

/**
 * @param {{ source: Source | null, scale: number | null }} found
 * @returns {found is Swept}
 */
function isSwept(found) {
  return found.source != null && found.scale != null;
}

/**
 * Slot to scale, for the adapters that the sweep varied.
 * @param {LGraphNode} merge
 * @param {Swept[]} swept
 */
function scalesFor(merge, swept) {
  const left = [...swept];
  /** @type {Record<number, number>} */
  const scales = {};
  for (const slot of SLOTS) {
    const own = sourceOf(merge, `adapter_${slot}`);
    const found = left.findIndex(({ source }) => own && source.node === own.node && source.slot === own.slot);
    if (found >= 0) scales[slot] = left.splice(found, 1)[0].scale;
  }
  return scales;
}

/** @param {LGraphNode} node */
function nameOf(node) {
  return text("grid.node", { title: plainText(node.title, 100), id: node.id });
}
