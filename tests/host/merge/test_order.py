"""No merge depends on the order of its adapters, in any mode of the registry, nor `ties` on how a delta is written."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from comfyui_qr_lora.nodes.host.merge.modes.mode import Mode
from comfyui_qr_lora.nodes.host.merge.modes.registry import MODES
from comfyui_qr_lora.nodes.merge import Merge
from comfyui_qr_lora.qrlora_core import Layer, QRLoRA, Term, merge
from comfyui_qr_lora.qrlora_core.functional.ties import ties
from devtools import tiny_models

from ...support.adapters import merged, random_adapter, relative_error
from ...support.oracle import delta_weight, normal, orthonormal

OUT, WIDTH = 8, 6
KERNELS = {"linear": (WIDTH,), "convolution": (3, 2, 1), "another": (WIDTH,)}
many = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
every_mode = pytest.mark.parametrize("mode", MODES, ids=[mode.name for mode in MODES])

# Bases that are shared, apart, turned or mirrored, at right angles, of one space, or not orthonormal as those of
# ordinary LoRAs; more columns than rows among them.
_Q = orthonormal(OUT, OUT, seed=1)
BASES = [
    _Q[:, :3],
    -_Q[:, :3],
    _Q[:, :3] @ orthonormal(3, 3, seed=2),
    _Q[:, 3:6],
    orthonormal(OUT, 3, seed=3),
    orthonormal(OUT, 2, seed=4),
    torch.eye(OUT)[:, :2],
    torch.eye(OUT)[:, 2:3],
    torch.eye(OUT)[:, 3:4],
    normal(OUT, 4, seed=5),
    1e-3 * normal(OUT, 2, seed=6),
    normal(OUT, OUT + 3, seed=7),
    orthonormal(OUT, 3, seed=3, dtype=torch.bfloat16),
    torch.cat([_Q[:, :2], _Q[:, :1]], dim=1),
]


@st.composite
def terms(draw: st.DrawFn, kernel: tuple[int, ...]) -> Term:
    q = draw(st.sampled_from(BASES))
    rank = q.shape[1]
    rows = normal(rank, *kernel, seed=draw(st.integers(0, 30)))
    kind = draw(st.sampled_from(["random", "coarse", "equal rows", "row of zeros", "zero", "bfloat16"]))
    if kind == "coarse":  # entries of one size
        rows = rows.round()
    elif kind == "equal rows":  # singular values of one size
        rows = torch.eye(rank, rows[0].numel()).reshape(rows.shape)
    elif kind == "row of zeros":
        rows[draw(st.integers(0, rank - 1))] = 0
    elif kind == "zero":
        rows = torch.zeros_like(rows)
    return Term(q, rows.bfloat16() if kind == "bfloat16" else rows, draw(st.sampled_from([1.0, 2.5, -3.0, 0.01, 0.0])))


@st.composite
def adapters(draw: st.DrawFn) -> QRLoRA:
    paths = draw(st.lists(st.sampled_from(sorted(KERNELS)), min_size=1, unique=True))
    listed = {path: draw(st.lists(terms(KERNELS[path]), min_size=1, max_size=2)) for path in paths}
    return QRLoRA({path: Layer(tuple(own)) for path, own in listed.items()})


SCALES = st.sampled_from([1.0, -1.0, 0.5]) | st.floats(0.01, 2)


@st.composite
def merges(draw: st.DrawFn, mode: Mode) -> tuple[list[QRLoRA], list[float], list[int], dict[str, float]]:
    """Adapters, among them the same twice, with scales and an order; and the settings of the mode."""
    different = draw(st.lists(adapters(), min_size=1, max_size=3))
    sources = draw(st.lists(st.sampled_from(different), min_size=2, max_size=4))
    scales = [draw(SCALES) for _ in sources]
    values = {}
    for own in mode.parameters:
        positions = st.integers(0, len(sources) - 1).map(float)
        numbers = st.sampled_from([own.default, own.least]) | st.floats(own.least, min(own.most, own.least + 9))
        values[own.name] = draw(positions if own.names_adapter else numbers)
    return sources, scales, draw(st.permutations(range(len(sources)))), values


def total(mode: Mode, sources: Sequence[QRLoRA], scales: Sequence[float], values: Mapping[str, float]) -> QRLoRA:
    changed = mode.changed(sources, scales, values) if mode.changed else sources
    return merge(list(zip(changed, scales, strict=True)))


def dense(layer: Layer) -> Tensor:
    return torch.stack([delta_weight(term.q, term.delta_r, term.alpha) for term in layer.terms]).sum(0)


def assert_same(found: QRLoRA, expected: QRLoRA, sources: Sequence[QRLoRA], scales: Sequence[float]) -> None:
    """Measured by all terms that went in, before any of them cancel."""
    assert found.layers.keys() == expected.layers.keys()
    for path, layer in expected.layers.items():
        size = sum(
            abs(scale) * float(delta_weight(term.q, term.delta_r, term.alpha).norm())
            for source, scale in zip(sources, scales, strict=True)
            if path in source.layers
            for term in source.layers[path].terms
        )
        assert float((dense(found.layers[path]) - dense(layer)).norm()) <= 1e-5 * size, path


@every_mode
@many
@given(st.data())
def test_any_order_gives_one_merge(mode: Mode, data: st.DataObject) -> None:
    sources, scales, order, values = data.draw(merges(mode))
    moved = {
        own.name: float(order.index(int(values[own.name]))) for own in mode.parameters if own.names_adapter
    }  # the same adapter, wherever it stands
    found = total(mode, [sources[i] for i in order], [scales[i] for i in order], {**values, **moved})
    assert_same(found, total(mode, sources, scales, values), sources, scales)


@many
@given(st.data())
def test_ties_is_of_the_deltas_however_they_are_written(data: st.DataObject) -> None:
    """Where no basis is shared: as other products, and of other terms."""
    sources = data.draw(st.lists(adapters(), min_size=1, max_size=3))
    scales = [data.draw(SCALES) for _ in sources]
    density = data.draw(st.floats(0.05, 1))
    written = [[_rewritten(source, data.draw(st.integers(0, 30))) for source in sources] for _ in range(2)]
    first, second = (merge(list(zip(ties(own, scales, density=density), scales, strict=True))) for own in written)
    assert_same(first, second, sources, scales)


def _rewritten(adapter: QRLoRA, seed: int) -> QRLoRA:
    """Each delta in float64, as ``(delta M) M^-1`` with a random M."""
    layers = {}
    for path, layer in adapter.layers.items():
        delta = dense(layer)
        width = delta.flatten(1).shape[1]
        mixing = orthonormal(width, width, seed=seed, dtype=torch.float64) * (1 + torch.arange(width))
        rows = torch.linalg.inv(mixing).reshape(width, *delta.shape[1:])
        layers[path] = Layer.single(delta.flatten(1) @ mixing, rows)
    return replace(adapter, layers=layers)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("density", [0.3, 0.7, 1.0])
def test_ties_of_adapters_whose_axes_weigh_the_same(seed: int, rank: int, density: float) -> None:
    """At right angles and with singular values of one size: rounding alone would choose the axes."""
    exact: Any = {"dtype": torch.float64}
    whole, rows = orthonormal(OUT, 2 * rank, seed=seed, **exact), orthonormal(WIDTH, rank, seed=seed + 100, **exact).T
    turned = rows @ orthonormal(WIDTH, WIDTH, seed=seed + 200, **exact)
    sources = [QRLoRA({"x": Layer.single(q, d)}) for q, d in ((whole[:, :rank], rows), (whole[:, rank:], turned))]
    there = merge([(own, 1.0) for own in ties(sources, (1.0, 1.0), density=density)])
    back = merge([(own, 1.0) for own in ties(sources[::-1], (1.0, 1.0), density=density)])
    assert_same(back, there, sources, (1.0, 1.0))


@cache
def model() -> Any:
    return tiny_models.build("sd3")


def ordinary(seed: int) -> QRLoRA:
    """As a file of an ordinary LoRA has it: up and down, of another rank in each adapter."""
    like = random_adapter(model(), seed=seed)
    layers = {}
    for path, term in like.terms():
        up = normal(term.q.shape[0], 2 + seed, seed=seed)
        layers[path] = Layer.single(up, 0.01 * normal(2 + seed, term.delta_r.shape[1], seed=seed + 50), alpha=1.5)
    return replace(like, layers=layers, name=f"ordinary_{seed}.safetensors")


BUNDLES = {
    "shared basis": lambda: [random_adapter(model(), seed=seed) for seed in (1, 2, 3)],
    "different bases": lambda: [random_adapter(model(), seed=n, mirrored=n == 2, rank=7 + n) for n in (1, 2, 3)],
    "ordinary LoRAs": lambda: [ordinary(seed) for seed in (1, 2, 3)],
    "both": lambda: [random_adapter(model(), seed=1), ordinary(2), random_adapter(model(), seed=3, mirrored=True)],
}  # fmt: skip


@every_mode
@pytest.mark.parametrize("apply", ["live", "patch"])
@pytest.mark.parametrize("bundle", BUNDLES.values(), ids=BUNDLES)
def test_rows_of_the_node_may_be_exchanged(mode: Mode, apply: str, bundle: Any) -> None:
    sources, scales, pictures = bundle(), (0.9, -0.6, 0.5), []
    for order in itertools.permutations(range(3)):
        slots: dict[str, Any] = {}
        for slot, index in zip((1, 4, 6), order, strict=True):
            slots |= {f"adapter_{slot}": sources[index], f"scale_{slot}": scales[index]}
        # What names an adapter names the second of the sources, wherever it stands.
        named = {own.name: (1, 4, 6)[order.index(1)] for own in mode.parameters if own.names_adapter}
        done = Merge.execute(model=model(), apply=apply, mode=mode.name, **named, **slots).args
        pictures += [predict(done[0]), predict(merged(model(), (done[1], 1.0)))]
    base = predict(model())
    assert float((pictures[0] - base).norm()) > 0
    for picture in pictures[1:]:
        assert relative_error(picture, pictures[0], base) < 1e-4


def predict(patcher: Any) -> Tensor:
    return tiny_models.predict(patcher, tiny_models.sample_inputs("sd3", patcher))
