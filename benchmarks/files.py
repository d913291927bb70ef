"""Bytes and load time of adapter files in the formats full, compact and lora, against an ordinary LoRA file.

    python -m benchmarks.files            medians of 9 turns
    python -m benchmarks.files --quick    one turn, small files: bytes decide, times are information
    python -m benchmarks.files --new-memory

Bytes: adapters of rank 64 for one double and one single block of FLUX at true widths, on the layers of the paper, in
float32 as training leaves them. The ordinary file has equal rank and dtype, PEFT's names, and no alpha. Sizes for all
57 blocks are worked out from the headers of the small files, and that arithmetic is held against the small files.

Times: ordinary files of 16 and of 350 MB in each dtype, and what the same layers make in the formats full and compact,
in the page cache. The peer, "checked", is the least that a copy costs that is looked through: the host's
`load_torch_file`, which maps the file, a copy of every tensor into memory that was allocated before, and one pass
(`aminmax`) that finds what is not finite; "copied" is that without the pass. Ours, which reads in a thread of its own,
finds memory that the process has freed and kept; with `--new-memory` it asks the system each time, which clears it
first. "Host" is what ComfyUI does with an ordinary file: `load_torch_file`, `convert_lora`, `load_lora`, and a copy.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.ratios import claim, finish
from benchmarks.setting import machine, median_ms, now, timed, tiny_models

# isort: split
import comfy.lora
import comfy.lora_convert
import comfy.utils
from safetensors.torch import save_file
from torch import Tensor

from comfyui_qr_lora.nodes.host.model.key_map import KeyMap
from comfyui_qr_lora.qrlora_core import BasisStore, Layer, QRLoRA, decompose, load_adapter, save_adapter, select
from comfyui_qr_lora.qrlora_core.functional.sketch import sketch

RANK, WIDTH, NARROW = 64, 3072, 128
LONG_BASIS = 2**22  # rows
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
BYTES_BAR = 0.52
# Of loading against a checked copy in the same run, the dtypes summed; without the check where nothing else is said.
CHECKED_BARS = {"ordinary": 1.2, "full": 1.2, "compact": 3.0}
COPIED_BARS = {"ordinary": 1.8, "full": 1.8}
# Blocks, and the rank by bytes of a number, that give the two sizes.
SIZES = {"16 MB": (1, 1), "350 MB": (19, 38)}
RANKS = {2: 64, 4: 32}
MB = 1e6
_ITEM_SIZES = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}

Shapes = Mapping[str, tuple[int, int]]


def flux(depth: int = 1, depth_single: int = 1) -> tuple[Any, Shapes]:
    """A narrow FLUX for its names, and the shapes that its layers have at true width."""
    model = tiny_models.real_width_flux(hidden=NARROW, depth=depth, depth_single=depth_single).model
    available = KeyMap(model).linear(model)
    factor = WIDTH // NARROW
    shapes = {path: available[path].shape for path in select(available, "paper")}
    return model, {path: (out * factor, inner * factor) for path, (out, inner) in shapes.items()}


def random_adapter(shapes: Shapes, rank: int = RANK) -> QRLoRA:
    """As a training leaves it: q, dR and R in float32, one basis per layer."""
    generator = torch.Generator().manual_seed(1)

    def layer(out: int, inner: int) -> Layer:
        q = torch.linalg.qr(torch.randn(out, rank, generator=generator)).Q.contiguous()
        delta_r, base_r = (torch.randn(rank, inner, generator=generator) * inner**-0.5 for _ in range(2))
        return Layer.single(q, delta_r, base_r=base_r)

    return QRLoRA({path: layer(*shape) for path, shape in shapes.items()})


def save_ordinary(shapes: Shapes, path: Path, dtype: torch.dtype, rank: int = RANK) -> Path:
    """An ordinary LoRA of the same rank, as PEFT and diffusers name it."""
    tensors = {}
    for name, (out, inner) in shapes.items():
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, inner).to(dtype)
        tensors[f"{name}.lora_B.weight"] = torch.randn(out, rank).to(dtype)
    save_file(tensors, path, metadata={"format": "pt"})
    return path


class Timed:
    """A file, and the seconds that each way to load it took: ours, the peers', and plain reading."""

    def __init__(self, path: Path, ways: Mapping[str, Callable[[Path], Any]]) -> None:
        self.path = path
        kept = {key: tensor.clone() for key, tensor in _mapped(path).items()}
        self._ways = {
            **ways,
            "copied": lambda path: _copy(path, kept),
            "checked": lambda path: [torch.aminmax(tensor) for tensor in _copy(path, kept)],
            "read": Path.read_bytes,
        }
        self.seconds: dict[str, list[float]] = {name: [] for name in self._ways}

    def turn(self) -> None:
        """Each way once."""
        for name, way in self._ways.items():
            self.seconds[name].append(clock(lambda way=way: way(self.path)))

    def median(self, way: str) -> float:
        """Seconds."""
        return statistics.median(self.seconds[way])


def _mapped(path: Path) -> dict[str, Tensor]:
    mapped: dict[str, Tensor] = comfy.utils.load_torch_file(str(path), safe_load=True)
    return mapped


def _copy(path: Path, kept: Mapping[str, Tensor]) -> list[Tensor]:
    return [kept[key].copy_(tensor) for key, tensor in _mapped(path).items()]


def clock(work: Callable[[], Any]) -> float:
    """Seconds of one call; what it gives is dropped after."""
    gc.collect()
    start = now()
    made = work()
    seconds = now() - start
    del made
    return seconds


def by_host(model: Any) -> Callable[[Path], Any]:
    """The host's way from a file to its weight adapters, with every weight copied into memory."""
    key_map = comfy.lora.model_lora_keys_unet(model, {})

    def load(path: Path) -> Any:
        tensors = {key: tensor.clone() for key, tensor in _mapped(path).items()}
        found = comfy.lora.load_lora(comfy.lora_convert.convert_lora(tensors), key_map)
        assert len(found) * 2 == len(tensors), f"the host took {len(found)} layers"
        return found

    return load


def by_us(store: BasisStore) -> Callable[[Path], Any]:
    """As Load QR-LoRA does."""
    return lambda path: load_adapter(path, bases=store, rename=comfy.lora_convert.convert_lora)


def saved(folder: Path, shapes: Shapes, dtype: torch.dtype, store: BasisStore, rank: int = RANK) -> dict[str, Path]:
    """A file of each kind in one dtype."""
    name = str(dtype).removeprefix("torch.")
    adapter = random_adapter(shapes, rank)
    paths = {"ordinary": save_ordinary(shapes, folder / f"ordinary_{name}.safetensors", dtype, rank)}
    for kind in ("full", "compact", "lora"):
        path = folder / f"{kind}_{name}.safetensors"
        paths[kind] = save_adapter(adapter, path, format=kind, dtype=dtype, bases=store)
    return paths


def size_of(path: Path, shapes: Shapes) -> int:
    """Bytes that this file has with these layers in place of its own: every block is like the first of its kind."""
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    metadata = header.pop("__metadata__")
    if "qr_lora.basis_ids" in metadata:
        metadata["qr_lora.basis_ids"] = json.dumps(dict.fromkeys(shapes, "0" * 32))
    # As safetensors orders them: by size of the type, then by name.
    entries = sorted(
        ((-_ITEM_SIZES[entry["dtype"]], name, entry) for name, entry in unfolded(header, shapes).items()),
        key=lambda item: item[:2],
    )
    made: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for item_size, name, entry in entries:
        start, end = end, end - item_size * torch.Size(entry["shape"]).numel()
        made[name] = {"dtype": entry["dtype"], "shape": entry["shape"], "data_offsets": [start, end]}
    length = len(json.dumps(made, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // 8) * 8 + end


def unfolded(header: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The entries of a header for one block of each kind, repeated for all blocks."""
    found = {}
    for path in shapes:
        first = re.sub(r"(blocks)\.\d+\.", r"\1.0.", path)
        for name, entry in header.items():
            if name.startswith(f"{first}."):
                found[path + name.removeprefix(first)] = entry
    return found


def show_bytes(paths: Mapping[str, Path], shapes: Shapes, all_shapes: Shapes, dtype: str) -> None:
    """The table of sizes, and the claims on them."""
    sizes = {kind: path.stat().st_size for kind, path in paths.items()}
    large = {kind: size_of(path, all_shapes) for kind, path in paths.items()}
    for kind, size in sizes.items():
        ratios = f"{size / sizes['ordinary']:.4f} | {large[kind] / MB:.1f} | {large[kind] / large['ordinary']:.4f}"
        print(f"| {dtype} | {kind} | {size / MB:.2f} | {ratios} |", flush=True)
    off = max(abs(size_of(path, shapes) - sizes[kind]) for kind, path in paths.items())
    small, whole = sizes["compact"] / sizes["ordinary"], large["compact"] / large["ordinary"]
    claim(f"{dtype}: compact over ordinary, bytes, 1 + 1 blocks", small, BYTES_BAR, at_least=False)
    claim(f"{dtype}: compact over ordinary, bytes, 19 + 38 blocks", whole, BYTES_BAR, at_least=False)
    claim(f"{dtype}: lora over ordinary, bytes", sizes["lora"] / sizes["ordinary"], 1.01, at_least=False)
    claim(f"{dtype}: sizes worked out against the files, bytes off", off, 0, at_least=False)


def loading(folder: Path, size: str, turns: int, quick: bool) -> None:
    """Files of one size in all dtypes: a table, and the claims on the dtypes' sums."""
    model, shapes = flux(*SIZES[size])
    store = BasisStore(folder / "bases")
    kinds: dict[str, dict[str, Timed]] = {}
    for dtype in DTYPES:
        paths = saved(folder, shapes, dtype, store, RANKS[dtype.itemsize])
        ways = {"ours": by_us(store)}
        kinds[str(dtype).removeprefix("torch.")] = {
            kind: Timed(path, {**ways, "host": by_host(model)} if kind == "ordinary" else ways)
            for kind, path in paths.items()
        }
    for _ in range(turns):
        for files in kinds.values():
            for file in files.values():
                file.turn()
    show_times(kinds)
    for bars, peer in ((CHECKED_BARS, "checked"), (COPIED_BARS, "copied")):
        for kind, bar in bars.items():
            of = "ordinary" if kind == "compact" else kind
            ours = sum(files[kind].median("ours") for files in kinds.values())
            theirs = sum(files[of].median(peer) for files in kinds.values())
            timed(f"{size}: {kind} over {of}, {peer}", ours / theirs, bar, quick=quick, at_least=False)
    ours, host = (sum(files["ordinary"].median(way) for files in kinds.values()) for way in ("ours", "host"))
    print(f"{size}: ordinary over the host's own way: {ours / host:.2f}")
    if size == "16 MB":
        print(
            f"compact, the first after a start: {1e3 * first_compact(kinds['float16']['compact'].path, store):.1f} ms"
        )


def show_times(kinds: Mapping[str, Mapping[str, Timed]]) -> None:
    """The table of times."""
    print("| dtype | file | MB | read ms | copied ms | checked ms | ours ms | ours over checked |")
    print("|---|---|---|---|---|---|---|---|")
    for dtype, files in kinds.items():
        for kind, file in files.items():
            times = {way: file.median(way) for way in ("read", "copied", "checked", "ours")}
            cells = " | ".join(f"{1e3 * seconds:.1f}" for seconds in times.values())
            size = file.path.stat().st_size / MB
            print(f"| {dtype} | {kind} | {size:.1f} | {cells} | {times['ours'] / times['checked']:.2f} |", flush=True)


def first_compact(path: Path, store: BasisStore) -> float:
    """Seconds of the first compact file after a start: the numbers behind a sketch are drawn as well."""
    sketch(torch.zeros(LONG_BASIS, 1))  # takes the place of the numbers that were kept
    return clock(lambda: by_us(store)(path))


def rebuilt(folder: Path, shapes: Shapes) -> None:
    """A compact file of one layer of each shape, with its bases at hand and without; information."""
    store = BasisStore(folder / "rebuilt")
    generator = torch.Generator().manual_seed(2)
    by_shape = {shape: path for path, shape in reversed(shapes.items())}
    weights = {path: torch.randn(shape, generator=generator) * shape[1] ** -0.5 for shape, path in by_shape.items()}
    layers = {}
    for path, weight in weights.items():
        factors = decompose(weight, RANK)
        layers[path] = Layer.single(factors.q, torch.randn_like(factors.base_r), base_r=factors.base_r)
    path = save_adapter(QRLoRA(layers), folder / "rebuilt.safetensors", format="compact", bases=store)
    cached = [clock(lambda: load_adapter(path, bases=store)) for _ in range(5)]
    decomposing: list[float] = []

    def rebuild(name: str, rank: int) -> torch.Tensor:
        start = now()
        q = decompose(weights[name], rank).q
        decomposing.append(now() - start)
        return q

    made = clock(lambda: load_adapter(path, rebuild=rebuild))
    sizes = ", ".join(f"{out}x{inner}" for out, inner in by_shape)
    print(
        f"compact, one layer each of {sizes}: bases in the cache {median_ms(cached):.0f} ms; "
        f"rebuilt {made:.1f} s, {made / sum(decomposing):.3f} times their decomposition alone"
    )


def keep_memory() -> None:
    """Start anew with an allocator that gives nothing back to the system; glibc reads this when a process starts."""
    settings = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_ARENA_MAX": "1"}
    if not os.environ.keys() >= settings.keys():
        os.environ.update(settings)
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.files", *sys.argv[1:]])


def main() -> None:
    parser = argparse.ArgumentParser(description="Bytes and load time of adapter files.")
    parser.add_argument("--quick", action="store_true", help="one turn; only bytes decide")
    parser.add_argument("--new-memory", action="store_true", help="ours is to ask the system for memory each time")
    parser.add_argument("--turns", type=int, default=9, help="default: %(default)s")
    options = parser.parse_args()
    if not options.new_memory:
        keep_memory()
    _, shapes = flux()
    _, all_shapes = flux(19, 38)
    print(f"{machine()}; rank {RANK}, {len(shapes)} layers in 1 + 1 blocks, {len(all_shapes)} in 19 + 38")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("| dtype | file | MB, 1 + 1 blocks | over ordinary | MB, 19 + 38 blocks | over ordinary |")
        print("|---|---|---|---|---|---|")
        for dtype in DTYPES:
            paths = saved(folder, shapes, dtype, BasisStore(folder / "bases"))
            show_bytes(paths, shapes, all_shapes, str(dtype).removeprefix("torch."))
        basis = sum(4 * RANK * out for out, _ in all_shapes.values())
        print(f"bases of all 57 blocks at this rank, once for all compact files: {basis / MB:.0f} MB")
    for size in ["16 MB"] if options.quick else SIZES:
        with tempfile.TemporaryDirectory() as name:
            loading(Path(name), size, 1 if options.quick else options.turns, options.quick)
    if not options.quick:
        with tempfile.TemporaryDirectory() as name:
            rebuilt(Path(name), shapes)
    finish()


if __name__ == "__main__":
    with torch.inference_mode():
        main()
