"""A latent as a picture: decoded by a VAE where there is room for it, else in its rough colours."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import comfy.model_management
import comfy.utils
import latent_preview
import numpy as np
import torch
from torch import Tensor

from ..model.host_types import HostModel, Patcher, Vae


@dataclass(frozen=True)
class Picture:
    """What is shown of a latent.

    Attributes:
        pixels: (height, width, 3) float32 on the CPU, 0 to 1. is_decoded: whether a VAE made it.
    """

    pixels: Tensor
    is_decoded: bool


def show(
    latent: Tensor,
    vae: Vae | None,
    model: HostModel,
    parts: Sequence[torch.Size] = (),
    *,
    alone: bool = False,
) -> Picture | None:
    """The first picture of a latent; None where nothing can show it.

    Args:
        latent: in the model's scale. parts: shapes of what is packed in it; the first is shown.
        alone: nothing trains yet, so that the host may move what it likes; no more of a video is decoded than is shown.
    """
    frames = slice(0, 1 if alone else None)
    shown = _frames(_first(latent, parts), frames)
    if vae is not None and (alone or _decodes(vae, shown)):
        decoded = vae.decode(_frames(_first(model.process_latent_out(latent.float()), parts), frames).to("cpu"))
        return Picture(decoded.reshape(-1, *decoded.shape[-3:])[0, ..., :3].float().cpu().clamp(0, 1), is_decoded=True)
    factors = model.latent_format.latent_rgb_factors
    if factors is None:
        return None
    previewer = latent_preview.Latent2RGBPreviewer(
        factors, model.latent_format.latent_rgb_factors_bias, model.latent_format.latent_rgb_factors_reshape
    )
    picture = previewer.decode_latent_to_preview(shown.float())
    return Picture(torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255.0), is_decoded=False)


def _first(latent: Tensor, parts: Sequence[torch.Size]) -> Tensor:
    """The first of the parts that are packed in a latent, or a latent that is no pack."""
    return comfy.utils.unpack_latents(latent, parts)[0] if parts else latent


def _frames(latent: Tensor, frames: slice) -> Tensor:
    return latent[:, :, frames] if latent.ndim == 5 else latent


def _decodes(vae: Vae, latent: Tensor) -> bool:
    if vae.patcher.load_device.type == "cpu":
        return True
    fits = has_room(vae.patcher, vae.memory_used_decode(latent.shape, vae.vae_dtype))
    if not fits:
        logging.info("QR-LoRA: no memory for the VAE beside the training; the sample shows the latent instead")
    return fits


def has_room(patcher: Patcher, more: int = 0) -> bool:
    """False where loading a model, and so many bytes more, would make the host move the one that trains off."""
    device = patcher.load_device
    if device.type == "cpu":
        return True
    free: int = comfy.model_management.get_free_memory(device) - comfy.model_management.minimum_inference_memory()
    return patcher.model_size() + more <= free
