/**
 * What nodes said in the past. A node whose output the server kept does not run, and a page that was opened later has
 * not heard it. The server's history has it, of the run in which the node ran with the same inputs.
 *
 * @typedef {Record<string, { class_type: string, inputs: Record<string, unknown> }>} Prompt in API form
 * @typedef {{ outputs: Record<string, NodeOutputs>, prompt: [number, string, Prompt] }} Run
 */

import { api } from "../../../scripts/api.js";
import { nodeByExecutionId } from "./graph.js";

const MOST_RUNS = 64;

/** Tell the nodes of a run that are kept, and that have said nothing since the page knows them. */
export function tellPast() {
  api.addEventListener("execution_cached", async ({ detail }) => {
    const silent = detail.nodes.filter((id) => nodeByExecutionId(id)?.qrLoRASilent);
    if (!silent.length) return;
    const [prompt, past] = await Promise.all([promptOf(detail.prompt_id), ask(`/history?max_items=${MOST_RUNS}`)]);
    for (const id of silent) tell(id, prompt, Object.values(past).reverse());
  });
}

/**
 * @param {string} id
 * @param {Prompt} prompt
 * @param {Run[]} runs
 */
function tell(id, prompt, runs) {
  const run = runs.find(({ outputs, prompt: [, , ran] }) => outputs[id] && isSame(id, prompt, ran));
  if (run) nodeByExecutionId(id)?.qrLoRATell?.(run.outputs[id]);
}

/**
 * The API form of a run that is going on, or that is over already.
 * @param {string} id
 * @returns {Promise<Prompt>}
 */
async function promptOf(id) {
  const { queue_running: runs } = await ask("/queue");
  const [, , prompt] = runs.find((/** @type {Run["prompt"]} */ [, running]) => running === id) ?? (await ask(`/history/${id}`))[id]?.prompt ?? [];
  return prompt ?? {};
}

/**
 * @param {string} path
 * @returns {Promise<any>}
 */
async function ask(path) {
  const answer = await api.fetchApi(path);
  return answer.ok ? answer.json() : {};
}

/**
 * Whether a node, and all that its inputs come from, are the same in two prompts.
 * @param {string} id
 * @param {Prompt} prompt
 * @param {Prompt} other
 * @param {Set<string>} [seen]
 * @returns {boolean}
 */
function isSame(id, prompt, other, seen = new Set()) {
  if (seen.has(id)) return true;
  seen.add(id);
  const [a, b] = [prompt[id], other[id]];
  if (!a || a.class_type !== b?.class_type || JSON.stringify(a.inputs) !== JSON.stringify(b.inputs)) return false;
  const sources = Object.values(a.inputs).map((value) => Array.isArray(value) && value[0]);
  return sources.every((source) => !(source in prompt) || isSame(source, prompt, other, seen));
}
