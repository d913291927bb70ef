"""Make the pictures of the README and of the example workflow on a real server: `python -m generators.figures`.

The adapters are trained by the example workflow itself; the grid comes from the pack's own Sweep and Grid nodes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from devtools.environment import ROOT
from devtools.host import boot, import_pack
from devtools.server import Server
from generators.workflows import prompt_of, without_roles
from playground.assemble import furnish

boot()
import_pack()
import utils.install_util  # noqa: E402, F401  (the host's `utils`, before its own modules look for it)

from comfyui_qr_lora.nodes.pictures.grid import labelled_grid  # noqa: E402

EXAMPLE = "compose_content_and_style"
_SCALES = "0, 0.5, 1"
_GAP = 24
IMAGES = ROOT / "docs" / "images"
# What is asked of the example's adapters with and without their roles: content, style, and both.
_ASKED = {
    "a green house on a purple background": ("8",),
    "a star in sunset style": ("9",),
    "a house in sunset style": ("8", "9"),
}


def main() -> None:
    """Write `docs/images/compose.png`, `docs/images/roles.png` and the example's thumbnail."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    server = Server()
    furnish(server.base)
    example = prompt_of(EXAMPLE)
    with server:
        outputs = server.queue(_with_sweep(example), timeout=1800)["outputs"]
        picture, grid = (_saved(server.output_dir, outputs[node]) for node in ("16", "33"))
        columns = {"without a role": _asked(server, without_roles(example)), "with": _asked(server, example)}
    assets = ROOT / "example_workflows" / "assets"
    panel = _side_by_side([Image.open(assets / "content.png"), Image.open(assets / "style.png"), grid])
    panel.save(IMAGES / "compose.png")
    _before_and_after(columns).save(IMAGES / "roles.png")
    picture.resize((512, 512), Image.Resampling.LANCZOS).save(ROOT / "example_workflows" / f"{EXAMPLE}.jpg", quality=90)


def _with_sweep(prompt: dict[str, Any]) -> dict[str, Any]:
    """The example with a sweep of both scales beside its own picture."""
    sweep = {"model": ["1", 0], "adapter_x": ["8", 0], "scales_x": _SCALES, "adapter_y": ["9", 0], "scales_y": _SCALES}
    return prompt | {
        "30": {"class_type": "QRLoRA_Sweep", "inputs": sweep},
        "31": {"class_type": "KSampler", "inputs": prompt["14"]["inputs"] | {"model": ["30", 0]}},
        "32": {"class_type": "VAEDecode", "inputs": {"samples": ["31", 0], "vae": ["1", 2]}},
        "34": {"class_type": "QRLoRA_Grid", "inputs": {"images": ["32", 0], "grid": ["30", 1]}},
        "33": {"class_type": "SaveImage", "inputs": {"images": ["34", 0], "filename_prefix": "grid"}},
    }


def _asked(server: Server, prompt: dict[str, Any]) -> list[Image.Image]:
    """A picture of each of `_ASKED`."""
    asked = dict(prompt)
    for number, (text, adapters) in enumerate(_ASKED.items()):
        given = {f"adapter_{at}": [one, 0] for at, one in enumerate(adapters, 1)}
        scales = {f"scale_{at}": prompt["10"]["inputs"]["scale_1"] for at in range(1, len(adapters) + 1)}
        merge = {"model": ["1", 0], "apply": "live", **given, **scales}
        asked[f"merge{number}"] = {"class_type": "QRLoRA_Merge", "inputs": merge}
        asked[f"text{number}"] = {"class_type": "CLIPTextEncode", "inputs": {"text": text, "clip": ["1", 1]}}
        sampled = prompt["14"]["inputs"] | {"model": [f"merge{number}", 0], "positive": [f"text{number}", 0]}
        asked[f"sample{number}"] = {"class_type": "KSampler", "inputs": sampled}
        decoded = {"samples": [f"sample{number}", 0], "vae": ["1", 2]}
        asked[f"decode{number}"] = {"class_type": "VAEDecode", "inputs": decoded}
        saved = {"images": [f"decode{number}", 0], "filename_prefix": "asked"}
        asked[f"save{number}"] = {"class_type": "SaveImage", "inputs": saved}
    outputs = server.queue(asked, timeout=1800)["outputs"]
    return [_saved(server.output_dir, outputs[f"save{number}"]) for number in range(len(_ASKED))]


def _before_and_after(columns: dict[str, list[Image.Image]]) -> Image.Image:
    cells = [
        picture.resize((256, 256), Image.Resampling.LANCZOS)
        for row in zip(*columns.values(), strict=True)
        for picture in row
    ]
    images = [torch.from_numpy(np.asarray(cell, dtype=np.float32) / 255) for cell in cells]
    grid = labelled_grid(images, columns=[*columns], rows=[*_ASKED], column_title="", row_title="").picture[0]
    return Image.fromarray((grid.numpy() * 255).round().astype(np.uint8))


def _saved(folder: Path, output: dict[str, Any]) -> Image.Image:
    (entry,) = output["images"]
    return Image.open(folder / entry["subfolder"] / entry["filename"]).convert("RGB")


def _side_by_side(pictures: list[Image.Image]) -> Image.Image:
    """On white, centred, the small ones at twice their size."""
    pictures = [p.convert("RGB").resize((p.width * 2, p.height * 2)) if p.width < 200 else p for p in pictures]
    height = max(picture.height for picture in pictures)
    width = sum(picture.width for picture in pictures) + _GAP * (len(pictures) - 1)
    panel, x = Image.new("RGB", (width, height), "white"), 0
    for picture in pictures:
        panel.paste(picture, (x, (height - picture.height) // 2))
        x += picture.width + _GAP
    return panel


if __name__ == "__main__":
    main()
