"""What each kind of adapter costs live, against the same file patched into the weights by ComfyUI's own loader.

    python -m benchmarks.kinds_time            six layers of FLUX of true widths, 256 image tokens
    python -m benchmarks.kinds_time --quick    a tiny FLUX

A step: the second denoising call of a sampling, live over patched. First: from the file to the first denoising call,
which is loading, norms of the base weights and buffers on one side, and patching on the other. Held: bytes that the
host loads beside the model, over those of the file, both in float32. The sides take turns, from a bare model each.
Where ComfyUI's own loader does not know a kind, its side is the bare model, and there is no first call to compare.
Information: nothing decides.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.setting import DEVICE, forward_times, machine, now, sample, tiny_models

# isort: split
import comfy.model_management
import comfy.sd
import folder_paths
from safetensors.torch import save_file
from torch import Tensor

import nodes as host_nodes
from comfyui_qr_lora.nodes.host.files.load import load
from comfyui_qr_lora.tests.support.adapters import merged
from devtools.workspace import host_version

LAYERS = (
    *(f"double_blocks_0_img_{part}" for part in ("attn_qkv", "attn_proj", "mlp_0", "mlp_2")),
    *(f"single_blocks_0_linear{number}" for number in "12"),
)
RANK, SMALL_RANK, FACTOR, BLOCK, STAGES = 64, 16, 16, 32, 4
Tensors = dict[str, Tensor]


def numbers(*shape: int, around: float = 0.0) -> Tensor:
    """Small ones, so that no layer is changed beyond use."""
    return around + 0.02 * torch.randn(*shape)


def lora(out: int, inner: int) -> Tensors:
    """``B A`` of rank 64."""
    return {"lora_up.weight": numbers(out, RANK), "lora_down.weight": numbers(RANK, inner)}


def lokr(out: int, inner: int) -> Tensors:
    """Both factors whole, the first one 16 x 16."""
    return {"lokr_w1": numbers(FACTOR, FACTOR), "lokr_w2": numbers(out // FACTOR, inner // FACTOR)}


def lokr_of_product(out: int, inner: int) -> Tensors:
    """The second factor of rank 16."""
    up, down = numbers(out // FACTOR, SMALL_RANK), numbers(SMALL_RANK, inner // FACTOR)
    return {"lokr_w1": numbers(FACTOR, FACTOR), "lokr_w2_a": up, "lokr_w2_b": down}


def loha(out: int, inner: int) -> Tensors:
    """Two products of rank 16."""
    ups = {f"hada_w{side}_a": numbers(out, SMALL_RANK) for side in "12"}
    return ups | {f"hada_w{side}_b": numbers(SMALL_RANK, inner) for side in "12"}


def by_column(of: Callable[[int, int], Tensors]) -> Callable[[int, int], Tensors]:
    """DoRA with norms of columns."""
    return lambda out, inner: {**of(out, inner), "dora_scale": numbers(1, inner, around=(out / inner) ** 0.5)}


def by_row(out: int, inner: int) -> Tensors:
    """DoRA with norms of rows, as ComfyUI has them."""
    return {**lora(out, inner), "dora_scale": numbers(out, 1, around=1.0)}


def of_peft(out: int, inner: int) -> Tensors:
    """DoRA with norms of rows, as PEFT has them; ComfyUI's own loader leaves the norms out."""
    factors = {"lora_A.weight": numbers(RANK, inner), "lora_B.weight": numbers(out, RANK)}
    return {**factors, "lora_magnitude_vector": numbers(out, around=1.0)}


def oft(out: int, _inner: int) -> Tensors:
    """Blocks of 32."""
    return {"oft_blocks": numbers(out // BLOCK, BLOCK, BLOCK)}


def boft(out: int, _inner: int) -> Tensors:
    """Four stages of blocks of 32."""
    return {"oft_blocks": numbers(STAGES, out // BLOCK, BLOCK, BLOCK), "alpha": torch.tensor(0.0)}


def glora(out: int, inner: int) -> Tensors:
    """Both parts of rank 64."""
    a = {"a1.weight": numbers(inner, RANK), "a2.weight": numbers(RANK, inner)}
    return {**a, "b1.weight": numbers(out, RANK), "b2.weight": numbers(RANK, inner)}


def ia3(out: int, inner: int, on_input: int) -> Tensors:
    """Of inputs or outputs."""
    return {"weight": numbers(inner if on_input else out), "on_input": torch.tensor(on_input)}


# What it is called, and how a layer (out, in) is made.
KINDS: Mapping[str, Callable[[int, int], Tensors]] = {
    "LoRA, rank 64": lora,
    "LoKr, whole, factor 16": lokr,
    "LoKr of a product, factor 16, rank 16": lokr_of_product,
    "LoHa, rank 16": loha,
    "DoRA by column, rank 64": by_column(lora),
    "DoRA by row, rank 64": by_row,
    "DoRA of LoKr, factor 16": by_column(lokr),
    "DoRA of PEFT, rank 64": of_peft,
    "OFT, blocks of 32": oft,
    "BOFT, 4 stages, blocks of 32": boft,
    "GLoRA, rank 64": glora,
    "IA3 on input": lambda out, inner: ia3(out, inner, 1),
    "IA3 on output": lambda out, inner: ia3(out, inner, 0),
    "whole difference": lambda out, inner: {"diff": numbers(out, inner)},
    "replaced weight": lambda out, inner: {"set_weight": numbers(out, inner)},
}
UNKNOWN = ("IA3",)  # to ComfyUI's own loader


@dataclass
class Side:
    """Seconds: to the first denoising call, and of the second one."""

    make: Callable[[], Any]
    first: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)
    held: int = 0

    def run(self, model: Any, side: int) -> None:
        """One sampling, from the bare model on."""
        gc.collect()
        comfy.model_management.load_models_gpu([model])
        start = now()
        patcher = self.make()
        with forward_times(model) as spans:
            sample(patcher, steps=2, side=side)
        self.first.append(spans[0][0] - start)
        self.step.append(spans[1][1] - spans[1][0])
        loaded = (own for beside in patcher.get_nested_additional_models() for own in beside.model.parameters())
        self.held = sum({tensor.data_ptr(): tensor.nbytes for tensor in loaded}.values())


def file_of(model: Any, make: Callable[[int, int], Tensors]) -> Path:
    """With a layer for each of `LAYERS`."""
    torch.manual_seed(0)
    tensors: Tensors = {}
    modules = {name.replace(".", "_"): module for name, module in model.model.diffusion_model.named_modules()}
    for layer in LAYERS:
        made = make(*modules[layer].weight.shape)
        tensors |= {f"lora_unet_{layer}.{part}": tensor.contiguous() for part, tensor in made.items()}
    folder = Path(folder_paths.get_folder_paths("loras")[0])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "kind.safetensors"
    save_file(tensors, path)
    return path


def row(model: Any, kind: str, turns: int, side: int) -> str:
    """One line of the table."""
    path = file_of(model, KINDS[kind])
    is_known = not kind.startswith(UNKNOWN)
    live = Side(lambda: merged(model, (load(path), 1.0)))
    stock = Side(lambda: host_nodes.LoraLoaderModelOnly().load_lora_model_only(model, path.name, 1.0)[0])
    for _ in range(turns):
        for own in (stock, live) if is_known else (live,):
            own.run(model, side)
    if not is_known:
        stock.make = lambda: model
        stock.run(model, side)
    step, patched = statistics.median(live.step), statistics.median(stock.step)
    first, patching = min(live.first), min(stock.first)
    size = path.stat().st_size
    compared = f"{first / patching:.2f}" if is_known else "-"
    return (
        f"| {kind} | {1e3 * step:.0f} | {step / patched:.3f} | {1e3 * first:.0f} | {compared} | {size / 1e6:.2f} | "
        f"{live.held / size:.2f} |"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny FLUX")
    quick = parser.parse_args().quick
    model = tiny_models.real_width_flux(hidden=512 if quick else 3072, device=DEVICE)
    print(f"{machine()}, ComfyUI {host_version(Path(comfy.sd.__file__).resolve().parents[1])}, float32")
    print(f"{len(LAYERS)} layers of FLUX with 1 + 1 blocks, {64 if quick else 256} image tokens")
    print("| kind | step ms | over patched | first ms | over patching | file MB | held / file |")
    print("|---|---|---|---|---|---|---|")
    for kind in KINDS:
        print(row(model, kind, 2, 16 if quick else 32), flush=True)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
