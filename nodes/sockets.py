"""Custom socket types of the pack, and the category of its nodes."""

from comfy_api.latest import io

CATEGORY = "QR-LoRA"

QRLoRASocket = io.Custom("QR_LORA")
ScheduleSocket = io.Custom("QR_LORA_SCHEDULE")
ObjectiveSocket = io.Custom("QR_LORA_OBJECTIVE")
OptimizerSocket = io.Custom("QR_LORA_OPTIMIZER")
TrainingDataSocket = io.Custom("QR_LORA_TRAINING_DATA")
RoleSocket = io.Custom("QR_LORA_ROLE")
GridSocket = io.Custom("QR_LORA_GRID")
LoRAStackSocket = io.Custom("LORA_STACK")  # what stack nodes of other packs give and take
LossMapSocket = io.Custom("LOSS_MAP")  # the host's own type: its Plot Loss Graph node takes it
