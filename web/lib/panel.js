/** Panels of our own on a node, in both of the host's renderers. */

/** @typedef {{ widget: Widget & { element: HTMLElement }, onSight: () => void, resize: () => void, fit: () => void, tighten: () => void }} Panel */

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { nodeByExecutionId, setSizeUnrecorded } from "./graph.js";

export const MARGIN = 6;
const FRAMES = 180; // within which a new node is drawn
const SETTLED = 10; // frames after which a renderer has given a node its size
const TEXT_WIDGET = "$$node-text-preview";
const MOUSE_EVENTS = /** @type {const} */ (["pointerdown", "pointermove", "pointerup", "dblclick"]);
/** @type {Record<string, "processMouseDown" | "processMouseMove" | "processMouseUp">} */
const PASSED_ON = { pointerdown: "processMouseDown", pointermove: "processMouseMove", pointerup: "processMouseUp" };

/**
 * Put an element on a node, below its widgets, under a name and a label for people. Its height is told, never measured, so that nothing moves when values
 * change; `panel.resize()` takes the new one, `panel.fit()` where the node has the size that was saved with it, and
 * `panel.tighten()` leaves the node no higher than it must be. It is no part of the prompt nor of the saved values.
 *
 * `panel.onSight` is called when it comes into sight, as when its subgraph is opened: what it shows may have changed.
 * @param {LGraphNode} node
 * @param {string} name
 * @param {string} label
 * @param {HTMLElement} content
 * @param {() => number} height
 */
export function addPanel(node, name, label, content, height) {
  content.classList.add("qr-lora");
  for (const kind of MOUSE_EVENTS) content.addEventListener(kind, keepFromHost);
  content.addEventListener("wheel", passWheel, { passive: false });
  content.addEventListener("keydown", keepKeys);
  const widget = node.addDOMWidget(name, "QR_LORA_PANEL", content, {
    serialize: false,
    hideOnZoom: true,
    margin: MARGIN,
    getMinHeight: () => height() + 2 * MARGIN,
    getMaxHeight: () => height() + 2 * MARGIN,
  });
  widget.serialize = false;
  widget.label = label;
  takePlace(node, name, content);
  const setHeight = () => Object.assign(content.style, { height: `${height()}px`, minHeight: `${height()}px` });
  setHeight();
  let last = node.computeSize()[1];
  const grow = (/** @type {(needed: number) => number} */ more) => {
    setHeight();
    const needed = node.computeSize()[1];
    if (needed !== last) node.setSize([node.size[0], Math.max(needed, node.size[1] + more(needed))]);
    last = needed;
  };
  const fit = () => grow(() => 0);
  const tighten = () => {
    fit();
    node.setSize([node.size[0], last]);
  };
  const resize = () => {
    grow((needed) => needed - last);
    node.setDirtyCanvas?.(true, true);
    requestAnimationFrame(() => followSize(node, SETTLED)); // by then the change that it comes from is recorded
  };
  /** @type {Panel} */
  const panel = { widget, onSight: () => {}, resize, fit, tighten };
  new ResizeObserver(() => panel.onSight()).observe(content);
  return panel;
}

/**
 * @param {LGraphNode} node
 * @param {number} frames
 */
function followSize(node, frames) {
  setSizeUnrecorded(node);
  if (frames > 0) requestAnimationFrame(() => followSize(node, frames - 1));
}

/**
 * After undo, or when a workflow is opened again, a node is made anew under its old number. The renderer that draws
 * nodes as elements then goes on showing the panel of the old one, which nobody hears any more.
 * @param {LGraphNode} node
 * @param {string} name
 * @param {HTMLElement} content
 * @param {number} [tries]
 */
function takePlace(node, name, content, tries = FRAMES) {
  if (node.graph && LiteGraph.vueNodesMode) {
    const owner = `${node.graph.id}:${node.id}:${name}`;
    const old = content.isConnected ? null : document.querySelector(`.qr-lora[data-owner="${CSS.escape(owner)}"]`);
    content.dataset.owner = owner;
    old?.replaceWith(content);
  }
  if (tries > 0 && !content.isConnected) requestAnimationFrame(() => takePlace(node, name, content, tries - 1));
}

/**
 * The host would move the node, or open its own menus. The middle button still moves the canvas.
 * @param {MouseEvent} event
 */
function keepFromHost(event) {
  if (event.button !== 1 && !(event.buttons & 4)) return event.stopPropagation();
  if (LiteGraph.vueNodesMode) return;
  const pass = PASSED_ON[event.type];
  if (pass) app.canvas[pass](/** @type {PointerEvent} */ (event));
}

/**
 * Zoom, unless there is something to scroll.
 * @param {WheelEvent} event
 */
function passWheel(event) {
  const scrolled = /** @type {Element} */ (event.target).closest(".qr-lora-scroll");
  if (scrolled && scrolled.scrollHeight > scrolled.clientHeight) return event.stopPropagation();
  if (LiteGraph.vueNodesMode) return;
  event.preventDefault();
  app.canvas.processMouseWheel(event);
}

/**
 * Delete, arrows and letters are for the panel; what is held with Control, as undo is, stays the host's.
 * @param {KeyboardEvent} event
 */
function keepKeys(event) {
  if (!event.ctrlKey && !event.metaKey) event.stopPropagation();
}

/**
 * Where a panel shows what a node has to say, the host's own text box would say it again.
 * @param {LGraphNode} node
 * @param {(told: string) => void} show
 */
export function replaceHostText(node, show) {
  node.qrLoRAText = show;
  if (isListening) return;
  isListening = true;
  api.addEventListener("progress_text", ({ detail }) => {
    const spoken = nodeByExecutionId(detail.nodeId);
    if (!spoken?.qrLoRAText) return;
    spoken.qrLoRAText(detail.text);
    queueMicrotask(() => removeHostText(spoken)); // the host may hear of it after us
  });
}
let isListening = false;

/** @param {LGraphNode} node */
function removeHostText(node) {
  const index = node.widgets?.findIndex((widget) => widget.name === TEXT_WIDGET) ?? -1;
  if (index < 0) return;
  node.widgets[index].onRemove?.();
  node.widgets.splice(index, 1);
}
