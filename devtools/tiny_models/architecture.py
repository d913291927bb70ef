"""What there is to know of a model: how the host builds it small, what it takes, and what is published of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from .conditioning import CONTEXT_LENGTH, CONTEXT_WIDTH, Conditioning, pooled

ROPE_AXES = (8, 12, 12)  # of heads 32 wide


@dataclass(frozen=True)
class Released:
    """A published network, to hold the names and counts of its layers against what is known of it.

    Args:
        title: what people call it.
        unet: all settings, as the host's detection finds them in its checkpoint.
        parameters: in billions, as published; of the network alone, without text encoders and VAE.
        blocks: dotted name of a list of blocks to how many it has.
        source: where parameters and blocks were read.
    """

    title: str
    unet: Mapping[str, Any] = field(repr=False)
    parameters: float
    blocks: Mapping[str, int]
    source: str


@dataclass(frozen=True)
class Architecture:
    """A configuration class of the host, how to fill it, and what its model takes.

    Args:
        title: what people call it.
        config: name in `comfy.supported_models`.
        unet: keyword arguments of the model, as the host's detection would find them.
        latent: shape of one latent, without the batch, as the host's sampler makes it of what the VAE gives.
        text: (length, width) of an encoded text.
        conditioning: what the host's nodes put beside the text.
        reference: what they put beside it for a picture to edit, where the model edits by such.
        sound: shape of the latent of a video's sound, which stands beside it; empty where the model has none.
        alone: whether the network takes one latent at a time, so that the host runs several one by one.
        variant_of: name of the model whose network this one is but for its settings; empty for a network of its own.
        needs: module and name of a class that the network is built of, where older hosts lack it.
        narrow: replaces what the host gives a fixed width that is too large for a small model.
        beside: what the host's class reads in a checkpoint beside the network: what it predicts, layers before it.
        released: the networks of this class that are published.
        limits: what does not work with it on some host, an aspect in the table of models, and why.
    """

    title: str
    config: str
    unet: Mapping[str, Any] = field(repr=False)
    latent: tuple[int, ...]
    text: tuple[int, int] = (CONTEXT_LENGTH, CONTEXT_WIDTH)
    conditioning: tuple[Conditioning, ...] = (pooled(768),)
    reference: tuple[Conditioning, ...] = ()
    sound: tuple[int, ...] = ()
    alone: bool = False
    variant_of: str = ""
    needs: tuple[str, str] | None = None
    narrow: Callable[[nn.Module], None] = lambda network: None
    beside: Callable[[], dict[str, Tensor]] = dict
    released: tuple[Released, ...] = ()
    limits: Mapping[str, str] = field(default_factory=dict)
