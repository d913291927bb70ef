/** What came of a merge: lines below the desk, and between two rows how they interfere. */

/**
 * @typedef {import("./mix.js").DeskMix} DeskMix
 * @typedef {{ name: string, layers: number, applied: number, rank: string, basis: string, other_base: string, warnings: string[] }} Adapter
 * @typedef {{ product: number | null, energy_first: number, energy_second: number }} Neighbours
 * @typedef {{ slots: number[], adapters: Adapter[], neighbours: Neighbours[], family?: string }} Told what a merge tells
 * @typedef {[string, string]} Line and its look
 */

import { element, plainText } from "../lib/dom.js";
import { text } from "../lib/texts.js";

const STRONG = 0.25; // interference worth a colour

export class Result {
  /** @param {DeskMix} mix */
  constructor(mix) {
    this.mix = mix;
    const properties = { role: "status", tabindex: "0", "aria-label": text("merge.result") };
    this.root = element("div", { class: "qr-lora-scroll qr-lora-text qr-lora-merge-result", ...properties });
    this.show(null);
  }

  /**
   * What the node sent after it ran; null where that no longer fits, or nothing ran.
   * @param {Told | null | undefined} told
   */
  show(told) {
    this.told = told ?? null;
    const lines = told ? linesOf(told) : [[text("merge.not_run"), "quiet"]];
    this.root.replaceChildren(
      ...lines.map(([line, kind]) => element("div", { class: kind && `qr-lora-${kind}`, text: plainText(line) })),
    );
  }

  /**
   * Of two rows that follow each other, at the scales that are sent now.
   * @param {HTMLElement} strip
   * @param {[number, number]} slots
   */
  showBetween(strip, slots) {
    const share = this.interference(slots);
    strip.textContent = share === null ? "" : text("merge.interference", { share: percent(share) });
    strip.title = share === null ? "" : text("merge.interference_meaning");
    strip.classList.toggle("qr-lora-warning", share !== null && Math.abs(share) > STRONG);
  }

  /**
   * ``2 <a D_a, b D_b> / (|a D_a|^2 + |b D_b|^2)``, as in QR-LoRA Compare; null where unknown, or one is off.
   * @param {[number, number]} slots
   */
  interference(slots) {
    if (!this.told) return null;
    const first = this.told.slots.findIndex((slot, at, all) => slot === slots[0] && all[at + 1] === slots[1]);
    const [a, b] = slots.map((slot) => this.mix.sentScale(slot));
    if (first < 0 || !a || !b) return null;
    const { product, energy_first, energy_second } = this.told.neighbours[first];
    if (product === null) return null;
    const energy = a * a * energy_first + b * b * energy_second;
    return energy ? (2 * a * b * product) / energy : null;
  }
}

/**
 * @param {Told} told
 * @returns {Line[]}
 */
function linesOf({ adapters }) {
  if (!adapters.length) return [[text("merge.nothing"), "quiet"]];
  return adapters.flatMap(linesOfOne);
}

/**
 * @param {Adapter} told
 * @returns {Line[]}
 */
function linesOfOne({ warnings, ...adapter }) {
  return [
    [text("merge.applied", adapter), adapter.applied < adapter.layers ? "warning" : ""],
    ...warnings.map((line) => /** @type {Line} */ ([line, line.startsWith("warning") ? "warning" : "quiet"])),
  ];
}

/** @param {number} share */
function percent(share) {
  return `${share < 0 ? "−" : "+"}${(Math.abs(share) * 100).toFixed(1)} %`;
}
