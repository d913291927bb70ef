/** Panels of our own on a node, in both of the host's renderers. */

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { nodeByExecutionId } from "./graph.js";

const MARGIN = 6;
const FRAMES = 180; // within which a new node is drawn
const TEXT_WIDGET = "$$node-text-preview";

/**
 * Put an element on a node, below its widgets. Its height is told, never measured, so that nothing moves when values
 * change; `panel.resize()` takes the new one. It is no part of the prompt nor of the saved values.
 */
export function addPanel(node, name, content, height) {
  content.classList.add("qr-lora");
  for (const kind of ["pointerdown", "pointermove", "pointerup", "dblclick"]) content.addEventListener(kind, keepFromHost);
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
  takePlace(node, name, content);
  const setHeight = () => Object.assign(content.style, { height: `${height()}px` });
  setHeight();
  let last = node.computeSize()[1];
  const resize = () => {
    setHeight();
    const needed = node.computeSize()[1];
    if (needed !== last) node.setSize([node.size[0], Math.max(needed, node.size[1] + needed - last)]);
    last = needed;
    node.setDirtyCanvas?.(true, true);
  };
  return { widget, resize };
}

/**
 * After undo, or when a workflow is opened again, a node is made anew under its old number. The renderer that draws
 * nodes as elements then goes on showing the panel of the old one, which nobody hears any more.
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

/** The host would move the node, or open its own menus. The middle button still moves the canvas. */
function keepFromHost(event) {
  if (event.button !== 1 && !(event.buttons & 4)) return event.stopPropagation();
  if (LiteGraph.vueNodesMode) return;
  const pass = { pointerdown: "processMouseDown", pointermove: "processMouseMove", pointerup: "processMouseUp" }[event.type];
  if (pass) app.canvas[pass](event);
}

/** Zoom, unless there is something to scroll. */
function passWheel(event) {
  const scrolled = event.target.closest(".qr-lora-scroll");
  if (scrolled && scrolled.scrollHeight > scrolled.clientHeight) return event.stopPropagation();
  if (LiteGraph.vueNodesMode) return;
  event.preventDefault();
  app.canvas.processMouseWheel(event);
}

/** Delete, arrows and letters are for the panel; what is held with Control, as undo is, stays the host's. */
function keepKeys(event) {
  if (!event.ctrlKey && !event.metaKey) event.stopPropagation();
}

/**
 * Take widgets out of sight; they keep their values and their places in the file.
 *
 * `socketY(name)` is where on the node the renderer that draws on a canvas puts the socket of a widget.
 */
export function hideWidgets(node, names, socketY) {
  for (const widget of node.widgets ?? []) {
    if (!names.includes(widget.name)) continue;
    widget.hidden = true;
    widget.options ??= {};
    widget.options.hidden = true;
    widget.computeSize = () => [0, -4]; // the host adds 4 to each, hidden or not
    if (socketY) Object.defineProperty(widget, "y", { get: () => socketY(widget.name), set() {}, configurable: true });
  }
}

/** Where a panel shows what a node has to say, the host's own text box would say it again. */
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

function removeHostText(node) {
  const index = node.widgets?.findIndex((widget) => widget.name === TEXT_WIDGET) ?? -1;
  if (index < 0) return;
  node.widgets[index].onRemove?.();
  node.widgets.splice(index, 1);
}
