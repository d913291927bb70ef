"""The playground's autoencoder in TAESD's layers: a hand-set linear encoder and a small trained decoder.

The encoder keeps, of every 8 x 8 block, the 16 lowest coefficients of its cosine transform (8 of the luma, 4 of each
of two colour differences), which is exact and needs no training. The decoder is TAESD's, trained with fewer
channels; the missing ones are filled with zeros.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

BLOCK = 8
WIDTH = 64  # channels of a stock TAESD
NARROW = 48  # channels that are trained
# The diffusion model's latent format maps a stored latent x to (x - SHIFT) * SCALE; the VAE undoes it,
# so that the diffusion model sees the encoder's numbers themselves.
SCALE, SHIFT = 1.5305, 0.0609

LUMA = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1)]
CHROMA = LUMA[:4]
OPPONENT = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3.0], [2.0], [6.0]])
# Evens out the spread of the coefficients: over the drawn pictures 0.9 for the mean luma, 0.1 to 0.3 for details.
LUMA_GAIN = [0.28, 0.65, 0.65, 0.85, 0.8, 0.8, 1.0, 1.0]
CHROMA_GAIN = [0.4, 0.75, 0.75, 1.0]


def cosine(frequency: int) -> NDArray[np.float64]:
    """One orthonormal DCT-II basis vector of 8 samples."""
    wave: NDArray[np.float64] = np.cos(np.pi * (np.arange(BLOCK) + 0.5) * frequency / BLOCK)
    return wave * float(np.sqrt((1 if frequency == 0 else 2) / BLOCK))


def analysis() -> NDArray[np.float64]:
    """The encoder's matrix (16, 3, 8, 8): colours 0 to 1 of one block to its latent, before the offset."""
    rows = []
    for colour, frequencies, gains in zip(
        OPPONENT, (LUMA, CHROMA, CHROMA), (LUMA_GAIN, CHROMA_GAIN, CHROMA_GAIN), strict=True
    ):
        for (fy, fx), gain in zip(frequencies, gains, strict=True):
            rows.append(gain * np.einsum("c,y,x->cyx", colour, cosine(fy), cosine(fx)))
    return np.stack(rows)


def encode(pictures: Tensor) -> Tensor:
    """Latents (n, 16, h/8, w/8), as the diffusion model sees them, of pictures (n, 3, h, w) from 0 to 1."""
    kernel = torch.from_numpy(analysis()).to(pictures.dtype)
    return nn.functional.conv2d(pictures - 0.5, kernel, stride=BLOCK)


def encoder_weights() -> dict[str, Tensor]:
    """State dict of a TAESD encoder that computes `encode` exactly.

    Three strided convolutions gather a block's pixels (2 x 2, then 4 x 4, then all), a channel of ones carries the
    offset, and every residual block is the identity: its inputs are kept positive, its convolutions are zero.
    """
    weights = {}
    for block in (1, 3, 4, 5, 7, 8, 9, 11, 12, 13):
        for conv in (0, 2, 4):
            weights[f"{block}.conv.{conv}.weight"] = torch.zeros(WIDTH, WIDTH, 3, 3)
            weights[f"{block}.conv.{conv}.bias"] = torch.zeros(WIDTH)
    one = WIDTH - 1
    first = np.zeros((WIDTH, 3, 3, 3))
    first[range(3), range(3), 1, 1] = 1
    bias = np.zeros(WIDTH)
    bias[one] = 1
    gather = {}
    for key, channels in ((2, 3), (6, 12)):
        gather[key] = np.zeros((WIDTH, WIDTH, 3, 3))
        gather[key][one, one, 1, 1] = 1
        for dy in range(2):
            for dx in range(2):
                into = (dy * 2 + dx) * channels
                gather[key][range(into, into + channels), range(channels), 1 + dy, 1 + dx] = 1
    matrix = analysis()
    offset = np.abs(matrix).sum(axis=(1, 2, 3))  # keeps every coefficient positive
    last = np.zeros((WIDTH, WIDTH, 3, 3))
    last[: len(matrix), one, 1, 1] = offset
    for y in range(BLOCK):
        for x in range(BLOCK):
            # pixel (y, x) = outermost half, then quarter, then pair, as gathered above
            inner = ((y % 2) * 2 + x % 2) * 3
            channel = ((y // 2 % 2) * 2 + x // 2 % 2) * 12 + inner
            last[: len(matrix), channel : channel + 3, 1 + y // 4, 1 + x // 4] = matrix[:, :, y, x]
    out = np.zeros((len(matrix), WIDTH, 3, 3))
    out[range(len(matrix)), range(len(matrix)), 1, 1] = 1
    arrays = {"0.weight": first, "0.bias": bias, "2.weight": gather[2], "6.weight": gather[6], "10.weight": last,
              "14.weight": out, "14.bias": -offset - matrix.sum(axis=(1, 2, 3)) / 2}  # fmt: skip
    return weights | {key: torch.from_numpy(array).float() for key, array in arrays.items()}


class Clamp(nn.Module):
    """TAESD's soft clamp of the latent."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class Block(nn.Module):
    """TAESD's residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        convs = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x) + x)


def narrow_decoder(width: int = NARROW) -> nn.Sequential:
    """TAESD's decoder with fewer channels and the same key names."""
    stages: list[nn.Module] = [Clamp(), nn.Conv2d(16, width, 3, padding=1), nn.ReLU()]
    for blocks in (3, 3, 3):
        stages += [Block(width) for _ in range(blocks)]
        stages += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)]
    return nn.Sequential(*stages, Block(width), nn.Conv2d(width, 3, 3, padding=1))


def load_decoder(path: Path) -> nn.Module:
    """A narrow decoder with the weights of a file, to decode with."""
    model = narrow_decoder().eval().requires_grad_(False)
    model.load_state_dict({key: weight.float() for key, weight in load_file(path).items()})
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


@torch.inference_mode()
def to_bytes(decoder: nn.Module, latents: Tensor) -> Tensor:
    """Pictures (n, h, w, 3) of latents (n, 16, h / 8, w / 8), bytes, where the latents are."""
    with torch.autocast(latents.device.type, torch.bfloat16):
        pixels: Tensor = decoder(latents.to(memory_format=torch.channels_last)).float()
    return (pixels.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous()


def widen(narrow: dict[str, Tensor]) -> dict[str, Tensor]:
    """The stock decoder's state dict: the narrow one's, its missing channels zero, float32."""
    wide = {}
    for key, weight in narrow.items():
        outputs = 3 if key.startswith("19.") else WIDTH
        inputs = [16 if key.startswith("1.") else WIDTH, *weight.shape[2:]] if weight.ndim == 4 else []
        wide[key] = torch.zeros(outputs, *inputs)
        wide[key][tuple(slice(0, n) for n in weight.shape)] = weight.float()
    return wide
