"""What works with which model, found out by doing it on a small model of each architecture.

`python -m generators.support` writes the column of the ComfyUI at hand into the table in README.md and leaves those of
others as they are; a test does the same checks and compares the column.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from devtools import tiny_models
from devtools.environment import ROOT
from devtools.host import boot, comfyui_dir, import_pack
from devtools.workspace import host_version

if TYPE_CHECKING:
    from comfyui_qr_lora.nodes.host.model.host_types import Patcher
    from comfyui_qr_lora.nodes.host.train.dataset import TrainingSet
    from comfyui_qr_lora.nodes.host.train.settings import TrainingSettings
    from comfyui_qr_lora.qrlora_core import QRLoRA

START, END = "<!-- support: made by python -m generators.support -->", "<!-- /support -->"
_CONVENTIONS = {"transformer": "diffusers", "unet": "kohya", "diffusion_model": "ComfyUI"}
# Relative to the adapter's effect. compact rounds dR to float16; float8 is compared with the dequantized base.
_EXACT, _ROUNDED, _FLOAT8 = 1e-4, 1e-3, 1e-4
LIMITS = {
    "live": _EXACT, "patch": _EXACT, "full": _EXACT, "full, patch": _EXACT, "compact": _ROUNDED,
    "compact, patch": _ROUNDED, "lora": _EXACT, "lora, patch": _EXACT, "saved merge": _EXACT, "float8 base": _FLOAT8,
}  # fmt: skip
_SCALE = 0.8
ABSENT = "not in it"


@dataclass(frozen=True)
class Support:
    """Errors relative to the adapter's effect, by what was done; and how the exported names are called.

    No error stands under "float8 base" where ComfyUI itself cannot compute the model on such weights.
    """

    name: str
    losses: tuple[float, ...]
    errors: dict[str, float]
    convention: str

    def cell(self) -> str:
        """What the table says: yes with the names in a lora file, or what failed."""
        failed = [] if self.trains() else ["train"]
        failed += [what for what, error in self.errors.items() if not error <= LIMITS[what]]
        if failed:
            return f"no: {', '.join(failed)}"
        return f"yes ({self.convention})" + ("" if "float8 base" in self.errors else ", no float8")

    def trains(self) -> bool:
        """Two steps were taken with finite losses."""
        return len(self.losses) == 2 and all(loss == loss and abs(loss) < float("inf") for loss in self.losses)


def check(name: str) -> Support:
    """Train two steps, save in every format, load, apply live and as patches; the oracle is the stock LoRA loader.

    The stock node gets the file in the format lora, and every other way must give what it gives.

    Raises:
        AssertionError: a byte of the base weights, or what the model alone predicts, is another one afterwards.
    """
    from comfyui_qr_lora.nodes.host.train.train import train_adapter

    patcher = tiny_models.build(name)
    before = _bytes(patcher)
    result = train_adapter(patcher, _example(name, patcher), _settings())
    files = {kind: _save(result.adapter, kind) for kind in ("full", "compact", "lora")}
    base = _predict(name, patcher)
    expected = _predict(name, _with_stock_lora(patcher, files["lora"], _SCALE))

    def error(adapter: QRLoRA, mode: str) -> float:
        return _error(_predict(name, _merged(patcher, adapter, mode)[0]), expected, base)

    modes = {"": "live", ", patch": "patch"}
    merge = _save(_merged(patcher, result.adapter, "live")[1], "lora")
    errors = {
        **{mode: error(result.adapter, mode) for mode in modes.values()},
        **{kind + end: error(_load(file), mode) for kind, file in files.items() for end, mode in modes.items()},
        "saved merge": _error(_predict(name, _with_stock_lora(patcher, merge, 1.0)), expected, base),
        **_float8_error(name, result.adapter),
    }
    assert torch.equal(_predict(name, patcher), base), f"{name}: the model alone predicts something else afterwards"
    changed = [key for key, value in _bytes(patcher).items() if not torch.equal(value, before[key])]
    assert not changed, f"{name}: {len(changed)} base weights were changed, the first is {changed[0]}"
    return Support(name, tuple(result.losses), errors, _convention(result.adapter))


def _bytes(patcher: Patcher) -> dict[str, Tensor]:
    saved = patcher.model.state_dict()
    return {key: value.flatten().view(torch.uint8).clone() for key, value in saved.items()}


def _example(name: str, patcher: Patcher) -> TrainingSet:
    from comfyui_qr_lora.nodes.host.train.dataset import collect

    latent, caption = tiny_models.example(name, patcher)
    return collect([latent], [caption])


def _settings() -> TrainingSettings:
    from comfyui_qr_lora.nodes.host.train.settings import TrainingSettings

    return TrainingSettings(
        steps=2, learning_rate=5e-2, rank=4, alpha=6.0, variant="triu", targets="paper", batch_size=1,
        grad_accumulation=1, seed=0, training_dtype="fp32", gradient_checkpointing=True,
    )  # fmt: skip


def _save(adapter: QRLoRA, kind: str) -> str:
    from comfyui_qr_lora.nodes.save import Save

    return str(Save.execute(adapter, f"support/{kind}", format=kind).args[0])


def _load(name: str) -> QRLoRA:
    from comfyui_qr_lora.nodes.load import Load

    adapter: QRLoRA = Load.execute(name).args[0]
    return adapter


def _merged(patcher: Patcher, adapter: QRLoRA, mode: str) -> tuple[Patcher, QRLoRA]:
    """The model, and the merge as an adapter."""
    from comfyui_qr_lora.nodes.merge import Merge

    model, adapter, *_ = Merge.execute(model=patcher, adapter_1=adapter, scale_1=_SCALE, apply=mode).args
    return model, adapter


def _with_stock_lora(patcher: Patcher, name: str, scale: float) -> Patcher:
    import folder_paths

    import nodes as host_nodes
    from comfyui_qr_lora.nodes.host.files.folders import adapter_path

    folder = Path(folder_paths.get_folder_paths("loras")[0])
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / f"support_{os.getpid()}.safetensors"
    shutil.copy(adapter_path(name), copy)
    try:
        changed: Patcher = host_nodes.LoraLoaderModelOnly().load_lora_model_only(patcher, copy.name, scale)[0]
    finally:
        copy.unlink()
    return changed


def _float8_error(name: str, adapter: QRLoRA) -> dict[str, float]:
    """Live on float8 storage against the dequantized base with exact patches."""
    stored = tiny_models.build(name, dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    try:
        _predict(name, stored)
    except NotImplementedError:  # by the model alone
        return {}
    exact = tiny_models.build(name)
    exact.model.load_state_dict({key: value.float() for key, value in stored.model.state_dict().items()})
    expected = _predict(name, _merged(exact, adapter, "patch")[0])
    return {"float8 base": _error(_predict(name, _merged(stored, adapter, "live")[0]), expected, _predict(name, exact))}


def _predict(name: str, patcher: Patcher) -> Tensor:
    return tiny_models.predict(patcher, tiny_models.sample_inputs(name, patcher))


def _error(found: Tensor, expected: Tensor, base: Tensor) -> float:
    return float((found - expected).norm() / (expected - base).norm())


def _convention(adapter: QRLoRA) -> str:
    kinds = {_CONVENTIONS.get(path.split(".")[0], "other") for path in adapter.layers}
    return " and ".join(sorted(kinds))


def table(columns: dict[str, dict[str, str]]) -> str:
    """Markdown: a row for each model, a column for each ComfyUI, by version."""
    hosts = sorted(columns, key=lambda version: [int(part) for part in re.findall(r"\d+", version)])
    rows = [[title, *(columns[host].get(title, "") for host in hosts)] for title in tiny_models.TITLES.values()]
    lines = [["Model", *hosts], ["---"] * (len(hosts) + 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def columns_in(text: str) -> dict[str, dict[str, str]]:
    """What a document says between the marks: ComfyUI's version to model to cell."""
    inside = re.search(f"{re.escape(START)}\n(.+?)\n{re.escape(END)}", text, re.DOTALL)
    if inside is None:
        return {}
    heading, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in inside[1].splitlines())
    return {host: {row[0]: row[i] for row in rows} for i, host in enumerate(heading) if i}


def main(arguments: Sequence[str] | None = None) -> int:
    """Check all models and write the column; 1 when something does not work."""
    parser = argparse.ArgumentParser(prog="python -m generators.support", description=__doc__)
    parser.add_argument("--print", action="store_true", help="print the table and the errors, write nothing")
    parser.add_argument("names", nargs="*", help="of small models to check and print; all, when none is named")
    options = parser.parse_args(arguments)
    boot(nodes=True)
    import_pack()
    _register()
    column = {}
    with torch.inference_mode():
        for name, title in tiny_models.TITLES.items():
            if options.names and name not in options.names:
                continue
            column[title] = ABSENT if tiny_models.lacking(name) else _checked(name)
    readme = ROOT / "README.md"
    made = table(columns_in(readme.read_text(encoding="utf-8")) | {host_version(comfyui_dir()): column})
    if options.print or options.names:
        print(made if not options.names else column)
    else:
        _write(readme, made)
    return int(any(cell.startswith("no:") for cell in column.values()))


def _checked(name: str) -> str:
    found = check(name)
    print(name, " ".join(f"{what} {error:.1e}" for what, error in found.errors.items()), flush=True)
    return found.cell()


def _register() -> None:
    from comfyui_qr_lora.nodes.host.files.folders import register_folders

    register_folders()


def _write(path: Path, made: str) -> None:
    text = path.read_text(encoding="utf-8")
    before, after = text.split(START)[0], text.split(END)[1]
    path.write_text(f"{before}{START}\n{made}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
