/** The curve on `QRLoRA_Schedule`. */

import { onWidgetChange } from "../lib/graph.js";
import { addPanel } from "../lib/panel.js";
import { text } from "../lib/texts.js";
import { Editor, WIDGETS } from "./editor.js";

/** @param {LGraphNode} node */
export function attachSchedule(node) {
  const editor = new Editor(node);
  const panel = addPanel(node, "qr_lora_schedule", text("schedule.panel"), editor.root, () => editor.height);
  panel.onSight = () => editor.draw();
  onWidgetChange(node, WIDGETS, () => editor.draw());
  editor.draw();
}
