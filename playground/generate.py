"""Pictures from an assembled checkpoint by the host's stock path: load, encode, sample, decode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from playground.draw import SIZE


class Playground:
    """The playground checkpoint, loaded once; `model` may be swapped for a patched clone."""

    def __init__(self, checkpoint: Path) -> None:
        import comfy.sd

        self.model, self.clip, self.vae, _ = comfy.sd.load_checkpoint_guess_config(
            str(checkpoint), output_vae=True, output_clip=True
        )

    def encode(self, prompt: str) -> Any:
        """A prompt as the host's conditioning."""
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(prompt))

    @torch.inference_mode()
    def generate(self, prompt: str, *, seed: int = 0, count: int = 1, model: Any = None, steps: int = 20,
                 cfg: float = 4.0, sampler: str = "euler", scheduler: str = "simple", negative: str = "",
                 size: int = SIZE) -> NDArray[np.uint8]:  # fmt: skip
        """Pictures (count, size, size, 3) of one prompt."""
        import comfy.sample

        latent = torch.zeros(count, 16, size // 8, size // 8)
        samples = comfy.sample.sample(
            model or self.model, comfy.sample.prepare_noise(latent, seed), steps, cfg, sampler, scheduler,
            self.encode(prompt), self.encode(negative), latent, seed=seed, disable_pbar=True,
        )  # fmt: skip
        pictures: NDArray[np.float32] = self.vae.decode(samples).cpu().numpy()
        return np.clip(np.rint(pictures * 255), 0, 255).astype(np.uint8)
