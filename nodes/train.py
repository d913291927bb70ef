"""`QRLoRA_Train`: an adapter from one picture, or many."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..qrlora_core import PRESETS
from ..qrlora_core.train import VARIANTS
from .host.dataset import collect_examples
from .host.display import show_text
from .host.report import describe_training
from .host.training import DTYPES, TrainingSettings, check_settings, train_adapter
from .sockets import CATEGORY, LossMapSocket, QRLoRASocket

_CUSTOM = "custom"


class Train(io.ComfyNode):
    """Trains an adapter."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See `io.Schema`."""
        return io.Schema(
            node_id="QRLoRA_Train",
            display_name="Train QR-LoRA",
            category=CATEGORY,
            description="Trains one adapter on the connected pictures, one picture being enough. The model is not "
            "changed. Save the adapter with Save QR-LoRA, or use it at once in QR-LoRA Merge.",
            is_input_list=True,
            inputs=_inputs(),
            outputs=[
                QRLoRASocket.Output(display_name="adapter", tooltip="The trained adapter."),
                LossMapSocket.Output(display_name="loss_map", tooltip="The loss of every step, for Plot Loss Graph."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model: list[Any], latents: list[Any], positive: list[Any], targets: list[str],
        custom_targets: list[str] | None = None, **settings: list[Any],
    ) -> io.NodeOutput:  # fmt: skip
        """Train on all latents and captions at once; every other input is a list of one."""
        chosen = (custom_targets or [""])[0] if targets[0] == _CUSTOM else targets[0]
        asked = TrainingSettings(targets=chosen, **{name: values[0] for name, values in settings.items()})
        check_settings(asked)
        result = train_adapter(model[0], collect_examples(latents, positive), asked)
        show_text(cls, describe_training(result.adapter, result.losses, result.narrow_layers))
        return io.NodeOutput(result.adapter, {"loss": result.losses})


def _inputs() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="The base model. Merge the adapter onto this same model later."),
        io.Latent.Input("latents", tooltip="The pictures, through VAE Encode; many train one adapter."),
        io.Conditioning.Input("positive", tooltip="The caption: one for all pictures, or one for each, in order."),
        io.Int.Input(
            "steps", default=1000, min=1, max=100000,
            tooltip="How many updates; 1000 for one picture as published. Judge by the result, the loss is noisy.",
        ),
        io.Float.Input(
            "learning_rate", default=1e-4, min=1e-7, max=1.0, step=1e-7,
            tooltip="Size of an update. 0.0001 as published for FLUX; small models may take ten times more.",
        ),
        io.Int.Input(
            "rank", default=64, min=1, max=1024,
            tooltip="Capacity of the adapter per layer; 64 as published. Only adapters of equal rank share a basis.",
        ),
        io.Float.Input(
            "alpha", default=0.0, min=0.0, max=1024.0, step=0.5,
            tooltip="The adapter acts with alpha / rank. 0 means the same as rank, as published.",
        ),
        io.Combo.Input(
            "variant", options=list(VARIANTS), default=VARIANTS[0],
            tooltip="triu: dR upper triangular, as in the published training. full: all of dR, slightly more capacity.",
        ),
        io.Combo.Input(
            "targets", options=[*PRESETS, _CUSTOM], default="paper",
            tooltip="Which layers learn. paper: attention and feed-forward, as published; attention: less capacity, "
            "smaller file; all-linear: every linear layer; custom: the patterns in custom_targets.",
        ),
        io.Int.Input("batch_size", default=1, min=1, max=256, tooltip="Pictures per step; more needs more memory."),
        io.Int.Input(
            "grad_accumulation", default=1, min=1, max=1024,
            tooltip="Batches averaged per update, 4 as published: a larger batch without more memory, as many times "
            "slower.",
        ),
        io.Int.Input(
            "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=False,
            tooltip="Same seed, same adapter. It never changes by itself, so a queued prompt does not train again.",
        ),
        io.Combo.Input(
            "training_dtype", options=list(DTYPES), default="bf16",
            tooltip="Precision of the computation; the adapter itself is float32. bf16 for GPUs, fp32 for a CPU.",
        ),
        io.Boolean.Input(
            "gradient_checkpointing", default=True,
            tooltip="Saves much memory and takes longer. Switch off for small models.",
        ),
        io.String.Input(
            "custom_targets", default="", multiline=True, optional=True,
            tooltip="Only with targets = custom: dotted suffixes or globs, one per line, "
            "for example attn.to_v or *double_blocks.1?.*",
        ),
    ]  # fmt: skip
