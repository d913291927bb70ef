"""Own code beside the library's: what each is there for, in steps, bytes and right answers.

    python -m benchmarks.libraries            FLUX 1,536 wide, 1 + 1 blocks; a file of 200 MB; about 6 minutes
    python -m benchmarks.libraries --quick    a tiny FLUX and a small file: no time is decided

A training step is a pass forward and backward through the host's network with branches of rank 32 beside the layers
of `paper`. Its sides:

    ours               blocks run twice and keep the outputs of frozen layers; inputs that are overwritten are copied
    nothing kept       the same without the outputs
    selective          torch's selective checkpointing keeps the matrix products; the guard is ours, the branches plain
    guarded            no checkpointing, and the guard
    mutation           no checkpointing, and torch's `allow_mutation_on_saved_tensors` instead of the guard
    torch's both       torch's checkpointing and `allow_mutation_on_saved_tensors`
    both, copies       the same, and every block gets copies of its arguments
    plain              `mutation` with plain branches, which autograd records: nothing of ours

The gradients of all are compared with those of `plain`. A file is read by `SafetensorsFile`, by `safe_open` with a
copy of every tensor, and by `load_file`, which maps it; then it is cut short while it is open, in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.ratios import claim, finish
from benchmarks.setting import DEVICE, machine, now, parameters, timed, tiny_models

# isort: split
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from comfyui_qr_lora.nodes.host.model.key_map import KeyMap
from comfyui_qr_lora.nodes.host.train.graph.checkpointing import ActivationCache, checkpointed_blocks
from comfyui_qr_lora.nodes.host.train.graph.differentiable_ops import differentiable_operators
from comfyui_qr_lora.nodes.host.train.graph.frozen_linear import attached
from comfyui_qr_lora.nodes.host.train.graph.inplace_guard import InplaceGuard, protected_inputs
from comfyui_qr_lora.nodes.host.train.graph.modules import (
    aliased_parameters,
    blocks,
    copied,
    replaced_forward,
    trainable_context,
)
from comfyui_qr_lora.nodes.host.train.graph.training_mode import training_mode
from comfyui_qr_lora.qrlora_core import TrainableDelta, select
from comfyui_qr_lora.qrlora_core.files.safetensors_io import reading
from comfyui_qr_lora.qrlora_core.functional.decompose import Factors

ROOT = Path(__file__).resolve().parents[1]
RANK, TEXT_TOKENS = 32, 256
SAME = 1e-4  # of the gradient's size, in float32
_PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default}


class Network:
    """A FLUX with branches, and a loss."""

    @trainable_context()
    def __init__(self, quick: bool) -> None:
        self.patcher = tiny_models.build("flux", device=DEVICE) if quick else _wide()
        self.targets = KeyMap(self.patcher.model).linear(self.patcher.model)
        generator = torch.Generator().manual_seed(3)
        self.deltas = {path: self._delta(path, generator) for path in select(self.targets, "paper")}
        self.inputs = _inputs(self.patcher, tokens=16 if quick else 1024)

    def _delta(self, path: str, generator: torch.Generator) -> TrainableDelta:
        """On a random basis: neither bytes nor seconds of a step depend on which one."""
        rows, columns = self.targets[path].shape
        rank = min(RANK, rows, columns)
        q = torch.linalg.qr(torch.randn(rows, rank, generator=generator)).Q.contiguous()
        factors = Factors(q, torch.zeros(rank, columns), rank, float(rank), 1.0)
        delta = TrainableDelta(factors, variant="full", compute_dtype=torch.float32).to(DEVICE)
        for parameter in delta.parameters():
            parameter.data.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
        return delta

    def members(self) -> dict[str, Any]:
        """For `attached`."""
        return {path: (self.targets[path], delta) for path, delta in self.deltas.items()}

    def loss(self) -> Tensor:
        """Of one pass."""
        output: Tensor = self.patcher.model.apply_model(**self.inputs, transformer_options={})
        return output.float().square().mean()

    def gradients(self) -> dict[str, Tensor]:
        """Of one pass forward and backward."""
        wanted = {path: delta.delta_r for path, delta in self.deltas.items()}
        found = torch.autograd.grad(self.loss(), list(wanted.values()))
        return dict(zip(wanted, found, strict=True))


def _wide() -> Any:
    return tiny_models.real_width_flux(hidden=1536, device=DEVICE)


def _inputs(patcher: Any, tokens: int) -> dict[str, Tensor]:
    """Keyword arguments of `apply_model`; a token is 2 x 2 of the latent."""
    side, generator = 2 * round(tokens**0.5), torch.Generator().manual_seed(1)
    width = patcher.model.model_config.unet_config["context_in_dim"]
    shapes = {"x": (1, 16, side, side), "c_crossattn": (1, TEXT_TOKENS, width), "y": (1, 768)}
    made = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    made |= {"t": torch.full((1,), 0.5), "guidance": torch.ones(1)}
    return {name: value.to(DEVICE) for name, value in made.items()}


@contextlib.contextmanager
def ours(network: Network, *, kept: float = 1e12, checkpointing: bool = True) -> Iterator[None]:
    """As Train QR-LoRA sets a model up."""
    model, guard, outputs = network.patcher.model, InplaceGuard(), ActivationCache(kept)
    with (
        checkpointed_blocks(model.diffusion_model, guard, outputs, enabled=checkpointing),
        attached(model, network.members(), outputs),
        protected_inputs(model, {target.module for target, _ in network.members().values()}, guard),
    ):
        guard.decide(model.diffusion_model, network.loss)
        yield


@contextlib.contextmanager
def plain_branches(network: Network) -> Iterator[None]:
    """Branches by forward hooks, recorded by autograd operation by operation."""
    by_module: dict[str, list[Any]] = {}
    for target, delta in network.members().values():
        by_module.setdefault(target.module, []).append((target.rows, delta))
    with contextlib.ExitStack() as stack:
        for name, members in by_module.items():
            module = network.patcher.model.get_submodule(name)
            stack.callback(module.register_forward_hook(functools.partial(_add, members)).remove)
        yield


def _add(members: list[Any], _module: Any, given: tuple[Tensor, ...], y: Tensor) -> Tensor:
    for rows, delta in members:
        part = given[0] @ delta.down().T @ delta.up().T
        start, length = rows or (0, y.shape[-1])
        y = y + torch.nn.functional.pad(part, (start, y.shape[-1] - start - length))
    return y


@contextlib.contextmanager
def checkpointed_by_torch(network: Network, *, copies: bool, **how: Any) -> Iterator[None]:
    """Every block in torch's checkpoint; with copies of its arguments, or without."""

    def twice(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            if copies:
                args, kwargs = tuple(map(copied, args)), {name: copied(value) for name, value in kwargs.items()}
            return forward(*args, **kwargs)

        return lambda *args, **kwargs: checkpoint(run, *args, use_reentrant=False, **how, **kwargs)

    with contextlib.ExitStack() as stack:
        for block in blocks(network.patcher.model.diffusion_model):
            stack.enter_context(replaced_forward(block, twice(block.forward)))
        yield


@contextlib.contextmanager
def selective(network: Network) -> Iterator[None]:
    """The library's way to keep what is dear to compute, with our guard against blocks that overwrite."""
    model, guard = network.patcher.model, InplaceGuard()
    kept, again = CheckpointPolicy.MUST_SAVE, CheckpointPolicy.PREFER_RECOMPUTE
    contexts = functools.partial(
        create_selective_checkpoint_contexts, lambda _ctx, op, *_args, **_kwargs: kept if op in _PRODUCTS else again
    )
    with (
        plain_branches(network),
        protected_inputs(model, {target.module for target, _ in network.members().values()}, guard),
    ):
        guard.decide(model.diffusion_model, network.loss)
        with checkpointed_by_torch(network, copies=True, context_fn=contexts):
            yield


@contextlib.contextmanager
def mutation(network: Network) -> Iterator[None]:
    """The library's way to keep what is overwritten."""
    model = network.patcher.model
    with attached(model, network.members(), ActivationCache(0)), torch.autograd.graph.allow_mutation_on_saved_tensors():
        yield


@contextlib.contextmanager
def plain(network: Network) -> Iterator[None]:
    """The library alone."""
    with plain_branches(network), torch.autograd.graph.allow_mutation_on_saved_tensors():
        yield


@contextlib.contextmanager
def of_torch(network: Network, *, copies: bool) -> Iterator[None]:
    """The library's two, one around the other."""
    with mutation(network), checkpointed_by_torch(network, copies=copies):
        yield


Side = Callable[[Network], contextlib.AbstractContextManager[None]]
SIDES: dict[str, Side] = {
    "plain": plain,
    "mutation": mutation,
    "guarded": functools.partial(ours, kept=0.0, checkpointing=False),
    "ours": ours,
    "nothing kept": functools.partial(ours, kept=0.0),
    "selective": selective,
    "torch's both": functools.partial(of_torch, copies=False),
    "both, copies": functools.partial(of_torch, copies=True),
}


@contextlib.contextmanager
def prepared(network: Network, side: str) -> Iterator[None]:
    """Within the context a pass of the network is that of a side."""
    model = network.patcher.model
    with (
        trainable_context(),
        training_mode(),
        differentiable_operators(),
        aliased_parameters(model),
        SIDES[side](network),
    ):
        yield


def compare_steps(network: Network, rounds: int, quick: bool) -> None:
    """A table of the sides, which take turns, and the claims."""
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    errors: dict[str, float | str] = {}
    expected: dict[str, Tensor] = {}
    for _ in range(rounds):
        for side in SIDES:
            with prepared(network, side):
                start = now()
                try:
                    found = network.gradients()
                except RuntimeError as error:
                    errors[side] = f"fails: {str(error).splitlines()[0][:120]}"
                    continue
                seconds[side].append(now() - start)
            expected = expected or found
            errors[side] = _error(found, expected)
    peaks = {side: peak(side, quick) for side in SIDES if seconds[side]}
    medians = {side: statistics.median(values) for side, values in seconds.items() if values}
    print("| side | seconds of ours | peak of ours | gradients differ from `plain` by |")
    print("|---|---|---|---|")
    for side in SIDES:
        error = errors[side]
        if isinstance(error, str):
            print(f"| {side} | - | - | {error} |")
            continue
        print(f"| {side} | {medians[side] / medians['ours']:.2f} | {peaks[side] / peaks['ours']:.2f} | {error:.1e} |")
    print()
    for side in ("ours", "nothing kept", "guarded"):
        claim(f"gradients of {side}, against plain", float(errors[side]), SAME, at_least=False)
    timed("nothing kept / ours, seconds", medians["nothing kept"] / medians["ours"], 1.05, quick=quick)
    timed("selective / ours, peak", peaks["selective"] / peaks["ours"], 1.0, quick=quick)
    timed("selective / ours, seconds", medians["selective"] / medians["ours"], 1.0, quick=quick)
    timed("mutation / guarded, seconds", medians["mutation"] / medians["guarded"], 0.9, quick=quick)
    told = errors["both, copies"]  # should a later torch be right here, its own guard will do
    if not isinstance(told, str):
        claim("error of the gradients of torch's both with copies / of ours", told / float(errors["ours"]), 100)


def _error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Relative, over all layers."""
    difference = sum(float((found[path] - value).double().square().sum()) for path, value in expected.items())
    return float((difference / sum(float(value.double().square().sum()) for value in expected.values())) ** 0.5)


def peak(side: str, quick: bool) -> float:
    """Bytes of one pass above the model, in a process of its own, whose allocator gives back what is freed."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    return float(_in_process(["--peak-of", side, *(["--quick"] if quick else [])], environment).stdout.splitlines()[-1])


def _in_process(arguments: list[str], environment: dict[str, str] | None = None) -> Any:
    command = [sys.executable, "-m", "benchmarks.libraries", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def own_peak(network: Network, side: str) -> float:
    """Bytes of one pass above the model, in this process."""
    with prepared(network, side):
        gc.collect()
        if DEVICE.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            network.gradients()
            return float(torch.cuda.max_memory_allocated() - before)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _status("VmRSS")
        network.gradients()
        return _status("VmHWM") - before


def _status(name: str) -> float:
    return 1024.0 * int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0])


def ours_read(path: Path) -> dict[str, Tensor]:
    """With our reader."""
    with reading(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no mapping)


def copies_of_safetensors(path: Path) -> dict[str, Tensor]:
    """With the library's reader, copied, since its tensors are the file's own memory."""
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 (it is no mapping)


READERS = {"ours": ours_read, "safe_open, copied": copies_of_safetensors, "load_file, mapped": load_file}


def compare_readers(megabytes: int, rounds: int, quick: bool) -> None:
    """Seconds of reading one file that the system has in memory, and what becomes of a reader of a file cut short."""
    generator = torch.Generator().manual_seed(4)
    made = {f"layer_{number}": torch.randn(2**18, generator=generator) for number in range(megabytes)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.safetensors"
        save_file(made, path)
        seconds: dict[str, list[float]] = {name: [] for name in READERS}
        for _ in range(rounds):
            for name, read in READERS.items():
                start = time.perf_counter()
                found = read(path)
                sum(float(tensor[0]) + float(tensor[-1]) for tensor in found.values())
                seconds[name].append(time.perf_counter() - start)
                assert all(torch.equal(found[key], value) for key, value in made.items()), name
                del found
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        ends = {name: cut_short(name, path) for name in READERS}
    print(f"\nA file of {megabytes} MB, {len(made)} tensors")
    print("| reader | seconds of ours | the file is cut short while it is open |")
    print("|---|---|---|")
    for name in READERS:
        print(f"| {name} | {medians[name] / medians['ours']:.2f} | {ends[name]} |")
    print()
    claim("our reader outlives a file that is cut short", float(ends["ours"].startswith("an error")), 1)
    timed(
        "ours / safe_open, copied, seconds",
        medians["ours"] / medians["safe_open, copied"],
        1.1,
        quick=quick,
        at_least=False,
    )


def cut_short(reader: str, path: Path) -> str:
    """What happens to a process that reads it."""
    copy = path.with_name("cut.safetensors")
    copy.write_bytes(path.read_bytes())
    ended = _in_process(["--cut-short", str(copy), "--reader", reader])
    return f"the process dies of signal {-ended.returncode}" if ended.returncode < 0 else str(ended.stdout).strip()


def read_while_cut(reader: str, path: Path) -> str:
    """Open a file, have it cut, read on; for a process that may die of it."""
    try:
        if reader == "ours":
            with reading(path) as file:
                os.truncate(path, 4096)
                total = sum(float(file.get_tensor(key).sum()) for key in file.keys())  # noqa: SIM118
        elif reader == "load_file, mapped":
            tensors = load_file(path)
            os.truncate(path, 4096)
            total = sum(float(tensor.sum()) for tensor in tensors.values())
        else:
            with safe_open(path, framework="pt") as file:
                os.truncate(path, 4096)
                total = sum(float(file.get_tensor(key).clone().sum()) for key in file.keys())  # noqa: SIM118
    except Exception as error:  # whatever it is: that it is one is the answer
        return f"an error: {type(error).__name__}"
    return f"no error, and the sum {total}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Own code beside the library's.")
    parser.add_argument("--quick", action="store_true", help="small ones; no time is decided")
    parser.add_argument("--peak-of", choices=SIDES, help="print the peak of one side, and nothing else")
    parser.add_argument("--cut-short", type=Path, help="read this file while it is cut short, and nothing else")
    parser.add_argument("--reader", choices=READERS, default="ours", help="how to read it")
    options = parser.parse_args()
    if options.cut_short:
        print(read_while_cut(options.reader, options.cut_short))
        return
    network = Network(options.quick)
    if options.peak_of:
        print(json.dumps(own_peak(network, options.peak_of)))
        return
    print(f"{machine()}, {time.strftime('%Y-%m-%d')}")
    print(f"FLUX, {parameters(network.patcher) / 1e6:.0f} million parameters, float32, rank {RANK}\n")
    compare_steps(network, rounds=1 if options.quick else 5, quick=options.quick)
    compare_readers(8 if options.quick else 200, rounds=3 if options.quick else 7, quick=options.quick)
    finish()


if __name__ == "__main__":
    main()
