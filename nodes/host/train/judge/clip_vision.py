"""What an image encoder of the host sees in a picture: CLIP, SigLIP, DINOv2, whatever Load CLIP Vision loads."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .....qrlora_core import TrainingError
from ...model.host_types import ClipVision
from ..shown import has_room


def embedding(encoder: ClipVision, picture: Tensor) -> Tensor:
    """(features,) float64 of length 1: the encoder's embedding, or where it gives one of each patch, their mean.

    Args:
        picture: (height, width, 3), 0 to 1.
    """
    with torch.inference_mode():  # as the host runs
        found = encoder.encode_image(picture[None])["image_embeds"].float().cpu().double()
    seen = found.reshape(-1, found.shape[-1]).mean(0)
    return F.normalize(seen.clone(), dim=0)


def require_room(encoder: ClipVision) -> None:
    """Refuse to look at a picture where that would move the model that trains off the device.

    Raises:
        TrainingError: there is too little memory.
    """
    patcher = encoder.patcher
    if not has_room(patcher, -min(patcher.loaded_size(), patcher.model_size())):
        raise TrainingError("no memory for the judge beside the training")
