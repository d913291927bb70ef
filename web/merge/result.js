/** What came of a merge: lines below the desk, and between two rows how they interfere. */

import { element, plainText } from "../lib/dom.js";
import { text } from "../lib/texts.js";
import * as mix from "./mix.js";

const STRONG = 0.25; // interference worth a colour

export class Result {
  constructor(node) {
    this.node = node;
    const properties = { role: "status", tabindex: "0", "aria-label": text("merge.result") };
    this.root = element("div", { class: "qr-lora-scroll qr-lora-text qr-lora-merge-result", ...properties });
    this.show(null);
  }

  /** What the node sent after it ran; null where that no longer fits, or nothing ran. */
  show(told) {
    this.told = told ?? null;
    const lines = told ? linesOf(told) : [[text("merge.not_run"), "quiet"]];
    this.root.replaceChildren(
      ...lines.map(([line, kind]) => element("div", { class: kind && `qr-lora-${kind}`, text: plainText(line) })),
    );
  }

  /** Of two rows that follow each other, at the scales that are sent now. */
  showBetween(strip, slots) {
    const share = this.interference(slots);
    strip.textContent = share === null ? "" : text("merge.interference", { share: percent(share) });
    strip.title = share === null ? "" : text("merge.interference_meaning");
    strip.classList.toggle("qr-lora-warning", Math.abs(share) > STRONG);
  }

  /** ``2 <a D_a, b D_b> / (|a D_a|^2 + |b D_b|^2)``, as in QR-LoRA Compare; null where unknown, or one is off. */
  interference(slots) {
    const first = this.told?.slots.findIndex((slot, at) => slot === slots[0] && this.told.slots[at + 1] === slots[1]) ?? -1;
    const [a, b] = slots.map((slot) => mix.sentScale(this.node, slot));
    if (first < 0 || !a || !b) return null;
    const { product, energy_first, energy_second } = this.told.neighbours[first];
    const energy = a * a * energy_first + b * b * energy_second;
    return energy ? (2 * a * b * product) / energy : null;
  }
}

function linesOf({ adapters }) {
  if (!adapters.length) return [[text("merge.nothing"), "quiet"]];
  return adapters.flatMap(({ warnings, ...adapter }) => [
    [text("merge.applied", adapter), adapter.applied < adapter.layers ? "warning" : ""],
    ...warnings.map((line) => [line, line.startsWith("warning") ? "warning" : "quiet"]),
  ]);
}

function percent(share) {
  return `${share < 0 ? "−" : "+"}${(Math.abs(share) * 100).toFixed(1)} %`;
}
