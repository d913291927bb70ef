/** The rows of a merge as a mixing desk uses them. */

/** @typedef {import("../desk/mix.js").PadState} PadState */

import { isLinked } from "../lib/graph.js";
import * as mix from "./mix.js";
import { refreshSlots } from "./sockets.js";

/** The interface of `DeskMix`, see desk/mix.js. */
export class MergeMix {
  /** @param {LGraphNode} node */
  constructor(node) {
    this.node = node;
  }

  slots() {
    return mix.connectedSlots(this.node);
  }

  /** @param {number} slot */
  nameOf(slot) {
    return mix.nameOf(this.node, slot);
  }

  /** @param {number} slot */
  scaleOf(slot) {
    return mix.scaleOf(this.node, slot);
  }

  /** @param {number} slot */
  sentScale(slot) {
    return mix.sentScale(this.node, slot);
  }

  /**
   * @param {number} slot
   * @param {number} scale
   */
  setScale(slot, scale) {
    mix.setScale(this.node, slot, scale);
  }

  /** @param {number} slot */
  isMuted(slot) {
    return mix.stateOf(this.node).muted.includes(slot);
  }

  /** @param {number} slot */
  isSolo(slot) {
    return mix.stateOf(this.node).solo.includes(slot);
  }

  /** @param {number} slot */
  isSilent(slot) {
    return mix.isSilent(mix.stateOf(this.node), slot);
  }

  /** @param {number} slot */
  isLocked(slot) {
    return isLinked(this.node, `scale_${slot}`);
  }

  /** @param {number} slot */
  toggleMuted(slot) {
    mix.toggle(this.node, "muted", slot);
  }

  /** @param {number} slot */
  toggleSolo(slot) {
    mix.toggle(this.node, "solo", slot);
  }

  /**
   * @param {number} a
   * @param {number} b
   */
  exchange(a, b) {
    mix.exchange(this.node, a, b);
    refreshSlots(this.node);
  }

  extraSettings() {
    return isLinked(this.node, "clip") ? ["clip_scale"] : [];
  }

  pad() {
    return mix.stateOf(this.node).pad;
  }

  /** @param {PadState | undefined} pad */
  setPad(pad) {
    mix.setPad(this.node, pad);
  }
}
