"""`QRLoRA_Train`: an adapter from one picture, or many."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from comfy_api.latest import io, ui

from ..qrlora_core import AdapterFileError, ObjectiveSettings, OptimizerSettings
from .host.files.checkpoints import checkpoint_path
from .host.model.host_types import Conditioning, Latent, Patcher, Pixels
from .host.page.node_text import node_id, show_text, text_shower
from .host.page.training import current_trainings
from .host.train.dataset import DataSettings, TrainingSet, collect
from .host.train.presets.preset import CUSTOM_TARGETS, NO_PRESET, Preset, preset_for
from .host.train.report import describe_training
from .host.train.role.settings import NO_ROLE, RoleSettings
from .host.train.samples import SampleSettings
from .host.train.settings import NO_RESUME, RESUME_LATEST, RunSettings, TrainingSettings
from .host.train.train import View, train_adapter
from .pictures import as_image, training_view
from .sockets import CATEGORY, LossMapSocket, QRLoRASocket
from .train_inputs import DEFAULT_RUN, first_inputs, later_inputs
from .train_judged import judged_inputs, take_judged


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
            inputs=[*first_inputs(), *later_inputs(), *judged_inputs()],
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
        cls, model: list[Patcher], latents: list[Latent], positive: list[Conditioning],
        negative: list[Conditioning] | None = None, pixels: list[Pixels] | None = None, **settings: list[Any],
    ) -> io.NodeOutput:  # fmt: skip
        """Train on all latents and captions at once; every other input is a list of one."""
        given = {name: values[0] for name, values in settings.items() if values}
        unused = _take_role(given, pixels or [])
        pictures = pixels if given["role"] else None
        data = collect(latents, positive, given.pop("data", None) or DataSettings(), negative or [], pictures or [])
        run = _take_run(given, _take_preset(given, model[0], data))
        given["targets"] = _take_targets(given)
        for name, default in (("objective", ObjectiveSettings()), ("optimizer", OptimizerSettings())):
            given[name] = given.get(name) or default
        view = View(node_id(cls), text_shower(cls), training_view, _workflow_id(cls), current_trainings())
        result = train_adapter(model[0], data, TrainingSettings(**given), run, view)
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


def _take_preset(given: dict[str, Any], model: Patcher, data: TrainingSet) -> Preset | None:
    """The preset in the place of its name, and what it sets in the place of what the node says."""
    preset = preset_for(given.pop("preset", None) or NO_PRESET, model, data, given)
    given |= {} if preset is None else preset.values
    return preset


def _take_targets(given: dict[str, Any]) -> str:
    """What `targets` names, the patterns of `custom_targets` in the place of their name."""
    patterns, chosen = given.pop("custom_targets", ""), given["targets"]
    return str(patterns if chosen == CUSTOM_TARGETS else chosen)


def _take_run(given: dict[str, Any], preset: Preset | None) -> RunSettings:
    """The settings of checkpoints and samples, taken out of all that are given."""

    def take(name: str, default: Any) -> Any:
        return given.pop(name, default)

    samples = SampleSettings(
        every=take("sample_every", DEFAULT_RUN.samples.every), steps=take("sample_steps", DEFAULT_RUN.samples.steps),
        cfg=take("sample_cfg", DEFAULT_RUN.samples.cfg), vae=take("vae", None), seed=given["seed"],
        **take_judged(take),
    )  # fmt: skip
    names = ("run_name", "checkpoint_every", "keep_checkpoints", "resume_from")
    return RunSettings(
        samples=samples, preset=preset, **{name: take(name, getattr(DEFAULT_RUN, name)) for name in names}
    )
