"""Stand-ins for a VAE: exact ones, of which it is known what they make of a moved picture."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor

from playground import autoencoder

BLOCK = 8


class BlockMeans:
    """Mixes the mean colour of every block of 8 x 8 pixels: what is flipped or shifted by blocks is so in the latent.

    Frames, where there are several, become frames of one latent, as a VAE of videos has them.
    """

    def __init__(self, channels: int = 16, *, video: bool = False) -> None:
        self.latent_channels, self._video, self.calls = channels, video, 0
        self._mix = torch.randn(3, channels, generator=torch.Generator().manual_seed(9))
        self.patcher = SimpleNamespace(load_device=torch.device("cpu"))
        self.decoded = 0

    def encode(self, pixel_samples: Tensor) -> Tensor:
        """(frames, h, w, 3) to (frames, channels, h / 8, w / 8), or (1, channels, frames, ...) of a video."""
        self.calls += 1
        means = reduce(pixel_samples, "n (h y) (w x) c -> n h w c", "mean", y=BLOCK, x=BLOCK)
        latents = torch.einsum("nhwc,cd->ndhw", means - 0.5, self._mix)
        return rearrange(latents, "f c h w -> 1 c f h w") if self._video else latents

    def decode(self, samples: Tensor) -> Tensor:
        """The mean colours that a latent is of, as blocks: (n, h, w, 3), or of a video (1, frames, h, w, 3)."""
        self.decoded += 1
        means = torch.einsum("n c ... , c d -> n ... d", samples, torch.linalg.pinv(self._mix)) + 0.5
        return repeat(means, "... h w c -> ... (h y) (w x) c", y=BLOCK, x=BLOCK)


class Embedded:
    """The playground's own encoder."""

    latent_channels = 16

    def encode(self, pixel_samples: Tensor) -> Tensor:
        """(n, h, w, 3) to (n, 16, h / 8, w / 8)."""
        return autoencoder.encode(pixel_samples.movedim(-1, 1))


def pictures(count: int, height: int = 64, width: int = 64, seed: int = 0) -> Tensor:
    """(count, height, width, 3) of soft patches, each another."""
    coarse = torch.rand(count, 3, height // BLOCK, width // BLOCK, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear").movedim(1, -1)
