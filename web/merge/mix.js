/**
 * The rows of a merge: which are connected, muted or soloed, and the scale of each.
 *
 * What the workflow sends is in the widgets `scale_1` to `scale_8` alone: of a silent row it is 0, so that the picture
 * is the same without this page. The value to come back to is kept in a property of the node.
 *
 * @typedef {import("../desk/mix.js").PadState} PadState
 * @typedef {{ kept: Record<number, number>, muted: number[], solo: number[], pad?: PadState }} State
 */

import { fileName } from "../desk/mix.js";
import { inputsOfModes } from "../desk/modes.js";
import { exchangeLinks, isLinked, outerNameOf, setWidget, sourceOf, widgetOf } from "../lib/graph.js";

export const SLOTS = [1, 2, 3, 4, 5, 6, 7, 8];
const PROPERTY = "qr_lora_mix";
const EMPTY = { kept: {}, muted: [], solo: [] };

/**
 * @param {LGraphNode} node
 * @returns {State}
 */
export function stateOf(node) {
  return JSON.parse(JSON.stringify({ ...EMPTY, ...node.properties[PROPERTY] })); // what a host watches has no other copy
}

/**
 * A workflow in which nothing is muted has no property either.
 * @param {LGraphNode} node
 * @param {State} state
 */
function store(node, state) {
  const empty = !state.muted.length && !state.solo.length && !Object.keys(state.kept).length && !state.pad;
  if (empty) delete node.properties[PROPERTY];
  else node.properties[PROPERTY] = state;
}

/**
 * @param {LGraphNode} node
 * @param {State["pad"]} pad
 */
export function setPad(node, pad) {
  store(node, { ...stateOf(node), pad });
}

/** @param {LGraphNode} node */
export function connectedSlots(node) {
  return SLOTS.filter((slot) => isLinked(node, `adapter_${slot}`));
}

/**
 * @param {State} state
 * @param {number} slot
 */
export function isSilent(state, slot) {
  return state.muted.includes(slot) || (state.solo.length > 0 && !state.solo.includes(slot));
}

/**
 * The scale that a row shows, which a silent row keeps.
 * @param {LGraphNode} node
 * @param {number} slot
 * @param {State} [state]
 * @returns {number}
 */
export function scaleOf(node, slot, state = stateOf(node)) {
  return state.kept[slot] ?? widgetOf(node, `scale_${slot}`)?.value ?? 1;
}

/**
 * The scale that is sent.
 * @param {LGraphNode} node
 * @param {number} slot
 * @returns {number}
 */
export function sentScale(node, slot) {
  return widgetOf(node, `scale_${slot}`)?.value ?? 1;
}

/**
 * @param {LGraphNode} node
 * @param {number} slot
 * @param {number} scale
 */
export function setScale(node, slot, scale) {
  const { min, max } = widgetOf(node, `scale_${slot}`)?.options ?? {};
  const state = stateOf(node);
  const value = Math.min(max ?? 10, Math.max(min ?? -10, Math.round(scale * 1e4) / 1e4));
  if (slot in state.kept) {
    state.kept[slot] = value;
    store(node, state);
  } else setWidget(node, `scale_${slot}`, value);
}

/**
 * Switch `muted` or `solo` of a row.
 * @param {LGraphNode} node
 * @param {"muted" | "solo"} list
 * @param {number} slot
 */
export function toggle(node, list, slot) {
  const state = stateOf(node);
  const listed = state[list].includes(slot);
  state[list] = listed ? state[list].filter((other) => other !== slot) : [...state[list], slot].sort();
  silence(node, state);
}

/**
 * Bring the widgets in line with who is silent.
 * @param {LGraphNode} node
 * @param {State} state
 */
function silence(node, state) {
  for (const slot of SLOTS) {
    const name = `scale_${slot}`;
    const silent = isSilent(state, slot) && isLinked(node, `adapter_${slot}`) && !isLinked(node, name);
    if (silent && !(slot in state.kept)) {
      state.kept[slot] = sentScale(node, slot);
      setWidget(node, name, 0);
    } else if (!silent && slot in state.kept) {
      setWidget(node, name, state.kept[slot]);
      delete state.kept[slot];
    }
  }
  store(node, state);
}

/**
 * After connections changed, or a widget was set by someone else: what was set counts, and no row is silent unseen.
 * @param {LGraphNode} node
 */
export function settle(node) {
  const state = stateOf(node);
  const connected = connectedSlots(node);
  for (const slot of Object.keys(state.kept).map(Number)) {
    if (sentScale(node, slot) === 0) continue;
    delete state.kept[slot];
    state.muted = state.muted.filter((other) => other !== slot);
    if (isSilent(state, slot)) state.solo = [...state.solo, slot].sort();
  }
  state.solo = state.solo.filter((slot) => connected.includes(slot));
  silence(node, state);
}

/**
 * Set several rows at once, which makes them heard.
 * @param {LGraphNode} node
 * @param {Record<number, number>} scales
 */
export function setScales(node, scales) {
  const state = stateOf(node);
  const slots = Object.keys(scales).map(Number);
  state.muted = state.muted.filter((slot) => !slots.includes(slot));
  if (state.solo.length) state.solo = [...new Set([...state.solo, ...slots])].sort();
  silence(node, state);
  for (const slot of slots) setScale(node, slot, scales[slot]);
}

/**
 * Exchange two rows with all that belongs to them.
 * @param {LGraphNode} node
 * @param {number} a
 * @param {number} b
 */
export function exchange(node, a, b) {
  const state = stateOf(node);
  const [first, second] = [sentScale(node, a), sentScale(node, b)];
  for (const name of ["adapter", "schedule", "scale"]) exchangeLinks(node, `${name}_${a}`, `${name}_${b}`);
  setWidget(node, `scale_${a}`, second);
  setWidget(node, `scale_${b}`, first);
  const other = (/** @type {number} */ slot) => ({ [a]: b, [b]: a })[slot] ?? slot;
  for (const { name, isSlot } of inputsOfModes(node)) if (isSlot) setWidget(node, name, other(widgetOf(node, name)?.value));
  store(node, {
    ...state,
    kept: Object.fromEntries(Object.entries(state.kept).map(([slot, scale]) => [other(Number(slot)), scale])),
    muted: state.muted.map(other).sort(),
    solo: state.solo.map(other).sort(),
    pad: state.pad && { ...state.pad, x: other(state.pad.x), y: other(state.pad.y) },
  });
}

/**
 * What a row is called: the file, or the title of the node that makes the adapter, or the socket.
 * @param {LGraphNode} node
 * @param {number} slot
 * @returns {string}
 */
export function nameOf(node, slot) {
  const name = `adapter_${slot}`;
  const source = sourceOf(node, name)?.node;
  const file = source && widgetOf(source, "adapter_name")?.value;
  if (file) return fileName(String(file));
  return source?.title ?? outerNameOf(node, name) ?? name;
}
