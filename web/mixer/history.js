/** The last mixes of a Mixer with the picture that each gave, and a key to see the picture without the mix. */

/**
 * @typedef {import("./mixer.js").Mixer} Mixer
 * @typedef {import("./runs.js").Entry} Entry
 */

import { app } from "../../../scripts/app.js";
import { element, fill, plainText } from "../lib/dom.js";
import { isLinked, oneChange, setWidgetUnrecorded } from "../lib/graph.js";
import { stepInGrid } from "../lib/keys.js";
import { text } from "../lib/texts.js";
import { fileName } from "../desk/mix.js";
import { isSilent, parseMix, textOf } from "./document.js";
import { NAME } from "./mix.js";
import { entriesOf, followRuns, keyOf, pictureOf, showAgain } from "./runs.js";

const HEIGHT = 48; // pixels, as in style.css
const KEY = "o";
const HOLDING_KEYS = [" ", "Enter"];
const LONGEST = 300;

/** @param {Mixer} mixer */
export function attachHistory(mixer) {
  const strip = new Strip(mixer);
  const off = new Off(mixer);
  mixer.below.append(strip.root);
  mixer.addTool(off.button);
  mixer.onUpdate(() => strip.update());
  mixer.node.qrLoRAHistory = ({ wasSilent }) => (wasSilent ? off.ended() : strip.update());
  followRuns();
  strip.update();
}

class Strip {
  /** @param {Mixer} mixer */
  constructor(mixer) {
    this.mixer = mixer;
    this.root = element("div", { class: "qr-lora-history qr-lora-scroll", role: "group", "aria-label": text("history.strip") });
    this.root.hidden = true;
    /** Buttons by the mix that they bring back. @type {Map<string, HTMLButtonElement>} */
    this.made = new Map();
  }

  update() {
    const entries = entriesOf(this.mixer.node);
    const present = presentKey(this.mixer);
    fill(this.root, ...entries.map((entry) => this.buttonOf(entry)));
    for (const [key, made] of this.made) made.setAttribute("aria-pressed", String(key === present));
    if (this.root.hidden === !entries.length) return;
    this.root.hidden = !entries.length;
    this.mixer.below.style.height = `${entries.length ? HEIGHT : 0}px`;
    this.mixer.resize();
  }

  /** @param {Entry} entry */
  buttonOf(entry) {
    const made = this.made.get(entry.key) ?? element("button", { type: "button", class: "qr-lora-history-mix", dataset: { key: entry.key }, keydown: (event) => this.press(event) });
    this.made.set(entry.key, made);
    made.onclick = () => this.back(entry);
    made.title = text("history.back", { mix: wordsOf(entry) });
    made.setAttribute("aria-label", made.title);
    const src = pictureOf(entry);
    if (made.dataset.picture !== src) {
      made.dataset.picture = src;
      made.replaceChildren(src ? element("img", { src, alt: "", draggable: "false" }) : element("span", { text: parseMix(entry.text)?.rows.length ?? "" }));
    }
    return made;
  }

  /** @param {Entry} entry */
  back({ text: mix, settings }) {
    const parsed = parseMix(mix);
    if (parsed) this.mixer.setMix(parsed, settings);
  }

  /** @param {KeyboardEvent} event */
  press(event) {
    const buttons = /** @type {HTMLElement[]} */ ([...this.root.children]);
    const step = stepInGrid(event, buttons.length);
    if (!step) return;
    event.preventDefault();
    buttons[buttons.findIndex((made) => made === document.activeElement) + step]?.focus();
  }
}

/** @param {Mixer} mixer */
function presentKey(mixer) {
  const own = Object.entries(mixer.settings()).filter(([name]) => !isLinked(mixer.node, name)); // as a run notes them
  return keyOf(mixer.rows.text(), Object.fromEntries(own));
}

/**
 * The rows that were heard, with their scales.
 * @param {Entry} entry
 */
function wordsOf({ text: mix }) {
  const parsed = parseMix(mix) ?? { on: true, rows: [] };
  const heard = parsed.rows.filter((row) => !isSilent(parsed, row));
  return plainText(heard.map(({ file, scale }) => `${fileName(file)} ${scale}`).join(", "), LONGEST);
}

/** Silences the mix while it is held. */
class Off {
  /** @param {Mixer} mixer */
  constructor(mixer) {
    this.mixer = mixer;
    /** What to do when it is let go; null while nobody holds it. @type {(() => void) | null} */
    this.restore = null;
    const label = text("history.off_meaning");
    this.button = element("button", {
      type: "button",
      text: text("history.off"),
      title: label,
      "aria-label": label,
      "aria-pressed": "false",
      "aria-keyshortcuts": "O",
      pointerdown: (event) => this.hold(event),
      keydown: (event) => HOLDING_KEYS.includes(event.key) && this.holdByKey(event),
      click: (event) => this.click(event),
      contextmenu: (event) => event.preventDefault(), // of a long touch
    });
    mixer.desk.root.addEventListener("keydown", (event) => this.key(event));
  }

  /** @param {PointerEvent} event */
  hold(event) {
    if (event.button !== 0) return;
    this.button.setPointerCapture(event.pointerId);
    this.start(["pointerup", "pointercancel"]);
  }

  /** @param {KeyboardEvent} event */
  holdByKey(event) {
    event.preventDefault(); // no click when it is let go
    if (!event.repeat) this.start(["keyup"]);
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const isTyping = /** @type {Element} */ (event.target).closest("input, select, textarea");
    const isPlain = !event.ctrlKey && !event.metaKey && !event.altKey;
    if (event.key.toLowerCase() === KEY && isPlain && !isTyping) this.holdByKey(event);
  }

  /**
   * A screen reader presses without holding: once to silence, once to hear.
   * @param {MouseEvent} event
   */
  click(event) {
    if (event.detail) return; // of a pointer
    if (this.restore) this.release();
    else this.start([]);
  }

  /**
   * All that happens until it is let go leaves no step for undo.
   * @param {string[]} ends events that let it go
   */
  start(ends) {
    const { mixer } = this;
    const mix = mixer.mix();
    if (this.restore || mixer.rows.isFixed() || !mix.on || !mix.rows.length) return;
    const record = oneChange();
    const release = () => this.release();
    const leave = () => document.hidden && this.release();
    mixer.rows.write({ ...mix, on: false });
    this.show(true);
    const asked = app.queuePrompt(0, 1).catch(() => false); // the host tells what is wrong
    for (const name of ends) window.addEventListener(name, release, true);
    window.addEventListener("blur", release);
    document.addEventListener("visibilitychange", leave);
    this.restore = async () => {
      for (const name of ends) window.removeEventListener(name, release, true);
      window.removeEventListener("blur", release);
      document.removeEventListener("visibilitychange", leave);
      await asked; // what is sent is read while it is asked for
      // With what newer hosts may have recorded of the silenced mix meanwhile.
      setWidgetUnrecorded(mixer.node, NAME, textOf({ ...mixer.mix(), on: true }));
      record();
      this.show(false);
      this.showPrevious();
    };
  }

  release() {
    const restore = this.restore;
    this.restore = null;
    restore?.();
  }

  /** @param {boolean} isHeld */
  show(isHeld) {
    this.button.setAttribute("aria-pressed", String(isHeld));
    this.mixer.update();
  }

  /** A run without the mix is over; who let go before does not want to see it. */
  ended() {
    if (!this.restore) this.showPrevious();
  }

  /** The picture of the present mix, where it was made before. */
  showPrevious() {
    const entry = entriesOf(this.mixer.node).find(({ key }) => key === presentKey(this.mixer));
    if (entry) showAgain(entry);
  }
}
