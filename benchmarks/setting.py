"""What the benchmarks of the host side share: a booted host, models, random adapters, one way to sample."""

from __future__ import annotations

import logging
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from devtools.host import boot, import_pack

boot(nodes=True)
import_pack()
logging.getLogger().setLevel(logging.WARNING)  # the host reports every model that it loads

from comfyui_qr_lora.nodes.host.key_map import KeyMap  # noqa: E402
from comfyui_qr_lora.qrlora_core import Layer, QRLoRA, select  # noqa: E402
from devtools import tiny_models  # noqa: E402

DEVICE = torch.device(os.environ.get("QRLORA_TEST_DEVICE", "cpu"))
_BASIS_SEED = 100


def machine() -> str:
    """The machine in words, as every benchmark prints it first."""
    processor = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"{platform.machine()} CPU"
    return f"{processor}, {os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads"


def synchronize() -> None:
    """Wait for the accelerator, where there is one."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def now() -> float:
    """Seconds, after all work that was asked for before is done."""
    synchronize()
    return time.perf_counter()


def median_ms(seconds: Sequence[float]) -> float:
    """Median in milliseconds."""
    return 1e3 * statistics.median(seconds)


def flux(small: bool = False, dtype: torch.dtype = torch.float32) -> Any:
    """FLUX of true widths with 1 + 1 blocks, 545 million parameters; or the tiny one."""
    build = tiny_models.build if small else tiny_models.real_width_flux
    model = build("flux", dtype=dtype, device=DEVICE) if small else build(dtype=dtype, device=DEVICE)
    logging.debug("%d parameters", parameters(model))
    return model


def parameters(patcher: Any) -> int:
    """Number of the model's parameters."""
    return sum(parameter.numel() for parameter in patcher.model.parameters())


def random_adapters(patcher: Any, count: int, rank: int, *, targets: str = "paper", size: float = 0.3) -> list[QRLoRA]:
    """Adapters on one random orthonormal basis; each delta is ``size`` times the weight's spread along it.

    A time does not depend on the numbers, so no weight is decomposed.
    """
    names = KeyMap(patcher.model).linear(patcher.model)
    shapes = {path: names[path].shape for path in select(names, targets)}
    generator = torch.Generator().manual_seed(_BASIS_SEED)
    basis = {
        path: torch.linalg.qr(torch.randn(out, min(rank, out, width), generator=generator)).Q
        for path, (out, width) in shapes.items()
    }
    return [
        QRLoRA(
            {path: Layer.single(q, _delta(q, shapes[path], size, generator)) for path, q in basis.items()},
            {"name": f"random_{index}.safetensors"},
        )
        for index in range(1, count + 1)
    ]


def _delta(q: Tensor, shape: tuple[int, ...], size: float, generator: torch.Generator) -> Tensor:
    return torch.randn(q.shape[1], shape[1], generator=generator) * size * shape[1] ** -0.5


def conditioning(patcher: Any, seed: int) -> list[Any]:
    """A random text as the stock nodes pass it."""
    width = patcher.model.model_config.unet_config["context_in_dim"]
    generator = torch.Generator().manual_seed(seed)
    text, pooled = torch.randn(1, 12, width, generator=generator), torch.randn(1, 768, generator=generator)
    return [[text, {"pooled_output": pooled, "guidance": 4.0}]]


def sample(patcher: Any, *, steps: int = 2, side: int = 16) -> Tensor:
    """The host's own sampling of one latent, without guidance by a second text."""
    import comfy.sample

    noise = torch.randn(1, 16, side, side, generator=torch.Generator().manual_seed(0))
    text = conditioning(patcher, 1)
    return comfy.sample.sample(
        patcher, noise, steps, 1.0, "euler", "simple", text, text, torch.zeros_like(noise), disable_pbar=True, seed=0
    )  # fmt: skip


@contextmanager
def forward_times(patcher: Any) -> Iterator[list[tuple[float, float]]]:
    """(start, end) of every call of the denoising network within the context."""
    network, starts, spans = patcher.model.diffusion_model, [], []
    before = network.register_forward_pre_hook(lambda *_: starts.append(now()))
    after = network.register_forward_hook(lambda *_: spans.append((starts[-1], now())))
    try:
        yield spans
    finally:
        before.remove()
        after.remove()
