/** What the pack adds to the page. Every node works without it; nothing here is needed to run a workflow. */

import { app } from "../../scripts/app.js";

import { attachGrid } from "./grid/grid.js";
import { useStyle } from "./lib/dom.js";
import { tellKeptOutputs } from "./lib/graph.js";
import { tellPast } from "./lib/past.js";
import { loadTexts } from "./lib/texts.js";
import { attachLoad } from "./load/load.js";
import { attachMerge, keepSocketLayout } from "./merge/merge.js";
import { COMMANDS, commandsFor, menuEntries } from "./mixer/convert/convert.js";
import { attachMixer } from "./mixer/mixer.js";
import { attachSaid } from "./said/said.js";
import { attachSchedule } from "./schedule/schedule.js";
import { attachTrain } from "./train/train.js";

const DESK_SETTING = "QRLoRA.Desk";
/**
 * Node id to what its panel is made by.
 * @type {Record<string, (node: LGraphNode) => void>}
 */
const PANELS = {
  QRLoRA_Load: attachLoad,
  QRLoRA_Merge: attachMerge,
  QRLoRA_Mixer: attachMixer,
  QRLoRA_Train: attachTrain,
  QRLoRA_Schedule: attachSchedule,
  QRLoRA_Grid: attachGrid,
  QRLoRA_Save: attachSaid,
  QRLoRA_Rebase: attachSaid,
  QRLoRA_Compare: attachSaid,
};

app.registerExtension({
  name: "ComfyUI.QRLoRA",

  settings: [
    {
      id: DESK_SETTING,
      name: "Mixing desk and panels on QR-LoRA nodes (reload the page after a change)",
      type: "boolean",
      defaultValue: true,
    },
  ],

  commands: COMMANDS,

  async init() {
    useStyle(new URL("./style.css", import.meta.url));
    tellPast();
    await loadTexts(app.extensionManager.setting.get("Comfy.Locale"));
  },

  beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name === "QRLoRA_Merge" && isWanted()) keepSocketLayout(nodeType);
  },

  getNodeMenuItems: (node) => (isWanted() ? menuEntries(node) : []),

  getSelectionToolboxCommands: (item) => (isWanted() ? commandsFor(item) : []),

  nodeCreated(node) {
    if (isWanted()) PANELS[node.comfyClass ?? ""]?.(node);
  },

  /** Undo makes all nodes anew; what they had to say still holds. */
  afterConfigureGraph() {
    tellKeptOutputs(app.nodeOutputs);
  },

  onNodeOutputsUpdated: tellKeptOutputs,
});

function isWanted() {
  return app.extensionManager.setting.get(DESK_SETTING) !== false;
}
