"""From "a scale changed" to the first denoising call: QR-LoRA Merge (live) against two of each stock LoRA loader.

    python -m benchmarks.tweak            FLUX of true widths, 1 + 1 blocks, 545 million float32 parameters
    python -m benchmarks.tweak --quick    a tiny FLUX: equality decides, times are information

The sides take turns, and each has run before its scale changes. It then drops its old output, runs its nodes with the
new scale, and samples with the host's own sampler; the clock stops when the network is called, by when live has made
its sums. The stock loaders keep their instances, so they read their files once, as in the server. Stock is
LoraLoaderModelOnly; bypass, on hosts that have it, LoraLoaderBypassModelOnly, which leaves the weights alone as live
does. What each side then draws is compared with a model whose weights have the exact delta, summed in float64. On a
GPU, FLUX itself (57 blocks, bfloat16) must tweak in under 30 ms.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
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
import comfy.model_management
import folder_paths
from safetensors.torch import save_file
from torch import Tensor

import nodes as host_nodes
from comfyui_qr_lora.nodes.host.model.key_map import KeyMap
from comfyui_qr_lora.tests.support.adapters import as_stock_tensors, merged, relative_error
from devtools.workspace import host_version

NODES = dict(host_nodes.NODE_CLASS_MAPPINGS)
with suppress(ImportError):  # newer hosts have it
    NODES |= import_module("comfy_extras.nodes_lora_debug").NODE_CLASS_MAPPINGS
RANK = 64
FIXED_SCALE = 0.4
TURNS = 7
BARS, GPU_BAR_MS = {"stock": 300.0, "bypass": 2.0}, 30.0


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

    node = "LoraLoaderModelOnly"

    def __init__(self, model: Any, adapters: list[Any]) -> None:
        self._model = model
        self._loaders = [NODES[self.node]() for _ in adapters]
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


class Bypass(Stock):
    """LoraLoaderBypassModelOnly twice."""

    node = "LoraLoaderBypassModelOnly"


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

    def row(self, name: str) -> str:
        """A line of the table."""
        cells = [median_ms(self.parts[part]) for part in ("nodes", "host", "first forward", "second forward")]
        return f"| {name:6} | " + " | ".join(f"{cell:8.2f}" for cell in [*cells, median_ms(self.to_call())]) + " |"


def measure(side: Any, model: Any, scale: float, times: Times) -> Tensor:
    """One tweak with its sampling; returns the sampled latent."""
    with forward_times(model) as forwards:
        start = now()
        side.tweak(scale)
        ready = now()
        latent = sample(side.output)
    (first, first_end), (second, second_end) = forwards
    times.add(nodes=ready - start, host=first - ready)
    times.add(**{"first forward": first_end - first, "second forward": second_end - second})
    return latent


def sides() -> tuple[type, ...]:
    """Those that this host has."""
    return (Live, Stock, *([Bypass] if Bypass.node in NODES else []))


def compare(model: Any, turns: int, kinds: tuple[type, ...]) -> tuple[dict[str, Times], dict[str, float]]:
    """Times by side, and each one's error against the exact delta, relative to its effect."""
    adapters = random_adapters(model, 2, RANK)
    running = {kind.__name__.lower(): kind(model, adapters) for kind in kinds}
    times = {name: Times() for name in running}
    latents: dict[str, Tensor] = {}
    for turn in range(turns):
        scale = 0.3 + 0.05 * turn
        for name, side in running.items():
            # Back from the other side, and at first from nothing, the host does more than for a tweak.
            side.tweak(scale - 0.01)
            sample(side.output, steps=1)
            latents[name] = measure(side, model, scale, times[name])
    base = sample(model)
    with exact_weights(model, list(zip(adapters, (scale, FIXED_SCALE), strict=True))):
        expected = sample(model)
    return times, {name: relative_error(latent, expected, base) for name, latent in latents.items()}


@contextmanager
def exact_weights(model: Any, pairs: list[tuple[Any, float]]) -> Iterator[None]:
    """The model with ``W + sum scale scaling q delta_r`` in its weights, summed in float64.

    It is unloaded before and after: a host that streams weights in keeps on the GPU what it has copied once.
    """
    comfy.model_management.unload_all_models()
    available, before = KeyMap(model.model).linear(model.model), dict[str, Tensor]()
    state = model.model.state_dict()
    for path, target in available.items():
        terms = [(adapter.layers[path].terms[0], scale) for adapter, scale in pairs if path in adapter.layers]
        if terms:
            before.setdefault(target.key, state[target.key].clone())
            weight = target.of(state[target.key])
            deltas = (scale * term.scaling * term.q.double() @ term.delta_r.double() for term, scale in terms)
            weight.copy_(weight.double() + sum(deltas).to(weight.device))
    try:
        yield
    finally:
        comfy.model_management.unload_all_models()
        for key, weight in before.items():
            state[key].copy_(weight)


def show(model: Any, blocks: str, times: dict[str, Times]) -> None:
    """The table of one model."""
    size = f"{parameters(model) / 1e6:.0f} million {str(model.model_dtype()).removeprefix('torch.')} parameters"
    print(f"FLUX, {blocks}, {size}, two adapters of rank {RANK}; medians of {len(times['live'].to_call())} in ms")
    print("| side   | nodes | host to first call | first forward | second forward | tweak in all |")
    print("|---|---|---|---|---|---|")
    for name, measured in times.items():
        print(measured.row(name), flush=True)


def full_depth(quick: bool) -> None:
    """The 57 blocks of FLUX: on a GPU at full width, as a claim; else narrow, for the cost per layer in Python."""
    if ON_GPU:
        model = tiny_models.real_width_flux(depth=19, depth_single=38, dtype=torch.bfloat16, device=DEVICE)
    else:
        model = tiny_models.real_width_flux(hidden=128, depth=19, depth_single=38)
    times, _ = compare(model, TURNS, sides() if ON_GPU else (Live,))
    show(model, "19 + 38 blocks" if ON_GPU else "19 + 38 blocks, 128 wide: the cost besides arithmetic", times)
    if ON_GPU:
        worst = median_ms(times["live"].to_call())
        timed("ms from a changed scale through all sums, FLUX", worst, GPU_BAR_MS, quick=quick, at_least=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="A changed scale: live against stock LoRA loaders.")
    parser.add_argument("--quick", action="store_true", help="a tiny model; only equality decides")
    quick = parser.parse_args().quick
    print(f"{machine()}, ComfyUI {host_version(Path(host_nodes.__file__).parent)}")
    model = tiny_models.build("flux", device=DEVICE) if quick else tiny_models.real_width_flux(device=DEVICE)
    times, errors = compare(model, 3 if quick else TURNS, sides())
    show(model, "2 + 2 blocks, tiny" if quick else "1 + 1 blocks, true widths", times)
    for peer, bar in BARS.items():
        if peer in times:
            ratio = statistics.median(times[peer].to_call()) / statistics.median(times["live"].to_call())
            # On a GPU the stock loaders patch this small part of FLUX in no time; the bar there is the full model's.
            timed(f"{peer} / live, to the first denoising call", ratio, bar, quick=quick or ON_GPU)
    for name, error in errors.items():
        print(f"{name}: error against the exact delta {error:.2g} of its effect")
    claim("live against the exact delta, error relative to the effect", errors["live"], 1e-4, at_least=False)
    if not quick:
        del model, times
        full_depth(quick)
    finish()


if __name__ == "__main__":
    with torch.inference_mode():
        main()
