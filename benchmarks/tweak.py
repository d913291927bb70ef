"""From "a scale changed" to the first denoising call: QR-LoRA Merge (live) against two stock LoRA loaders.

    python -m benchmarks.tweak            FLUX of true widths, 1 + 1 blocks, 545 million float32 parameters
    python -m benchmarks.tweak --quick    a tiny FLUX: equality decides, times are information

The sides take turns, and each has run before its scale changes. It then drops its old output, runs its nodes with the
new scale, and samples with the host's own sampler; the clock stops when the network is called. The stock loaders keep
their instances, so they read their files once, as in the server. Live sums its delta_r's inside the first call; that
time is measured apart and counted in. On a GPU, FLUX itself (57 blocks, bfloat16) must tweak in under 30 ms.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.ratios import claim, finish
from benchmarks.setting import (
    DEVICE,
    ON_GPU,
    forward_times,
    machine,
    median_ms,
    now,
    parameters,
    random_adapters,
    sample,
    timed,
    tiny_models,
)

# isort: split
import folder_paths
from safetensors.torch import save_file
from torch import Tensor

import nodes as host_nodes
from comfyui_qr_lora.nodes.host.apply.live_layer import LiveLayer
from comfyui_qr_lora.tests.support.adapters import as_stock_tensors, merged, relative_error

RANK = 64
FIXED_SCALE = 0.4
TURNS = 7
BAR, GPU_BAR_MS = 300.0, 30.0


class Live:
    """QR-LoRA Merge with two adapters."""

    def __init__(self, model: Any, adapters: list[Any]) -> None:
        self._model, self._adapters = model, adapters
        self.output: Any = None

    def tweak(self, scale: float) -> None:
        """Run the node with a new first scale."""
        self.output = None
        first, second = self._adapters
        self.output = merged(self._model, (first, scale), (second, FIXED_SCALE))


class Stock:
    """LoraLoaderModelOnly twice, the same adapters as ordinary LoRA files."""

    def __init__(self, model: Any, adapters: list[Any]) -> None:
        self._model = model
        self._loaders = [host_nodes.LoraLoaderModelOnly() for _ in adapters]
        folder = Path(folder_paths.get_folder_paths("loras")[0])
        folder.mkdir(parents=True, exist_ok=True)
        for index, adapter in enumerate(adapters):
            save_file(as_stock_tensors(adapter), folder / f"{index}.safetensors")
        self.output: Any = None

    def tweak(self, scale: float) -> None:
        """Run both nodes; the host would run the second again too, for its input is new."""
        self.output = None
        model = self._model
        for index, strength in enumerate((scale, FIXED_SCALE)):
            (model,) = self._loaders[index].load_lora_model_only(model, f"{index}.safetensors", strength)
        self.output = model


@contextmanager
def sums_clock() -> Iterator[list[float]]:
    """Seconds that live layers spend on their sums within the context, one entry per layer and call."""
    original, seconds = LiveLayer.current_sums, []

    def clocked(layer: LiveLayer, x: Tensor) -> Tensor:
        start = now()
        sums = original(layer, x)
        seconds.append(now() - start)
        return sums

    LiveLayer.current_sums = clocked
    try:
        yield seconds
    finally:
        LiveLayer.current_sums = original


class Times:
    """The parts of one side's tweaks, in seconds."""

    def __init__(self) -> None:
        self.parts: dict[str, list[float]] = {}

    def add(self, **seconds: float) -> None:
        """One tweak."""
        for part, value in seconds.items():
            self.parts.setdefault(part, []).append(value)

    def to_call(self) -> list[float]:
        """From the change to the first call of the network."""
        return [sum(pair) for pair in zip(self.parts["nodes"], self.parts["host"], strict=True)]

    def in_all(self) -> list[float]:
        """The same, and the sums that the first call makes."""
        return [sum(pair) for pair in zip(self.to_call(), self.parts["sums"], strict=True)]

    def row(self, name: str) -> str:
        """A line of the table."""
        order = ("nodes", "host", "sums", "first forward", "second forward")
        cells = [median_ms(self.parts[part]) for part in order]
        return f"| {name:5} | " + " | ".join(f"{cell:8.2f}" for cell in [*cells, median_ms(self.in_all())]) + " |"


def measure(side: Any, model: Any, scale: float, times: Times) -> Tensor:
    """One tweak with its sampling; returns the sampled latent."""
    with forward_times(model) as forwards, sums_clock() as sums:
        start = now()
        side.tweak(scale)
        ready = now()
        latent = sample(side.output)
    (first, first_end), (second, second_end) = forwards
    calls = len(sums) // 2  # the second forward asks for the same sums again, and gets those kept
    times.add(nodes=ready - start, host=first - ready, sums=sum(sums[:calls]))
    times.add(**{"first forward": first_end - first, "second forward": second_end - second})
    return latent


def compare(model: Any, turns: int, sides: tuple[type, ...] = (Live, Stock)) -> tuple[dict[str, Times], float]:
    """Times by side, and the error of live against stock relative to the adapters' effect."""
    adapters = random_adapters(model, 2, RANK)
    running = {kind.__name__.lower(): kind(model, adapters) for kind in sides}
    times = {name: Times() for name in running}
    latents: dict[str, Tensor] = {}
    base = sample(model)
    for turn in range(turns):
        scale = 0.3 + 0.05 * turn
        for name, side in running.items():
            # Back from the other side, and at first from nothing, the host does more than for a tweak.
            side.tweak(scale - 0.01)
            sample(side.output, steps=1)
            latents[name] = measure(side, model, scale, times[name])
    error = relative_error(latents["live"], latents["stock"], base) if "stock" in latents else float("nan")
    return times, error


def show(model: Any, blocks: str, times: dict[str, Times]) -> None:
    """The table of one model."""
    size = f"{parameters(model) / 1e6:.0f} million {str(model.model_dtype()).removeprefix('torch.')} parameters"
    print(f"FLUX, {blocks}, {size}, two adapters of rank {RANK}; medians of {len(times['live'].to_call())} in ms")
    print("| side  | nodes | host to first call | sums in it | first forward | second forward | tweak in all |")
    print("|---|---|---|---|---|---|---|")
    for name, measured in times.items():
        print(measured.row(name), flush=True)


def full_depth(quick: bool) -> None:
    """The 57 blocks of FLUX: on a GPU at full width, as a claim; else narrow, for the cost per layer in Python."""
    if ON_GPU:
        model = tiny_models.real_width_flux(depth=19, depth_single=38, dtype=torch.bfloat16, device=DEVICE)
    else:
        model = tiny_models.real_width_flux(hidden=128, depth=19, depth_single=38)
    sides = (Live, Stock) if ON_GPU else (Live,)
    times, _ = compare(model, TURNS, sides)
    show(model, "19 + 38 blocks" if ON_GPU else "19 + 38 blocks, 128 wide: the cost besides arithmetic", times)
    if ON_GPU:
        worst = median_ms(times["live"].in_all())
        timed("ms from a changed scale through all sums, FLUX", worst, GPU_BAR_MS, quick=quick, at_least=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="A changed scale: live against stock LoRA loaders.")
    parser.add_argument("--quick", action="store_true", help="a tiny model; only equality decides")
    quick = parser.parse_args().quick
    print(machine())
    model = tiny_models.build("flux", device=DEVICE) if quick else tiny_models.real_width_flux(device=DEVICE)
    times, error = compare(model, 3 if quick else TURNS)
    show(model, "2 + 2 blocks, tiny" if quick else "1 + 1 blocks, true widths", times)
    live, stock = times["live"], times["stock"]
    waited = statistics.median(stock.to_call())
    to_call, in_all = (waited / statistics.median(seconds) for seconds in (live.to_call(), live.in_all()))
    # On a GPU the stock loaders patch this small part of FLUX in no time; the bar there is the full model's.
    timed("stock / live, to the first denoising call", to_call, BAR, quick=quick or ON_GPU)
    timed("stock / live, sums of delta_r counted in", in_all, BAR, quick=quick or ON_GPU)
    claim("live against stock, error relative to the effect", error, 1e-4, at_least=False)
    if not quick:
        del model, times
        full_depth(quick)
    finish()


if __name__ == "__main__":
    with torch.inference_mode():
        main()
