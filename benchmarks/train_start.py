"""The start of a training: what the second one on a base saves, whose bases the first one kept.

    python -m benchmarks.train_start            FLUX of one double and one single block at true widths, three rounds
    python -m benchmarks.train_start --quick    a tiny FLUX, one round: nothing is decided

Train QR-LoRA on the layers of the paper at rank 64, from the call to the first call of the network that autograd
records: settings, the base's fingerprint, a try of each kind of example, Q and R of each layer, the optimizer, and the
host's loading of the model. In each round the first
training finds no bases and keeps what it makes (`models/qr_lora_bases`, on this disk); the second one finds them, by a
digest of each weight. What both have trained must be the same, bit for bit.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks.ratios import claim, finish
from benchmarks.setting import DEVICE, machine, now, timed, tiny_models

# isort: split
import folder_paths

from comfyui_qr_lora.nodes.host.train.dataset import collect
from comfyui_qr_lora.nodes.host.train.report import TrainingResult
from comfyui_qr_lora.nodes.host.train.settings import TrainingSettings
from comfyui_qr_lora.nodes.host.train.train import train_adapter

RANK, ROUNDS = 64, 3
BAR = 0.1


def started(model: Any) -> tuple[float, TrainingResult]:
    """Seconds to the first step, and what it gave."""
    settings = TrainingSettings(
        steps=1, learning_rate=1e-4, rank=RANK, alpha=0.0, variant="triu", targets="paper", batch_size=1,
        grad_accumulation=1, seed=0, training_dtype="fp32", gradient_checkpointing=False,
    )  # fmt: skip
    latent, caption = tiny_models.example("flux", model)
    data, reached = collect([latent], [caption]), list[float]()

    def note(*_: Any) -> None:
        if torch.is_grad_enabled():
            reached.append(now())

    hook = model.model.diffusion_model.register_forward_pre_hook(note)
    try:
        start = now()
        result = train_adapter(model, data, settings)
    finally:
        hook.remove()
    return reached[0] - start, result


def differing(first: TrainingResult, second: TrainingResult) -> int:
    """How many tensors of the two adapters are not the same, bit for bit."""
    terms = [(layer.terms[0], second.adapter.layers[path].terms[0]) for path, layer in first.adapter.layers.items()]
    return sum(
        not torch.equal(getattr(a, name), getattr(b, name)) for a, b in terms for name in ("q", "base_r", "delta_r")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="The start of a second training on a base.")
    parser.add_argument("--quick", action="store_true", help="a tiny FLUX, one round; nothing is decided")
    options = parser.parse_args()
    model = tiny_models.build("flux", device=DEVICE) if options.quick else tiny_models.real_width_flux(device=DEVICE)
    kept = Path(folder_paths.models_dir) / "qr_lora_bases"
    firsts, seconds, others = [], [], 0
    print(machine())
    for number in range(1 if options.quick else ROUNDS):
        shutil.rmtree(kept, ignore_errors=True)
        (first, made), (second, found) = started(model), started(model)
        firsts.append(first)
        seconds.append(second)
        others += differing(made, found)
        print(f"round {number + 1}: first {first:.2f} s ({made.bases}), second {second:.3f} s ({found.bases})")
    size = sum(path.stat().st_size for path in kept.rglob("*.safetensors"))
    print(f"{len(made.adapter.layers)} layers, rank {RANK}; their bases take {size / 1e6:.1f} MB")
    ratio = statistics.median(seconds) / statistics.median(firsts)
    timed("second training over first, time to the first step", ratio, BAR, quick=options.quick, at_least=False)
    claim("tensors in which the two adapters differ", others, 0, at_least=False)
    finish()


if __name__ == "__main__":
    with torch.inference_mode():
        main()
