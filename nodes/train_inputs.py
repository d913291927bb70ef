"""What Train QR-LoRA asks for, as inputs of a node."""

from __future__ import annotations

from comfy_api.latest import io

from ..qrlora_core import PRESETS
from .host.files.checkpoints import checkpoint_names
from .host.train.presets.preset import CUSTOM_TARGETS, NO_PRESET, PRESET_NAMES
from .host.train.role.settings import NO_ROLE, ROLES
from .host.train.settings import DTYPES, NO_RESUME, RESUME_LATEST, VARIANTS, RunSettings
from .sockets import ObjectiveSocket, OptimizerSocket, RoleSocket, TrainingDataSocket

DEFAULT_RUN = RunSettings(checkpoint_every=250, keep_checkpoints=2)


def first_inputs() -> list[io.Input]:
    """Inputs of the first release."""
    return [
        io.Model.Input("model", tooltip="The base model. Merge the adapter onto this same model later."),
        io.Latent.Input(
            "latents",
            tooltip="The pictures, through VAE Encode; many train one adapter. With Set Latent Noise Mask, only what "
            "is white is learned. The mask of Load Image is white where a cut-out picture is transparent: put Invert "
            "Mask before, or choose black in QR-LoRA Training Data.",
        ),
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
            tooltip="triu: dR upper triangular, as in the published training. full: all of dR, slightly more capacity. "
            "qr: Q and R both, the published mode of fast learning, at a quarter of the learning rate; merges less "
            "well, larger file. lora: an ordinary LoRA, twice as many numbers; on a small test model it mixed better.",
        ),
        io.Combo.Input(
            "targets", options=[*PRESETS, CUSTOM_TARGETS], default="paper",
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
            tooltip="Saves much memory and takes longer, less so where memory is free. Switch off for small models.",
        ),
        io.String.Input(
            "custom_targets", default="", multiline=True, optional=True,
            tooltip="Only with targets = custom: dotted suffixes or globs, one per line, "
            "for example attn.to_v or *double_blocks.1?.*",
        ),
    ]  # fmt: skip


def later_inputs() -> list[io.Input]:
    """Inputs that came after the first release: optional, and last."""
    samples = DEFAULT_RUN.samples
    return [
        io.Vae.Input("vae", optional=True, tooltip="Decodes the samples; without it they show rough colours alone."),
        io.Conditioning.Input(
            "negative", optional=True,
            tooltip="An empty text: for samples with sample_cfg above 1, and for caption_dropout. "
            "Connect it from the start: resume_from takes it for one of the captions.",
        ),
        io.Int.Input(
            "sample_every", default=samples.every, min=0, max=100000, optional=True,
            tooltip="Steps between two sample pictures, drawn with the adapter as it is, the first caption and one "
            "seed; 0 draws none.",
        ),
        io.Int.Input(
            "sample_steps", default=samples.steps, min=1, max=200, optional=True,
            tooltip="Sampling steps of a sample picture.",
        ),
        io.Float.Input(
            "sample_cfg", default=samples.cfg, min=1.0, max=30.0, step=0.1, optional=True,
            tooltip="Guidance of the samples: 1 for FLUX; about 4 for SD3 and 7 for SDXL. Without negative it is 1.",
        ),
        io.String.Input(
            "run_name", default=DEFAULT_RUN.run_name, optional=True,
            tooltip="Name of the folder of checkpoints under output/qr_loras/checkpoints; a number is added.",
        ),
        io.Int.Input(
            "checkpoint_every", default=DEFAULT_RUN.checkpoint_every, min=0, max=100000, optional=True,
            tooltip="Steps between two checkpoints, which is what a crash can lose. 0: only at the end, or when "
            "interrupted.",
        ),
        io.Int.Input(
            "keep_checkpoints", default=DEFAULT_RUN.keep_checkpoints, min=0, max=1000, optional=True,
            tooltip="How many checkpoints of a run stay on the disk. 0 writes none, and an interrupted run is lost.",
        ),
        io.Combo.Input(
            "resume_from", options=[NO_RESUME, RESUME_LATEST, *checkpoint_names()], default=NO_RESUME, optional=True,
            tooltip="Goes on from a checkpoint, exactly, with the same settings and pictures. latest: the last one of "
            "run_name, if there is one. Raise steps to train a finished one further. Press R to refresh the list.",
        ),
        ObjectiveSocket.Input("objective", optional=True, tooltip="Noise levels and loss, from QR-LoRA Objective."),
        OptimizerSocket.Input("optimizer", optional=True, tooltip="Updates, from QR-LoRA Optimizer."),
        TrainingDataSocket.Input(
            "data", optional=True, tooltip="Captions, repeats, class images, from QR-LoRA Training Data."
        ),
        io.Combo.Input(
            "role", options=list(ROLES), default=NO_ROLE, optional=True,
            tooltip="none: the pictures as they are. content: a thing, seen in other colours, light and texture. "
            "style: a look, seen moved, zoomed and in pieces. How far: QR-LoRA Role. On a small test model "
            "contents gained by it in longer trainings, moved styles lost, and mixes gained nothing.",
        ),
        RoleSocket.Input("role_settings", optional=True, tooltip="How far a role varies, from QR-LoRA Role."),
        io.Image.Input(
            "pixels", optional=True,
            tooltip="With a role: the pictures that latents were encoded from, in the same order. Their variants are "
            "encoded once by vae; without them only what can be done on latents is varied.",
        ),
        io.Combo.Input(
            "preset", options=list(PRESET_NAMES), default=NO_PRESET, optional=True,
            tooltip="none: the settings of this node. one picture, many pictures (about twenty): published settings "
            "for the family of the model, in place of those here; the report names each with its source.",
        ),
    ]  # fmt: skip
