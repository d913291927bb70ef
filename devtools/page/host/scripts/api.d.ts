/** Messages of the server and of the page, and ours, by name. */
export interface Events {
  execution_cached: { prompt_id: string; nodes: string[] };
  graphChanged: object;
  autoQueueGraphChanged: object;
  execution_success: { prompt_id: string };
  /** A node has run; dispatched on the page, the host shows it. */
  executed: { node: string; display_node: string; output: NodeOutputs; prompt_id: string };
  progress_text: { nodeId: string; text: string };
  "qr_lora.training": import("../../../../web/train/view.js").Report;
}

export const api: {
  apiURL(path: string): string;
  /** Files of the user, by paths below the user's folder. */
  listUserDataFullInfo(folder: string): Promise<{ path: string; size: number; modified: number }[]>;
  getUserData(file: string): Promise<Response>;
  storeUserData(file: string, content: string, options: { overwrite: boolean; stringify: boolean; throwOnError: boolean }): Promise<Response>;
  deleteUserData(file: string): Promise<Response>;
  fetchApi(path: string, options?: RequestInit): Promise<Response>;
  getUserData(file: string): Promise<Response>;
  /** Written as JSON; throws where the server refuses it. */
  storeUserData(file: string, content: unknown): Promise<Response>;
  addEventListener<Name extends keyof Events>(name: Name, listener: (event: CustomEvent<Events[Name]>) => unknown): void;
  dispatchCustomEvent<Name extends keyof Events>(name: Name, detail: Events[Name]): void;
};
