"""`QRLoRA_Optimizer`: how a training updates the adapter."""

from __future__ import annotations

from comfy_api.latest import io

from ..qrlora_core import OptimizerSettings
from ..qrlora_core.train.optimizers import OPTIMIZERS, SCHEDULES
from .sockets import CATEGORY, OptimizerSocket

_DEFAULT = OptimizerSettings()


class Optimizer(io.ComfyNode):
    """Settings of the optimizer."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See `io.Schema`."""
        return io.Schema(
            node_id="QRLoRA_Optimizer",
            display_name="QR-LoRA Optimizer",
            category=CATEGORY,
            description="How Train QR-LoRA updates the adapter; learning rate and accumulation are set there. Without "
            "this node: AdamW at a constant rate, as published.",
            inputs=[
                io.Combo.Input(
                    "optimizer",
                    options=list(OPTIMIZERS),
                    default=_DEFAULT.optimizer,
                    tooltip="adamw: as published. adamw8bit: less memory (needs the package bitsandbytes). prodigy: "
                    "finds the learning rate itself; set learning_rate to 1 (needs the package prodigyopt).",
                ),
                io.Combo.Input(
                    "schedule",
                    options=list(SCHEDULES),
                    default=_DEFAULT.schedule,
                    tooltip="How the learning rate goes on after the warm-up: constant, as published; cosine or "
                    "linear: down to 0 at the last step.",
                ),
                io.Int.Input(
                    "warmup_steps",
                    default=_DEFAULT.warmup_steps,
                    min=0,
                    max=100000,
                    tooltip="Steps in which the learning rate rises from 0. A few dozen calm a rough start.",
                ),
                io.Float.Input(
                    "weight_decay",
                    default=_DEFAULT.weight_decay,
                    min=0.0,
                    max=1.0,
                    step=1e-5,
                    tooltip="Pulls the adapter back towards the base model a little with each step.",
                ),
                io.Float.Input(
                    "max_grad_norm",
                    default=_DEFAULT.max_grad_norm,
                    min=0.0,
                    max=1000.0,
                    step=0.01,
                    tooltip="Gradients larger than this in all are scaled down; 1 is usual, 0 leaves them as they are.",
                ),
                io.Float.Input(
                    "ema_decay",
                    default=_DEFAULT.ema_decay,
                    min=0.0,
                    max=0.99999,
                    step=0.001,
                    tooltip="Above 0 the adapter is an average over the last steps, which is calmer: 0.99 is about "
                    "the last hundred. 0: the last step alone.",
                ),
            ],
            outputs=[OptimizerSocket.Output(display_name="optimizer", tooltip="For optimizer of Train QR-LoRA.")],
        )

    @classmethod
    def execute(
        cls,
        optimizer: str,
        schedule: str,
        warmup_steps: int,
        weight_decay: float,
        max_grad_norm: float,
        ema_decay: float,
    ) -> io.NodeOutput:
        """Pack the settings, which check themselves."""
        return io.NodeOutput(
            OptimizerSettings(
                optimizer=optimizer,
                schedule=schedule,
                warmup_steps=warmup_steps,
                weight_decay=weight_decay,
                max_grad_norm=max_grad_norm,
                ema_decay=ema_decay,
            )
        )
