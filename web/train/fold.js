/** How much of `QRLoRA_Train` is shown: what one needs, or every setting. What is sent is the same. */

import { element, plainText } from "../lib/dom.js";
import { linkInto, recordChange, widgetOf } from "../lib/graph.js";
import { text } from "../lib/texts.js";

export const PRESET = "preset";
export const NO_PRESET = "none";
const NEEDED = [PRESET, "role", "seed", "steps", "run_name", "sample_every", "resume_from"];
const OF_PRESET = [
  "steps", "learning_rate", "rank", "alpha", "variant", "targets", "custom_targets", "batch_size", "grad_accumulation",
  "training_dtype", "gradient_checkpointing",
];
const PROPERTY = "qr_lora_view";
const SIMPLE = "simple";
const LONGEST = 24; // characters of a value

export class Fold {
  /**
   * Of a node as it was made, whose widgets have their defaults.
   * @param {LGraphNode} node
   * @param {() => void} onChange
   */
  constructor(node, onChange) {
    this.node = node;
    this.onChange = onChange;
    this.defaults = new Map(node.widgets.map(({ name, value }) => [name, value]));
    node.properties[PROPERTY] = SIMPLE;
    const toggle = () => this.toggle();
    this.switch = element("button", { type: "button", class: "qr-lora-train-more", text: text("train.all"), click: toggle });
    this.changed = element("button", { type: "button", class: "qr-lora-train-changed", click: toggle });
    this.root = element("div", { class: "qr-lora-train-fold" }, this.switch, this.changed);
  }

  /**
   * A workflow that does not say what it shows, as those of earlier releases, shows everything.
   * @param {{ properties?: Record<string, unknown> }} saved
   */
  restore({ properties }) {
    if (properties?.[PROPERTY] === undefined) delete this.node.properties[PROPERTY];
  }

  isSimple() {
    return this.node.properties[PROPERTY] === SIMPLE;
  }

  toggle() {
    if (this.isSimple()) delete this.node.properties[PROPERTY];
    else this.node.properties[PROPERTY] = SIMPLE;
    this.onChange();
    this.switch.focus();
    recordChange();
  }

  /** The name of the preset, empty where none is chosen. */
  preset() {
    const name = String(widgetOf(this.node, PRESET)?.value ?? NO_PRESET);
    return name === NO_PRESET ? "" : name;
  }

  /**
   * Whether the preset decides on a widget.
   * @param {string} name
   */
  isClosed(name) {
    return this.preset() !== "" && OF_PRESET.includes(name);
  }

  /**
   * A link is never out of sight.
   * @param {string} name
   */
  isFolded(name) {
    const isNeeded = !this.defaults.has(name) || (NEEDED.includes(name) && !this.isClosed(name));
    return this.isSimple() && !isNeeded && !linkInto(this.node, name);
  }

  update() {
    const isSimple = this.isSimple();
    this.switch.setAttribute("aria-expanded", String(!isSimple));
    this.switch.title = text(isSimple ? "train.unfold" : "train.fold");
    const changed = this.changedOutOfSight();
    const said = text(changed.length === 1 ? "train.changed_one" : "train.changed", { count: changed.length, list: changed.join(", ") });
    this.changed.hidden = !changed.length;
    this.changed.textContent = said;
    this.changed.title = `${said}\n${this.switch.title}`;
  }

  /** What nobody sees, and what counts all the same. */
  changedOutOfSight() {
    return this.node.widgets.flatMap(({ name, label }) => {
      const value = widgetOf(this.node, name)?.value;
      const isTold = this.isFolded(name) && !this.isClosed(name) && value !== this.defaults.get(name);
      return isTold ? [`${label ?? name} ${shown(value)}`] : [];
    });
  }
}

/** @param {unknown} value */
function shown(value) {
  if (typeof value === "boolean") return text(value ? "train.on" : "train.off");
  return plainText(value, LONGEST).replaceAll("\n", " ");
}
