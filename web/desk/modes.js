/** The inputs that belong to one merge mode each, as the server tells of them. */

/** @param {LGraphNode} node */
export function inputsOfModes(node) {
  const told = Object.entries(optionalInputs(node));
  return told.flatMap(([name, [, about]]) => (about?.qr_lora_mode ? [{ name, mode: about.qr_lora_mode, isSlot: Boolean(about.qr_lora_slot) }] : []));
}

/**
 * The widgets that say how the rows of a node are merged and applied.
 * @param {LGraphNode} node
 */
export function settingNames(node) {
  return ["apply", "mode", ...inputsOfModes(node).map(({ name }) => name)];
}

/**
 * Whether a widget says which of the rows is meant.
 * @param {LGraphNode} node
 * @param {string} name
 */
export function namesSlot(node, name) {
  return Boolean(optionalInputs(node)[name]?.[1]?.qr_lora_slot);
}

/** @param {LGraphNode} node */
function optionalInputs(node) {
  return node.constructor.nodeData?.input?.optional ?? {};
}
