/** A training as its reports tell it: steps, curve, samples, what must be read, and the button that ends it. */

/**
 * @typedef {"running" | "finished" | "stopped" | "failed"} State
 * @typedef {{ loss: number | null, seconds_per_step: number | null, seconds_left: number | null, peak_memory: number | null }} Pace
 * @typedef {{ seconds: number | null, memory: number | null, available: number | null }} Estimate
 * @typedef {{ preset?: import("./preset.js").Preset | null, estimate?: Estimate | null }} Foreseen
 * @typedef {{ node_id: string, workflow_id: string | null, state: State, stopping: boolean, step: number, steps: number, losses: number[], warnings: string[], text?: string } & Pace & Foreseen & import("./strips.js").Pictures} Report
 */

import { button, element, plainText } from "../lib/dom.js";
import { text } from "../lib/texts.js";
import { LossCurve } from "./loss_curve.js";
import { Strips } from "./strips.js";

const PRESET = 26; // pixels, as in style.css
const REST = 256;

export class TrainingView {
  /**
   * @param {(nodeId: string) => Promise<boolean>} stop
   * @param {HTMLElement} above a line of its own
   * @param {import("./preset.js").PresetLine} preset
   */
  constructor(stop, above, preset) {
    this.stop = stop;
    this.preset = preset;
    /** @type {Report | null} */
    this.report = null;
    this.onResize = () => {};
    this.state = element("div", { class: "qr-lora-train-state", role: "status" });
    this.button = button(text("train.stop"), text("train.stop_meaning"), () => this.pressStop(), { disabled: true });
    this.details = element("div", { class: "qr-lora-train-details qr-lora-quiet" });
    this.curve = new LossCurve();
    this.strips = new Strips();
    this.words = element("div", { class: "qr-lora-train-words qr-lora-text qr-lora-scroll", tabindex: "0", role: "group", "aria-label": text("train.words") });
    this.root = element(
      "div",
      { role: "group", "aria-label": text("train.panel") },
      above,
      element("div", { class: "qr-lora-train-top" }, this.state, this.button),
      preset.root, this.details, this.curve.root, this.strips.root, this.words,
    );
    this.state.textContent = text("train.idle");
  }

  height() {
    return REST + this.strips.height() + (this.preset.root.hidden ? 0 : PRESET);
  }

  /** @param {boolean} isExpecting */
  expectSamples(isExpecting) {
    this.strips.expect(isExpecting);
  }

  /** @param {Report | undefined} report */
  show(report) {
    if (!report) return;
    this.report = report;
    write(this.state, stateOf(report)); // else a screen reader would speak every second
    this.details.textContent = detailsOf(report);
    this.details.classList.toggle("qr-lora-bad", isTooLarge(report));
    this.preset.show(report.preset ?? null);
    this.curve.draw(report);
    this.showPictures(report);
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

  /** @param {Report} report */
  showPictures(report) {
    const before = this.strips.height();
    this.strips.show(report);
    if (this.strips.height() !== before) this.onResize();
  }
}

/** @param {Report} report */
function stateOf({ state, step, steps }) {
  if (state === "running" && step === 0) return text("train.preparing");
  return text(`train.${state}`, { step, steps });
}

/** @param {Report} report */
function detailsOf(report) {
  if (isForeseen(report)) return foreseen(report);
  const parts = [];
  if (report.loss != null) parts.push(text("train.loss", { loss: report.loss.toPrecision(3) }));
  if (report.seconds_per_step != null) parts.push(text("train.pace", { seconds: report.seconds_per_step.toPrecision(2) }));
  if (report.state === "running" && report.seconds_left != null) parts.push(text("train.left", { time: duration(report.seconds_left) }));
  if (report.peak_memory) parts.push(text("train.memory", { size: gigabytes(report.peak_memory) }));
  return parts.join(" · ");
}

/**
 * Before the first step there is nothing to tell but what is expected.
 * @param {Report} report
 */
function isForeseen({ state, step }) {
  return state === "running" && step === 0;
}

/** @param {Report} report */
function foreseen({ estimate }) {
  const { seconds, memory, available } = estimate ?? {};
  const parts = [];
  if (seconds != null) parts.push(text("train.about", { time: duration(seconds) }));
  if (memory != null) parts.push(available == null ? text("train.needs", { size: gigabytes(memory) }) : text("train.needs_of", { size: gigabytes(memory), available: gigabytes(available) }));
  return parts.join(", ");
}

/** @param {Report} report */
function isTooLarge(report) {
  const { memory, available } = report.estimate ?? {};
  return isForeseen(report) && memory != null && available != null && memory > available;
}

/** @param {number} bytes */
function gigabytes(bytes) {
  return (bytes / 1e9).toFixed(1);
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
