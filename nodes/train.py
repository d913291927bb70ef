"""`QRLoRA_Train`: an adapter from one picture, or many."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from comfy_api.latest import io, ui

from ..qrlora_core import PRESETS, AdapterFileError, ObjectiveSettings, OptimizerSettings
from .host.files.checkpoints import checkpoint_names, checkpoint_path
from .host.model.host_types import Conditioning, Latent, Patcher, Pixels
from .host.page.node_text import node_id, show_text, text_shower
from .host.page.training import current_trainings
from .host.train.dataset import DataSettings, collect
from .host.train.report import describe_training
from .host.train.role.settings import NO_ROLE, ROLES, RoleSettings
from .host.train.samples import SampleSettings
from .host.train.settings import DTYPES, NO_RESUME, RESUME_LATEST, VARIANTS, RunSettings, TrainingSettings
from .host.train.train import View, train_adapter
from .pictures import as_image, training_view
from .sockets import (
    CATEGORY,
    LossMapSocket,
    ObjectiveSocket,
    OptimizerSocket,
    QRLoRASocket,
    RoleSocket,
    TrainingDataSocket,
)
from .train_judged import judged_inputs, take_judged

_CUSTOM = "custom"
_RUN = RunSettings(checkpoint_every=250, keep_checkpoints=2)


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
            "changed. Save the adapter with Save QR-LoRA, or use it at once in QR-LoRA Merge. An interrupted "
            "training is kept as a checkpoint and can go on.",
            is_input_list=True,
            inputs=[*_inputs(), *_later_inputs(), *judged_inputs()],
            outputs=[
                QRLoRASocket.Output(display_name="adapter", tooltip="The trained adapter."),
                LossMapSocket.Output(display_name="loss_map", tooltip="The loss of every step, for Plot Loss Graph."),
                io.Image.Output(display_name="view", tooltip="The loss curve and the samples in one picture."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(cls, resume_from: list[str] | str = NO_RESUME) -> bool | str:
        """Our own message in place of the host's "value not in list"."""
        name = resume_from if isinstance(resume_from, str) else resume_from[0]
        try:
            if name not in (NO_RESUME, RESUME_LATEST):
                checkpoint_path(name)
        except AdapterFileError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls, model: list[Patcher], latents: list[Latent], positive: list[Conditioning], targets: list[str],
        custom_targets: list[str] | None = None, negative: list[Conditioning] | None = None,
        pixels: list[Pixels] | None = None, **settings: list[Any],
    ) -> io.NodeOutput:  # fmt: skip
        """Train on all latents and captions at once; every other input is a list of one."""
        given = {name: values[0] for name, values in settings.items() if values}
        chosen = (custom_targets or [""])[0] if targets[0] == _CUSTOM else targets[0]
        unused = _take_role(given, pixels or [])
        pictures = pixels if given["role"] else None
        data = collect(latents, positive, given.pop("data", None) or DataSettings(), negative or [], pictures or [])
        run = _take_run(given)
        for name, default in (("objective", ObjectiveSettings()), ("optimizer", OptimizerSettings())):
            given[name] = given.get(name) or default
        view = View(node_id(cls), text_shower(cls), training_view, _workflow_id(cls), current_trainings())
        result = train_adapter(model[0], data, TrainingSettings(targets=chosen, **given), run, view)
        text = "\n".join([describe_training(result), *unused])
        show_text(cls, text)
        picture = as_image(training_view(result.losses, result.pictures))
        shown = {**ui.PreviewImage(picture).as_dict(), "qr_lora_training": [{**asdict(result.status), "text": text}]}
        return io.NodeOutput(result.adapter, {"loss": result.losses}, picture, ui=shown)


def _workflow_id(node: type[io.ComfyNode]) -> str | None:
    """The id of the workflow that a page sent along; None where a prompt came without one."""
    sent = getattr(node.hidden, "extra_pnginfo", None)
    workflow = sent.get("workflow") if isinstance(sent, dict) else None
    return workflow.get("id") if isinstance(workflow, dict) else None


def _take_role(given: dict[str, Any], pixels: list[Pixels]) -> list[str]:
    """Put the recipe of the role, or None, in the place of its name and settings; returns what else is to be said."""
    role, settings = given.pop("role", None) or NO_ROLE, given.pop("role_settings", None)
    given["role"] = None if role == NO_ROLE else (settings or RoleSettings()).recipe(role)
    unused = {"role_settings": settings is not None, "pixels": bool(pixels)}
    named = " and ".join(name for name, is_connected in unused.items() if is_connected)
    return [f"role is none: {named} connected, and not used"] if named and role == NO_ROLE else []


def _take_run(given: dict[str, Any]) -> RunSettings:
    """The settings of checkpoints and samples, taken out of all that are given."""

    def take(name: str, default: Any) -> Any:
        return given.pop(name, default)

    samples = SampleSettings(
        every=take("sample_every", _RUN.samples.every), steps=take("sample_steps", _RUN.samples.steps),
        cfg=take("sample_cfg", _RUN.samples.cfg), vae=take("vae", None), seed=given["seed"],
        **take_judged(take),
    )  # fmt: skip
    names = ("run_name", "checkpoint_every", "keep_checkpoints", "resume_from")
    return RunSettings(samples=samples, **{name: take(name, getattr(_RUN, name)) for name in names})


def _inputs() -> list[io.Input]:
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
            tooltip="Saves much memory and takes longer, less so where memory is free. Switch off for small models.",
        ),
        io.String.Input(
            "custom_targets", default="", multiline=True, optional=True,
            tooltip="Only with targets = custom: dotted suffixes or globs, one per line, "
            "for example attn.to_v or *double_blocks.1?.*",
        ),
    ]  # fmt: skip


def _later_inputs() -> list[io.Input]:
    """Inputs that came after the first release: optional, and last."""
    samples = _RUN.samples
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
            "run_name", default=_RUN.run_name, optional=True,
            tooltip="Name of the folder of checkpoints under output/qr_loras/checkpoints; a number is added.",
        ),
        io.Int.Input(
            "checkpoint_every", default=_RUN.checkpoint_every, min=0, max=100000, optional=True,
            tooltip="Steps between two checkpoints, which is what a crash can lose. 0: only at the end, or when "
            "interrupted.",
        ),
        io.Int.Input(
            "keep_checkpoints", default=_RUN.keep_checkpoints, min=0, max=1000, optional=True,
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
            "style: a look, seen moved, zoomed and in pieces. How far: QR-LoRA Role. Not shown to help on a small test "
            "model.",
        ),
        RoleSocket.Input("role_settings", optional=True, tooltip="How far a role varies, from QR-LoRA Role."),
        io.Image.Input(
            "pixels", optional=True,
            tooltip="With a role: the pictures that latents were encoded from, in the same order. Their variants are "
            "encoded once by vae; without them only what can be done on latents is varied.",
        ),
    ]  # fmt: skip
