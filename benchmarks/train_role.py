"""Training for a role: the time of a step against one without, and what the variants hold.

    python -m benchmarks.train_role            FLUX 1,536 wide, 1 + 1 blocks, rank 32, 512 px; about 10 minutes
    python -m benchmarks.train_role --quick    a tiny FLUX, one round: no time is decided

Train QR-LoRA on two pictures without a role, for a content and for a style, both at `strong`, where a style's variants
have masks too. The three take turns in every round, with the same model, pictures, caption and seed. A step is timed
from one call of the network to the next, so everything that a role does in between is in it; the variants are made
before the first, which is told by itself.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from benchmarks.ratios import claim, finish
from benchmarks.setting import DEVICE, ON_GPU, machine, now, timed, tiny_models

# isort: split
from comfyui_qr_lora.nodes.host.train.dataset import Example, TrainingSet, collect
from comfyui_qr_lora.nodes.host.train.role.settings import CONTENT, STYLE, Recipe, RoleSettings
from comfyui_qr_lora.nodes.host.train.role.vary import varied
from comfyui_qr_lora.nodes.host.train.samples import SampleSettings
from comfyui_qr_lora.nodes.host.train.settings import RunSettings, TrainingSettings
from comfyui_qr_lora.nodes.host.train.train import train_adapter
from playground import autoencoder

STEP_BAR, HELD_BAR = 1.1, 1.1
VARIANTS, STEPS = 32, 3
DTYPE = "bf16" if ON_GPU else "fp32"
SIDES: dict[str, Recipe | None] = {
    "none": None,
    **{role: RoleSettings("strong", VARIANTS).recipe(role) for role in (CONTENT, STYLE)},
}


class Vae:
    """The playground's encoder, 8 pixels a cell."""

    latent_channels = 16

    def encode(self, pixel_samples: Tensor) -> Tensor:
        """(count, height, width, 3) to (count, 16, height / 8, width / 8)."""
        return autoencoder.encode(pixel_samples.movedim(-1, 1))


def data_of(side: int, model: Any) -> TrainingSet:
    """Two pictures, ``side`` pixels wide, with one caption."""
    pixels = torch.rand(2, side, side, 3, generator=torch.Generator().manual_seed(1))
    _, caption = tiny_models.example("flux", model)
    return collect([{"samples": Vae().encode(pixels)}], [caption], pixels=[pixels])


def train(model: Any, data: TrainingSet, role: Recipe | None, rank: int) -> tuple[float, list[float]]:
    """Seconds until the network is first called, and of every step."""
    settings = TrainingSettings(
        steps=STEPS + 1, learning_rate=1e-4, rank=rank, alpha=0.0, variant="triu", targets="paper", batch_size=1,
        grad_accumulation=1, seed=0, training_dtype=DTYPE, gradient_checkpointing=False, role=role,
    )  # fmt: skip
    calls: list[float] = []

    def note(*_: Any) -> None:
        if torch.is_grad_enabled():
            calls.append(now())

    gc.collect()
    hook = model.model.diffusion_model.register_forward_pre_hook(note)
    try:
        start = now()
        train_adapter(model, data, settings, RunSettings(samples=SampleSettings(vae=Vae())))
    finally:
        hook.remove()
    tried, *steps = calls  # the first is the trial of the guard
    return tried - start, [after - before for before, after in pairwise(steps)]


def held(examples: tuple[Example, ...]) -> float:
    """Bytes of all tensors of the variants, each once, over those of as many latents."""
    variants = [variant for example in examples for variant in example.variants]
    storages = {storage.data_ptr(): storage.nbytes() for variant in variants for storage in _storages(variant)}
    return sum(storages.values()) / sum(variant.latent.nbytes for variant in variants)


def _storages(variant: Example) -> Iterator[torch.UntypedStorage]:
    for tensor in (variant.latent, variant.mask, variant.pixels):
        if tensor is not None:
            yield tensor.untyped_storage()


def main() -> None:
    parser = argparse.ArgumentParser(description="Training for a role against training without.")
    parser.add_argument("--quick", action="store_true", help="a tiny FLUX, one round; no time is decided")
    options = parser.parse_args()
    quick = options.quick
    model = (
        tiny_models.build("flux", device=DEVICE) if quick else tiny_models.real_width_flux(hidden=1536, device=DEVICE)
    )
    data = data_of(64 if quick else 512, model)
    starts: dict[str, list[float]] = {side: [] for side in SIDES}
    steps: dict[str, list[float]] = {side: [] for side in SIDES}
    print(machine())
    for _ in range(1 if quick else 3):
        for side, role in SIDES.items():
            start, times = train(model, data, role, 8 if quick else 32)
            starts[side].append(start)
            steps[side] += times
    print(f"FLUX, {DTYPE}, {len(data.examples)} pictures, {VARIANTS} variants of each")
    print("| role | seconds before the first step | seconds a step |")
    print("|---|---|---|")
    for side in SIDES:
        print(f"| {side} | {statistics.median(starts[side]):.2f} | {statistics.median(steps[side]):.3f} |")
    for side, role in SIDES.items():
        if role is None:
            continue
        ratio = statistics.median(steps[side]) / statistics.median(steps["none"])
        timed(f"step for {side} / step without a role", ratio, STEP_BAR, quick=quick, at_least=False)
        share = held(varied(data, role, Vae(), 0).examples)
        claim(f"memory of the variants for {side} / as many latents", share, HELD_BAR, at_least=False)
    finish()


if __name__ == "__main__":
    with torch.inference_mode():
        main()
