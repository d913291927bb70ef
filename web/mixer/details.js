/** What a row unfolds: its scale in text encoders, blocks, schedule, what its file tells, and what to do with it. */

/**
 * @typedef {import("./document.js").MixRow} MixRow
 * @typedef {import("./files.js").Facts} Facts
 * @typedef {import("./mixer.js").Mixer} Mixer
 */

import { copyButton } from "../lib/copy.js";
import { button, element, fill, plainText } from "../lib/dom.js";
import { text } from "../lib/texts.js";
import { CURVE_NAMES, CUSTOM, formatPoints, parsePoints, ScheduleError, shapeOf } from "../schedule/curve.js";
import { factsOf } from "./files.js";
import { bounded } from "./mix.js";

const LINE = 30; // pixels with the gap below, as in style.css
const ERROR = 18;
const NONE = "";
const STEP = 0.05;

export class Details {
  /**
   * @param {Mixer} mixer
   * @param {number} slot
   */
  constructor(mixer, slot) {
    this.mixer = mixer;
    this.slot = slot;
    this.file = "";
    /** @type {Facts | null} */
    this.facts = null;
    this.clip = element("input", { type: "number", step: STEP, change: () => this.enterClip() });
    this.isSame = element("input", { type: "checkbox", change: () => this.toggleSame() });
    this.blocks = this.textField("blocks", "single_blocks.*: 0.5");
    this.schedule = element("select", { change: () => this.choose() });
    this.points = this.textField("schedule", "0:1, 0.5:0.3");
    this.error = element("div", { class: "qr-lora-mixer-error qr-lora-bad", role: "status" });
    this.triggers = element("span", { class: "qr-lora-mixer-words" });
    this.copy = copyButton(() => this.triggers.textContent ?? "");
    this.recommended = button("", "", () => this.change({ scale: bounded(this.facts?.strength ?? 1) }));
    this.tools = [
      button(text("mixer.choose"), text("mixer.choose_meaning"), () => mixer.chooseOther(slot)),
      button(text("mixer.duplicate"), text("mixer.duplicate_meaning"), () => mixer.duplicate(slot)),
      button(text("mixer.remove"), text("mixer.remove_meaning"), () => mixer.remove(slot)),
    ];
    this.told = line(this.triggers, this.copy, this.recommended);
    this.likely = element("div", { class: "qr-lora-mixer-likely" });
    this.root = this.arranged();
    for (const [value, name] of this.curves()) this.schedule.append(element("option", { value, text: name }));
  }

  /**
   * @param {"blocks" | "schedule"} name
   * @param {string} example
   */
  textField(name, example) {
    const field = element("input", { type: "text", placeholder: example, "aria-label": text(`mixer.${name}`), spellcheck: "false" });
    field.addEventListener("change", () => this.change({ [name]: field.value.trim() }));
    return field;
  }

  arranged() {
    return element(
      "div",
      { class: "qr-lora-mixer-details" },
      line(labelled("mixer.clip", this.clip), element("label", {}, this.isSame, text("mixer.clip_same"))),
      line(labelled("mixer.blocks", this.blocks)),
      line(labelled("mixer.schedule", this.schedule), this.points),
      this.error,
      this.told,
      this.likely,
      line(...this.tools),
    );
  }

  /** @returns {[string, string][]} */
  curves() {
    return [[NONE, text("mixer.no_schedule")], ...CURVE_NAMES.map((name) => /** @type {[string, string]} */ ([name, name])), [CUSTOM, text("mixer.own_points")]];
  }

  row() {
    return this.mixer.rows.row(this.slot);
  }

  height() {
    return (4 + Number(this.hasFacts()) + this.mixer.likelyOf(this.slot).length) * LINE + (this.problem() ? ERROR : 0);
  }

  hasFacts() {
    const { file } = this.row();
    return this.file === file && Boolean(wordsOf(this.facts) || this.facts?.strength != null);
  }

  /** @param {Partial<MixRow>} fields */
  change(fields) {
    this.mixer.do(() => this.mixer.rows.change(this.slot, fields));
  }

  toggleSame() {
    this.change({ clip_scale: this.isSame.checked ? null : this.row().scale });
  }

  enterClip() {
    const scale = this.clip.valueAsNumber;
    if (Number.isFinite(scale)) this.change({ clip_scale: bounded(scale) });
  }

  /** Own points start as the curve that was there. */
  choose() {
    const { schedule } = this.row();
    const before = CURVE_NAMES.includes(schedule) ? schedule : "constant";
    this.change({ schedule: this.schedule.value === CUSTOM ? formatPoints(shapeOf(before, "", 0, 1)) : this.schedule.value });
  }

  /** What is wrong with this row. */
  problem() {
    const { schedule } = this.row();
    if (schedule && !CURVE_NAMES.includes(schedule)) {
      try {
        parsePoints(schedule);
      } catch (error) {
        if (error instanceof ScheduleError) return text(error.message, error.values);
      }
    }
    const { check } = this.mixer;
    return check?.row === this.slot ? (check.reason ?? check.error ?? "") : "";
  }

  show() {
    const row = this.row();
    this.showValues(row);
    this.error.textContent = this.error.title = plainText(this.problem());
    this.error.hidden = !this.error.textContent;
    this.showFacts(row.file);
    this.showLikely();
    const isFixed = this.mixer.rows.isFixed();
    for (const control of [this.isSame, this.blocks, this.schedule, this.points, this.recommended, ...this.tools]) control.disabled = isFixed;
    this.clip.disabled = isFixed || row.clip_scale === null;
  }

  /** @param {MixRow} row */
  showValues({ scale, clip_scale, blocks, schedule }) {
    const own = schedule !== NONE && !CURVE_NAMES.includes(schedule);
    this.isSame.checked = clip_scale === null;
    this.schedule.value = own ? CUSTOM : schedule;
    this.points.hidden = !own;
    /** @type {[HTMLInputElement, string | number][]} */
    const fields = [[this.clip, clip_scale ?? scale], [this.blocks, oneLine(blocks)], [this.points, oneLine(schedule)]];
    for (const [field, value] of fields) if (document.activeElement !== field) field.value = String(value);
  }

  /** @param {string} file */
  showFacts(file) {
    if (this.file !== file) this.askFacts(file);
    const words = wordsOf(this.facts);
    this.triggers.textContent = this.triggers.title = words;
    this.copy.hidden = !words;
    this.told.hidden = !this.hasFacts();
    const strength = this.facts?.strength;
    this.recommended.hidden = strength == null;
    this.recommended.textContent = text("mixer.recommended", { scale: strength });
    this.recommended.title = this.recommended.ariaLabel = text("mixer.recommended_meaning", { scale: strength });
  }

  /** @param {string} file */
  async askFacts(file) {
    this.file = file;
    this.facts = null;
    const facts = await factsOf(file).catch(() => null); // it is missing, or no adapter: the row says so
    if (this.file !== file) return;
    this.facts = facts;
    this.mixer.update();
  }

  showLikely() {
    const offers = this.mixer.likelyOf(this.slot).map(({ name, same }) => {
      const label = text(same ? "mixer.replace_same" : "mixer.replace", { name: plainText(name, 200) });
      const isFixed = this.mixer.rows.isFixed();
      return button(label, label, () => this.mixer.replace(this.slot, name), { dataset: { key: name }, disabled: isFixed });
    });
    fill(this.likely, ...offers);
  }
}

/**
 * @param {Facts | null} facts
 */
function wordsOf(facts) {
  return plainText(facts?.triggers || facts?.tags?.join(", ") || "", 1000);
}

/**
 * As a field of one line can hold it, with the same meaning.
 * @param {string} written
 */
function oneLine(written) {
  return written.replace(/\s*\n\s*/g, ", ");
}

/** @param {...HTMLElement} children */
function line(...children) {
  return element("div", { class: "qr-lora-merge-line" }, ...children);
}

/**
 * @param {string} key
 * @param {HTMLElement} field
 */
function labelled(key, field) {
  return element("label", { title: text(`${key}_meaning`) }, element("span", { class: "qr-lora-mixer-label qr-lora-quiet", text: text(key) }), field);
}
