"""What a schedule costs per denoising call: two adapters on curves of their own against the same two at rest.

    python -m benchmarks.schedule            FLUX of true widths, 1 + 1 blocks, 256 image tokens
    python -m benchmarks.schedule --quick    a tiny FLUX: the picture decides, times are information

Both curves change at every step, so every sum of delta_r is made anew each time: the dearest case. The sides take
turns within one run.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import torch

from benchmarks.ratios import claim, finish
from benchmarks.setting import (
    DEVICE,
    forward_times,
    machine,
    median_ms,
    random_adapters,
    sample,
    timed,
    tiny_models,
)

# isort: split
from comfyui_qr_lora.qrlora_core.schedule import make_curve
from comfyui_qr_lora.tests.support.adapters import merged, relative_error

STEPS, TURNS, BAR = 6, 5, 1.02


def calls(model: Any, side: int) -> list[float]:
    """Seconds of every denoising call but the first, which the sides do not differ in."""
    with forward_times(model) as spans:
        sample(model, steps=STEPS, side=side)
    return [end - start for start, end in spans[1:]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    print(machine())
    with torch.inference_mode():
        model = tiny_models.build("flux", device=DEVICE) if quick else tiny_models.real_width_flux(device=DEVICE)
        first, second = random_adapters(model, 2, 8 if quick else 64)
        pairs = ((first, 0.8), (second, 0.6))
        curves = {"schedule_1": make_curve("ramp down"), "schedule_2": make_curve("ramp up")}
        side = 16 if quick else 32
        rest, moving = merged(model, *pairs), merged(model, *pairs, **curves)
        measured: dict[str, list[float]] = {"at rest": [], "scheduled": []}
        for _ in range(TURNS):
            measured["at rest"] += calls(rest, side)
            measured["scheduled"] += calls(moving, side)
        always = merged(model, *pairs, schedule_1=make_curve("constant"), schedule_2=make_curve("constant"))
        base, expected = sample(model, steps=2), sample(rest, steps=2)
        error = relative_error(sample(always, steps=2), expected, base)
    for name, seconds in measured.items():
        print(f"{name}: {median_ms(seconds):.2f} ms a call, median of {len(seconds)}")
    ratio = statistics.median(measured["scheduled"]) / statistics.median(measured["at rest"])
    timed("scheduled call / call at rest", ratio, BAR, quick=quick, at_least=False)
    claim("constant schedule against none, error relative to the effect", error, 1e-6, at_least=False)
    finish()


if __name__ == "__main__":
    main()
