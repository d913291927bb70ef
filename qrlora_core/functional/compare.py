"""Compare two adapters layer by layer: how alike they are, and what a merge of them gains or loses."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from torch import Tensor

from ..adapter import Layer, QRLoRA
from .as_terms import as_terms
from .merge import group_by_basis
from .spectrum import Spectrum, spectrum

# A number that counts blocks stands behind one of these; `to_out.0` and `ff.net.2` count no blocks.
_BLOCK = re.compile(r"^.*(?:blocks?|layers|attentions|resnets|refiner)[._]\d+(?=[._]|$)")
_SIMILARITIES = ("q_cosine", "delta_r_cosine", "base_r_cosine", "column_overlap", "row_overlap", "delta_cosine")
_HEADINGS = ("q", "dR", "R", "columns", "rows", "delta")


@dataclass(frozen=True)
class Similarities:
    """Of a layer, or means over layers; see `LayerComparison`."""

    q_cosine: float | None
    delta_r_cosine: float | None
    base_r_cosine: float | None
    column_overlap: float | None
    row_overlap: float | None
    delta_cosine: float | None


@dataclass(frozen=True)
class LayerComparison(Similarities):
    """How two adapters compare in one layer (the analysis of QR-LoRA, arXiv 2507.04599, section 3, and more).

    Attributes:
        path: module path.
        q_cosine: cosine of the flattened q's, and so on for delta_r and base_r; None where a layer has several
            terms, where shapes differ, where a base_r is missing, or where one of them is zero.
        delta_r_cosine: see above.
        base_r_cosine: see above.
        column_overlap: ``|U_a^T U_b|_F^2 / min(r_a, r_b)`` of orthonormal bases of the deltas' column spaces (their
            left singular vectors that carry energy): 1 where one space holds the other, 0 where they are orthogonal;
            None where a delta is zero.
        row_overlap: the same of the row spaces.
        delta_cosine: ``<D_a, D_b> / (|D_a| |D_b|)``; None where a delta is zero.
        interference: ``2 <D_a, D_b> / (|D_a|^2 + |D_b|^2)``, the share of the summed energy that a merge at scales
            1, 1 gains (above 0, up to 1) or loses (below 0, down to -1), since
            ``|D_a + D_b|^2 = |D_a|^2 + |D_b|^2 + 2 <D_a, D_b>``.
        energy_first: ``|D_a|_F^2``.
        energy_second: ``|D_b|_F^2``.
    """

    path: str
    interference: float
    energy_first: float
    energy_second: float


@dataclass(frozen=True)
class BlockComparison:
    """Energies of one block, all layers of both adapters counted, and the interference of a merge within it."""

    block: str
    interference: float
    energy_first: float
    energy_second: float


@dataclass(frozen=True)
class Totals(Similarities):
    """Whole adapters.

    Attributes:
        interference: as in `LayerComparison`, over all layers of both adapters.
        energy_first: over all layers of the first adapter.
        energy_second: over all layers of the second.
        q_cosine: mean over the common layers that have one, weighted by the energy of both adapters there, and so
            on for the others; None where no layer has one.
    """

    interference: float
    energy_first: float
    energy_second: float


@dataclass(frozen=True)
class Comparison:
    """Two adapters side by side.

    Attributes:
        first: name of the first adapter. second: name of the second.
        totals: of the whole adapters.
        layers: the common layers, in the order of the first adapter.
        blocks: all blocks, see `block_of`, in the order of the adapters.
        only_first: module paths that only the first adapter has. only_second: likewise.
    """

    first: str
    second: str
    totals: Totals
    layers: tuple[LayerComparison, ...]
    blocks: tuple[BlockComparison, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]


def interference(
    product: float, energy_first: float, energy_second: float, scale_first: float = 1.0, scale_second: float = 1.0
) -> float:
    """``2 <a D_a, b D_b> / (|a D_a|^2 + |b D_b|^2)``: what share of energy a merge at the scales a, b gains or loses.

    Args:
        product: ``<D_a, D_b>``. energy_first, energy_second: ``|D_a|_F^2`` and ``|D_b|_F^2``.
    """
    energy = scale_first**2 * energy_first + scale_second**2 * energy_second
    return 2 * scale_first * scale_second * product / energy if energy else 0.0


def compare(first: QRLoRA, second: QRLoRA) -> Comparison:
    """Compare two adapters, of any number of terms and any ranks, without forming a delta.

    With ``D = U C``, ``C = S V^T``, the inner product is ``<D_a, D_b> = sum_ij (U_a^T U_b)_ij (C_a C_b^T)_ij``.

    Raises:
        AdapterError: the adapters disagree on the shape of a layer, one holds NaN or infinity, or contains the base
            weight.
    """
    group_by_basis([first, second])  # refuses adapters that do not fit together
    first, second = as_terms(first, "compare"), as_terms(second, "compare")
    layers, energies = [], []
    for path in [*first.layers, *(path for path in second.layers if path not in first.layers)]:
        spectra = [
            spectrum(adapter.layers[path], name=f"{adapter.name}: layer {path}") if path in adapter.layers else None
            for adapter in (first, second)
        ]
        energies.append(_Energies(path, *(found.energy if found else 0.0 for found in spectra)))
        if spectra[0] and spectra[1]:
            layers.append(_compare_layer(path, first.layers[path], second.layers[path], spectra[0], spectra[1]))
    return Comparison(
        first=first.name,
        second=second.name,
        totals=_totals(layers, energies),
        layers=tuple(layers),
        blocks=_blocks(layers, energies),
        only_first=tuple(path for path in first.layers if path not in second.layers),
        only_second=tuple(path for path in second.layers if path not in first.layers),
    )


def _compare_layer(path: str, first: Layer, second: Layer, a: Spectrum, b: Spectrum) -> LayerComparison:
    columns, rows = a.left.T @ b.left, a.rows @ b.rows.T
    product = float((columns * rows).sum())
    norms = math.sqrt(a.energy * b.energy)
    return LayerComparison(
        path=path,
        q_cosine=_factor_cosine(first, second, "q"),
        delta_r_cosine=_factor_cosine(first, second, "delta_r"),
        base_r_cosine=_factor_cosine(first, second, "base_r"),
        column_overlap=_overlap(columns[: a.content, : b.content]),
        row_overlap=_overlap(a.right.T @ b.right),
        delta_cosine=product / norms if norms else None,
        interference=interference(product, a.energy, b.energy),
        energy_first=a.energy,
        energy_second=b.energy,
    )


def _factor_cosine(first: Layer, second: Layer, factor: str) -> float | None:
    if len(first.terms) > 1 or len(second.terms) > 1:
        return None
    a, b = (getattr(layer.terms[0].orthonormal, factor) for layer in (first, second))
    if a is None or b is None:
        return None
    a, b = a.flatten(1).double(), b.flatten(1).double()
    if a.shape != b.shape:
        return None
    norms = float(a.norm() * b.norm())
    return float((a * b).sum()) / norms if norms else None


def _overlap(products: Tensor) -> float | None:
    return float(products.square().sum()) / min(products.shape) if products.numel() else None


def _product(layer: LayerComparison) -> float:
    """``<D_a, D_b>`` again."""
    return layer.interference * (layer.energy_first + layer.energy_second) / 2


class _Energies(NamedTuple):
    """``|D|_F^2`` of a layer in each adapter; 0 where it has none."""

    path: str
    first: float
    second: float


def _totals(layers: Sequence[LayerComparison], energies: Sequence[_Energies]) -> Totals:
    energy_first = math.fsum(layer.first for layer in energies)
    energy_second = math.fsum(layer.second for layer in energies)
    return Totals(
        interference=interference(math.fsum(map(_product, layers)), energy_first, energy_second),
        energy_first=energy_first,
        energy_second=energy_second,
        **{name: _weighted_mean(layers, name) for name in _SIMILARITIES},
    )


def _weighted_mean(layers: Iterable[LayerComparison], name: str) -> float | None:
    pairs = [(getattr(layer, name), layer.energy_first + layer.energy_second) for layer in layers]
    pairs = [(value, weight) for value, weight in pairs if value is not None]
    total = math.fsum(weight for _, weight in pairs)
    return math.fsum(value * weight for value, weight in pairs) / total if total else None


def _blocks(layers: Iterable[LayerComparison], energies: Iterable[_Energies]) -> tuple[BlockComparison, ...]:
    products = {layer.path: _product(layer) for layer in layers}
    members: dict[str, list[_Energies]] = {}
    for layer in energies:
        members.setdefault(block_of(layer.path), []).append(layer)
    return tuple(_block(block, listed, products) for block, listed in members.items())


def _block(block: str, members: Sequence[_Energies], products: Mapping[str, float]) -> BlockComparison:
    product = math.fsum(products.get(layer.path, 0.0) for layer in members)
    first, second = math.fsum(layer.first for layer in members), math.fsum(layer.second for layer in members)
    return BlockComparison(block, interference(product, first, second), first, second)


def block_of(path: str) -> str:
    """The block that a layer is in: its path up to and including the last number that counts blocks.

    ``transformer.transformer_blocks.0.attn.to_out.0`` is in ``transformer.transformer_blocks.0``, and
    ``lora_unet_double_blocks_3_img_attn_qkv`` in ``lora_unet_double_blocks_3``. A path without such a number is a
    block of its own.
    """
    match = _BLOCK.match(path)
    return match[0] if match else path


def as_json(comparison: Comparison) -> str:
    """All of it as JSON, under the names of the attributes; null where there is no number."""
    return json.dumps(asdict(comparison), indent=2, allow_nan=False)


def as_table(comparison: Comparison, rows: int = 20) -> str:
    """A table for a monospace font: totals, then the layers, those with the largest interference of either sign first.

    Args:
        comparison: of `compare`.
        rows: how many layers to list, 0 for the totals alone; a last line says how many more there are.
    """
    totals = comparison.totals
    means = zip(_HEADINGS, _SIMILARITIES, strict=True)
    lines = [
        f"first:  {comparison.first}",
        f"second: {comparison.second}",
        f"layers: {len(comparison.layers)} in both, {len(comparison.only_first)} only in the first, "
        f"{len(comparison.only_second)} only in the second",
        f"energy |delta|^2: first {totals.energy_first:.4g}, second {totals.energy_second:.4g}",
        f"interference of a merge at scales 1, 1: {_signed(totals.interference)} of the summed energy",
        "means weighted by energy: " + ", ".join(f"{head} {_number(getattr(totals, name))}" for head, name in means),
    ]
    worst = sorted(comparison.layers, key=lambda layer: abs(layer.interference), reverse=True)
    if worst and rows:
        lines += ["", *_align([_heading(), *map(_cells, worst[:rows])])]
    if len(worst) > rows > 0:
        lines.append(f"and {len(worst) - rows} more layers, with less interference")
    return "\n".join(lines) + "\n"


def _heading() -> list[str]:
    return ["layer", "interference", *_HEADINGS, "energy 1", "energy 2"]


def _cells(layer: LayerComparison) -> list[str]:
    similarities = [_number(getattr(layer, name)) for name in _SIMILARITIES]
    energies = [f"{energy:.3g}" for energy in (layer.energy_first, layer.energy_second)]
    return [layer.path, _signed(layer.interference), *similarities, *energies]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 3) + 0.0:.3f}"


def _signed(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f} %"


def _align(table: Sequence[Sequence[str]]) -> list[str]:
    """Columns of one width: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    sides: list[Callable[[str, int], str]] = [str.ljust, *[str.rjust] * (len(widths) - 1)]
    return ["  ".join(side(cell, width) for side, cell, width in zip(sides, row, widths, strict=True)) for row in table]
