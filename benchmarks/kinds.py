"""What becomes of a file of each kind of adapter, against the published equation of the kind in float64.

    python -m benchmarks.kinds            FLUX, SDXL, SD3 and Z-Image
    python -m benchmarks.kinds --quick    SD3 alone

The equations stand in `tests.support.adapter_kinds`, the layers in `tests.support.kind_files`: slices of fused weights
and convolutions are among them. Each cell is the largest error over the models, relative to the adapter's effect; all
in float32. Of weights, of the worst layer: as loaded, patched, saved as full and loaded again, saved as an ordinary
LoRA and given to ComfyUI's own loader. Of the model's output, against the same model whose weights were replaced: live,
a step at which a schedule is at 0.5, and every other layer at 0.5 by QR-LoRA Blocks. The last column is live against
the same file in ComfyUI's own loader at strength 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.ratios import claim, finish
from benchmarks.setting import machine

# isort: split
import comfy.model_management
import comfy.sd
from torch import Tensor

from comfyui_qr_lora.nodes.blocks import Blocks
from comfyui_qr_lora.qrlora_core import AdapterError, QRLoRA, load_adapter, save_adapter
from comfyui_qr_lora.qrlora_core.errors import Reason
from comfyui_qr_lora.qrlora_core.schedule import parse_points
from comfyui_qr_lora.tests.support.adapter_kinds import KINDS
from comfyui_qr_lora.tests.support.adapters import merged, relative_error
from comfyui_qr_lora.tests.support.kind_files import KindFile, SmallModel, stock
from devtools.workspace import host_version

NAMES = ("flux", "sdxl", "sd3", "z_image")
BAR = 1e-4
HALF = 0.5
LATER = parse_points("0:0, 0.25:0, 0.25:0.5, 1:0.5")  # off at first, so that a step must follow it
REFUSED = "refused"
# An error, or a word in place of it.
Cell = float | str


class Case:
    """One file on one model."""

    def __init__(self, model: SmallModel, kind: str, folder: Path) -> None:
        self.model, self.file = model, model.file(kind)
        self.adapter, self._folder = self.file.adapter, folder
        self._changed = model.new_weights((self.file, 1.0))

    def cells(self) -> dict[str, Cell]:
        """By column."""
        self._require_whole(self.adapter)
        columns: dict[str, Callable[[], Cell]] = {
            "load": lambda: self._of_layers(self.adapter),
            "live": self._live,
            "patch": lambda: self._of_weights(merged(self.model.patcher, (self.adapter, 1.0), apply="patch")),
            "schedule": self._scheduled,
            "blocks": self._by_blocks,
            "full": self._full,
            "lora": lambda: self._for_others("lora"),
            "lycoris": lambda: self._for_others("lycoris"),
            "stock": self._stock,
        }
        return {name: column() for name, column in columns.items()}

    def _require_whole(self, adapter: QRLoRA) -> None:
        if len(adapter.layers) != len(self.file.layers):
            raise AdapterError(f"{len(adapter.layers)} of {len(self.file.layers)} layers: {adapter.origin.not_loaded}")

    def _of_layers(self, adapter: QRLoRA) -> float:
        self._require_whole(adapter)
        errors = []
        for path, layer in adapter.layers.items():
            target = self.model.target_of(path)
            base = target.of(self.model.weights[target.key])
            effect = self.file.layers[target].effect(base)
            found = layer.in_shape(target.shape).delta_weight(base.reshape(target.shape)).reshape(base.shape)
            errors.append(float((found - effect).norm() / effect.norm()))
        return max(errors)

    def _of_weights(self, patched: Any) -> float:
        comfy.model_management.load_models_gpu([patched])
        found = patched.model.state_dict()
        return max(
            relative_error(found[key].double(), new, self.model.weights[key]) for key, new in self._changed.items()
        )

    @cached_property
    def _output(self) -> Tensor:
        return self.model.predict(merged(self.model.patcher, (self.adapter, 1.0)))

    def _live(self) -> float:
        expected = self.model.with_weights(self._changed, self.model.predict)
        return relative_error(self._output, expected, self.model.base)

    def _scheduled(self) -> float:
        found = self.model.last_step(merged(self.model.patcher, (self.adapter, 1.0), schedule_1=LATER))
        expected = self.model.expected((self.file, HALF), run=self.model.last_step)
        return relative_error(found, expected, self.model.last_step(self.model.patcher))

    def _by_blocks(self) -> float:
        paths = list(self.adapter.layers)[::2]
        rules = "\n".join(f"{path}: {HALF}" for path in paths)
        (scaled,) = Blocks.execute(self.adapter, rules).args
        chosen = {self.model.target_of(path) for path in paths}
        weaker, rest = (self._part({*self.file.layers} & chosen), self._part({*self.file.layers} - chosen))
        found = self.model.predict(merged(self.model.patcher, (scaled, 1.0)))
        return relative_error(found, self.model.expected((weaker, HALF), (rest, 1.0)), self.model.base)

    def _part(self, targets: set[Any]) -> KindFile:
        return replace(self.file, layers={target: self.file.layers[target] for target in targets})

    def _full(self) -> float:
        return self._of_layers(load_adapter(save_adapter(self.adapter, self._folder / "full.safetensors")))

    def _for_others(self, format: str) -> Cell:
        """Of the stock loader given the file; of our own where that is one that the stock loader does not apply."""
        path = self.file.path.with_name(f"{format}_{self.file.path.name}")
        try:
            save_adapter(self.adapter, path, format=format, dtype=torch.float32)
        except AdapterError as error:
            if error.reason is not Reason.NOT_LOW_RANK:
                raise
            return REFUSED
        is_read = self.file.in_stock if format == "lycoris" else self.file.is_named_in_stock
        if not is_read:
            return self._of_layers(load_adapter(path))
        return self._of_weights(stock(self.model.patcher, path))

    def _stock(self) -> Cell:
        if not self.file.in_stock:
            notes = [note.partition(" are ")[2] for note in self.adapter.origin.notes]
            return "; ".join(notes) or "unknown names"
        expected = self.model.predict(stock(self.model.patcher, self.file.path))
        return relative_error(self._output, expected, self.model.base)


def joined(cells: list[Cell]) -> str:
    """The largest error, and how many models have none."""
    errors, words = [own for own in cells if isinstance(own, float)], [own for own in cells if isinstance(own, str)]
    if not errors:
        return words[0]
    told = f"{max(errors):.0e}"
    return f"{told}, {len(words)} {words[0]}" if words else told


def show(kind: str, found: Mapping[str, dict[str, Cell]]) -> None:
    """One line of the table."""
    columns = zip(*(cells.values() for cells in found.values()), strict=True)
    print(f"| {kind} | {len(found)} | {' | '.join(joined(list(cells)) for cells in columns)} |", flush=True)


def measured(names: tuple[str, ...]) -> dict[str, dict[str, dict[str, Cell]]]:
    """Kind to model to cells."""
    models = [SmallModel(name) for name in names]
    found: dict[str, dict[str, dict[str, Cell]]] = {}
    with TemporaryDirectory() as folder:
        for kind in KINDS:
            own = {model.name: Case(model, kind, Path(folder)).cells() for model in models if model.targets(kind)}
            if own:
                found[kind] = own
                show(kind, own)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="SD3 alone")
    names = NAMES[2:3] if parser.parse_args().quick else NAMES
    print(f"{machine()}, ComfyUI {host_version(Path(comfy.sd.__file__).resolve().parents[1])}; {', '.join(names)}")
    print("float32; errors relative to the adapter's effect, the largest over the models")
    print("| kind | models | load | live | patch | schedule | blocks | full | lora | lycoris | live against stock |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    found = measured(names)
    for name in names:
        cells = [cell for own in found.values() if name in own for cell in own[name].values()]
        errors = [cell for cell in cells if isinstance(cell, float)]
        claim(f"{name}, largest of {len(errors)} errors", max(errors), BAR, at_least=False)
    finish()


if __name__ == "__main__":
    with torch.inference_mode():
        main()
