/** Elements of a page. Text goes in as text alone: what a file says can never become markup. */

/**
 * @typedef {{ [name in keyof HTMLElementEventMap]?: (event: HTMLElementEventMap[name]) => unknown }} Listeners
 * @typedef {{ class?: string, text?: string | number, style?: Partial<CSSStyleDeclaration>, dataset?: Record<string, string | number> }} Look
 * @typedef {Listeners & Look & Record<string, unknown>} Properties
 */

/**
 * Names of events are functions; `class`, `text`, `style` and `dataset` are what they say; the rest are attributes.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Properties} [properties]
 * @param {...(Node | string | null | undefined)} children
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) setProperty(made, name, value);
  made.append(...children.filter((child) => child != null));
  return made;
}

/**
 * @param {HTMLElement} target
 * @param {string} name
 * @param {unknown} value
 */
function setProperty(target, name, value) {
  if (value == null || value === false) return;
  if (typeof value === "function") target.addEventListener(name, /** @type {EventListener} */ (value));
  else if (name === "class") target.className = String(value);
  else if (name === "text") target.textContent = String(value);
  else if (name === "style" || name === "dataset") Object.assign(target[name], value);
  else target.setAttribute(name, value === true ? "" : String(value));
}

/**
 * The elements within another, none where there is no such.
 * @param {Element | null} parent
 * @returns {HTMLElement[]}
 */
export function childrenOf(parent) {
  return /** @type {HTMLElement[]} */ ([...(parent?.children ?? [])]);
}

/**
 * Put these and no others into an element. Whoever has the focus keeps it: itself where it stays, else what says by the
 * same `data-key` that it is the same thing.
 * @param {HTMLElement} parent
 * @param {...HTMLElement} children
 */
export function fill(parent, ...children) {
  const before = childrenOf(parent);
  if (before.length === children.length && before.every((child, place) => child === children[place])) return;
  const focused = /** @type {HTMLElement | null} */ (document.activeElement);
  const had = focused && parent.contains(focused);
  parent.replaceChildren(...children);
  if (!had) return;
  const { key } = focused.dataset;
  const heir = parent.contains(focused) ? focused : key && parent.querySelector(`[data-key="${CSS.escape(key)}"]`);
  if (heir) /** @type {HTMLElement} */ (heir).focus({ preventScroll: true });
}

/**
 * A button with a short face and what a screen reader and a tooltip say.
 * @param {string} face
 * @param {string} label
 * @param {() => void} onClick
 * @param {Properties} [properties]
 */
export function button(face, label, onClick, properties = {}) {
  return element("button", { type: "button", text: face, title: label, "aria-label": label, click: onClick, ...properties });
}

/**
 * Once for the page.
 * @param {URL} url
 */
export function useStyle(url) {
  document.head.append(element("link", { rel: "stylesheet", href: url.href }));
}

/**
 * Text that a person may have written, without what changes the direction or the look of the rest.
 * @param {unknown} text
 * @param {number} [longest]
 */
export function plainText(text, longest = 2000) {
  const plain = String(text ?? "").replace(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g, "");
  return plain.length > longest ? `${plain.slice(0, longest)}…` : plain;
}
