"""What a live branch costs the host's processor: microseconds that each hooked layer adds to a call of the network.

    python -m benchmarks.dispatch            57 narrow blocks of FLUX, ranks 16 and 64, one thread; five minutes
    python -m benchmarks.dispatch --quick    few turns: nothing is decided

The layers are so narrow, and the picture so small, that next to nothing but calls is left: on a fast GPU this is what a
step waits for. All sides serve the same modules and take turns; what counts is the median, over the turns, of what a
side takes more than the bare network in the same turn:

    bare     no hook
    empty    a forward hook that does nothing
    floor    a forward hook with the two bare products, in place
    before   this pack at the commit that is named, where the repository has it
    ours     QR-LoRA Merge, live
    ours, 8  the same with eight adapters on one basis
    bypass   Load LoRA (Bypass) of newer hosts, which leaves out slices of fused layers

The first table has the modules that bypass serves, the second one all of `paper`, slices too.
"""

from __future__ import annotations

import argparse
import gc
import io
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from operator import sub
from pathlib import Path
from typing import Any

import torch

from benchmarks.ratios import finish
from benchmarks.setting import DEVICE, machine, now, timed, tiny_models

# isort: split
import comfy.sd
from torch import Tensor

from comfyui_qr_lora.tests.support.adapters import as_stock_tensors
from devtools.workspace import host_version

ROOT = Path(__file__).resolve().parents[1]
BEFORE = "2c55c7e"  # the last commit whose hooks asked for each factor by name
FLOOR_BAR, BYPASS_BAR, BEFORE_BAR, COUNT_BAR = 1.1, 1.0, 0.55, 1.1
OURS = "comfyui_qr_lora"
WHOLE = "attn.to_out.0, attn.to_add_out, ff.net.*, ff_context.net.*, single_transformer_blocks.*.proj_out"


class Sides:
    """The sides on one model at one rank."""

    def __init__(self, model: Any, rank: int, targets: str, packs: dict[str, str]) -> None:
        self.model, self.inputs = model, tiny_models.sample_inputs("flux", model)
        ours = {name: _Pack(alias) for name, alias in packs.items()}
        adapters = {name: pack.adapters(model, 8, rank, targets) for name, pack in ours.items()}
        patchers = {name: pack.merged(model, adapters[name][:1]) for name, pack in ours.items()}
        patchers["ours, 8"] = ours["ours"].merged(model, adapters["ours"])
        self.contexts: dict[str, Callable[[], Any]] = {name: _injected(patcher) for name, patcher in patchers.items()}
        layers = ours["ours"].layers(model, adapters["ours"][0])
        self.count = len({name for name, _, _ in layers})
        self.contexts |= {
            "bare": ExitStack,
            "empty": lambda: _hooked(model, {name: _nothing for name, _, _ in layers}),
            "floor": lambda: _hooked(model, _bare_products(layers)),
        }
        if targets != "paper" and hasattr(comfy.sd, "load_bypass_lora_for_models"):
            file = as_stock_tensors(adapters["ours"][0])
            self.contexts["bypass"] = _injected(comfy.sd.load_bypass_lora_for_models(model, None, file, 1.0, 0.0)[0])

    def seconds(self, turns: int) -> dict[str, list[float]]:
        """Of a call of the network, the least of three in every turn."""
        found: dict[str, list[float]] = {name: [] for name in self.contexts}
        chance = random.Random(0)
        with torch.inference_mode(), _no_collection():
            for turn in range(turns + 1):
                gc.collect()
                for name in chance.sample(list(found), len(found)):  # who comes after whom makes a difference
                    with self.contexts[name]():
                        self.call()
                        taken = min(self.call() for _ in range(3))
                    if turn:
                        found[name].append(taken)
        return found

    def call(self) -> float:
        """Seconds of one."""
        start = now()
        self.model.model.apply_model(**self.inputs, transformer_options={})
        return now() - start


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage is collected in a call that is timed."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class _Pack:
    """The parts of one version of this pack that the benchmark uses."""

    def __init__(self, alias: str) -> None:
        self._core = import_module(f"{alias}.qrlora_core")
        self._merge = import_module(f"{alias}.nodes.host.merge.merge")
        self._source = import_module(f"{alias}.nodes.host.apply.source").Source
        self._names = import_module(f"{alias}.nodes.host.model.matching").Names

    def adapters(self, model: Any, count: int, rank: int, targets: str) -> list[Any]:
        """On one basis."""
        available = self._names(model).key_map.linear(model.model)
        generator = torch.Generator().manual_seed(1)
        basis = {
            path: torch.linalg.qr(torch.randn(available[path].shape[0], rank, generator=generator)).Q.contiguous()
            for path in self._core.select(available, targets)
        }
        return [
            self._core.QRLoRA(
                {path: self._layer(q, available[path].shape[1], generator) for path, q in basis.items()},
                name=f"random_{number}.safetensors",
            )
            for number in range(count)
        ]

    def _layer(self, q: Tensor, width: int, generator: torch.Generator) -> Any:
        delta_r, base_r = (torch.randn(q.shape[1], width, generator=generator) * width**-0.5 for _ in range(2))
        return self._core.Layer.single(q, delta_r, base_r=base_r)

    def merged(self, model: Any, adapters: list[Any]) -> Any:
        """A clone with the adapters live."""
        sources = [self._source(adapter.name, adapter, 0.5 + 0.1 * index) for index, adapter in enumerate(adapters)]
        return self._merge.apply_adapters(model, sources, "live").model

    def layers(self, model: Any, adapter: Any) -> list[tuple[str, tuple[int, int] | None, Any]]:
        """(host module, rows of its output, term) of every layer of an adapter."""
        available = self._names(model).key_map.linear(model.model)
        placed = [(available[path], layer) for path, layer in adapter.layers.items()]
        return [(target.module, target.rows, layer.terms[0]) for target, layer in placed]


def _injected(patcher: Any) -> Callable[[], Any]:
    @contextmanager
    def context() -> Iterator[None]:
        patcher.model.current_patcher = patcher
        patcher.inject_model()
        try:
            yield
        finally:
            patcher.eject_model()
            patcher.model.current_patcher = None

    return context


Hook = Callable[[Any, tuple[Tensor, ...], Tensor], Tensor | None]


@contextmanager
def _hooked(model: Any, hooks: dict[str, Hook]) -> Iterator[None]:
    with ExitStack() as stack:
        for name, hook in hooks.items():
            stack.callback(model.model.get_submodule(name).register_forward_hook(hook).remove)
        yield


def _nothing(_module: Any, _given: tuple[Tensor, ...], _output: Tensor) -> None:
    return None


def _bare_products(layers: list[tuple[str, tuple[int, int] | None, Any]]) -> dict[str, Hook]:
    """By module: ``y[rows] += 0.5 up (down x)`` with one product down for all slices."""
    by_module: dict[str, list[tuple[tuple[int, int] | None, Any]]] = {}
    for name, rows, term in layers:
        by_module.setdefault(name, []).append((rows, term))
    return {name: _bare_product(members) for name, members in by_module.items()}


def _bare_product(members: list[tuple[tuple[int, int] | None, Any]]) -> Hook:
    down = torch.cat([term.delta_r for _, term in members])
    ups = [(rows, term.q.t()) for rows, term in members]
    if len(ups) == 1 and ups[0][0] is None:
        up = ups[0][1]

        def whole(_module: Any, given: tuple[Tensor, ...], y: Tensor) -> None:
            inner = torch.nn.functional.linear(given[0], down)
            y.view(-1, y.shape[-1]).addmm_(inner.view(-1, inner.shape[-1]), up, alpha=0.5)

        return whole

    def sliced(_module: Any, given: tuple[Tensor, ...], y: Tensor) -> None:
        inner = torch.nn.functional.linear(given[0], down)
        flat, parts = y.view(-1, y.shape[-1]), inner.view(-1, inner.shape[-1]).split(ups[0][1].shape[0], dim=1)
        for (rows, up), part in zip(ups, parts, strict=True):
            flat.narrow(1, *rows).addmm_(part, up, alpha=0.5)

    return sliced


@contextmanager
def packs() -> Iterator[dict[str, str]]:
    """Side to the name under which a version of this pack can be imported."""
    with tempfile.TemporaryDirectory() as folder:
        found = {"ours": OURS}
        try:
            command = ["git", "archive", BEFORE, "nodes", "qrlora_core"]
            archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            print(f"without the side before: there is no commit {BEFORE} here")
        else:
            with tarfile.open(fileobj=io.BytesIO(archive)) as files:
                files.extractall(folder, filter="data")
            sys.modules["qr_lora_before"] = package = types.ModuleType("qr_lora_before")
            package.__path__ = [folder]
            found["before"] = "qr_lora_before"
        yield found


def show(sides: Sides, seconds: dict[str, list[float]], rank: int, title: str) -> dict[str, float]:
    """A table; returns the microseconds that each side adds to a layer."""
    bare = seconds.pop("bare")
    added = {name: 1e6 * statistics.median(map(sub, values, bare)) / sides.count for name, values in seconds.items()}
    print(f"\n{title}: {sides.count} modules, rank {rank}; the bare call takes {1e3 * statistics.median(bare):.1f} ms")
    print("| side | microseconds a layer | over the floor |")
    print("|---|---|---|")
    for name, value in sorted(added.items(), key=lambda pair: pair[1]):
        print(f"| {name} | {value:.1f} | {value / added['floor']:.2f} |", flush=True)
    return added


def main() -> None:
    parser = argparse.ArgumentParser(description="What a live branch costs the host's processor.")
    parser.add_argument("--quick", action="store_true", help="few turns: nothing is decided")
    options = parser.parse_args()
    print(f"{machine()}, ComfyUI {host_version(Path(comfy.sd.__file__).resolve().parents[1])}")
    model = tiny_models.real_width_flux(hidden=128, depth=19, depth_single=38, device=DEVICE)
    with packs() as found:
        for rank in (16, 64):
            for targets, title in ((WHOLE, "Whole layers"), ("paper", "Layers of paper, with slices")):
                sides = Sides(model, rank, targets, found)
                added = show(sides, sides.seconds(2 if options.quick else 30), rank, title)
                decide(added, rank, title, quick=options.quick)
    finish()


def decide(added: dict[str, float], rank: int, title: str, *, quick: bool) -> None:
    """The claims, of what was measured."""
    bars = {"floor": FLOOR_BAR, "bypass": BYPASS_BAR, **({"before": BEFORE_BAR} if rank == 16 else {})}
    for peer in [peer for peer in bars if peer in added]:
        label = f"{title.lower()}, rank {rank}: ours / {peer}"
        timed(label, added["ours"] / added[peer], bars[peer], quick=quick, at_least=False)
    timed(
        f"{title.lower()}, rank {rank}: eight / one",
        added["ours, 8"] / added["ours"],
        COUNT_BAR,
        quick=quick,
        at_least=False,
    )


if __name__ == "__main__":
    main()
