/** A workflow as it is saved. */
export interface Recorded {
  nodes?: { id: NodeId, size?: [number, number] }[];
  definitions?: { subgraphs?: (Recorded & { id: string })[] };
}

export interface Extension {
  name: string;
  settings?: { id: string; name: string; type: string; defaultValue: unknown }[];
  init?(): Promise<void>;
  beforeRegisterNodeDef?(nodeType: { prototype: LGraphNode }, nodeData: { name: string }): void;
  nodeCreated?(node: LGraphNode): void;
  afterConfigureGraph?(): void;
  onNodeOutputsUpdated?(outputs: Record<string, NodeOutputs>): void;
}

export const app: {
  graph: LGraph;
  canvas: {
    processMouseDown(event: PointerEvent): void;
    processMouseMove(event: PointerEvent): void;
    processMouseUp(event: PointerEvent): void;
    processMouseWheel(event: WheelEvent): void;
  };
  nodeOutputs: Record<string, NodeOutputs>;
  extensionManager: {
    setting: { get(id: string): any };
    workflow?: { activeWorkflow?: { changeTracker?: { activeState?: Recorded, beforeChange(): void, afterChange(): void } } };
    queueSettings?: { mode: string };
  };
  registerExtension(extension: Extension): void;
};
