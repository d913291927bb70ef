"""Memory of live adapters against their files, and what tweaking leaves behind: nothing.

    python -m benchmarks.memory            FLUX of true widths, 1 + 1 blocks, rank 64, 200 tweaks
    python -m benchmarks.memory --quick    a tiny FLUX, rank 16, 20 tweaks

The adapters share a basis and are read from files of the "full" format: q, delta_r and base_r of every layer. What
live holds is counted while the network runs, by the tensors that the host loads with the model (the buffers, and the
deltas of two and more), each piece of memory once. No allocator is asked: newer hosts keep on a GPU what fits there.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from benchmarks.ratios import claim, finish
from benchmarks.setting import DEVICE, machine, parameters, random_adapters, sample, tiny_models

# isort: split
from torch import Tensor

from comfyui_qr_lora.qrlora_core import load_adapter, save_adapter
from comfyui_qr_lora.tests.support.adapters import merged

COUNTS = (1, 2, 4, 8)
MB = 1e6


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the tensors, memory that several share once."""
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


def alive() -> list[Tensor]:
    """All tensors of this process that Python knows."""
    gc.collect()
    return [item for item in gc.get_objects() if issubclass(type(item), Tensor)]


def resident() -> float:
    """Resident memory of this process in MB, or NaN where the system does not tell."""
    status = Path("/proc/self/status")
    return int(status.read_text().partition("VmRSS:")[2].split()[0]) / 1e3 if status.exists() else float("nan")


def held_while_running(patcher: Any) -> float:
    """Bytes in use for the adapters of a live model at the second call of its network."""
    readings: list[int] = []

    def read(*_: Any) -> None:
        readings.append(_live_bytes(patcher))

    handle = patcher.model.diffusion_model.register_forward_pre_hook(read)
    try:
        sample(patcher, side=4)
    finally:
        handle.remove()
    return readings[-1]


def _live_bytes(patcher: Any) -> int:
    return storage_bytes(p for added in patcher.get_nested_additional_models() for p in added.model.parameters())


def digest(patcher: Any) -> str:
    """Of every bit of the model's weights."""
    total = hashlib.blake2b()
    for tensor in patcher.model.state_dict().values():
        total.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return total.hexdigest()


def run_count(model: Any, files: list[Path]) -> float:
    """One line of the table: these adapters on the model; returns held memory over file sizes."""
    bare = held_while_running(model)
    adapters = [load_adapter(file) for file in files]
    live = merged(model, *((adapter, 0.3 + 0.1 * index) for index, adapter in enumerate(adapters)))
    held = held_while_running(live) - bare
    size = sum(file.stat().st_size for file in files)
    reserved = sum(added.model_size() for added in live.get_nested_additional_models())
    figures = f"{size / MB:.1f} | {held / MB:.1f} | {held / size:.2f} | {reserved / MB:.1f}"
    print(f"| {len(files)} | {figures} |", flush=True)
    return held / size


def tweak(model: Any, adapters: list[Any], times: int) -> None:
    """Change the first scale, sample, and again."""
    for index in range(times):
        sample(merged(model, (adapters[0], 0.5 + 0.001 * index), (adapters[1], 0.4)), steps=1, side=4)


def run_tweaks(model: Any, files: list[Path], times: int) -> tuple[int, int]:
    """Tensors left by the tweaks, and by everything once the adapters are dropped as well."""
    before_adapters = alive_count(model)
    adapters = [load_adapter(file) for file in files[:2]]
    tweak(model, adapters, 5)
    before, bytes_before, resident_before = alive_count(model), storage_bytes(alive()), resident()
    tweak(model, adapters, times)
    left = alive_count(model) - before
    grown = resident() - resident_before
    print(f"{times} tweaks: {left} tensors, {storage_bytes(alive()) - bytes_before} bytes left; RSS {grown:+.1f} MB")
    del adapters
    return left, alive_count(model) - before_adapters


def alive_count(model: Any) -> int:
    """Number of tensors once the bare model has run, so that no live model is the host's current one."""
    sample(model, steps=1, side=4)
    return len(alive())


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory of live adapters.")
    parser.add_argument("--quick", action="store_true", help="a tiny model and 20 tweaks")
    quick = parser.parse_args().quick
    print(machine())
    model = tiny_models.build("flux", device=DEVICE) if quick else tiny_models.real_width_flux(device=DEVICE)
    rank, times = (16, 20) if quick else (64, 200)
    print(f"FLUX, {parameters(model) / 1e6:.0f} million parameters, float32, adapters of rank {rank} on one basis")
    before = digest(model)
    with tempfile.TemporaryDirectory() as folder:
        files = [
            save_adapter(adapter, Path(folder) / f"{index}.safetensors")
            for index, adapter in enumerate(random_adapters(model, COUNTS[-1], rank))
        ]
        print("| adapters | files MB | held by live MB | over files | reserved in the host's estimate MB |")
        print("|---|---|---|---|---|")
        ratios = [run_count(model, files[:count]) for count in COUNTS]
        left, left_in_all = run_tweaks(model, files, times)
    hooks = sum(len(module._forward_hooks) for module in model.model.modules())
    claim("memory of live adapters over their files, worst count", max(ratios), 0.85, at_least=False)
    claim(f"tensors left by {times} tweaks", left, 0, at_least=False)
    claim("tensors left when the adapters are dropped", left_in_all, 0, at_least=False)
    claim("forward hooks left", hooks, 0, at_least=False)
    claim("base weights changed (0 no, 1 yes)", float(digest(model) != before), 0, at_least=False)
    finish()


if __name__ == "__main__":
    with torch.inference_mode():
        main()
