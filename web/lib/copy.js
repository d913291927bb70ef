/** Text to the clipboard by a button, also where the page is not served over https and the browser offers no clipboard. */

import { button } from "./dom.js";
import { text } from "./texts.js";

const COPIED_FOR = 1500; // milliseconds

/**
 * A button that copies words, and says for a moment whether it could.
 * @param {() => string} words
 */
export function copyButton(words) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  const made = button(text("load.copy"), text("load.copy_meaning"), async () => {
    const done = await copyText(words());
    made.textContent = text(done ? "load.copied" : "load.not_copied");
    clearTimeout(timer);
    timer = setTimeout(() => (made.textContent = text("load.copy")), COPIED_FOR);
  });
  return made;
}

/** @param {string} words */
async function copyText(words) {
  try {
    await navigator.clipboard.writeText(words);
    return true;
  } catch {
    return copyBySelection(words);
  }
}

/** @param {string} words */
function copyBySelection(words) {
  const focused = /** @type {HTMLElement | null} */ (document.activeElement);
  const field = document.createElement("textarea");
  Object.assign(field, { value: words, readOnly: true });
  Object.assign(field.style, { position: "fixed", opacity: "0" });
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  focused?.focus();
  return done;
}
