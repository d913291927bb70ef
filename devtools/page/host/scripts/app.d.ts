/** A workflow as it is saved. */
export interface Recorded {
  nodes?: { id: NodeId, size?: [number, number], pos?: [number, number] }[];
  definitions?: { subgraphs?: (Recorded & { id: string })[] };
}

export interface Extension {
  name: string;
  settings?: { id: string; name: string; type: string; defaultValue: unknown }[];
  commands?: { id: string; icon?: string; label: () => string; function: () => unknown }[];
  init?(): Promise<void>;
  /** Of those the user sees in a node's menu. */
  getNodeMenuItems?(node: LGraphNode): { content: string; callback: () => unknown }[];
  /** Names of the commands that are offered above what is chosen. */
  getSelectionToolboxCommands?(item: object): string[];
  beforeRegisterNodeDef?(nodeType: { prototype: LGraphNode }, nodeData: { name: string }): void;
  nodeCreated?(node: LGraphNode): void;
  afterConfigureGraph?(): void;
  onNodeOutputsUpdated?(outputs: Record<string, NodeOutputs>): void;
}

export const app: {
  graph: LGraph;
  canvas: {
    /** The one that is shown: within a subgraph, its own. */
    graph: LGraph | null;
    processMouseDown(event: PointerEvent): void;
    processMouseMove(event: PointerEvent): void;
    processMouseUp(event: PointerEvent): void;
    processMouseWheel(event: WheelEvent): void;
    selectedItems: Set<object>;
  };
  /** Where in the queue, 0 at its end, and how often. */
  queuePrompt(number: number, count: number): Promise<boolean>;
  nodeOutputs: Record<string, NodeOutputs>;
  extensionManager: {
    setting: { get(id: string): any };
    workflow?: { activeWorkflow?: { changeTracker?: { activeState?: Recorded, beforeChange(): void, afterChange(): void } } };
    queueSettings?: { mode: string };
    toast: { add(message: { severity: string; summary?: string; detail?: string; life?: number }): void };
    /** True where it was agreed to; false, null or nothing where not. */
    dialog: { confirm(question: { title: string; message: string; itemList?: string[] }): Promise<boolean | null | undefined> };
  };
  registerExtension(extension: Extension): void;
};
