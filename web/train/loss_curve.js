/** A loss curve: faintly what was told, and a line through its running mean. */

import { element } from "../lib/dom.js";
import { text } from "../lib/texts.js";

const SVG = "http://www.w3.org/2000/svg";

export class LossCurve {
  constructor() {
    this.losses = polyline("qr-lora-train-losses");
    this.mean = polyline("qr-lora-train-mean");
    this.drawing = document.createElementNS(SVG, "svg");
    for (const [name, value] of Object.entries({ viewBox: "0 0 1 1", preserveAspectRatio: "none", role: "img" })) this.drawing.setAttribute(name, value);
    this.drawing.append(this.losses, this.mean);
    this.labels = ["high", "low", "step"].map((name) => element("span", { class: `qr-lora-quiet qr-lora-train-${name}` }));
    this.root = element("div", { class: "qr-lora-train-curve" }, this.drawing, ...this.labels);
    this.draw({ losses: [], step: 0 });
  }

  /** @param {{ losses: number[], step: number }} report */
  draw({ losses, step }) {
    const means = runningMean(losses);
    const { low, high } = rangeOf(losses, means);
    this.losses.setAttribute("points", pointsOf(losses, low, high));
    this.mean.setAttribute("points", pointsOf(means, low, high));
    const told = losses.length ? [high, low].map((loss) => loss.toPrecision(3)) : ["", ""];
    const faces = [...told, losses.length ? text("train.curve_step", { step }) : text("train.no_curve")];
    this.labels.forEach((label, index) => (label.textContent = faces[index]));
    this.drawing.setAttribute("aria-label", losses.length ? text("train.curve", { step, high: told[0], low: told[1], mean: means[means.length - 1].toPrecision(3) }) : text("train.no_curve"));
  }
}

/** @param {string} name */
function polyline(name) {
  const made = document.createElementNS(SVG, "polyline");
  made.setAttribute("class", name);
  return made;
}

/**
 * Few bad steps must not flatten the rest.
 * @param {number[]} losses
 * @param {number[]} means
 */
function rangeOf(losses, means) {
  const sorted = losses.toSorted((a, b) => a - b);
  const low = sorted[0] ?? 0;
  return { low, high: Math.max(sorted[Math.floor(0.98 * (sorted.length - 1))] ?? 1, ...means) };
}

/**
 * @param {number[]} values
 * @param {number} low
 * @param {number} high
 */
function pointsOf(values, low, high) {
  const height = Math.max(high - low, 1e-12);
  const down = (/** @type {number} */ value) => Math.min(1, Math.max(0, (high - value) / height));
  return values.map((value, index) => `${((index + 1) / values.length).toFixed(4)},${down(value).toFixed(4)}`).join(" ");
}

/**
 * Over the twentieth of all values before each, 10 at least.
 * @param {number[]} values
 */
function runningMean(values) {
  const span = Math.max(10, Math.floor(values.length / 20));
  return values.map((_, index) => {
    const part = values.slice(Math.max(0, index + 1 - span), index + 1);
    return part.reduce((sum, value) => sum + value, 0) / part.length;
  });
}
