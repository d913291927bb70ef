"""A CLIP-L text encoder of seeded random weights: prompts come out well apart, and nothing has to be shipped.

The weights are float8 bytes looked up in a table of Gaussian quantiles by raw PCG64 output, whose stream numpy
guarantees: the same on every platform and version.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

SEED = 2507_04599
VOCABULARY, POSITIONS, WIDTH, LAYERS = 49408, 77, 768, 12
# Name, rows, columns and gain of a layer's matrices. Small gains keep each word readable in its own place.
LINEARS = [
    ("self_attn.q_proj", WIDTH, WIDTH, 1.0),
    ("self_attn.k_proj", WIDTH, WIDTH, 1.0),
    ("self_attn.v_proj", WIDTH, WIDTH, 0.5),
    ("self_attn.out_proj", WIDTH, WIDTH, 0.5),
    ("mlp.fc1", 4 * WIDTH, WIDTH, 0.25),
    ("mlp.fc2", WIDTH, 4 * WIDTH, 0.25),
]


def gaussian_bytes(sigma: float) -> Tensor:
    """256 equally likely values of a Gaussian, as float8_e4m3fn."""
    quantiles = [sigma * NormalDist().inv_cdf((i + 0.5) / 256) for i in range(256)]
    return torch.tensor(quantiles).to(torch.float8_e4m3fn)


class Source:
    """Random float8 tensors from one raw bit stream."""

    def __init__(self, seed: int) -> None:
        self.bits = np.random.PCG64(seed)

    def normal(self, sigma: float, *shape: int) -> Tensor:
        count = int(np.prod(shape))
        raw = self.bits.random_raw((count + 7) // 8).astype("<u8").view(np.uint8)[:count]
        table = gaussian_bytes(sigma).view(torch.uint8).numpy()
        return torch.from_numpy(table[raw]).view(torch.float8_e4m3fn).reshape(shape)


def constant(value: float, *shape: int) -> Tensor:
    """A float8 tensor of one value."""
    return torch.full(shape, value).to(torch.float8_e4m3fn)


def weights(seed: int = SEED) -> dict[str, Tensor]:
    """State dict of the encoder with the transformer's key names, all float8_e4m3fn."""
    source = Source(seed)
    state = {
        "text_model.embeddings.token_embedding.weight": source.normal(0.3, VOCABULARY, WIDTH),
        "text_model.embeddings.position_embedding.weight": source.normal(0.03, POSITIONS, WIDTH),
    }
    for layer in range(LAYERS):
        root = f"text_model.encoder.layers.{layer}."
        for name, rows, columns, gain in LINEARS:
            state[f"{root}{name}.weight"] = source.normal(gain / columns**0.5, rows, columns)
            state[f"{root}{name}.bias"] = constant(0, rows)
        for name in ("layer_norm1", "layer_norm2"):
            state |= norm(root + name)
    state["text_projection.weight"] = torch.eye(WIDTH).to(torch.float8_e4m3fn)
    return state | norm("text_model.final_layer_norm")


def norm(name: str) -> dict[str, Tensor]:
    """A layer norm that does nothing but normalise."""
    return {f"{name}.weight": constant(1, WIDTH), f"{name}.bias": constant(0, WIDTH)}
