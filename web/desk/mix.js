/**
 * What a mixing desk shows and sets: rows that are told apart by numbers, each with a name and a scale.
 *
 * @typedef {{ open: boolean, x: number, y: number }} PadState slots across and up
 *
 * @typedef {object} DeskMix
 * @property {LGraphNode} node whose widgets say how the rows are merged
 * @property {() => number[]} slots the numbers of the rows, in order
 * @property {(slot: number) => string} nameOf
 * @property {(slot: number) => number} scaleOf the scale that is shown, which a silent row keeps
 * @property {(slot: number) => number} sentScale the scale that counts
 * @property {(slot: number, scale: number) => void} setScale
 * @property {(slot: number) => boolean} isMuted
 * @property {(slot: number) => boolean} isSolo
 * @property {(slot: number) => boolean} isSilent
 * @property {(slot: number) => boolean} isLocked whether a link decides on it
 * @property {(slot: number) => void} toggleMuted
 * @property {(slot: number) => void} toggleSolo
 * @property {(a: number, b: number) => void} exchange two rows with all that belongs to them
 * @property {() => string[]} extraSettings widgets that are needed now, besides those of the merge mode
 * @property {() => PadState | undefined} pad
 * @property {(pad: PadState | undefined) => void} setPad
 */

/**
 * The name of a file without folder and suffix.
 * @param {string} path
 */
export function fileName(path) {
  return path.replace(/^.*[\\/]/s, "").replace(/\.(safetensors|sft)$/i, "");
}
