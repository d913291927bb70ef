/** A training as its reports tell it: steps, curve, samples, what must be read, and the button that ends it. */

/**
 * @typedef {{ step: number, filename: string, subfolder: string, type: string }} Sample
 * @typedef {"running" | "finished" | "stopped" | "failed"} State
 * @typedef {{ loss: number | null, seconds_per_step: number | null, seconds_left: number | null, peak_memory: number | null }} Pace
 * @typedef {{ node_id: string, workflow_id: string | null, state: State, stopping: boolean, step: number, steps: number, losses: number[], samples: Sample[], warnings: string[], text?: string } & Pace} Report
 */

import { api } from "../../../scripts/api.js";
import { button, childrenOf, element, fill, plainText } from "../lib/dom.js";
import { text } from "../lib/texts.js";
import { LossCurve } from "./loss_curve.js";

const STRIP = 94; // pixels, as in style.css
const REST = 228;

export class TrainingView {
  /** @param {(nodeId: string) => Promise<boolean>} stop */
  constructor(stop) {
    this.stop = stop;
    /** @type {Report | null} */
    this.report = null;
    this.hasSamples = this.isExpectingSamples = false;
    this.onResize = () => {};
    this.state = element("div", { class: "qr-lora-train-state", role: "status" });
    this.button = button(text("train.stop"), text("train.stop_meaning"), () => this.pressStop(), { disabled: true });
    this.details = element("div", { class: "qr-lora-train-details qr-lora-quiet" });
    this.curve = new LossCurve();
    this.strip = element("div", { class: "qr-lora-train-strip qr-lora-scroll", role: "list", "aria-label": text("train.samples") });
    this.words = element("div", { class: "qr-lora-train-words qr-lora-text qr-lora-scroll", tabindex: "0", role: "group", "aria-label": text("train.words") });
    this.root = element(
      "div",
      { role: "group", "aria-label": text("train.panel") },
      element("div", { class: "qr-lora-train-top" }, this.state, this.button),
      this.details, this.curve.root, this.strip, this.words,
    );
    this.state.textContent = text("train.idle");
    this.strip.hidden = true;
  }

  height() {
    return REST + (this.strip.hidden ? 0 : STRIP);
  }

  /**
   * The strip has its place from the start, so that nothing moves when the first sample comes.
   * @param {boolean} isExpecting
   */
  expectSamples(isExpecting) {
    this.isExpectingSamples = isExpecting;
    this.strip.hidden = !isExpecting && !this.hasSamples;
  }

  /** @param {Report | undefined} report */
  show(report) {
    if (!report) return;
    this.report = report;
    write(this.state, stateOf(report)); // else a screen reader would speak every second
    this.details.textContent = detailsOf(report);
    this.curve.draw(report);
    this.showSamples(report.samples);
    this.words.textContent = plainText(report.text ?? report.warnings.join("\n"), 20000);
    this.words.classList.toggle("qr-lora-warning", !report.text);
    this.showButton(report);
  }

  /** @param {Report} report */
  showButton({ state, stopping }) {
    this.button.disabled = state !== "running" || stopping;
    const key = state === "stopped" ? "train.stop_done" : state === "running" && stopping ? "train.stop_asked" : "train.stop";
    this.button.textContent = text(key);
  }

  async pressStop() {
    this.button.disabled = true;
    this.button.textContent = text("train.stop_asked");
    if (!(await this.stop(this.report?.node_id ?? ""))) this.button.textContent = text("train.stop_nothing");
  }

  /**
   * Pictures that are there already stay, and only new ones are read.
   * @param {Sample[]} samples
   */
  showSamples(samples) {
    const shown = new Map(childrenOf(this.strip).map((tile) => [tile.dataset.file, tile]));
    const hasNew = samples.some((sample) => !shown.has(sample.filename));
    if (!hasNew && samples.length === shown.size) return;
    fill(this.strip, ...samples.map((sample) => shown.get(sample.filename) ?? newTile(sample)));
    this.strip.scrollLeft = this.strip.scrollWidth;
    if (this.hasSamples === Boolean(samples.length)) return;
    this.hasSamples = Boolean(samples.length);
    this.expectSamples(this.isExpectingSamples);
    this.onResize();
  }
}

/** @param {Sample} sample */
function newTile({ step, filename, subfolder, type }) {
  const url = api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
  const label = text("train.sample", { step });
  return element(
    "div",
    { class: "qr-lora-train-sample", role: "listitem", dataset: { file: filename } },
    element("a", { href: url, target: "_blank", title: label }, element("img", { src: url, alt: label, draggable: "false" })),
    element("span", { class: "qr-lora-quiet", text: String(step) }),
  );
}

/** @param {Report} report */
function stateOf({ state, step, steps }) {
  if (state === "running" && step === 0) return text("train.preparing");
  return text(`train.${state}`, { step, steps });
}

/** @param {Report} report */
function detailsOf(report) {
  const parts = [];
  if (report.loss != null) parts.push(text("train.loss", { loss: report.loss.toPrecision(3) }));
  if (report.seconds_per_step != null) parts.push(text("train.pace", { seconds: report.seconds_per_step.toPrecision(2) }));
  if (report.state === "running" && report.seconds_left != null) parts.push(text("train.left", { time: duration(report.seconds_left) }));
  if (report.peak_memory) parts.push(text("train.memory", { size: (report.peak_memory / 1e9).toFixed(1) }));
  return parts.join(" · ");
}

/**
 * `45 s`, `12 min` or `3 h 20 min`.
 * @param {number} seconds
 */
function duration(seconds) {
  if (seconds < 90) return text("train.seconds", { seconds: Math.ceil(seconds) });
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return text("train.minutes", { minutes });
  return text("train.hours", { hours: Math.floor(minutes / 60), minutes: minutes % 60 });
}

/**
 * @param {HTMLElement} target
 * @param {string} content
 */
function write(target, content) {
  if (target.textContent !== content) target.textContent = content;
}
