/** Elements of a page. Text goes in as text alone: what a file says can never become markup. */

/** Names of events are functions; `class`, `text`, `style` and `dataset` are what they say; the rest are attributes. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) setProperty(made, name, value);
  made.append(...children.filter((child) => child != null));
  return made;
}

function setProperty(target, name, value) {
  if (value == null || value === false) return;
  if (typeof value === "function") target.addEventListener(name, value);
  else if (name === "class") target.className = value;
  else if (name === "text") target.textContent = value;
  else if (name === "style" || name === "dataset") Object.assign(target[name], value);
  else target.setAttribute(name, value === true ? "" : String(value));
}

/** A button with a short face and what a screen reader and a tooltip say. */
export function button(face, label, onClick, properties = {}) {
  return element("button", { type: "button", text: face, title: label, "aria-label": label, click: onClick, ...properties });
}

/** Once for the page. */
export function useStyle(url) {
  document.head.append(element("link", { rel: "stylesheet", href: url.href }));
}

/** Text that a person may have written, without what changes the direction or the look of the rest. */
export function plainText(text, longest = 2000) {
  const plain = String(text ?? "").replace(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g, "");
  return plain.length > longest ? `${plain.slice(0, longest)}…` : plain;
}
