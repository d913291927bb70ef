/** The card of a file: its preview, its star, its number among the chosen ones, its name and its folder. */

/**
 * @typedef {import("./files.js").Listed} Listed
 * @typedef {{ isChosen: boolean, place: number, isFavourite: boolean }} Marks `place` counts from 1; 0 where no number is shown
 */

import { element, plainText } from "../lib/dom.js";
import { parted, pictureAddress } from "../lib/library.js";
import { text } from "../lib/texts.js";

/**
 * An option may hold no button that one can reach; what the star does, a key and a button elsewhere do, too.
 * @param {Listed} file
 * @param {() => void} onStar
 */
export function newCard({ name }, onStar) {
  const [folder, stem] = parted(plainText(name));
  return element(
    "div",
    { role: "option", class: "qr-lora-picker-card", tabindex: -1, dataset: { name }, "aria-keyshortcuts": "Control+B" },
    element("span", { class: "qr-lora-picker-thumb", "aria-hidden": "true" }),
    element("span", { class: "qr-lora-picker-star", title: text("picker.star"), click: onlyHere(onStar), dblclick: onlyHere(() => {}) }),
    element("span", { class: "qr-lora-picker-place" }),
    element("span", { class: "qr-lora-picker-stem", text: stem }),
    element("span", { class: "qr-lora-picker-where qr-lora-quiet", text: folder }),
  );
}

/**
 * What another list may tell anew of a file.
 * @param {HTMLElement} card
 * @param {Listed} file
 */
export function showFile(card, file) {
  card.title = file.told;
  showPicture(partOf(card, "thumb"), file);
}

/**
 * @param {HTMLElement} card
 * @param {Marks} marks
 */
export function showMarks(card, { isChosen, place, isFavourite }) {
  card.setAttribute("aria-selected", String(isChosen));
  const star = partOf(card, "star");
  star.classList.toggle("qr-lora-picker-starred", isFavourite);
  showSign(star, isFavourite ? "★" : "☆", isFavourite ? text("picker.is_favourite") : "");
  showSign(partOf(card, "place"), place ? `✓ ${place}` : "", place ? text("picker.place", { place }) : "");
}

/**
 * A sign that is read as words, or not at all where there are none.
 * @param {HTMLElement} sign
 * @param {string} face
 * @param {string} words
 */
function showSign(sign, face, words) {
  if (sign.textContent === face) return;
  sign.textContent = face;
  sign.setAttribute("role", words ? "img" : "presentation");
  sign.setAttribute("aria-label", words);
  sign.setAttribute("aria-hidden", String(!words));
}

/**
 * The preview of a file, or its first letter, unless that is what is there.
 * @param {HTMLElement} thumb
 * @param {Listed} file
 */
function showPicture(thumb, { name, picture }) {
  if (thumb.dataset.picture === String(picture)) return;
  thumb.dataset.picture = String(picture);
  const [, stem] = parted(plainText(name));
  thumb.replaceChildren(
    picture
      ? element("img", { loading: "lazy", decoding: "async", alt: "", src: pictureAddress(name), draggable: "false" })
      : element("span", { class: "qr-lora-letter", text: [...stem][0]?.toUpperCase() ?? "" }),
  );
}

/**
 * @param {HTMLElement} card
 * @param {"thumb" | "star" | "place"} part
 */
function partOf(card, part) {
  return /** @type {HTMLElement} */ (card.querySelector(`.qr-lora-picker-${part}`));
}

/**
 * The card around it hears nothing of it.
 * @param {() => void} act
 */
function onlyHere(act) {
  return (/** @type {Event} */ event) => {
    event.stopPropagation();
    act();
  };
}
