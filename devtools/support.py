"""What works with which model, found out by doing it on a small model of each architecture.

`python -m devtools.support` writes the table in README.md anew; a test does the same checks and compares the table.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from devtools.environment import ROOT
from devtools.host import boot, import_pack

TITLES = {
    "sd15": "Stable Diffusion 1.5", "sdxl": "SDXL", "sd3": "Stable Diffusion 3", "sd35": "Stable Diffusion 3.5",
    "flux": "FLUX.1", "flux2": "FLUX.2", "chroma": "Chroma", "lumina2": "Lumina Image 2", "z_image": "Z-Image",
    "qwen_image": "Qwen-Image", "wan": "Wan 2.1", "hunyuan_image": "HunyuanImage 2.1",
    "hunyuan_video": "HunyuanVideo", "ltxv": "LTX-Video", "omnigen2": "OmniGen2", "cosmos": "Cosmos",
    "cosmos_predict2": "Cosmos Predict2", "pixart": "PixArt Sigma", "auraflow": "AuraFlow",
}  # fmt: skip
HEADINGS = ("Model", "train", "live", "patch", "full", "compact", "lora", "float8 base", "names in a lora file")
START, END = "<!-- support: made by python -m devtools.support -->", "<!-- /support -->"
_CONVENTIONS = {"transformer": "diffusers", "unet": "kohya", "diffusion_model": "ComfyUI"}
# Relative to the adapter's effect. compact rounds dR to float16; float8 is compared with the dequantized base.
_EXACT, _ROUNDED, _FLOAT8 = 1e-4, 1e-3, 1e-4


LIMITS = {"live": _EXACT, "patch": _EXACT, "full": _EXACT, "compact": _ROUNDED, "lora": _EXACT, "float8": _FLOAT8}


@dataclass(frozen=True)
class Support:
    """Errors relative to the adapter's effect, by what was done; and how the exported names are called."""

    name: str
    losses: tuple[float, ...]
    errors: dict[str, float]
    convention: str

    def row(self) -> list[str]:
        """The cells of the table."""
        cells = ["yes" if self.errors[what] <= limit else "no" for what, limit in LIMITS.items()]
        return [TITLES[self.name], "yes" if self.trains() else "no", *cells, self.convention]

    def trains(self) -> bool:
        """Two steps were taken with finite losses."""
        return len(self.losses) == 2 and all(loss == loss and abs(loss) < float("inf") for loss in self.losses)


def check(name: str) -> Support:
    """Train two steps, save in every format, load, apply live and as patches; the oracle is the stock LoRA loader.

    The stock node gets the file in the format lora, and every other way must give what it gives.
    """
    from comfyui_qr_lora.nodes.host.training import train_adapter
    from devtools import tiny_models

    patcher = tiny_models.build(name)
    before = {key: value.clone() for key, value in patcher.model.state_dict().items()}
    result = train_adapter(patcher, _example(name, patcher), _settings())
    files = {kind: _save(result.adapter, kind) for kind in ("full", "compact", "lora")}
    base = _predict(name, patcher)
    expected = _predict(name, _with_stock_lora(patcher, files["lora"]))
    errors = {
        "live": _error(_predict(name, _merged(patcher, result.adapter, "live")), expected, base),
        "patch": _error(_predict(name, _merged(patcher, result.adapter, "patch")), expected, base),
        **{
            kind: _error(_predict(name, _merged(patcher, _load(file), "live")), expected, base)
            for kind, file in files.items()
        },
        "float8": _float8_error(name, result.adapter),
    }
    for key, value in patcher.model.state_dict().items():
        assert torch.equal(value, before[key]), f"{name}: the base weight {key} was changed"
    return Support(name, tuple(result.losses), errors, _convention(result.adapter))


def _example(name: str, patcher: Any) -> Any:
    from comfyui_qr_lora.nodes.host.dataset import collect
    from devtools import tiny_models

    latent, caption = tiny_models.example(name, patcher)
    return collect([latent], [caption])


def _settings() -> Any:
    from comfyui_qr_lora.nodes.host.training_settings import TrainingSettings

    return TrainingSettings(
        steps=2, learning_rate=5e-2, rank=4, alpha=6.0, variant="triu", targets="paper", batch_size=1,
        grad_accumulation=1, seed=0, training_dtype="fp32", gradient_checkpointing=True,
    )  # fmt: skip


def _save(adapter: Any, kind: str) -> str:
    from comfyui_qr_lora.nodes.save import Save

    return str(Save.execute(adapter, f"support/{kind}", format=kind).args[0])


def _load(name: str) -> Any:
    from comfyui_qr_lora.nodes.load import Load

    return Load.execute(name).args[0]


def _merged(patcher: Any, adapter: Any, mode: str) -> Any:
    from comfyui_qr_lora.nodes.merge import Merge

    return Merge.execute(model=patcher, adapter_1=adapter, scale_1=0.8, apply=mode).args[0]


def _with_stock_lora(patcher: Any, name: str) -> Any:
    import folder_paths

    import nodes as host_nodes
    from comfyui_qr_lora.nodes.host.files import adapter_path

    folder = Path(folder_paths.get_folder_paths("loras")[0])
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / f"support_{os.getpid()}.safetensors"
    shutil.copy(adapter_path(name), copy)
    try:
        return host_nodes.LoraLoaderModelOnly().load_lora_model_only(patcher, copy.name, 0.8)[0]
    finally:
        copy.unlink()


def _float8_error(name: str, adapter: Any) -> float:
    """Live on float8 storage against the dequantized base with exact patches."""
    from devtools import tiny_models

    stored = tiny_models.build(name, dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    exact = tiny_models.build(name)
    exact.model.load_state_dict({key: value.float() for key, value in stored.model.state_dict().items()})
    expected = _predict(name, _merged(exact, adapter, "patch"))
    return _error(_predict(name, _merged(stored, adapter, "live")), expected, _predict(name, exact))


def _predict(name: str, patcher: Any) -> Tensor:
    from devtools import tiny_models

    return tiny_models.predict(patcher, tiny_models.sample_inputs(name, patcher))


def _error(found: Tensor, expected: Tensor, base: Tensor) -> float:
    return float((found - expected).norm() / (expected - base).norm())


def _convention(adapter: Any) -> str:
    kinds = {_CONVENTIONS.get(path.split(".")[0], "other") for path in adapter.layers}
    return " and ".join(sorted(kinds))


def table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [HEADINGS, ["---"] * len(HEADINGS), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rows_in(text: str) -> Iterator[list[str]]:
    """The rows of the table that a document has between the marks."""
    inside = re.search(f"{re.escape(START)}\n(.*?)\n{re.escape(END)}", text, re.DOTALL)
    for line in (inside[1] if inside else "").splitlines()[2:]:
        yield [cell.strip() for cell in line.strip("|").split("|")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Check all models and write the table; 1 when something does not work."""
    parser = argparse.ArgumentParser(prog="python -m devtools.support", description=__doc__)
    parser.add_argument("--print", action="store_true", help="print the table and the errors, write nothing")
    options = parser.parse_args(arguments)
    boot(nodes=True)
    import_pack()
    from devtools import tiny_models

    _register()
    with torch.inference_mode():
        found = [check(name) for name in tiny_models.NAMES]
    for support in found:
        print(support.name, " ".join(f"{what} {error:.1e}" for what, error in support.errors.items()), flush=True)
    made = table([support.row() for support in found])
    if options.print:
        print(made)
    else:
        _write(ROOT / "README.md", made)
    return int(any("no" in support.row() for support in found))


def _register() -> None:
    from comfyui_qr_lora.nodes.host.files import register_folders

    register_folders()


def _write(path: Path, made: str) -> None:
    text = path.read_text(encoding="utf-8")
    before, after = text.split(START)[0], text.split(END)[1]
    path.write_text(f"{before}{START}\n{made}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
