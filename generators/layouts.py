"""Which layers in a file of each trainer are found, on a small model: by ComfyUI's own loader, and by ours.

`python -m generators.layouts` writes the column of the ComfyUI at hand into the table in docs/models.md and leaves
those of others as they are; a test makes the same files and compares the column.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from devtools import tiny_models
from devtools.environment import ROOT
from devtools.host import boot, comfyui_dir, import_pack
from devtools.trainers.layout import Layout, Rows
from devtools.trainers.registry import layouts
from devtools.workspace import host_version

if TYPE_CHECKING:
    from comfyui_qr_lora.nodes.host.model.host_types import Entry, Patcher, Reorder, Slice

START, END = "<!-- layouts: made by python -m generators.layouts -->", "<!-- /layouts -->"
PAGE = ROOT / "docs" / "models.md"
ABSENT = "not in it"
RANK, ALPHA = 2, 3.0
_NETWORK = "diffusion_model."
_UNKNOWN_SHAPE = (8, 8)  # of a layer that nobody knows: any will do

Deltas = dict[str, Tensor]  # key of a host weight to what is added to it, float64


@dataclass(frozen=True)
class Loaded:
    """What became of the layers of a trainer's file on a model.

    Args:
        names: all layers in the file, as the trainer calls them.
        stock: those that ComfyUI's own loader places.
        explained: those that it does not place, and of which the layout tells where they belong.
        ours: those that are placed here.
        expected: what stock adds to each weight, and what the explained layers are to add.
        found: what is added here.
    """

    names: tuple[str, ...]
    stock: frozenset[str]
    explained: frozenset[str]
    ours: frozenset[str]
    expected: Deltas
    found: Deltas

    def cell(self) -> str:
        """What the table says."""
        here, there, count = len(self.ours), len(self.stock), len(self.names)
        said = f"as ComfyUI ({here})" if here == there else f"better: {here} here, {there} there"
        return said if here == count else f"{said}, of {count}"

    def errors(self) -> dict[str, float]:
        """Host weight to the difference of found and expected, relative to what is expected."""
        return {
            key: _relative(self.found.get(key), self.expected.get(key))
            for key in self.found.keys() | self.expected.keys()
        }


def _relative(found: Tensor | None, expected: Tensor | None) -> float:
    if found is None or expected is None:
        return float("inf")
    return float((found - expected).norm() / expected.norm())


@cache
def model(name: str) -> Patcher:
    """A small model, built once: nothing here changes it."""
    return tiny_models.build(name)


def check(layout: Layout, name: str) -> Loaded:
    """Make the trainer's file for a small model and load it in both ways."""
    patcher = model(name)
    table = _stock_table(patcher)
    listed = {own: _listed(table, layout.path(own)) for own in layout.names()}
    meant = _meant(patcher, layout, table)
    state = _state(layout, {own: _shape(patcher, entry or meant.get(own)) for own, entry in listed.items()})
    expected, placed = _by_stock(patcher, state, table, layout)
    explained = meant.keys() & listed.keys() - placed
    for own in explained:
        _add(expected, patcher, meant[own], _delta(layout, state, own))
    found, missing = _by_us(patcher, state)
    ours = {own for own in listed if layout.path(own) not in missing}
    return Loaded(tuple(listed), frozenset(placed), frozenset(explained), frozenset(ours), expected, found)


def _stock_table(patcher: Patcher) -> dict[str, Entry]:
    """The host's names of layers, but for those that point at nothing: it lists layers of relatives too."""
    import comfy.lora

    weights = patcher.model.state_dict()
    names: dict[str, Entry] = comfy.lora.model_lora_keys_unet(patcher.model, {})
    return {name: entry for name, entry in names.items() if _fits(entry, weights)}


def _parts(entry: Entry) -> tuple[str, Slice | None, Reorder | None]:
    return (entry, None, None) if isinstance(entry, str) else (*entry, None, None)[:3]


def _fits(entry: Entry, weights: Mapping[str, Tensor]) -> bool:
    key, rows, _ = _parts(entry)
    return key in weights and (rows is None or rows[1] + rows[2] <= weights[key].shape[rows[0]])


def _listed(table: Mapping[str, Entry], path: str) -> Entry | None:
    """What the host's table says of a name, which some files' names get anew before they are looked up."""
    import comfy.lora_convert

    renamed = next(iter(comfy.lora_convert.convert_lora({f"{path}.lora_down.weight": torch.ones(1)})))
    return table.get(path, table.get(renamed.removesuffix(".lora_down.weight")))


def _meant(patcher: Patcher, layout: Layout, table: Mapping[str, Entry]) -> dict[str, Entry]:
    """Where layers belong, whatever the host's table says of the trainer's name."""
    alike = {own: table[layout.alias(own)] for own in layout.names() if layout.alias(own) in table}
    told = {own: text for own, text in layout.meant().items() if own in layout.names()}
    return alike | {own: _entry(patcher, Rows.of(_NETWORK + text)) for own, text in told.items()}


def _entry(patcher: Patcher, rows: Rows) -> Entry:
    key = f"{rows.module}.weight"
    slice_ = (0, *rows.within(patcher.model.get_parameter(key).shape[0]))
    return (key, slice_, _swapped) if rows.swapped else (key, slice_)


def _swapped(rows: Tensor) -> Tensor:
    first, second = rows.chunk(2)
    return torch.cat((second, first))


def _shape(patcher: Patcher, entry: Entry | None) -> tuple[int, ...]:
    """Of a layer as the trainer sees it."""
    if entry is None:
        return _UNKNOWN_SHAPE
    key, rows, _ = _parts(entry)
    shape = patcher.model.get_parameter(key).shape
    return shape if rows is None else (rows[2], *shape[1:])


def _state(layout: Layout, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors of a file; alpha is not the rank, so that it is seen whether it counts."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, (out, inner, *kernel) in shapes.items():
        path = layout.path(name)
        state[path + layout.down] = torch.randn(RANK, inner, *kernel, generator=generator)
        state[path + layout.up] = torch.randn(out, RANK, *(1 for _ in kernel), generator=generator)
        if layout.alpha:
            state[path + layout.alpha] = torch.tensor(ALPHA)
    return state


def _delta(layout: Layout, state: Mapping[str, Tensor], name: str) -> Tensor:
    down, up = (state[layout.path(name) + end].double() for end in (layout.down, layout.up))
    return (ALPHA / RANK if layout.alpha else 1.0) * (up.flatten(1) @ down.flatten(1)).reshape(-1, *down.shape[1:])


def _by_stock(
    patcher: Patcher, state: Mapping[str, Tensor], table: Mapping[str, Entry], layout: Layout
) -> tuple[Deltas, set[str]]:
    """What the host's own code adds to each weight, and the layers of the file that it found."""
    import comfy.lora
    import comfy.lora_convert

    converted = comfy.lora_convert.convert_lora(dict(state))
    patches = comfy.lora.load_lora(converted, table, log_missing=False)
    deltas: Deltas = {}
    for entry, patch in patches.items():
        key, rows, reorder = _parts(entry)
        total = _total(deltas, patcher, key)
        comfy.lora.calculate_weight([(1.0, patch, 1.0, rows, reorder)], total, key, torch.float64)
    loaded = {key for patch in patches.values() for key in patch.loaded_keys}
    renamed = dict(zip(state, converted, strict=True))
    return deltas, {name for name in layout.names() if renamed[layout.path(name) + layout.down] in loaded}


def _by_us(patcher: Patcher, state: Mapping[str, Tensor]) -> tuple[Deltas, set[str]]:
    """What the pack adds to each weight, and the names in the file that it does not find."""
    from comfyui_qr_lora.nodes.host.files.load import load
    from comfyui_qr_lora.nodes.host.model.matching import match

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trained.safetensors"
        save_file(dict(state), path)
        matched = match(patcher, load(path))
    deltas: Deltas = {}
    for name, target in matched.targets.items():
        for term in matched.adapter.layers[name].terms:
            product = term.scaling * term.q.double() @ term.delta_r.double().flatten(1)
            _add(deltas, patcher, target.patch_key, product)
    return deltas, set(matched.missing)


def _add(deltas: Deltas, patcher: Patcher, entry: Entry, delta: Tensor) -> None:
    key, slice_, reorder = _parts(entry)
    total = _total(deltas, patcher, key)
    rows = total if slice_ is None else total.narrow(*slice_)
    rows += (delta if reorder is None else reorder(delta)).reshape(rows.shape)


def _total(deltas: Deltas, patcher: Patcher, key: str) -> Tensor:
    shape = patcher.model.get_parameter(key).shape
    return deltas.setdefault(key, torch.zeros(shape, dtype=torch.float64))


def cell(layout: Layout, name: str) -> str:
    """What the table says of a trainer and a model."""
    return ABSENT if tiny_models.lacking(name) else check(layout, name).cell()


def cases() -> Iterator[tuple[Layout, str]]:
    """Every trainer with every model, in the order of the models."""
    known = {name: place for place, name in enumerate(tiny_models.NAMES)}
    pairs = [(layout, name) for layout in layouts() for name in layout.models]
    yield from sorted(pairs, key=lambda pair: known.get(pair[1], len(known)))


Column = dict[tuple[str, str], str]  # (title of the model, trainer) to cell


def key_of(layout: Layout, name: str) -> tuple[str, str]:
    """Where the table has a cell."""
    return tiny_models.TITLES.get(name, name), layout.trainer


def table(columns: Mapping[str, Column]) -> str:
    """Markdown: a row for each model and trainer, a column for each ComfyUI, by version."""
    hosts = sorted(columns, key=lambda version: [int(part) for part in re.findall(r"\d+", version)])
    rows = [key_of(layout, name) for layout, name in cases()]
    lines = [["Model", "Trainer", *hosts], ["---"] * (len(hosts) + 2)]
    lines += [[*row, *(columns[host].get(row, "") for host in hosts)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def columns_in(text: str) -> dict[str, Column]:
    """What a document says between the marks, by ComfyUI's version."""
    inside = re.search(f"{re.escape(START)}\n(.+?)\n{re.escape(END)}", text, re.DOTALL)
    if inside is None:
        return {}
    heading, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in inside[1].splitlines())
    return {host: {(row[0], row[1]): row[i] for row in rows} for i, host in enumerate(heading) if i > 1}


def main(arguments: Sequence[str] | None = None) -> int:
    """Load the files of all trainers and write the column."""
    parser = argparse.ArgumentParser(prog="python -m generators.layouts", description=__doc__)
    parser.add_argument("--print", action="store_true", help="print the table, write nothing")
    options = parser.parse_args(arguments)
    boot(nodes=True)
    import_pack()
    with torch.inference_mode():
        column = {key_of(layout, name): cell(layout, name) for layout, name in cases()}
    text = PAGE.read_text(encoding="utf-8")
    made = table(columns_in(text) | {host_version(comfyui_dir()): column})
    if options.print:
        print(made)
    else:
        before, after = text.split(START)[0], text.split(END)[1]
        PAGE.write_text(f"{before}{START}\n{made}\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
