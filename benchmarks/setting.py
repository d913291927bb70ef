"""What the benchmarks of the host side share: a booted host, models, random adapters, one way to sample.

They run on the CPU unless QRLORA_TEST_DEVICE is cuda, and in one thread unless OMP_NUM_THREADS is set: with as many
threads as cores, any other process on the machine makes each small operation wait for a thread that has no core.
QRLORA_CLOCK=processor takes the processor's time instead of the clock's, for a machine that is busy otherwise.
"""

from __future__ import annotations

import logging
import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.ratios import claim
from devtools.host import boot, import_pack

boot()
import_pack()
import utils.install_util  # noqa: E402, F401  (the host's `utils`, before its module `nodes` looks for it)

logging.getLogger().setLevel(logging.WARNING)  # the host reports every model that it loads

import comfy.sample  # noqa: E402

from comfyui_qr_lora.nodes.host.model.key_map import KeyMap  # noqa: E402
from comfyui_qr_lora.qrlora_core import Layer, QRLoRA, select  # noqa: E402
from devtools import tiny_models  # noqa: E402

DEVICE = torch.device(os.environ.get("QRLORA_TEST_DEVICE", "cpu"))
ON_GPU = DEVICE.type == "cuda"
BUSY = os.environ.get("QRLORA_CLOCK") == "processor" and not ON_GPU
if "OMP_NUM_THREADS" not in os.environ:
    torch.set_num_threads(1)


def machine() -> str:
    """The machine in words; every benchmark prints it first."""
    processor = torch.cuda.get_device_name() if ON_GPU else _processor()
    how = ", processor time" if BUSY else ""
    return f"{processor}, {os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads{how}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def now() -> float:
    """Seconds, once all work asked for before is done."""
    if ON_GPU:
        torch.cuda.synchronize()
    return time.process_time() if BUSY else time.perf_counter()


def median_ms(seconds: Sequence[float]) -> float:
    """Median in milliseconds."""
    return 1e3 * statistics.median(seconds)


def parameters(patcher: Any) -> int:
    """Number of the model's parameters."""
    return sum(parameter.numel() for parameter in patcher.model.parameters())


def random_adapters(patcher: Any, count: int, rank: int, targets: str = "paper") -> list[QRLoRA]:
    """Adapters on one random orthonormal basis, each delta a few per cent of its weight.

    Neither a time nor an error in applying them depends on the basis, so no weight is decomposed.
    """
    available = KeyMap(patcher.model).linear(patcher.model)
    shapes = {path: available[path].shape for path in select(available, targets)}
    generator = torch.Generator().manual_seed(1)
    basis = {path: _orthonormal(shape, rank, generator) for path, shape in shapes.items()}
    return [
        QRLoRA(
            {path: _layer(q, shapes[path][1], generator) for path, q in basis.items()},
            name=f"random_{number}.safetensors",
        )
        for number in range(1, count + 1)
    ]


def _orthonormal(shape: tuple[int, ...], rank: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(shape[0], min(rank, *shape), generator=generator)).Q.contiguous()


def _layer(q: Tensor, width: int, generator: torch.Generator) -> Layer:
    """With the variance of the tiny models' weights, 1 / width, along each column of q."""
    delta_r, base_r = (torch.randn(q.shape[1], width, generator=generator) * width**-0.5 for _ in range(2))
    return Layer.single(q, delta_r, base_r=base_r)


def sample(patcher: Any, *, steps: int = 2, side: int = 16) -> Tensor:
    """The host's own sampling of one latent of a FLUX, without a second text to guide it away from."""
    width = patcher.model.model_config.unet_config["context_in_dim"]
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(1, 16, side, side, generator=generator)
    text, pooled = torch.randn(1, 12, width, generator=generator), torch.randn(1, 768, generator=generator)
    conditioning = [[text, {"pooled_output": pooled, "guidance": 4.0}]]
    return comfy.sample.sample(
        patcher, noise, steps, 1.0, "euler", "simple", conditioning, conditioning, torch.zeros_like(noise),
        disable_pbar=True, seed=0,
    )  # fmt: skip


@contextmanager
def forward_times(patcher: Any) -> Iterator[list[tuple[float, float]]]:
    """(start, end) of every call of the denoising network within the context."""
    starts: list[float] = []
    spans: list[tuple[float, float]] = []
    network = patcher.model.diffusion_model
    before = network.register_forward_pre_hook(lambda *_: starts.append(now()))
    after = network.register_forward_hook(lambda *_: spans.append((starts[-1], now())))
    try:
        yield spans
    finally:
        before.remove()
        after.remove()


def timed(label: str, value: float, bar: float, *, quick: bool, at_least: bool = True) -> None:
    """A claim on a time; with --quick it is printed and decides nothing."""
    if quick:
        print(f"{label}: {value:.3g} (bar {bar:g}, not decided with --quick)", flush=True)
    else:
        claim(label, value, bar, at_least)


__all__ = [
    "DEVICE",
    "ON_GPU",
    "forward_times",
    "machine",
    "median_ms",
    "now",
    "parameters",
    "random_adapters",
    "sample",
    "timed",
    "tiny_models",
]
