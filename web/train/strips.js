/** Rows of pictures: what a training saw, and its samples by kind, with what a judge saw in them. */

/**
 * @typedef {"own" | "without_word" | "elsewhere"} Kind
 * @typedef {{ filename: string, subfolder: string, type: string }} Saved
 * @typedef {Saved & { step: number, kind: Kind, likeness?: number | null, freedom?: number | null }} Sample
 * @typedef {{ by: "likeness" | "freedom" | "both", step: number, checkpoint: string | null, likeness: number | null, freedom: number | null }} Best
 * @typedef {{ samples: Sample[], seen?: Saved[], judge?: "rough" | "encoder" | null, best?: Best | null }} Pictures
 */

import { api } from "../../../scripts/api.js";
import { childrenOf, element, fill } from "../lib/dom.js";
import { text } from "../lib/texts.js";

/** @type {Kind[]} */
const KINDS = ["own", "without_word", "elsewhere"];
const GAP = 4; // pixels, as in style.css
const LABEL = 16;
const PICTURES = 76;
const LINE = 14; // under a picture

export class Strips {
  constructor() {
    this.seen = new Strip("seen", text("train.seen"), 0);
    this.samples = KINDS.map((kind) => new Strip(kind, text(`train.${kind}`), 1));
    this.rows = [this.seen, ...this.samples];
    this.root = element("div", { class: "qr-lora-train-rows" }, ...this.rows.map((row) => row.root));
  }

  height() {
    return this.rows.reduce((sum, row) => sum + row.height(), 0);
  }

  /**
   * The own samples have their place from the start, so that nothing moves when the first one comes.
   * @param {boolean} isExpecting
   */
  expect(isExpecting) {
    this.samples[0].expect(isExpecting);
  }

  /** @param {Pictures} report */
  show({ samples, seen = [], judge = null, best = null }) {
    this.seen.show(seen.map((saved, index) => ({ saved, label: text("train.seen_picture", { number: index + 1 }), lines: [] })));
    for (const [index, kind] of KINDS.entries()) {
      const isJudged = kind === "own" && judge !== null;
      const own = samples.filter((sample) => (sample.kind ?? "own") === kind);
      this.samples[index].show(own.map((sample) => tileOf(sample, kind === "own" ? best : null, isJudged)), isJudged ? 2 : 1);
    }
    this.samples[0].say(judge === null ? "" : text(`train.scores_${judge}`), best ? text("train.best", { step: best.step, by: text(`train.by_${best.by}`) }) : "");
  }
}

/** @typedef {{ saved: Saved, label: string, lines: string[] }} Tile */

/** A row of pictures under a label, which is there while it has any. */
class Strip {
  /**
   * @param {Kind | "seen"} kind
   * @param {string} name
   * @param {number} lines under each picture
   */
  constructor(kind, name, lines) {
    this.kind = kind;
    this.name = name;
    this.lines = lines;
    this.isExpecting = false;
    this.more = element("span");
    this.best = element("span", { class: "qr-lora-train-best", role: "status" });
    this.tiles = element("div", { class: `qr-lora-train-tiles qr-lora-scroll${kind === "own" ? " qr-lora-train-strip" : ""}`, role: "list", "aria-label": name });
    this.root = element(
      "div",
      { class: "qr-lora-train-row", dataset: { kind } },
      element("div", { class: "qr-lora-train-label qr-lora-quiet" }, element("span", {}, name, this.more), this.best),
      this.tiles,
    );
    this.arrange();
  }

  height() {
    return this.root.hidden ? 0 : GAP + LABEL + PICTURES + this.lines * LINE;
  }

  /** @param {boolean} isExpecting */
  expect(isExpecting) {
    this.isExpecting = isExpecting;
    this.arrange();
  }

  arrange() {
    this.root.hidden = !this.isExpecting && !this.tiles.children.length;
    this.tiles.style.height = `${PICTURES + this.lines * LINE}px`;
  }

  /**
   * Pictures that are there already stay, and only new ones are read.
   * @param {Tile[]} tiles
   * @param {number} [lines]
   */
  show(tiles, lines = this.lines) {
    const shown = new Map(childrenOf(this.tiles).map((tile) => [tile.dataset.file, tile]));
    const isOther = tiles.length !== shown.size || tiles.some(({ saved }) => !shown.has(saved.filename));
    if (isOther) fill(this.tiles, ...tiles.map(({ saved }) => shown.get(saved.filename) ?? newTile(saved, this.kind)));
    childrenOf(this.tiles).forEach((tile, index) => dress(tile, tiles[index]));
    if (isOther && this.kind !== "seen") this.tiles.scrollLeft = this.tiles.scrollWidth;
    this.lines = lines;
    this.arrange();
  }

  /**
   * @param {string} more
   * @param {string} best
   */
  say(more, best) {
    this.more.textContent = more && ` · ${more}`;
    this.root.firstElementChild?.setAttribute("title", [this.name, more, best].filter(Boolean).join(" · "));
    if (this.best.textContent !== best) this.best.textContent = best; // else a screen reader would speak every second
  }
}

/**
 * @param {Saved} saved
 * @param {Kind | "seen"} kind
 */
function newTile({ filename, subfolder, type }, kind) {
  const url = api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
  return element(
    "div",
    { class: `qr-lora-train-tile${kind === "own" ? " qr-lora-train-sample" : ""}`, role: "listitem", dataset: { file: filename } },
    element("a", { href: url, target: "_blank" }, element("img", { src: url, draggable: "false" })),
  );
}

/**
 * What stands under a picture may change: the best step is another one later.
 * @param {HTMLElement} tile
 * @param {Tile} told
 */
function dress(tile, { label, lines }) {
  const [link, ...before] = childrenOf(tile);
  if (link.title === label) return;
  link.title = label;
  link.firstElementChild?.setAttribute("alt", label);
  for (const line of before) line.remove();
  tile.append(...lines.map((line) => element("span", { class: "qr-lora-quiet", text: line })));
}

/**
 * @param {Sample} sample
 * @param {Best | null} best
 * @param {boolean} isJudged
 * @returns {Tile}
 */
function tileOf(sample, best, isJudged) {
  const { step } = sample;
  const numbers = { likeness: decimals(sample.likeness), freedom: decimals(sample.freedom) };
  const isBest = best?.step === step;
  const parts = [step ? text("train.sample", { step }) : text("train.base_sample")];
  if (isJudged) parts.push(text("train.judged", numbers));
  if (isBest) parts.push(text("train.best", { step, by: text(`train.by_${best.by}`) }));
  const name = step ? String(step) : text("train.base");
  return { saved: sample, label: parts.join("; "), lines: [isBest ? `★ ${name}` : name, ...(isJudged ? [`${numbers.likeness} / ${numbers.freedom}`] : [])] };
}

/** @param {number | null | undefined} share */
function decimals(share) {
  return share == null ? "–" : share.toFixed(2);
}
