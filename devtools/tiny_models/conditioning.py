"""What the host's nodes put beside an encoded text, by the names that its models ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator

CONTEXT_WIDTH = 96
CONTEXT_LENGTH = 12

# Makes options of one conditioning entry; all random numbers are from the generator.
Conditioning = Callable[[Generator], dict[str, Any]]


def pooled(width: int) -> Conditioning:
    """The pooled text embedding, (1, width)."""
    return normal("pooled_output", 1, width)


def text_mask(length: int = CONTEXT_LENGTH) -> Conditioning:
    """The text encoder's mask, (1, length)."""
    return lambda generator: {"attention_mask": torch.ones(1, length, dtype=torch.long)}


def t5_tokens(generator: Generator) -> dict[str, Any]:
    """The numbers of the text's tokens in the vocabulary of T5, and how much each counts, (length,)."""
    return {
        "t5xxl_ids": torch.randint(1, 32_000, (CONTEXT_LENGTH,), generator=generator),
        "t5xxl_weights": torch.ones(CONTEXT_LENGTH),
    }


def reference_latents(*shape: int) -> Conditioning:
    """Pictures to edit by, a list of one latent: (1, *shape)."""
    return lambda generator: {"reference_latents": [torch.randn(1, *shape, generator=generator)]}


def normal(name: str, *shape: int) -> Conditioning:
    """Normal random numbers of a shape."""
    return lambda generator: {name: torch.randn(*shape, generator=generator)}


def constant(**values: Any) -> Conditioning:
    """What is no matter of chance."""
    return lambda generator: dict(values)
