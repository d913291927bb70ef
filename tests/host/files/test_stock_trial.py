"""What is said of ComfyUI's own loader and a layer of another kind, against what it does with such a layer."""

from __future__ import annotations

import random
from pathlib import Path

import comfy.lora
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from comfyui_qr_lora.nodes.host.files.stock_loader import elsewhere

Tensors = dict[str, Tensor]
STEM = "blocks.0.attn"


def lokr(chance: random.Random) -> tuple[tuple[int, ...], Tensors]:
    a, b, c, d, rank = (chance.randint(1, 6) for _ in range(5))
    kernel = chance.choice([(), (3, 3)])
    first = {"lokr_w1": (a, b)} if chance.random() < 0.5 else {"lokr_w1_a": (a, rank), "lokr_w1_b": (rank, b)}
    second: dict[str, tuple[int, ...]] = {"lokr_w2": (c, d, *kernel)}
    if kernel and chance.random() < 0.5:
        second = {"lokr_w2_a": (rank, c), "lokr_w2_b": (rank, d), "lokr_t2": (rank, rank, *kernel)}
    elif not kernel and chance.random() < 0.5:
        second = {"lokr_w2_a": (c, rank), "lokr_w2_b": (rank, d)}
    return (a * c, b * d, *kernel), numbers({**first, **second})


def loha(chance: random.Random) -> tuple[tuple[int, ...], Tensors]:
    out, inner, rank = (chance.randint(1, 8) for _ in range(3))
    kernel = chance.choice([(), (3, 3)])
    sides = [(f"hada_w{n}_a", f"hada_w{n}_b", f"hada_t{n}") for n in (1, 2)]
    shapes: dict[str, tuple[int, ...]] = {}
    for first, second, core in sides:
        shapes[first], shapes[second] = ((rank, out) if kernel else (out, rank)), (rank, inner)
        shapes.update({core: (rank, rank, *kernel)} if kernel else {})
    return (out, inner, *kernel), numbers(shapes)


def dora_of_others(chance: random.Random) -> tuple[tuple[int, ...], Tensors]:
    """Under other trainers' names, its magnitudes for this weight or for another."""
    shape, tensors = dora(chance)
    up, down = chance.choice([("lora_B.weight", "lora_A.weight"), ("lora.up.weight", "lora.down.weight")])
    scale = chance.choice([tensors["dora_scale"], torch.ones(shape[0] + 3, shape[1] + 3)])
    return shape, {up: tensors["lora_up.weight"], down: tensors["lora_down.weight"], "dora_scale": scale}


def glora(chance: random.Random) -> tuple[tuple[int, ...], Tensors]:
    out, inner = chance.sample(range(5, 12), 2)
    rank = chance.randint(1, 4)
    shapes = {
        "a1.weight": (inner, rank),
        "a2.weight": (rank, inner),
        "b1.weight": (out, rank),
        "b2.weight": (rank, inner),
    }
    if chance.random() < 0.5:
        old = {
            "a1.weight": (rank, inner),
            "a2.weight": (inner, rank),
            "b1.weight": (rank, inner),
            "b2.weight": (out, rank),
        }
        shapes = old
    if chance.random() < 0.3:
        shapes["a1.weight"] = tuple(side + 1 for side in shapes["a1.weight"])
    return (out, inner), numbers(shapes)


def dora(chance: random.Random) -> tuple[tuple[int, ...], Tensors]:
    out, inner, rank = (chance.randint(2, 9) for _ in range(3))
    scale = chance.choice([(1, inner), (out, 1)])
    return (out, inner), numbers(
        {"lora_up.weight": (out, rank), "lora_down.weight": (rank, inner), "dora_scale": scale}
    )


def rotation(chance: random.Random) -> tuple[tuple[int, ...], Tensors]:
    blocks, size, rounds = 2 ** chance.randint(1, 3), 2 ** chance.randint(1, 2), chance.randint(1, 2)
    shape = chance.choice([(blocks, size, size), (rounds, blocks, size, size)])
    return (blocks * size, chance.randint(1, 9)), numbers({"oft_blocks": shape})


def numbers(shapes: dict[str, tuple[int, ...]]) -> Tensors:
    generator = torch.Generator().manual_seed(len(shapes) + sum(map(sum, shapes.values())))
    return {part: 0.1 * torch.randn(shape, generator=generator) for part, shape in shapes.items()}


def spoiled(tensors: Tensors, chance: random.Random) -> Tensors:
    """As it is, or without a tensor."""
    part = chance.choice(sorted(tensors)) if chance.random() < 0.4 else ""
    return {name: tensor for name, tensor in tensors.items() if name != part}


def acts_in_the_host(shape: tuple[int, ...], tensors: Tensors) -> bool:
    """On a weight of random numbers."""
    own = {f"{STEM}.{part}": tensor for part, tensor in tensors.items()}
    try:
        patches = comfy.lora.load_lora(own, {STEM: f"{STEM}.weight"}, log_missing=False)
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        changed = weight.clone()
        for patch in patches.values():
            changed = patch.calculate_weight(changed, "weight", 1.0, 1.0, None, lambda change: change)
    except Exception:
        return False
    return not torch.equal(changed, weight)


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("kind", [lokr, loha, dora, dora_of_others, glora, rotation])
def test_it_is_said_to_apply_what_it_applies(kind: object, seed: int, tmp_path: Path) -> None:
    chance = random.Random(f"{kind.__name__} {seed}")  # type: ignore[attr-defined]
    shape, whole = kind(chance)  # type: ignore[operator]
    tensors = spoiled(whole, chance)
    if chance.random() < 0.7:
        tensors = {**tensors, "alpha": torch.tensor(float(chance.randint(1, 4)))}
    path = tmp_path / "file.safetensors"
    save_file({f"{STEM}.{part}": tensor for part, tensor in tensors.items()}, path)
    said = elsewhere(path, [STEM])[STEM]
    if acts_in_the_host(shape, tensors):
        assert "applies" in said
    else:
        assert said == "ComfyUI's own LoRA loader does not apply it either"
