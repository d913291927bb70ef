"""A model of the host: loaded by its own loaders, trained by our trainer, merged live, sampled as its KSampler does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import utils.install_util  # noqa: F401  (the host's `utils`, before its module `nodes` looks for it)

# isort: split
import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths
import torch
from torch import Tensor

import nodes as host_nodes
from benchmarks.evidence.real.errors import InputError
from benchmarks.evidence.real.pictures import Subject
from benchmarks.evidence.real.plan import MERGES, METHODS, Drawing, Scales, Training
from comfyui_qr_lora.nodes.host.apply.source import Source
from comfyui_qr_lora.nodes.host.merge.combine import Combination
from comfyui_qr_lora.nodes.host.merge.merge import apply_adapters
from comfyui_qr_lora.nodes.host.merge.modes.registry import mode_named
from comfyui_qr_lora.nodes.host.train.dataset import collect
from comfyui_qr_lora.nodes.host.train.settings import TrainingSettings
from comfyui_qr_lora.nodes.host.train.train import train_adapter
from comfyui_qr_lora.qrlora_core import QRLoRA


@dataclass(frozen=True)
class Files:
    """Names in the host's folders, or paths: a checkpoint, or a diffusion model with text encoders and a VAE."""

    checkpoint: str = ""
    diffusion_model: str = ""
    text_encoders: tuple[str, ...] = ()
    clip_type: str = "stable_diffusion"
    vae: str = ""

    def __str__(self) -> str:
        every = (self.checkpoint, self.diffusion_model, *self.text_encoders, self.vae)
        return ", ".join(Path(name).name for name in every if name)


@dataclass(frozen=True)
class Model:
    """A model with its text encoder and its VAE, and what they gave before."""

    patcher: Any
    clip: Any
    vae: Any
    _said: dict[str, Any] = field(default_factory=dict)
    _latents: dict[Subject, Any] = field(default_factory=dict)

    def prepare(self, texts: Iterable[str], subjects: Iterable[Subject] = ()) -> None:
        """Encode all at once, so that text encoder and VAE need not come and go between trainings and samplings."""
        for text in texts:
            self.said(text)
        for subject in subjects:
            self.latent(subject)

    def said(self, text: str) -> Any:
        """A text as conditioning; each is encoded once."""
        if text not in self._said:
            (self._said[text],) = host_nodes.CLIPTextEncode().encode(self.clip, text)
        return self._said[text]

    def latent(self, subject: Subject) -> dict[str, Any]:
        """Its picture as the host's LATENT; encoded once."""
        if subject not in self._latents:
            (self._latents[subject],) = host_nodes.VAEEncode().encode(self.vae, subject.pixels)
        return dict(self._latents[subject])

    def train(self, subject: Subject, method: str, how: Training, seed: int) -> QRLoRA:
        """An adapter of one picture, as Train QR-LoRA makes it."""
        variant, share = METHODS[method]
        settings = TrainingSettings(
            steps=how.steps, learning_rate=how.rates[method], rank=max(1, how.rank // share), alpha=0.0,
            variant=variant, targets=how.targets, batch_size=how.batch, grad_accumulation=1, seed=seed,
            training_dtype=how.dtype, gradient_checkpointing=how.checkpointing,
        )  # fmt: skip
        data = collect([self.latent(subject)], [self.said(subject.caption)])
        return train_adapter(self.patcher, data, settings).adapter

    def merged(self, adapters: Sequence[QRLoRA], scales: Scales, merge: str) -> Any:
        """The patcher with a content and a style on it, live; with no adapter, as it is."""
        sources = [Source(role, adapter, scale)
                   for role, adapter, scale in zip(("content", "style"), adapters, scales, strict=False)]  # fmt: skip
        return apply_adapters(self.patcher, sources, "live", how=combination(merge)).model if sources else self.patcher

    def draw(self, patcher: Any, prompt: str, like: Subject, how: Drawing, count: int, seed: int) -> Tensor:
        """Pictures (count, height, width, 3) of 0 to 1, of the size of a given one.

        The noise depends on the seed alone: whatever is on the model, it is the same.
        """
        empty = self.latent(like)["samples"]
        latent = {"samples": torch.zeros_like(empty).repeat(count, *(1,) * (empty.ndim - 1))}
        (samples,) = host_nodes.common_ksampler(
            patcher, seed, how.steps, how.cfg, how.sampler, how.scheduler, self.said(prompt), self.said(""), latent
        )
        (pictures,) = host_nodes.VAEDecode().decode(self.vae, samples)
        return torch.as_tensor(pictures)


def combination(merge: str) -> Combination:
    """A merge by its name here as the nodes have it: their mode with its defaults, and which adapter is protected."""
    name, given = MERGES[merge]
    mode = mode_named(name)
    return Combination(mode, {own.name: own.default for own in mode.parameters} | dict(given))


def load(files: Files) -> Model:
    """By the host's own loaders.

    Raises:
        InputError: a file that is not there, or a checkpoint without text encoder or VAE where none was named.
    """
    embeddings = folder_paths.get_folder_paths("embeddings")
    patcher = clip = vae = None
    if files.checkpoint:
        patcher, clip, vae = comfy.sd.load_checkpoint_guess_config(
            find("checkpoints", files.checkpoint), embedding_directory=embeddings
        )[:3]
    if files.diffusion_model:
        patcher = comfy.sd.load_diffusion_model(find("diffusion_models", files.diffusion_model))
    if files.text_encoders:
        paths = [find("text_encoders", name) for name in files.text_encoders]
        clip = comfy.sd.load_clip(paths, embedding_directory=embeddings, clip_type=clip_type(files.clip_type))
    if files.vae:
        weights, metadata = comfy.utils.load_torch_file(find("vae", files.vae), return_metadata=True)
        vae = comfy.sd.VAE(sd=weights, metadata=metadata)
        vae.throw_exception_if_invalid()
    lacking = [option for option, part in
               (("--diffusion-model", patcher), ("--text-encoder", clip), ("--vae", vae)) if part is None]  # fmt: skip
    if lacking:
        raise InputError(f"{files}: expected a model with its text encoder and its VAE; name also {lacking[0]}.")
    return Model(patcher, clip, vae)


def find(folder: str, name: str) -> str:
    """The path of a file, given by its name in a folder of the host, or as a path.

    Raises:
        InputError: there is none; tells those that are there.
    """
    path = folder_paths.get_full_path(folder, name)
    if path or Path(name).is_file():
        return str(path or name)
    there = ", ".join(sorted(folder_paths.get_filename_list(folder))) or "nothing"
    raise InputError(
        f"{name}: expected a path, or a file in {' or '.join(folder_paths.get_folder_paths(folder))}. "
        f"There is {there}. --base names the folder of another ComfyUI."
    )


def clip_type(name: str) -> Any:
    """The host's type of text encoders.

    Raises:
        InputError: it has none of this name.
    """
    types = {kind.name.lower(): kind for kind in comfy.sd.CLIPType}
    if name not in types:
        raise InputError(f"--clip-type {name}: expected one of {', '.join(sorted(types))}.")
    return types[name]


def device() -> str:
    """Where the host computes, in words."""
    return str(comfy.model_management.get_torch_device_name(comfy.model_management.get_torch_device()))
