"""What is used of the host's own objects, which have few annotations and other members in every version.

Whatever else one of them has is asked for with ``hasattr`` where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

Pixels = Tensor  # IMAGE: (count, height, width, channels), 0 to 1
Latent = dict[str, Any]  # LATENT: ``samples``, and what nodes add
Caption = Sequence[Any]  # an entry of CONDITIONING: a tensor, and options by name
Conditioning = Sequence[Caption]
Slice = tuple[int, int, int]  # dimension, start, length
Reorder = Callable[[Tensor], Tensor]  # of rows
# A weight as patches and tables of names have it: its key, or that with a slice of it and its order.
Entry = str | tuple[str, Slice | None] | tuple[str, Slice | None, Reorder]


class ModelSampling(Protocol):
    """The noise of a model: how much there is when, and what its network predicts."""

    def percent_to_sigma(self, percent: float) -> float:
        """The noise level at a share of the sampling."""

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False) -> Tensor:
        """A noisy latent."""

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """The clean latent that a prediction means."""


class LatentFormat(Protocol):
    """The latents of a model, and how they are shown without a VAE."""

    latent_channels: int
    latent_dimensions: int
    latent_rgb_factors: list[list[float]] | None
    latent_rgb_factors_bias: list[float] | None
    latent_rgb_factors_reshape: Any


class HostModel(torch.nn.Module):
    """``BaseModel``: a network and what belongs to it. Text encoders are bare modules: ask for ``diffusion_model``."""

    diffusion_model: torch.nn.Module
    model_sampling: ModelSampling
    latent_format: LatentFormat
    model_config: Any
    manual_cast_dtype: torch.dtype | None
    get_dtype: Callable[[], torch.dtype]
    apply_model: Callable[..., Tensor]
    extra_conds: Callable[..., dict[str, Any]]
    process_latent_in: Callable[[Tensor], Tensor]
    latent_shapes: list[torch.Size] | None  # newer hosts: of what a latent that is a pack consists of
    process_latent_out: Callable[[Tensor], Tensor]


class Patcher(Protocol):
    """``ModelPatcher``, of the host or of another pack: a model with the changes that nodes put on it."""

    model: HostModel
    load_device: torch.device
    offload_device: torch.device
    model_options: Mapping[str, Any]
    patches: MutableMapping[str, Sequence[tuple[Any, ...]]]
    backup: Mapping[str, Any]
    object_patches: Mapping[str, Any]
    wrappers: Mapping[str, Mapping[Any, Any]]
    injections: Mapping[str, Sequence[Any]]

    def clone(self) -> Patcher:
        """Another patcher of the same model."""

    def load(self, *args: Any, **kwargs: Any) -> Any:
        """Move the model to its device."""

    def model_size(self) -> int:
        """Bytes."""

    def loaded_size(self) -> int:
        """Bytes that are on the device."""

    def get_model_object(self, name: str) -> Any:
        """A part of the model, or what a node put in its place."""

    def get_additional_models(self) -> Sequence[Patcher]:
        """What is loaded with it."""

    def add_patches(self, patches: Mapping[Any, Any], strength_patch: float = 1.0) -> Sequence[Any]:
        """Change weights; returns the keys that were taken."""

    def set_model_compute_dtype(self, dtype: torch.dtype) -> None:
        """What the model computes in."""

    def set_injections(self, key: str, injections: list[Any]) -> None:
        """What is called around every use of the model."""

    def set_additional_models(self, key: str, models: list[Any]) -> None:
        """What is to be loaded with it."""

    def add_callback_with_key(self, call_type: str, key: str, callback: Callable[..., Any]) -> None:
        """What is called at a certain moment."""

    def add_wrapper_with_key(self, wrapper_type: str, key: str, wrapper: Callable[..., Any]) -> None:
        """What is called in place of a part of the sampling."""


class Clip(Protocol):
    """``CLIP``: text encoders behind a patcher."""

    patcher: Patcher

    def clone(self) -> Clip:
        """Another one with a patcher of its own."""


class Vae(Protocol):
    """``VAE``."""

    patcher: Patcher
    vae_dtype: torch.dtype

    def encode(self, pixel_samples: Tensor) -> Tensor:
        """Latents of pictures."""

    def decode(self, samples: Tensor) -> Tensor:
        """Pictures of latents."""

    def memory_used_decode(self, shape: torch.Size, dtype: torch.dtype) -> int:
        """Bytes."""


class ClipVision(Protocol):
    """``CLIP_VISION``: an image encoder behind a patcher."""

    patcher: Patcher

    def encode_image(self, image: Tensor) -> Any:
        """What it sees in pictures, by name."""


class Guider(Protocol):
    """``CFGGuider`` while it samples."""

    inner_model: HostModel
    model_patcher: Patcher
    conds: dict[str, list[Any]]
    cfg: float
