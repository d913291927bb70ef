/** Messages of the server and of the page, and ours, by name. */
export interface Events {
  execution_cached: { prompt_id: string; nodes: string[] };
  graphChanged: object;
  autoQueueGraphChanged: object;
  progress_text: { nodeId: string; text: string };
  "qr_lora.training": import("../../../../web/train/view.js").Report;
}

export const api: {
  apiURL(path: string): string;
  fetchApi(path: string, options?: RequestInit): Promise<Response>;
  getUserData(file: string): Promise<Response>;
  /** Written as JSON; throws where the server refuses it. */
  storeUserData(file: string, content: unknown): Promise<Response>;
  addEventListener<Name extends keyof Events>(name: Name, listener: (event: CustomEvent<Events[Name]>) => unknown): void;
  dispatchCustomEvent<Name extends keyof Events>(name: Name, detail: Events[Name]): void;
};
