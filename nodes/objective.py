"""`QRLoRA_Objective`: which noise levels a training sees, and how an error counts."""

from __future__ import annotations

from comfy_api.latest import io

from ..qrlora_core import ObjectiveSettings
from ..qrlora_core.train.objective import LOSSES, TIMESTEPS, WEIGHTINGS
from .sockets import CATEGORY, ObjectiveSocket

_DEFAULT = ObjectiveSettings()


class Objective(io.ComfyNode):
    """Settings of the loss."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See `io.Schema`."""
        return io.Schema(
            node_id="QRLoRA_Objective",
            display_name="QR-LoRA Objective",
            category=CATEGORY,
            description="Which noise levels Train QR-LoRA sees, and how an error counts. Without this node: uniform "
            "timesteps and the plain squared error, as published.",
            inputs=[
                io.Combo.Input(
                    "timesteps",
                    options=list(TIMESTEPS),
                    default=_DEFAULT.timesteps,
                    tooltip="uniform: as published. content: mostly high noise, where layout and shape form. style: "
                    "mostly low noise, where colour and texture do. logit_normal: mostly the middle. shifted: as the "
                    "sampler of this flow model visits them, mostly high noise.",
                ),
                io.Combo.Input(
                    "weighting",
                    options=list(WEIGHTINGS),
                    default=_DEFAULT.weighting,
                    tooltip="none: as published. min_snr: very low noise counts less, for v and flow models very high "
                    "noise too. For flow models (SD3, FLUX ...) alone: sigma_sqrt, low noise counts far more; cosmap, "
                    "the middle counts up to twice.",
                ),
                io.Float.Input(
                    "min_snr_gamma",
                    default=_DEFAULT.min_snr_gamma,
                    min=0.1,
                    max=100.0,
                    step=0.1,
                    tooltip="Only with weighting = min_snr: the limit of the signal-to-noise ratio; 5 is usual.",
                ),
                io.Combo.Input(
                    "loss",
                    options=list(LOSSES),
                    default=_DEFAULT.loss,
                    tooltip="mse: the squared error, as published. huber: large errors count less; for pictures with "
                    "flaws that should not be learned.",
                ),
                io.Float.Input(
                    "huber_delta",
                    default=_DEFAULT.huber_delta,
                    min=0.001,
                    max=10.0,
                    step=0.001,
                    tooltip="Only with loss = huber: from this error on, the loss grows linearly. The noise has size "
                    "1; 0.1 to 1 is usual.",
                ),
                io.Int.Input(
                    "min_timestep",
                    optional=True,
                    default=_DEFAULT.min_timestep,
                    min=0,
                    max=999,
                    tooltip="No lower noise is seen, in thousandths; 1000 is pure noise. For one of two experts: Wan "
                    "2.2's for high noise starts at 875 (text to video) or 900 (image to video).",
                ),
                io.Int.Input(
                    "max_timestep",
                    optional=True,
                    default=_DEFAULT.max_timestep,
                    min=1,
                    max=1000,
                    tooltip="No higher noise is seen, in thousandths. For one of two experts: Wan 2.2's for low noise "
                    "ends at 875 (text to video) or 900 (image to video).",
                ),
            ],
            outputs=[ObjectiveSocket.Output(display_name="objective", tooltip="For objective of Train QR-LoRA.")],
        )

    @classmethod
    def execute(
        cls, timesteps: str, weighting: str, min_snr_gamma: float, loss: str, huber_delta: float,
        min_timestep: int = _DEFAULT.min_timestep, max_timestep: int = _DEFAULT.max_timestep,
    ) -> io.NodeOutput:  # fmt: skip
        """Pack the settings, which check themselves."""
        settings = ObjectiveSettings(timesteps, weighting, min_snr_gamma, loss, huber_delta, min_timestep, max_timestep)
        return io.NodeOutput(settings)
