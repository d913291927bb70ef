/** The curve on `QRLoRA_Schedule`. */

import { onWidgetChange } from "../lib/graph.js";
import { addPanel } from "../lib/panel.js";
import { Editor, WIDGETS } from "./editor.js";

export function attachSchedule(node) {
  const editor = new Editor(node);
  addPanel(node, "qr_lora_schedule", editor.root, () => editor.height);
  onWidgetChange(node, WIDGETS, () => editor.draw());
  editor.draw();
}
