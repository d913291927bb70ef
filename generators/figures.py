"""Make the pictures of the README and of the example workflow on a real server: `python -m generators.figures`.

The adapters are trained by the example workflow itself; the grid comes from the pack's own Sweep and Grid nodes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from PIL import Image

from devtools.environment import ROOT
from devtools.server import Server
from playground.assemble import furnish

EXAMPLE = "compose_content_and_style"
_SCALES = "0, 0.5, 1"
_GAP = 24


def main() -> None:
    """Write `docs/images/compose.png` and the example's thumbnail."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    server = Server()
    furnish(server.base)
    with server:
        prompt = _with_sweep(json.loads((ROOT / "example_workflows" / "api" / f"{EXAMPLE}.json").read_text("utf-8")))
        outputs = server.queue(prompt, timeout=1800)["outputs"]
        picture, grid = (_saved(server.output_dir, outputs[node]) for node in ("16", "33"))
    assets = ROOT / "example_workflows" / "assets"
    (ROOT / "docs" / "images").mkdir(parents=True, exist_ok=True)
    panel = _side_by_side([Image.open(assets / "content.png"), Image.open(assets / "style.png"), grid])
    panel.save(ROOT / "docs" / "images" / "compose.png")
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
