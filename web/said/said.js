/** What a node said when it last ran. Some frontends take their own text box away as soon as the run is over. */

import { element, plainText } from "../lib/dom.js";
import { addPanel, replaceHostText } from "../lib/panel.js";
import { text } from "../lib/texts.js";

const LINE = 16; // pixels, as in style.css
const MOST_LINES = 12;
const LONGEST = 20000;

/** @param {LGraphNode} node */
export function attachSaid(node) {
  const box = element("div", { class: "qr-lora-said qr-lora-text qr-lora-scroll", role: "status", tabindex: "0", "aria-label": text("said.panel") });
  let panel = null;
  replaceHostText(node, (told) => {
    box.textContent = plainText(told, LONGEST);
    panel ??= addPanel(node, "qr_lora_said", text("said.panel"), box, () => linesOf(box) * LINE);
    panel.resize();
    node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])]);
  });
}

/** @param {HTMLElement} box */
function linesOf(box) {
  return Math.min(MOST_LINES, box.textContent.split("\n").length + 1); // one more, where a line is longer than the node
}
