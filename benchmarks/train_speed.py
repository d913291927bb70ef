"""Training: steps per second and memory against the stock Train LoRA node, and against the floor.

    python -m benchmarks.train_speed            FLUX 1,536 wide, 1 + 1 blocks, rank 32; about 20 minutes on 2 cores
    python -m benchmarks.train_speed --short    without the 4,096 tokens and the parts of a step, in one round
    python -m benchmarks.train_speed --quick    a tiny FLUX: nothing is decided

The same model, pictures, caption, batch, rank, dtype and gradient checkpointing on all sides, which take turns. A step
is timed from one call of the network to the next, so everything that a side does in between is in it. Sides:

    ours          Train QR-LoRA, targets `paper`
    stock         Train LoRA as it ships: every layer, norms and biases too
    bypass        the same in bypass mode, where the host has one: beside the weights, instead of changing them
    restricted    Train LoRA on the layers that ours trains
    floor         the frozen model forward, and backward to its input alone; never computed twice, as checkpointing does

Memory is the peak of the process while training, above the loaded model, each side in a process of its own. On a GPU
it is that of PyTorch's allocator.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.ratios import claim, finish
from devtools.host import boot
from devtools.workspace import host_version

# ruff: noqa: E402 (the host must be set up before it is imported)
boot()
from comfy.cli_args import args

args.use_pytorch_cross_attention = True  # as the host does on a GPU; on a CPU it would take one that keeps every score

# isort: split
from benchmarks.setting import DEVICE, ON_GPU, machine, now, parameters, timed, tiny_models

# isort: split
import comfy.samplers
import comfy_extras.nodes_train as stock_train
from torch import Tensor

from comfyui_qr_lora.nodes.host.model.key_map import KeyMap
from comfyui_qr_lora.nodes.host.train.dataset import collect
from comfyui_qr_lora.nodes.host.train.graph.differentiable_ops import differentiable_operators
from comfyui_qr_lora.nodes.host.train.graph.inplace_guard import InplaceGuard, protected_inputs
from comfyui_qr_lora.nodes.host.train.graph.modules import aliased_parameters
from comfyui_qr_lora.nodes.host.train.graph.training_mode import training_mode
from comfyui_qr_lora.nodes.host.train.objective import encode_conditioning, objective_loss
from comfyui_qr_lora.nodes.host.train.settings import TrainingSettings
from comfyui_qr_lora.nodes.host.train.train import train_adapter
from comfyui_qr_lora.qrlora_core import Trainer, select

RANK, TEXT_TOKENS = 32, 256
STOCK_DEFAULTS = {
    entry.id: entry.default
    for entry in stock_train.TrainLoraNode.define_schema().inputs
    if getattr(entry, "default", None) is not None
}
DTYPE = "bf16" if ON_GPU else "fp32"
ROOT = Path(__file__).resolve().parents[1]
HOST = Path(comfy.samplers.__file__).resolve().parents[1]


@dataclass
class Task:
    """A model, two pictures of so many tokens (with one, the stock node fails) and their caption."""

    model: Any
    tokens: int
    rank: int

    def latents(self) -> list[dict[str, Tensor]]:
        """The pictures; a token is 2 x 2 of the latent."""
        side, generator = 2 * round(self.tokens**0.5), torch.Generator().manual_seed(1)
        return [{"samples": torch.randn(1, 16, side, side, generator=generator)} for _ in range(2)]

    def caption(self) -> list[Any]:
        """Their caption, as CLIP Text Encode gives it."""
        width = self.model.model.model_config.unet_config["context_in_dim"]
        generator = torch.Generator().manual_seed(2)
        text, pooled = torch.randn(1, TEXT_TOKENS, width, generator=generator), torch.randn(1, 768, generator=generator)
        return [[text, {"pooled_output": pooled, "guidance": 1.0}]]


def ours(task: Task, steps: int, checkpointing: bool) -> None:
    """Train QR-LoRA, without what only shows."""
    settings = TrainingSettings(
        steps=steps, learning_rate=1e-4, rank=task.rank, alpha=0.0, variant="triu", targets="paper", batch_size=1,
        grad_accumulation=1, seed=0, training_dtype=DTYPE, gradient_checkpointing=checkpointing,
    )  # fmt: skip
    train_adapter(task.model, collect(task.latents(), [task.caption()]), settings)


def stock(task: Task, steps: int, checkpointing: bool, **others: Any) -> None:
    """Train LoRA with its own defaults elsewhere; hosts differ in how many inputs it has."""
    inputs = {
        "latents": task.latents(), "model": task.model, "positive": task.caption(), "steps": steps, "rank": task.rank,
        "learning_rate": 1e-4, "training_dtype": DTYPE, "lora_dtype": DTYPE, "gradient_checkpointing": checkpointing,
    } | others  # fmt: skip
    given = {name: value if name == "latents" else [value] for name, value in inputs.items()}
    stock_train.TrainLoraNode.execute(**{name: [default] for name, default in STOCK_DEFAULTS.items()} | given)


def bypass(task: Task, steps: int, checkpointing: bool) -> None:
    """Train LoRA, which does not change the weights."""
    stock(task, steps, checkpointing, bypass_mode=True)


def restricted(task: Task, steps: int, checkpointing: bool) -> None:
    """Train LoRA, shown only the layers of ours.

    The host's block changes its text in place, and the stock node computes it again from the changed one; it survives
    that only where the text needs a gradient, as it does when `txt_in` is trained. So the text is given one.
    """
    available = KeyMap(task.model.model).linear(task.model.model)
    names = {available[path].module for path in select(available, "paper")}
    zero = torch.zeros(1, device=DEVICE, requires_grad=True)

    def restrict(model: Any) -> Callable[[], None]:
        def named_modules(*args: Any, **kwargs: Any) -> Iterator[tuple[str, torch.nn.Module]]:
            asked_by_node = sys._getframe(1).f_code.co_filename == stock_train.__file__
            for name, module in torch.nn.Module.named_modules(model, *args, **kwargs):
                if name in names or not asked_by_node:
                    yield name, module

        model.named_modules = named_modules
        txt_in = model.diffusion_model.txt_in
        handle = txt_in.register_forward_hook(lambda _module, _inputs, output: output + zero.to(output.dtype))

        def undo() -> None:
            del model.named_modules
            handle.remove()

        return undo

    with in_every_copy(task.model, restrict):
        stock(task, steps, checkpointing)


@contextmanager
def in_every_copy(patcher: Any, change: Callable[[Any], Callable[[], None]]) -> Iterator[None]:
    """Within the context a model is changed, and so is the second one that the stock node of newer hosts trains.

    Args:
        change: changes a model, and gives what undoes it.
    """
    undo = [change(patcher.model)]
    loading = patcher.cached_patcher_init

    def load(*args: Any, **kwargs: Any) -> Any:
        copy = loading[0](*args, **kwargs)
        undo.append(change(copy.model))
        return copy

    patcher.cached_patcher_init = (load, *loading[1:])
    try:
        yield
    finally:
        patcher.cached_patcher_init = loading
        for each in undo:
            each()


class _Floor(comfy.samplers.Sampler):
    def __init__(self, steps: int) -> None:
        self._steps = steps

    def sample(self, model_wrap: Any, sigmas: Any, extra: Any, callback: Any, noise: Tensor, *rest: Any) -> Tensor:
        model, protection = model_wrap.inner_model, InplaceGuard()
        with (
            torch.enable_grad(),
            training_mode(),
            differentiable_operators(),
            aliased_parameters(model),
            protected_inputs(model, (), protection),
        ):
            latent = rest[0].detach().float()
            cond = [encode_conditioning(model, model_wrap.conds["positive"][0], latent, 0)]
            sigma = torch.full((1,), 0.5, device=latent.device)

            def loss(clean: Tensor) -> Tensor:
                return objective_loss(model, clean, cond, sigma, torch.ones_like(clean), {})

            protection.decide(model.diffusion_model, lambda: loss(latent))
            for _ in range(self._steps):
                given = latent.clone().requires_grad_()
                torch.autograd.grad(loss(given), given)
        return noise


def floor(task: Task, steps: int, _checkpointing: bool) -> None:
    """What any trainer of a low-rank branch must do."""
    clone = task.model.clone()
    clone.set_model_compute_dtype(torch.bfloat16 if DTYPE == "bf16" else torch.float32)
    guider = comfy.samplers.CFGGuider(clone)
    guider.inner_set_conds({"positive": task.caption()})
    latent = task.latents()[0]["samples"]
    guider.sample(torch.zeros_like(latent), latent, _Floor(steps), torch.zeros(1), seed=0)


Side = Callable[[Task, int, bool], None]
SIDES: dict[str, Side] = {"ours": ours, "stock": stock, "bypass": bypass, "restricted": restricted, "floor": floor}
if "bypass_mode" not in STOCK_DEFAULTS:
    del SIDES["bypass"]
HAS_TRIAL = {"ours", "floor"}  # their first call of the network is no step


@contextmanager
def call_times(patcher: Any) -> Iterator[list[float]]:
    """When the network was called within the context."""
    times: list[float] = []

    def clock(model: Any) -> Callable[[], None]:
        handle = model.diffusion_model.register_forward_pre_hook(lambda *_: times.append(now()))
        return handle.remove  # type: ignore[no-any-return]

    with in_every_copy(patcher, clock):
        yield times


def step_times(side: str, task: Task, steps: int, checkpointing: bool) -> list[float]:
    """Seconds of so many steps, each from one call of the network to the next."""
    gc.collect()
    with call_times(task.model) as calls:
        SIDES[side](task, steps + 1, checkpointing)
    calls = calls[1:] if side in HAS_TRIAL else calls
    return [after - before for before, after in pairwise(calls)]


def compare(task: Task, sides: tuple[str, ...], *, rounds: int, steps: int, checkpointing: bool) -> dict[str, float]:
    """Median seconds of a step by side; the sides take turns."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            seconds[side] += step_times(side, task, steps, checkpointing)
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    how = "with" if checkpointing else "without"
    print(f"\n{task.tokens} image tokens, {TEXT_TOKENS} of text, {how} gradient checkpointing")
    print("| side | seconds a step | steps of ours in its time |")
    print("|---|---|---|")
    for side, value in medians.items():
        print(f"| {side} | {value:.3f} | {value / medians['ours']:.2f} |", flush=True)
    return medians


Spans = dict[str, list[float]]


def noting(function: Callable[..., Any], name: str, spans: Spans) -> Callable[..., Any]:
    """The function; every call adds its seconds to ``spans[name]``."""

    def run(*args: Any, **kwargs: Any) -> Any:
        start = now()
        try:
            return function(*args, **kwargs)
        finally:
            spans.setdefault(name, []).append(now() - start)

    return run


@contextmanager
def clocked(target: Any, name: str, spans: Spans) -> Iterator[None]:
    """Within the context, every call of a method is noted."""
    original = getattr(target, name)
    setattr(target, name, noting(original, name, spans))
    try:
        yield
    finally:
        setattr(target, name, original)


@contextmanager
def clocked_losses(spans: Spans) -> Iterator[None]:
    """Within the context, every loss of ours is noted, without its backward."""
    original = Trainer.step
    step = lambda trainer, losses: original(trainer, [noting(loss, "loss", spans) for loss in losses])  # noqa: E731
    with mock.patch.object(Trainer, "step", step):
        yield


def where_the_time_goes(task: Task, steps: int) -> None:
    """A table of the parts of a step of ours; what the branches add is the difference to the floor.

    The floor goes back to the latent, ours to its first branch, so a difference may fall below zero.
    """
    parts = {side: _parts(side, task, steps) for side in ("floor", "ours")}
    total = parts["ours"]["step"]
    rows = {
        "base forward": parts["floor"]["forward"],
        "branches forward": parts["ours"]["forward"] - parts["floor"]["forward"],
        "backward to the input": parts["floor"]["backward"],
        "branches backward": parts["ours"]["backward"] - parts["floor"]["backward"],
        "optimizer, with its checks": parts["ours"]["optimizer"],
    }
    rows["host and the rest"] = total - sum(rows.values())
    print(f"\nWhere a step of ours goes, {task.tokens} image tokens, without gradient checkpointing")
    print("| part | seconds | share |")
    print("|---|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value:.3f} | {value / total:.1%} |", flush=True)


def _parts(side: str, task: Task, steps: int) -> dict[str, float]:
    spans: Spans = {}
    network = task.model.model.diffusion_model
    with (
        clocked(network, "forward", spans),
        clocked(Tensor, "backward", spans),
        clocked(torch.autograd, "grad", spans),
        clocked_losses(spans),
        clocked(Trainer, "step", spans),
    ):
        seconds = step_times(side, task, steps, False)
    network.__dict__.pop("forward", None)
    losses = zip(spans.get("loss", ()), spans.get("backward", ()), strict=True)
    rest = [step - loss - backward for step, (loss, backward) in zip(spans.get("step", ()), losses, strict=True)]
    parts = {
        "step": seconds,
        "forward": spans["forward"],
        "backward": spans["grad" if side == "floor" else "backward"],
        "optimizer": rest or [0.0],
    }
    return {name: statistics.median(values[-steps:]) for name, values in parts.items()}


def peak_above_model(side: str, task: Task, steps: int) -> float:
    """Bytes at the peak of training above the loaded model, in this process."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([task.model])
    gc.collect()
    if ON_GPU:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        SIDES[side](task, steps, True)
        return float(torch.cuda.max_memory_allocated() - before)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    SIDES[side](task, steps, True)
    return _status("VmHWM") - before


def _status(name: str) -> float:
    return 1024.0 * int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0])


def measure_memory(side: str, tokens: int, quick: bool) -> float:
    """`peak_above_model` in a process of its own, whose allocator gives back what is freed."""
    command = [sys.executable, "-m", "benchmarks.train_speed", "--memory-of", side, "--tokens", str(tokens)]
    # Without these, freed memory stays with the process and hides the next peak.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    ended = subprocess.run(
        [*command, *(["--quick"] if quick else [])], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if ended.returncode:
        raise RuntimeError(f"{side}: {ended.stderr}")
    return float(json.loads(ended.stdout.splitlines()[-1]))


def compare_memory(tokens: int, quick: bool) -> dict[str, float]:
    """Peak bytes by side, as a table."""
    peaks = {side: measure_memory(side, tokens, quick) for side in SIDES if side != "floor"}
    print(f"\nPeak above the loaded model, {tokens} image tokens, with gradient checkpointing")
    print("| side | MB |")
    print("|---|---|")
    for side, peak in peaks.items():
        print(f"| {side} | {peak / 1e6:.0f} |", flush=True)
    return peaks


def build(quick: bool) -> Any:
    """The model, made outside of inference mode: in float32 the stock node cannot train inference tensors."""
    dtype = torch.bfloat16 if ON_GPU else torch.float32
    if quick:
        return tiny_models.build("flux", dtype=dtype, device=DEVICE)
    return tiny_models.real_width_flux(hidden=1536, dtype=dtype, device=DEVICE)


def main() -> None:
    parser = argparse.ArgumentParser(description="Training against the stock Train LoRA node.")
    parser.add_argument("--quick", action="store_true", help="a tiny model; nothing is decided")
    parser.add_argument("--short", action="store_true", help="1,024 tokens alone, in one round")
    parser.add_argument("--memory-of", choices=SIDES, help="print the peak of one side, and nothing else")
    parser.add_argument("--tokens", type=int, default=1024)
    options = parser.parse_args()
    quick, rank = options.quick, 8 if options.quick else RANK
    few, many = (16, 64) if quick else (1024, 4096)
    if options.memory_of:
        print(json.dumps(peak_above_model(options.memory_of, Task(build(quick), options.tokens, rank), 2)))
        return
    model = build(quick)
    print(f"{machine()}, {time.strftime('%Y-%m-%d')}, ComfyUI {host_version(HOST)}")
    print(f"FLUX, {parameters(model) / 1e6:.0f} million parameters, {DTYPE}, rank {rank}, batch 1")
    rounds = 1 if options.short else 2
    small, large = Task(model, few, rank), Task(model, many, rank)
    every = compare(small, tuple(SIDES), rounds=rounds, steps=3, checkpointing=True)
    bare = compare(small, ("ours", "floor"), rounds=rounds, steps=3, checkpointing=False)
    same = {}
    if not options.short:
        same = compare(large, ("ours", "restricted", "floor"), rounds=2, steps=1, checkpointing=True)
        where_the_time_goes(small, 3)
    del model, small, large
    gc.collect()
    peaks = compare_memory(few, quick)
    print()
    decide(every, bare, same, peaks, (few, many), quick=quick)
    finish()


def decide(
    every: dict[str, float],
    bare: dict[str, float],
    same: dict[str, float],
    peaks: dict[str, float],
    tokens: tuple[int, int],
    *,
    quick: bool,
) -> None:
    """The claims, of what was measured."""
    few, many = tokens
    timed(f"stock / ours, {few} tokens, as shipped", every["stock"] / every["ours"], 2.0, quick=quick)
    if "bypass" in every:
        timed(f"stock in bypass mode / ours, {few} tokens", every["bypass"] / every["ours"], 1.2, quick=quick)
    timed(f"stock / ours, {few} tokens, same layers", every["restricted"] / every["ours"], 1.5, quick=quick)
    if same:
        timed(f"stock / ours, {many} tokens, same layers", same["restricted"] / same["ours"], 1.3, quick=quick)
    for name, times in (("", every), (" without checkpointing", bare), (f" at {many} tokens", same)):
        if times:
            timed(f"ours / floor{name}", times["ours"] / times["floor"], 1.2, quick=quick, at_least=False)
    for side in list(peaks)[1:]:
        label, value = f"peak memory of ours / {side}", peaks["ours"] / peaks[side]
        if quick:
            timed(label, value, 0.7, quick=True, at_least=False)
        else:
            claim(label, value, 0.7, at_least=False)


if __name__ == "__main__":
    main()
