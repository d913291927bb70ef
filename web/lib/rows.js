/**
 * Rows of widgets that a panel stands for, folds away or closes, in both of the host's renderers.
 *
 * The host's own `hidden`, `advanced` and `disabled` are left alone: they go along to where the same widgets are shown
 * elsewhere, as on the node of a subgraph or in a view without the graph.
 */

/** @typedef {import("./panel.js").Panel} Panel */

import { childrenOf } from "./dom.js";
import { MARGIN } from "./panel.js";

const OUT_OF_REACH = -1e5; // pixels, where no link is dropped
const PALE = 0.5;

/**
 * Let a panel stand for widgets of its node.
 *
 * `socketOf(name)` is how far below the top of the panel the socket of a widget belongs, null where it has no place.
 * Returns what must be called when that has changed.
 * @param {LGraphNode} node
 * @param {Panel} panel
 * @param {string[]} names
 * @param {(name: string) => number | null} socketOf
 */
export function standFor(node, { widget: panel }, names, socketOf) {
  const onCanvas = (/** @type {string} */ name) => panel.y + MARGIN + (socketOf(name) ?? 0) - LiteGraph.NODE_SLOT_HEIGHT / 2;
  hide(node, (name) => names.includes(name), onCanvas);
  return () => placeSockets(node, panel.element, socketOf);
}

/**
 * Fold widgets of a node away, and close others, as long as these say so. Returns what must be called when what they
 * say has changed, and when the panel comes into sight.
 * @param {LGraphNode} node
 * @param {Panel} panel
 * @param {(name: string) => boolean} isFolded
 * @param {(name: string) => boolean} isClosed
 */
export function foldRows(node, { widget: panel }, isFolded, isClosed) {
  hide(node, isFolded, () => OUT_OF_REACH);
  close(node, isClosed);
  return () => {
    for (const { name, element } of node.widgets) if (element && element !== panel.element) setClosed(element, isClosed(name));
    markRows(node, panel.element, isFolded, isClosed);
  };
}

/**
 * @param {LGraphNode} node
 * @param {(name: string) => boolean} isHidden
 * @param {(name: string) => number} socketOf where on the canvas the socket of a hidden one is
 */
function hide(node, isHidden, socketOf) {
  for (const method of /** @type {const} */ (["isWidgetVisible", "isWidgetRowVisible"])) {
    const before = node[method];
    if (before) node[method] = (widget) => !isHidden(widget.name) && before.call(node, widget);
  }
  if (node.getLayoutWidgets) node.getLayoutWidgets = () => node.widgets.filter(({ name }) => !isHidden(name));
  for (const widget of node.widgets) shrink(widget, node, isHidden, socketOf);
}

/**
 * The canvas gives room to every widget of a node, seen or not; on another node this one takes what it needs.
 * @param {Widget} widget
 * @param {LGraphNode} node
 * @param {(name: string) => boolean} isHidden
 * @param {(name: string) => number} socketOf
 */
function shrink(widget, node, isHidden, socketOf) {
  const { name } = widget;
  let { computeSize, y } = widget;
  Object.defineProperties(widget, {
    computeSize: {
      configurable: true,
      get() {
        return this.node === node && isHidden(name) ? () => [0, -4] : computeSize; // the host adds 4 to each
      },
      set(given) {
        computeSize = given;
      },
    },
    y: {
      configurable: true,
      get: () => (isHidden(name) ? socketOf(name) : y),
      set(given) {
        y = given;
      },
    },
  });
}

/**
 * A widget that is marked as disabled is taken off the node of its subgraph by some hosts, and its value is not drawn.
 * @param {LGraphNode} node
 * @param {(name: string) => boolean} isClosed
 */
function close(node, isClosed) {
  const find = node.getWidgetOnPos;
  node.getWidgetOnPos = (x, y, includeDisabled) => {
    const found = find.call(node, x, y, includeDisabled);
    return found && isClosed(found.name) && !includeDisabled ? undefined : found;
  };
  for (const widget of node.widgets) {
    const draw = widget.drawWidget;
    const drawPale = /** @this {Widget} */ function (/** @type {CanvasRenderingContext2D} */ context, /** @type {object} */ options) {
      const { globalAlpha } = context;
      if (this.node === node && isClosed(widget.name)) context.globalAlpha *= PALE;
      draw?.call(this, context, options);
      context.globalAlpha = globalAlpha;
    };
    if (draw) Object.defineProperty(widget, "drawWidget", { configurable: true, value: drawPale });
  }
}

/**
 * Of the renderer that draws nodes as elements: the rows of widgets, and the sockets in them by the widgets' names.
 * @param {LGraphNode} node
 * @param {HTMLElement} content
 */
function rowsOf(node, content) {
  const rows = /** @type {HTMLElement | null} */ (content.closest(".lg-node-widgets"));
  const dots = /** @type {HTMLElement[]} */ ([...(rows?.querySelectorAll("[data-slot-key]") ?? [])]);
  const nameOf = (/** @type {HTMLElement} */ dot) => node.inputs[Number(dot.dataset.slotKey?.split("-").at(-1))]?.widget?.name;
  return { rows, sockets: dots.map((dot) => ({ dot, name: nameOf(dot) })) };
}

/**
 * That renderer has a row for each widget. Style.css leaves of it the socket.
 * @param {LGraphNode} node
 * @param {HTMLElement} content
 * @param {(name: string) => number | null} socketOf
 */
function placeSockets(node, content, socketOf) {
  const { rows, sockets } = rowsOf(node, content);
  if (!rows) return;
  const start = content.offsetTop;
  let isMoved = false;
  for (const { dot, name } of sockets) {
    const place = name ? socketOf(name) : null;
    const row = /** @type {HTMLElement} */ (dot.closest(".lg-node-widget, [data-widget-name]"));
    const top = `${start + (place ?? 0)}px`;
    row.toggleAttribute("data-qr-lora-socket", place !== null);
    isMoved ||= row.style.top !== top;
    row.style.top = top;
  }
  if (isMoved) lookAgain(rows);
}

/**
 * Style.css takes the rows that are marked as folded away.
 * @param {LGraphNode} node
 * @param {HTMLElement} content
 * @param {(name: string) => boolean} isFolded
 * @param {(name: string) => boolean} isClosed
 */
function markRows(node, content, isFolded, isClosed) {
  const { rows, sockets } = rowsOf(node, content);
  if (!rows) return;
  let isMoved = false;
  for (const { dot, name = "" } of sockets) {
    const row = childrenOf(rows).find((child) => child.contains(dot));
    if (!row) continue;
    isMoved ||= row.hasAttribute("data-qr-lora-folded") !== isFolded(name);
    row.toggleAttribute("data-qr-lora-folded", isFolded(name));
    setClosed(row, isClosed(name));
  }
  if (isMoved) lookAgain(rows);
}

/**
 * Nothing of it can be pressed or typed into. Style.css makes it pale.
 * @param {HTMLElement} target
 * @param {boolean} isClosed
 */
function setClosed(target, isClosed) {
  target.inert = isClosed;
  target.toggleAttribute("data-qr-lora-closed", isClosed);
}

/**
 * Have the host look again where sockets are.
 * @param {HTMLElement} rows
 */
function lookAgain(rows) {
  rows.style.paddingBottom = rows.style.paddingBottom ? "" : "0.5px";
}
