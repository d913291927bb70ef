/** Recipes as the host keeps them for a user, and as the server reads them. */

/**
 * @typedef {import("./document.js").Mix} Mix
 * @typedef {{ qr_lora_recipe: 1, name: string, family?: string, apply?: string, mode?: string, settings?: Record<string, number>, mix: object }} Recipe
 */

import { api } from "../../../scripts/api.js";
import { refusal } from "./files.js";

const FOLDER = "qr_lora/recipes";
const SUFFIX = ".json";
const TAKEN = 409;

/**
 * The names of all recipes.
 * @returns {Promise<string[]>}
 */
export async function listRecipes() {
  const files = await api.listUserDataFullInfo(FOLDER);
  const names = files.map(({ path }) => path).filter((path) => path.endsWith(SUFFIX));
  return names.map((path) => path.slice(0, -SUFFIX.length)).sort((a, b) => a.localeCompare(b));
}

/**
 * What is kept under a name, as the server reads it. An error's message is for the user.
 * @param {string} name
 */
export async function readRecipe(name) {
  return checked(await keptText(name));
}

/**
 * What is kept under a name, as it is.
 * @param {string} name
 */
export async function keptText(name) {
  return (await done(api.getUserData(fileOf(name)))).text();
}

/**
 * Keep a recipe under its name; false where there is one already that may not be replaced.
 * @param {Recipe} recipe
 * @param {boolean} mayReplace
 */
export function keepRecipe(recipe, mayReplace) {
  return keepText(recipe.name, `${JSON.stringify(recipe, null, 2)}\n`, mayReplace);
}

/**
 * @param {string} name
 * @param {string} content
 * @param {boolean} mayReplace
 */
export async function keepText(name, content, mayReplace) {
  const options = { overwrite: mayReplace, stringify: false, throwOnError: false };
  const answer = await api.storeUserData(fileOf(name), content, options);
  if (answer.status === TAKEN && !mayReplace) return false;
  await done(answer);
  return true;
}

/** @param {string} name */
export async function deleteRecipe(name) {
  await done(api.deleteUserData(fileOf(name)));
}

/**
 * The host decodes a path twice, the page encodes it once.
 * @param {string} name
 */
function fileOf(name) {
  return `${FOLDER}/${name.replaceAll("%", "%25")}${SUFFIX}`;
}

/** @param {Response | Promise<Response>} asked */
async function done(asked) {
  const answer = await asked;
  if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
  return answer;
}

/**
 * The recipe in a text or a file, JSON or a picture, as the server reads it. An error's message is for the user.
 * @param {string | Blob} content
 * @param {string} [name] where a picture holds it, which tells none
 * @returns {Promise<Recipe>}
 */
export async function checked(content, name = "") {
  const headers = { "Content-Type": "application/octet-stream" };
  const answer = await api.fetchApi(`/qr_lora/recipe?${new URLSearchParams({ name })}`, { method: "POST", headers, body: content });
  const told = await answer.json().catch(() => ({ error: `${answer.status} ${answer.statusText}` }));
  if (!answer.ok) throw new Error(refusal(told));
  return told.recipe;
}
