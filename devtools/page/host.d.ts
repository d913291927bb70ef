// What we use of the host's page: its graph library, its application and its server's messages. Written from use, and
// less than there is; what only some frontends have is optional.

declare const LiteGraph: {
  NODE_SLOT_HEIGHT: number;
  NODE_WIDGET_HEIGHT: number;
  /** Whether nodes are drawn as elements rather than on the canvas. */
  vueNodesMode?: boolean;
  createNode(type: string): LGraphNode | null;
};

type WidgetValue = string | number | boolean;
type NodeId = string | number;
type LinkId = number;

interface Widget {
  name: string;
  type?: string;
  label?: string;
  tooltip?: string;
  value: any; // as the type of the input has it
  options: { values?: string[]; min?: number; max?: number };
  serialize?: boolean;
  y: number;
  node?: LGraphNode;
  element?: HTMLElement;
  callback?(value: WidgetValue, ...more: unknown[]): unknown;
  computeSize?(width?: number): [number, number];
  drawWidget?(context: CanvasRenderingContext2D, options: object): void;
  onRemove?(): void;
}

interface NodeInput {
  name: string;
  type: string;
  label?: string;
  shape?: number;
  localized_name?: string;
  link?: LinkId | null;
  widget?: { name: string };
}

interface NodeOutput {
  name: string;
  type: string;
  label?: string;
}

/** An input or output of a subgraph, at its edge. */
interface EdgeSlot {
  name: string;
  type: string;
  label?: string;
  linkIds: LinkId[];
  /** To a socket of a node within, by way of a reroute where one is given. */
  connect(socket: NodeInput | NodeOutput, node: LGraphNode, after?: number): LLink | undefined;
}

interface LLink {
  id: LinkId;
  origin_id: NodeId;
  origin_slot: number;
  target_id: NodeId;
  target_slot: number;
  /** The reroute that it goes through last. */
  parentId?: number;
  /** Whether it leads to the edge of a subgraph rather than to a node. */
  targetIsIoNode?: boolean;
  /** Whether it comes from the edge of a subgraph rather than from a node. */
  originIsIoNode?: boolean;
}

interface LGraph {
  id: string;
  nodes: LGraphNode[];
  isRootGraph?: boolean;
  rootGraph?: LGraph;
  links: Map<LinkId, LLink>;
  add(node: LGraphNode): void;
  remove(node: LGraphNode): void;
  getNodeById(id: NodeId | undefined): LGraphNode | null;
  getLink(id: LinkId | null | undefined): LLink | null | undefined;
  trigger(event: string, detail: object): void;
  serialize(): object;
  updateExecutionOrder(): void;
}

/** The graph within a node: its edge has inputs and outputs of its own. */
interface Subgraph extends LGraph {
  inputs: EdgeSlot[];
  outputs: EdgeSlot[];
  /** Stands for its inputs among the nodes that links start at. */
  inputNode: { id: NodeId };
}

interface LGraphNode {
  id: NodeId;
  type: string;
  title: string;
  comfyClass?: string;
  /** 0 runs always, 2 never, 4 lets its inputs through. */
  mode: number;
  pos: [number, number];
  size: [number, number];
  properties: Record<string, any>; // whatever extensions keep in a workflow
  /** Undefined where a node has none. */
  widgets: Widget[];
  inputs: NodeInput[];
  outputs: NodeOutput[];
  graph: LGraph | Subgraph | null;
  /** Its class, with what the server tells of it: of each input its type and options. */
  constructor: Function & { title?: string; nodeData?: { display_name?: string; input?: { optional?: Record<string, [unknown, Record<string, unknown>?]> } } };
  /** What the workflow has of it, where its type is not known. */
  last_serialization?: { widgets_values?: unknown };
  subgraph?: Subgraph;
  hideOutputImages?: boolean;
  addDOMWidget(name: string, type: string, element: HTMLElement, options: object): Widget & { element: HTMLElement };
  addInput(name: string, type: string, look?: object): NodeInput;
  /** A link from an output to an input, by way of a reroute where one is given; null where it is refused. */
  connect(slot: number, target: LGraphNode, input: number, after?: number): LLink | null | undefined;
  computeSize(): [number, number];
  setSize(size: [number, number]): void;
  setDirtyCanvas?(foreground: boolean, background: boolean): void;
  getWidgetFromSlot?(input: NodeInput): Widget | undefined;
  getLayoutWidgets?(): Widget[];
  getWidgetOnPos(x: number, y: number, includeDisabled?: boolean): Widget | undefined;
  isWidgetVisible?(widget: Widget): boolean;
  isWidgetRowVisible?(widget: Widget): boolean;
  isSubgraphNode?(): boolean;
  configure(data: { inputs?: NodeInput[] }): void;
  onConfigure?(...given: unknown[]): unknown;
  onConnectionsChange?(...given: unknown[]): unknown;
  onGraphConfigured?(...given: unknown[]): unknown;
  onDrawBackground?(...given: unknown[]): unknown;
  /** After the server was asked again which files there are. */
  refreshComboInNode?(...given: unknown[]): unknown;
  onExecuted?(output: NodeOutputs, ...rest: unknown[]): void;
}

/** What a node sent to the page, by key. */
type NodeOutputs = Record<string, any[]>;
