/** Where links of one graph start and end, whether at a node or at the edge of a subgraph. */

/**
 * @typedef {{ id: NodeId, slot: number, isEdge: boolean, after?: number }} End where links start; `after` is the last reroute of one
 */

import { allNodes, linkInto } from "../../lib/graph.js";

/**
 * Where the link into an input starts; null where there is none.
 * @param {LGraphNode} node
 * @param {string} name
 * @returns {End | null}
 */
export function startOf(node, name) {
  const link = linkInto(node, name);
  return link ? { id: link.origin_id, slot: link.origin_slot, isEdge: Boolean(link.originIsIoNode), after: link.parentId } : null;
}

/**
 * An output of a node, by its place.
 * @param {LGraphNode} node
 * @param {number} slot
 * @returns {End}
 */
export function outputOf(node, slot) {
  return { id: node.id, slot, isEdge: false };
}

/**
 * @param {LGraph} graph
 * @param {End} end
 */
export function linksFrom(graph, end) {
  return [...graph.links.values()].filter((link) => isAt(link, end));
}

/**
 * @param {LLink} link
 * @param {End} end
 */
function isAt(link, { id, slot }) {
  return isSame(link.origin_id, id) && link.origin_slot === slot;
}

/**
 * Ids are numbers on some hosts and text on others.
 * @param {NodeId} one
 * @param {NodeId} other
 */
export function isSame(one, other) {
  return String(one) === String(other);
}

/**
 * Whether the value of a widget is decided on elsewhere: by a link, or on the node of its subgraph.
 * @param {LGraphNode} node
 * @param {string} name
 */
export function isBound(node, name) {
  return linkInto(node, name) != null || isShownOutside(node, name);
}

/**
 * Some frontends list the widgets that the node of a subgraph shows, rather than link them.
 * @param {LGraphNode} node
 * @param {string} name
 */
function isShownOutside(node, name) {
  return allNodes()
    .filter((outer) => outer.subgraph && outer.subgraph === node.graph)
    .some(({ properties }) => shownBy(properties?.proxyWidgets).some(([id, widget]) => isSame(id, node.id) && widget === name));
}

/**
 * Pairs of a node within and a widget of it.
 * @param {unknown} listed
 * @returns {any[][]}
 */
function shownBy(listed) {
  return Array.isArray(listed) ? listed.filter(Array.isArray) : [];
}
