// What we keep on the host's nodes.

interface LGraphNode {
  /** Has not said anything since the page knows it. */
  qrLoRASilent?: boolean;
  qrLoRATell?(output: NodeOutputs | undefined): void;
  /** A widget was changed that stands for one of this node. */
  qrLoRAChanged?(): void;
  qrLoRAText?(told: string): void;
  qrLoRASockets?: import("../../web/merge/sockets.js").Socket[];
  qrLoRADesk?: import("../../web/desk/desk.js").Desk;
  qrLoRAMixer?: import("../../web/mixer/mixer.js").Mixer;
  qrLoRATraining?: import("../../web/train/view.js").TrainingView;
  /** A run of this node is noted. */
  qrLoRAHistory?(run: { wasSilent: boolean }): void;
}
