"""A thousand adapter files listed with their cards: cold, warm, and after a new start of the host.

    python -m benchmarks.library            1,000 LoRA files of 224 tensors in 70 folders; medians of 7 turns
    python -m benchmarks.library --quick    60 files, one turn: nothing is decided

What the page asks for its picker, without the server: names, previews, and kind, base model and trigger words of each
file. Cold, nothing is remembered. Warm, in the same session, and after a start, in a new process that reads what
another one remembered; importing is not counted. Peers: `os.walk` and a `stat` of each file, and the headers alone,
read and parsed by `json`. Files are in the page cache. Twenty new files are added to a warm list at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.ratios import claim, finish
from benchmarks.setting import machine, now, timed

# isort: split
import folder_paths
from safetensors.torch import save_file

from comfyui_qr_lora.nodes.host.files.cards import Cards
from comfyui_qr_lora.nodes.host.page.library import listed

FILES, ADDED = 1000, 20
# Of listing against plain directory reading, and of the first list against reading and parsing the headers.
WARM_BAR, START_BAR, COLD_BAR = 10.0, 20.0, 12.0
LAYERS = [
    f"transformer.transformer_blocks.{block}.attn.{name}"
    for block in range(28)
    for name in ("to_q", "to_k", "to_v", "to_out.0")
]
METADATA = {
    "ss_base_model_version": "flux1", "ss_network_dim": "4", "ss_network_alpha": "4", "ss_learning_rate": "0.0001",
    "modelspec.trigger_phrase": "a photo of xyz", "modelspec.title": "xyz", "modelspec.author": "somebody",
    "ss_tag_frequency": json.dumps({"10_xyz": {f"tag {number}": number for number in range(200)}}),
}  # fmt: skip


def make_files(folder: Path, numbers: range) -> None:
    """LoRA files of many small layers, written an hour ago; every tenth has a preview."""
    tensors = {f"{layer}.lora_{part}.weight": torch.zeros(4, 4) for layer in LAYERS for part in "AB"}
    for number in numbers:
        path = folder / f"artist_{number % 10}" / f"style_{number % 7}" / f"lora_{number:04}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, METADATA)
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 3600))
        if number % 10 == 0:
            path.with_suffix(".png").write_bytes(b"")


def clock(work: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = now()
    work()
    return now() - start


def medians(works: Mapping[str, Callable[[], Any]], turns: int) -> dict[str, float]:
    """Seconds of a call of each; they take turns, as other work on the machine comes and goes."""
    rounds = [{name: clock(work) for name, work in works.items()} for _ in range(turns)]
    return {name: statistics.median(seconds[name] for seconds in rounds) for name in works}


def read_directories(folder: Path) -> int:
    """Plain directory reading: the size of all files."""
    return sum(os.stat(os.path.join(where, name)).st_size for where, _, names in os.walk(folder) for name in names)  # noqa: PTH116


def read_headers(folder: Path) -> int:
    """The headers alone, by the plainest means."""
    count = 0
    for path in folder.rglob("*.safetensors"):
        with path.open("rb") as file:
            count += len(json.loads(file.read(int.from_bytes(file.read(8), "little"))))
    return count


def use(folder: Path) -> None:
    """Let the host know no other folder of adapters."""
    folder_paths.folder_names_and_paths["loras"] = ([str(folder)], {".safetensors"})
    folder_paths.set_output_directory(str(folder / "none"))


def count_cards(folder: Path, cards: Cards) -> int:
    """How many files the list tells about."""
    use(folder)
    return sum("base" in entry for entry in listed(cards))


def after_a_start(folder: Path, kept: Path, expected: int) -> float:
    """Seconds of the first list in a new process."""
    command = [sys.executable, "-m", "benchmarks.library", "--started", str(folder), str(kept)]
    ended = subprocess.run(command, cwd=Path(__file__).resolve().parents[1], capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(ended.stderr)
    told = json.loads(ended.stdout.splitlines()[-1])
    assert told["cards"] == expected, told
    return float(told["seconds"])


def started(folder: Path, kept: Path) -> None:
    """What the new process does."""
    use(folder)
    start = now()
    found = listed(Cards(kept))
    print(json.dumps({"seconds": now() - start, "cards": sum("base" in entry for entry in found)}))


def cold(folder: Path, kept: Path) -> None:
    """The first list of all."""
    kept.unlink(missing_ok=True)
    count_cards(folder, Cards(kept))


def measure(folder: Path, kept: Path, count: int, turns: int, quick: bool) -> None:
    """The figures, and the claims on them."""
    cards = Cards(kept)
    found = count_cards(folder, cards)
    warm, walk = "cards, warm", "plain directory reading"
    told = medians({walk: lambda: read_directories(folder), "names alone": listed, warm: lambda: listed(cards)}, turns)
    first, headers = "cards, cold", "headers read and parsed"
    told |= medians({headers: lambda: read_headers(folder), first: lambda: cold(folder, kept)}, min(turns, 3))
    start = "cards, after a start"
    told[start] = statistics.median(after_a_start(folder, kept, count) for _ in range(min(turns, 3)))
    for name, seconds in told.items():
        print(f"{name}: {1e3 * seconds:.1f} ms")
    make_files(folder, range(count, count + ADDED))
    added = clock(lambda: listed(cards))
    print(f"cards, {ADDED} files added: {1e3 * added:.1f} ms; {kept.stat().st_size / 1e6:.2f} MB are remembered")
    claim("files without a card", count - found + count + ADDED - count_cards(folder, cards), 0, at_least=False)
    for name, peer, bar in ((warm, walk, WARM_BAR), (start, walk, START_BAR), (first, headers, COLD_BAR)):
        timed(f"{name}, over {peer}", told[name] / told[peer], bar, quick=quick, at_least=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="A thousand adapter files listed with their cards.")
    parser.add_argument("--quick", action="store_true", help="60 files, one turn; nothing is decided")
    parser.add_argument("--started", nargs=2, type=Path, help="list a folder with what is remembered, and nothing else")
    options = parser.parse_args()
    if options.started:
        started(*options.started)
        return
    count = 60 if options.quick else FILES
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "loras"
        make_files(folder, range(count))
        measure(folder, Path(name) / "user" / "library.json", count, 1 if options.quick else 7, options.quick)
    finish()


if __name__ == "__main__":
    main()
