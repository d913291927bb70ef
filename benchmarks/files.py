"""Bytes and load time of adapter files in the formats full, compact and lora, against an ordinary LoRA file.

    python -m benchmarks.files            medians of 9 turns
    python -m benchmarks.files --quick    one turn: bytes decide, times are information

Adapters of rank 64 for one double and one single block of FLUX at true widths, on the layers of the paper, in float32
as training leaves them. The ordinary file has equal rank and dtype, PEFT's names, and no alpha. Its peer for time is
the host's own way, `load_torch_file`, `convert_lora` and `load_lora`: once as it is, which maps the file and reads no
weight yet, and once with every weight copied into memory, as ours are. Files are in the page cache; "read" is
`Path.read_bytes` of the same file. Sizes for all 57 blocks are worked out from the headers of the small files, and that
arithmetic is held against the small files.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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

from comfyui_qr_lora.nodes.host.model.key_map import KeyMap
from comfyui_qr_lora.qrlora_core import BasisStore, Layer, QRLoRA, decompose, load_adapter, save_adapter, select
from comfyui_qr_lora.qrlora_core.functional.sketch import sketch

RANK, WIDTH, NARROW = 64, 3072, 128
LONG_BASIS = 2**22  # rows
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
BYTES_BAR = 0.52
# Of loading against the host's copy into memory in the same run, the dtypes summed.
LOAD_BARS = {"full": 15.0, "compact": 30.0, "lora": 60.0}
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


def random_adapter(shapes: Shapes) -> QRLoRA:
    """As a training leaves it: q, dR and R in float32, one basis per layer."""
    generator = torch.Generator().manual_seed(1)

    def layer(out: int, inner: int) -> Layer:
        q = torch.linalg.qr(torch.randn(out, RANK, generator=generator)).Q.contiguous()
        delta_r, base_r = (torch.randn(RANK, inner, generator=generator) * inner**-0.5 for _ in range(2))
        return Layer.single(q, delta_r, base_r=base_r)

    return QRLoRA({path: layer(*shape) for path, shape in shapes.items()})


def save_ordinary(shapes: Shapes, path: Path, dtype: torch.dtype) -> Path:
    """An ordinary LoRA of the same rank, as PEFT and diffusers name it."""
    tensors = {}
    for name, (out, inner) in shapes.items():
        tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, inner).to(dtype)
        tensors[f"{name}.lora_B.weight"] = torch.randn(out, RANK).to(dtype)
    save_file(tensors, path, metadata={"format": "pt"})
    return path


@dataclass
class File:
    """A file, how it is loaded, and the seconds that this and plain reading took."""

    path: Path
    load: Callable[[Path], Any]
    seconds: list[float] = field(default_factory=list)
    reading: list[float] = field(default_factory=list)

    def turn(self) -> None:
        """Load and read once."""
        self.seconds.append(clock(lambda: self.load(self.path)))
        self.reading.append(clock(self.path.read_bytes))

    @property
    def load_time(self) -> float:
        """Seconds, the median."""
        return statistics.median(self.seconds)

    @property
    def read_time(self) -> float:
        """Seconds of plain reading, the median."""
        return statistics.median(self.reading)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size


def clock(work: Callable[[], Any]) -> float:
    """Seconds of one call; what it gives is dropped after."""
    gc.collect()
    start = now()
    made = work()
    seconds = now() - start
    del made
    return seconds


def by_host(model: Any, *, copied: bool) -> Callable[[Path], Any]:
    """The host's way from a file to its weight adapters."""
    key_map = comfy.lora.model_lora_keys_unet(model, {})

    def load(path: Path) -> Any:
        tensors = comfy.utils.load_torch_file(str(path), safe_load=True)
        if copied:
            tensors = {key: tensor.clone() for key, tensor in tensors.items()}
        found = comfy.lora.load_lora(comfy.lora_convert.convert_lora(tensors), key_map)
        assert len(found) * 2 == len(tensors), f"the host took {len(found)} layers"
        return found

    return load


def by_us(store: BasisStore) -> Callable[[Path], Any]:
    """As Load QR-LoRA does."""
    return lambda path: load_adapter(path, bases=store, rename=comfy.lora_convert.convert_lora)


def make_files(folder: Path, model: Any, shapes: Shapes, dtype: torch.dtype, store: BasisStore) -> dict[str, File]:
    """All kinds in one dtype; those of the host first."""
    name = str(dtype).removeprefix("torch.")
    ordinary = save_ordinary(shapes, folder / f"ordinary_{name}.safetensors", dtype)
    adapter, load = random_adapter(shapes), by_us(store)
    files = {
        "ordinary, mapped": File(ordinary, by_host(model, copied=False)),
        "ordinary": File(ordinary, by_host(model, copied=True)),
    }
    for kind in ("full", "compact", "lora"):
        path = folder / f"{kind}_{name}.safetensors"
        files[kind] = File(save_adapter(adapter, path, format=kind, dtype=dtype, bases=store), load)
    return files


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


def show_bytes(files: Mapping[str, File], shapes: Shapes, all_shapes: Shapes, dtype: str) -> None:
    """The table of sizes, and the claims on them."""
    ordinary = files["ordinary"]
    whole = size_of(ordinary.path, all_shapes)
    for kind in ("ordinary", "full", "compact", "lora"):
        file = files[kind]
        size = size_of(file.path, all_shapes)
        ratios = f"{file.size / ordinary.size:.4f} | {size / MB:.1f} | {size / whole:.4f}"
        print(f"| {dtype} | {kind} | {file.size / MB:.2f} | {ratios} |", flush=True)
    off = max(abs(size_of(file.path, shapes) - file.size) for file in files.values())
    compact, lora = files["compact"], files["lora"]
    small = compact.size / ordinary.size
    claim(f"{dtype}: compact over ordinary, bytes, 1 + 1 blocks", small, BYTES_BAR, at_least=False)
    large = size_of(compact.path, all_shapes) / whole
    claim(f"{dtype}: compact over ordinary, bytes, 19 + 38 blocks", large, BYTES_BAR, at_least=False)
    claim(f"{dtype}: lora over ordinary, bytes", lora.size / ordinary.size, 1.01, at_least=False)
    claim(f"{dtype}: sizes worked out against the files, bytes off", off, 0, at_least=False)


def show_times(kinds: Mapping[str, Mapping[str, File]], quick: bool) -> None:
    """The table of times, and the claims on their sums."""
    print("| dtype | file | load ms | read ms | over read | over ordinary |")
    print("|---|---|---|---|---|---|")
    for dtype, files in kinds.items():
        peer = files["ordinary"].load_time
        for kind, file in files.items():
            load, read = file.load_time, file.read_time
            figures = f"{1e3 * load:.1f} | {1e3 * read:.1f} | {load / read:.2f} | {load / peer:.2f}"
            print(f"| {dtype} | {kind} | {figures} |", flush=True)
    peer = sum(files["ordinary"].load_time for files in kinds.values())
    for kind, bar in LOAD_BARS.items():
        load = sum(files[kind].load_time for files in kinds.values())
        read = sum(files[kind].read_time for files in kinds.values())
        print(f"{kind}, the three dtypes summed: {load / read:.1f} times plain reading")
        timed(f"{kind} over ordinary copied by the host, load time", load / peer, bar, quick=quick, at_least=False)


def first_compact(file: File) -> float:
    """Seconds of the first compact file after a start: the numbers behind a sketch are drawn as well."""
    sketch(torch.zeros(LONG_BASIS, 1))  # takes the place of the numbers that were kept
    return clock(lambda: file.load(file.path))


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


def main() -> None:
    parser = argparse.ArgumentParser(description="Bytes and load time of adapter files.")
    parser.add_argument("--quick", action="store_true", help="one turn; only bytes decide")
    parser.add_argument("--turns", type=int, default=9, help="default: %(default)s")
    options = parser.parse_args()
    model, shapes = flux()
    _, all_shapes = flux(19, 38)
    print(f"{machine()}; rank {RANK}, {len(shapes)} layers in 1 + 1 blocks, {len(all_shapes)} in 19 + 38")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = BasisStore(folder / "bases")
        kinds = {str(dtype).removeprefix("torch."): make_files(folder, model, shapes, dtype, store) for dtype in DTYPES}
        print("| dtype | file | MB, 1 + 1 blocks | over ordinary | MB, 19 + 38 blocks | over ordinary |")
        print("|---|---|---|---|---|---|")
        for dtype, files in kinds.items():
            show_bytes(files, shapes, all_shapes, dtype)
        basis = sum(4 * RANK * out for out, _ in all_shapes.values())
        print(f"bases of all 57 blocks at this rank, once for all compact files: {basis / MB:.0f} MB")
        for _ in range(1 if options.quick else options.turns):
            for files in kinds.values():
                for file in files.values():
                    file.turn()
        show_times(kinds, options.quick)
        print(f"compact, the first after a start: {1e3 * first_compact(kinds['float16']['compact']):.1f} ms")
        if not options.quick:
            rebuilt(folder, shapes)
    finish()


if __name__ == "__main__":
    with torch.inference_mode():
        main()
