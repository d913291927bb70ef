"""What a live branch costs a layer, against the least that its arithmetic and its memory traffic allow.

    python -m benchmarks.overhead                     float32 on a CPU, bfloat16 on a GPU
    python -m benchmarks.overhead --dtype bfloat16
    python -m benchmarks.overhead --quick             narrow layers, nothing decides

The layers are those of one double and one single block of FLUX, with 2,304 image tokens and adapters of rank 64.
Marks inside the layer's call, right before the branch's hook and right behind it, time the branch in its place and the
bare layer in the same call. Floor of a branch: the larger of its operations over the rate of a square matrix product
and its bytes over the bandwidth of a copy or a sum, both measured between the calls.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from benchmarks.ratios import finish
from benchmarks.setting import (
    DEVICE,
    ON_GPU,
    forward_times,
    machine,
    median_ms,
    random_adapters,
    sample,
    timed,
    tiny_models,
)

# isort: split

from comfyui_qr_lora.nodes.host.apply.branch import Branch
from comfyui_qr_lora.nodes.host.apply.buffers import Buffers
from comfyui_qr_lora.nodes.host.apply.layout import LayerParts, Layout
from comfyui_qr_lora.nodes.host.apply.part import Part

RANK = 64
COUNTS = (1, 8)
SIDE = 96  # of the latent: 48 x 48 tokens
FLOOR_BAR, COUNT_BAR = 2.0, 1.1
MATRIX_SIDE = 8192 if ON_GPU else 2048
BUFFER_BYTES = 256 << 20


@dataclass
class Shape:
    """A layer of FLUX: (in, out) in units of its width, and the slices that adapters know, None for the whole."""

    name: str
    inputs: int
    outputs: int
    slices: int | None = None

    def rows(self, width: int) -> list[tuple[int, int] | None]:
        """Row ranges of the parts."""
        return [None] if self.slices is None else [(index * width, width) for index in range(self.slices)]


SHAPES = (
    Shape("double qkv", 1, 3, 3),
    Shape("double proj", 1, 1),
    Shape("double mlp in", 1, 4),
    Shape("double mlp out", 4, 1),
    Shape("single linear1", 1, 7, 3),
)


class Clock:
    """Seconds between marks, on the device that works."""

    def __init__(self) -> None:
        self._marks: list[Any] = []

    def mark(self, *_: Any) -> None:
        """Note this moment; also usable as a forward hook."""
        if ON_GPU:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def spans(self) -> list[float]:
        """Seconds from mark to mark; forgets them."""
        marks, self._marks = self._marks, []
        if ON_GPU:
            torch.cuda.synchronize()
            return [a.elapsed_time(b) / 1e3 for a, b in pairwise(marks)]
        return [b - a for a, b in pairwise(marks)]

    def time(self, work: Callable[[], Any]) -> float:
        """Seconds of one call."""
        self.mark()
        work()
        self.mark()
        return self.spans()[0]


@dataclass
class Machine:
    """Rate of a square matrix product and bandwidth, measured again and again."""

    dtype: torch.dtype
    clock: Clock
    products: list[float] = field(default_factory=list)
    copies: list[float] = field(default_factory=list)
    sums: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._left, self._right = (torch.randn(MATRIX_SIDE, MATRIX_SIDE, device=DEVICE).to(self.dtype) for _ in "ab")
        self._product = torch.empty_like(self._left)
        self._source = torch.ones(BUFFER_BYTES // self.dtype.itemsize, dtype=self.dtype, device=DEVICE)
        self._target = torch.zeros_like(self._source)

    def measure(self) -> None:
        """One reading of each."""
        self.products.append(self.clock.time(lambda: torch.mm(self._left, self._right, out=self._product)))
        self.copies.append(self.clock.time(lambda: self._target.copy_(self._source)))
        self.sums.append(self.clock.time(lambda: self._target.add_(self._source)))

    @property
    def rate(self) -> float:
        """Operations per second."""
        return 2 * MATRIX_SIDE**3 / statistics.median(self.products)

    @property
    def bandwidth(self) -> float:
        """Bytes per second: of copies (read, write) or of sums (two read, one written), whichever is more."""
        return BUFFER_BYTES * max(2 / statistics.median(self.copies), 3 / statistics.median(self.sums))


@dataclass
class Costs:
    """What one layer took, in seconds, and what its branch had to do."""

    operations: float
    bytes: float
    bare: list[float] = field(default_factory=list)
    branch: dict[int, list[float]] = field(default_factory=dict)

    def floor(self, machine: Machine) -> float:
        """Least seconds of the branch on this machine."""
        return max(self.operations / machine.rate, self.bytes / machine.bandwidth)


def make_parts(shape: Shape, width: int, count: int, dtype: torch.dtype) -> list[Part]:
    """The branch of so many adapters on one basis, as `live` builds it."""

    def part(rows: tuple[int, int] | None) -> Part:
        q = torch.randn(rows[1] if rows else shape.outputs * width, RANK, device=DEVICE, dtype=dtype)
        deltas = [torch.randn(RANK, shape.inputs * width, device=DEVICE, dtype=dtype) for _ in range(count)]
        given = tuple((i, 1.0, lambda d=d: d) for i, d in enumerate(deltas))
        return Part(rows, q, (shape.inputs * width,), given, lambda: (1.0, 1.0))

    return [part(rows) for rows in shape.rows(width)]


def make_ready(parts: list[Part], layer: torch.nn.Module) -> Buffers:
    """What `live` lays ready for the branch at some scales."""
    layout = Layout({"0": LayerParts([[part] for part in parts], {})})
    buffers = Buffers(layout.plan(torch.nn.Sequential(layer)), layer.weight.dtype, DEVICE)
    buffers.fill(layout, [0.1 * (index + 1) for index in range(len(parts[0].deltas))])
    return buffers


def run_layer(shape: Shape, width: int, tokens: int, turns: int, limits: Machine) -> Costs:
    """Time one layer with the branch of 1 and of 8 adapters, in turns."""
    dtype, clock = limits.dtype, limits.clock
    layer = torch.nn.Linear(shape.inputs * width, shape.outputs * width, device=DEVICE, dtype=dtype)
    x = torch.randn(1, tokens, shape.inputs * width, device=DEVICE, dtype=dtype)
    rows = width * shape.slices if shape.slices else shape.outputs * width
    columns = RANK * (shape.slices or 1)
    factors = columns * shape.inputs * width + RANK * rows
    operations = 2.0 * tokens * (columns * shape.inputs * width + RANK * rows)
    traffic = x.numel() + 2 * tokens * rows + factors  # x is read, y read and written
    costs = Costs(operations, traffic * dtype.itemsize)
    layer.register_forward_hook(clock.mark)
    hook = Branch(layer)
    layer.register_forward_hook(clock.mark)
    ready = {count: make_ready(make_parts(shape, width, count, dtype), layer) for count in COUNTS}
    for turn in range(turns + 1):
        limits.measure()
        for count in COUNTS:
            hook.put("merge", ready[count].addends["0"])
            clock.mark()
            layer(x)
            bare, branch = clock.spans()
            if turn > 0:
                costs.bare.append(bare)
                costs.branch.setdefault(count, []).append(branch)
    return costs


def show(shape: Shape, width: int, costs: Costs, limits: Machine) -> None:
    """One line of the table."""
    one, eight = (median_ms(costs.branch[count]) for count in COUNTS)
    floor, bare = 1e3 * costs.floor(limits), median_ms(costs.bare)
    size = f"{shape.inputs * width} -> {shape.outputs * width}"
    times = f"{bare:8.2f} | {one:7.3f} | {eight:7.3f} | {floor:7.3f}"
    print(f"| {shape.name:14} | {size:14} | {times} | {one / floor:.2f} |", flush=True)


def claim_sums(all_costs: list[Costs], limits: Machine, quick: bool) -> None:
    """The claims, on the sum of the layers."""
    one, eight = (sum(statistics.median(costs.branch[count]) for costs in all_costs) for count in COUNTS)
    bare = sum(statistics.median(costs.bare) for costs in all_costs)
    print(f"all layers: {1e3 * bare:.1f} ms bare, branches {1e3 * one:.1f} ms, {one / bare:.1%} on top")
    floor = sum(costs.floor(limits) for costs in all_costs)
    timed("branch over its floor, sum of layers", one / floor, FLOOR_BAR, quick=quick, at_least=False)
    timed("8 adapters on one basis over 1", eight / one, COUNT_BAR, quick=quick, at_least=False)


def show_step(dtype: torch.dtype, turns: int) -> None:
    """A whole denoising call with and without branches, as information."""
    from comfyui_qr_lora.tests.support.adapters import merged

    model = tiny_models.real_width_flux(dtype=dtype, device=DEVICE)
    adapters = random_adapters(model, COUNTS[-1], RANK)
    patchers = {
        "bare": model,
        "live, 1 adapter": merged(model, (adapters[0], 0.7)),
        "live, 8 adapters": merged(model, *((adapter, 0.1) for adapter in adapters)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in patchers}
    for _ in range(turns):
        for name, patcher in patchers.items():
            with forward_times(model) as forwards:
                sample(patcher, steps=1, side=SIDE)
            seconds[name].append(forwards[0][1] - forwards[0][0])
    steps = ", ".join(f"{name} {median_ms(values):.0f} ms" for name, values in seconds.items())
    print(f"whole call of FLUX with 1 + 1 blocks, 2,304 image tokens: {steps}")


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of live branches against their floor.")
    parser.add_argument("--quick", action="store_true", help="narrow layers, few tokens; nothing decides")
    parser.add_argument("--dtype", default="bfloat16" if ON_GPU else "float32", help="default: %(default)s")
    parser.add_argument("--turns", type=int, default=25 if ON_GPU else 5, help="default: %(default)s")
    options = parser.parse_args()
    width, tokens = (256, 256) if options.quick else (3072, 2304)
    limits = Machine(getattr(torch, options.dtype), Clock())
    print(f"{machine()}, {options.dtype}, {tokens} tokens, rank {RANK}; medians of {options.turns} in ms")
    print("| layer | in -> out | bare layer | branch | branch of 8 | floor | over floor |")
    print("|---|---|---|---|---|---|---|")
    all_costs = []
    for shape in SHAPES:
        all_costs.append(run_layer(shape, width, tokens, options.turns, limits))
        show(shape, width, all_costs[-1], limits)
    print(f"matrix product {limits.rate / 1e9:.0f} GFLOP/s, bandwidth {limits.bandwidth / 1e9:.1f} GB/s")
    claim_sums(all_costs, limits, options.quick)
    if not options.quick:
        show_step(limits.dtype, 3 if ON_GPU else 2)
    finish()


if __name__ == "__main__":
    with torch.inference_mode():
        main()
