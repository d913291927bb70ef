/** Draws a schedule and lets its points and the ends of its window be moved. */

/** @typedef {import("./curve.js").Point} Point */

import { button, element, plainText } from "../lib/dom.js";
import { drag, placeIn } from "../lib/drag.js";
import { isLinked, recordChange, setWidget, tellDrag, widgetOf } from "../lib/graph.js";
import { arrowOf } from "../lib/keys.js";
import { text } from "../lib/texts.js";
import { CUSTOM, factorAt, formatPoints, makeCurve, place, ScheduleError, shapeOf } from "./curve.js";

export const WIDGETS = ["curve", "start_percent", "end_percent", "points"];
const SVG = "http://www.w3.org/2000/svg";
const STEP = { progress: 0.01, factor: 0.05 };
const SHIFT = 10; // times as far
const HEADROOM = 1.25; // to drag a factor above the highest
const WINDOW = ["start_percent", "end_percent"];

export class Editor {
  /** @param {LGraphNode} node */
  constructor(node) {
    this.node = node;
    this.height = 206; // as in style.css
    this.selected = 0;
    /** The handles. @type {HTMLElement[]} */
    this.points = [];
    /** @type {Point[]} */
    this.shape = [];
    this.range = { low: 0, high: HEADROOM };
    this.isFixed = this.isDragging = false;
    this.line = document.createElementNS(SVG, "polyline");
    this.line.setAttribute("class", "qr-lora-schedule-line");
    const drawing = document.createElementNS(SVG, "svg");
    for (const [name, value] of Object.entries({ viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" })) drawing.setAttribute(name, value);
    drawing.append(this.line);
    this.levels = [1, 0].map((level) => element("div", { class: "qr-lora-schedule-level", dataset: { level } }));
    this.outside = WINDOW.map(() => element("div", { class: "qr-lora-schedule-outside" }));
    this.ends = WINDOW.map((name, index) => this.windowEnd(name, index));
    this.plot = element(
      "div",
      { class: "qr-lora-schedule-plot", title: text("schedule.plot_meaning"), dblclick: (event) => this.addAtPointer(event) },
      ...this.outside, ...this.levels, drawing, ...this.ends,
    );
    this.message = element("div", { class: "qr-lora-schedule-message qr-lora-quiet", role: "status" });
    this.more = button("+", text("schedule.add"), () => this.addInWidestGap());
    this.less = button("−", text("schedule.remove"), () => this.remove(this.selected));
    const axis = ["schedule.first_step", "schedule.last_step"].map((key) => element("span", { text: text(key) }));
    this.root = element(
      "div",
      { role: "group", "aria-label": text("schedule.panel") },
      this.plot,
      element("div", { class: "qr-lora-schedule-axis qr-lora-quiet" }, ...axis),
      element("div", { class: "qr-lora-schedule-tools" }, this.more, this.less, this.message),
    );
  }

  values() {
    return WIDGETS.map((name) => widgetOf(this.node, name)?.value);
  }

  draw() {
    const [curve, start, end, written] = this.values();
    this.isFixed = WIDGETS.some((name) => isLinked(this.node, name));
    this.placeWindow(start, end);
    try {
      this.shape = shapeOf(curve, written, start, end);
      this.placeCurve(makeCurve(curve, written, start, end));
      this.say(this.isFixed ? text("schedule.linked") : this.describe(this.selected), false);
    } catch (error) {
      if (!(error instanceof ScheduleError)) throw error;
      this.shape = [];
      this.line.setAttribute("points", "");
      this.say(text(error.message, shortened(error.values)), true);
    }
    this.placePoints(start, end);
  }

  /**
   * @param {string} message
   * @param {boolean} isWrong
   */
  say(message, isWrong) {
    this.message.textContent = this.message.title = message;
    this.message.classList.toggle("qr-lora-warning", isWrong);
    this.message.classList.toggle("qr-lora-quiet", !isWrong);
  }

  /**
   * @param {number} start
   * @param {number} end
   */
  placeWindow(start, end) {
    const sides = [[0, start], [end, 1]];
    this.outside.forEach((shade, index) => Object.assign(shade.style, { left: percent(sides[index][0]), width: percent(Math.max(0, sides[index][1] - sides[index][0])) }));
    [start, end].forEach((progress, index) => {
      const label = text(index ? "schedule.window_end" : "schedule.window_start");
      this.ends[index].style.left = percent(progress);
      describeSlider(this.ends[index], label, progress, `${Math.round(progress * 100)} %`);
    });
    for (const handle of this.ends) handle.hidden = this.isFixed;
  }

  /** @param {Point[]} drawn */
  placeCurve(drawn) {
    if (!this.isDragging) this.range = rangeOf(drawn);
    const ends = [[0, drawn[0][1]], ...drawn, [1, drawn[drawn.length - 1][1]]];
    this.line.setAttribute("points", ends.map(([progress, factor]) => `${progress},${this.fromTop(factor)}`).join(" "));
    for (const level of this.levels) level.style.top = percent(this.fromTop(Number(level.dataset.level)));
  }

  /**
   * The share of the plot's height above a factor.
   * @param {number} factor
   */
  fromTop(factor) {
    return (this.range.high - factor) / (this.range.high - this.range.low);
  }

  /**
   * As many handles as there are points; those that stay keep the focus.
   * @param {number} start
   * @param {number} end
   */
  placePoints(start, end) {
    const shown = this.isFixed ? [] : this.shape;
    this.selected = Math.max(0, Math.min(this.selected, shown.length - 1));
    while (this.points.length > shown.length) this.points.pop()?.remove();
    while (this.points.length < shown.length) this.plot.append(this.newPoint(this.points.length));
    shown.forEach(([share, factor], index) => {
      const handle = this.points[index];
      Object.assign(handle.style, { left: percent(place(share, start, end)), top: percent(this.fromTop(factor)) });
      handle.classList.toggle("qr-lora-schedule-selected", index === this.selected);
      handle.setAttribute("aria-valuemin", String(Math.min(this.range.low, factor)));
      handle.setAttribute("aria-valuemax", String(Math.max(this.range.high, factor)));
      describeSlider(handle, text("schedule.point", { number: index + 1, count: shown.length }), factor, this.describe(index));
    });
    this.more.disabled = !shown.length;
    this.less.disabled = shown.length < 2;
  }

  /** @param {number} index */
  describe(index) {
    const point = this.shape[index];
    return point ? text("schedule.at", { progress: +(point[0] * 100).toFixed(2), factor: point[1] }) : "";
  }

  /** @param {number} index */
  newPoint(index) {
    const made = element("div", {
      class: "qr-lora-schedule-point",
      role: "slider",
      tabindex: "0",
      "aria-roledescription": text("schedule.point_role"),
      focus: () => this.select(index),
      dblclick: (event) => (event.stopPropagation(), this.remove(index)),
      keydown: (event) => this.pressKey(event, index),
    });
    made.addEventListener("pointerdown", (event) => this.drag(event, made, ([progress, factor]) => this.move(index, this.toShare(progress), factor)));
    this.points.push(made);
    return made;
  }

  /**
   * @param {string} name
   * @param {number} index
   */
  windowEnd(name, index) {
    const made = element("div", {
      class: "qr-lora-schedule-end",
      role: "slider",
      tabindex: "0",
      "aria-valuemin": "0",
      "aria-valuemax": "1",
      keydown: (event) => this.pressWindowKey(event, name, index),
    });
    made.addEventListener("pointerdown", (event) => this.drag(event, made, ([progress]) => this.moveEnd(name, index, progress)));
    return made;
  }

  /** @param {number} index */
  select(index) {
    this.selected = index;
    this.draw();
  }

  /**
   * @param {PointerEvent} event
   * @param {HTMLElement} handle
   * @param {(place: Point) => void} move
   */
  drag(event, handle, move) {
    if (event.button !== 0) return;
    event.preventDefault();
    handle.focus();
    this.isDragging = true;
    const follow = (/** @type {PointerEvent} */ moved) => {
      move(this.atPointer(moved));
      tellDrag();
    };
    drag(handle, event, follow, () => {
      this.isDragging = false;
      this.draw();
    });
  }

  /**
   * Progress and factor under the pointer, within the plot.
   * @param {MouseEvent} event
   * @returns {Point}
   */
  atPointer(event) {
    const { share, up } = placeIn(this.plot, event);
    return [share, this.range.low + up * (this.range.high - this.range.low)];
  }

  /** @param {number} progress */
  toShare(progress) {
    const [, start, end] = this.values();
    return clamp((progress - start) / (end - start), 0, 1);
  }

  /**
   * @param {KeyboardEvent} event
   * @param {number} index
   */
  pressKey(event, index) {
    if (event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      return this.remove(index);
    }
    const arrow = arrowOf(event);
    if (!arrow) return;
    event.preventDefault();
    const times = event.shiftKey ? SHIFT : 1;
    const [share, factor] = this.shape[index];
    this.move(index, share + arrow[0] * STEP.progress * times, factor + arrow[1] * STEP.factor * times);
    tellDrag();
    recordChange();
  }

  /**
   * @param {KeyboardEvent} event
   * @param {string} name
   * @param {number} index
   */
  pressWindowKey(event, name, index) {
    const arrow = arrowOf(event);
    if (!arrow) return;
    event.preventDefault();
    const times = event.shiftKey ? SHIFT : 1;
    this.moveEnd(name, index, this.values()[index + 1] + (arrow[0] + arrow[1]) * STEP.progress * times);
    tellDrag();
    recordChange();
  }

  /**
   * A point stays between its neighbours.
   * @param {number} index
   * @param {number} share
   * @param {number} factor
   */
  move(index, share, factor) {
    const [left, right] = [this.shape[index - 1]?.[0] ?? 0, this.shape[index + 1]?.[0] ?? 1];
    this.write(this.shape.with(index, [clamp(rounded(share), left, right), rounded(factor)]));
  }

  /**
   * @param {string} name
   * @param {number} index
   * @param {number} progress
   */
  moveEnd(name, index, progress) {
    const [, start, end] = this.values();
    const [least, most] = index ? [start + STEP.progress, 1] : [0, end - STEP.progress];
    setWidget(this.node, name, rounded(clamp(progress, least, most)));
    this.draw();
  }

  /** @param {MouseEvent} event */
  addAtPointer(event) {
    if (!this.shape.length || this.isFixed) return;
    const [progress, factor] = this.atPointer(event);
    this.add(rounded(this.toShare(progress)), rounded(factor));
  }

  addInWidestGap() {
    const ends = [0, ...this.shape.map(([share]) => share), 1];
    const gaps = ends.slice(1).map((share, index) => share - ends[index]);
    const widest = gaps.indexOf(Math.max(...gaps));
    const share = rounded((ends[widest] + ends[widest + 1]) / 2);
    this.add(share, rounded(factorAt(this.shape, share)));
  }

  /**
   * @param {number} share
   * @param {number} factor
   */
  add(share, factor) {
    const index = this.shape.filter(([passed]) => passed <= share).length;
    this.write(this.shape.toSpliced(index, 0, [share, factor]));
    this.points[index].focus();
    recordChange();
  }

  /** @param {number} index */
  remove(index) {
    if (this.shape.length < 2) return;
    this.write(this.shape.toSpliced(index, 1));
    recordChange();
  }

  /**
   * From now on the curve is one through own points.
   * @param {Point[]} shape
   */
  write(shape) {
    setWidget(this.node, "points", formatPoints(shape));
    setWidget(this.node, "curve", CUSTOM);
    this.draw();
  }
}

/** @param {Point[]} points */
function rangeOf(points) {
  const factors = points.map(([, factor]) => factor);
  const [least, most] = [Math.min(0, ...factors), Math.max(1, ...factors)];
  return { low: least * HEADROOM, high: most * HEADROOM };
}

/**
 * @param {HTMLElement} handle
 * @param {string} label
 * @param {number} value
 * @param {string} spoken
 */
function describeSlider(handle, label, value, spoken) {
  handle.setAttribute("aria-label", label);
  handle.setAttribute("aria-valuenow", String(value));
  handle.setAttribute("aria-valuetext", spoken);
  handle.title = `${label}: ${spoken}`;
}

/** @param {Record<string, unknown>} values */
function shortened(values) {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, plainText(value, 40)]));
}

/**
 * @param {number} value
 * @param {number} least
 * @param {number} most
 */
function clamp(value, least, most) {
  return Math.min(most, Math.max(least, value));
}

/** @param {number} value */
function rounded(value) {
  return Number(value.toFixed(2)) + 0; // no -0
}

/** @param {number} share */
function percent(share) {
  return `${share * 100}%`;
}
