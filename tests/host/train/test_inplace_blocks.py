"""Blocks that change their stream in place after a function saved it: LTXV, and small ones like it."""

from __future__ import annotations

import re
from typing import Any

import comfy.ldm.lightricks.model as ltxv
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from comfyui_qr_lora.nodes.host.train import loop
from comfyui_qr_lora.nodes.host.train.graph.checkpointing import ActivationCache, checkpointed_blocks
from comfyui_qr_lora.nodes.host.train.graph.inplace_guard import InplaceGuard, protected_inputs
from comfyui_qr_lora.nodes.host.train.graph.modules import blocks, trainable_context
from comfyui_qr_lora.qrlora_core import QRLoRA
from devtools import tiny_models

from ...support.adapters import merged, relative_error
from ...support.models import every_network
from ...support.training_task import assert_same, assert_unchanged, snapshot, train
from . import test_frozen_linear
from .test_frozen_linear import Trained

# What the block, or the network between its blocks, calls and then overwrites the input of, by model; all others need
# nothing of this kind.
_PIXELDIT = {"MMDiTBlockT2I": {Tensor.addcmul_}, "PiTBlock": {Tensor.addcmul_}}
FUNCTIONS = {
    "ltxv": {"BasicTransformerBlock": {F.rms_norm}},
    "ltxav": {"BasicAVTransformerBlock": {F.rms_norm}},
    "ltx23": {"BasicAVTransformerBlock": {F.rms_norm}},
    "wan_animate2": {"WanAnimate2Model": {torch.bmm, torch.baddbmm}},
    "pixeldit": _PIXELDIT,
    "pid": _PIXELDIT,
}


def out_of_place(
    self: Any,
    x: Tensor,
    context: Tensor | None = None,
    attention_mask: Tensor | None = None,
    timestep: Any = None,
    pe: Any = None,
    transformer_options: Any = None,
    self_attention_mask: Tensor | None = None,  # newer hosts
    **_: Any,
) -> Tensor:
    """LTXV's block, transcribed without any change in place."""
    masked = {} if self_attention_mask is None else {"mask": self_attention_mask}
    table = self.scale_shift_table[None, None] + timestep.reshape(len(x), timestep.shape[1], 6, -1)
    shift_attention, scale_attention, gate_attention, shift_mlp, scale_mlp, gate_mlp = table.unbind(dim=2)
    y = F.rms_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale_attention) + shift_attention
    x = x + self.attn1(y, pe=pe, transformer_options=transformer_options, **masked) * gate_attention
    x = x + self.attn2(x, context=context, mask=attention_mask, transformer_options=transformer_options)
    y = F.rms_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale_mlp) + shift_mlp
    return x + self.ff(y) * gate_mlp


def gradients(task: Trained, *, checkpointing: bool) -> tuple[float, dict[str, Tensor]]:
    with task.ready(checkpointing=checkpointing):
        return float(task.loss(0).detach()), task.differentiate()


@pytest.fixture(scope="module")
def reference() -> tuple[float, dict[str, Tensor]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ltxv.BasicTransformerBlock, "forward", out_of_place)
        task = Trained("ltxv", variant="full", dtype=torch.float32)
        return gradients(task, checkpointing=False)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_a_block_without_changes_in_place(checkpointing: bool, reference: Any) -> None:
    loss, expected = reference
    found_loss, found = gradients(Trained("ltxv", variant="full", dtype=torch.float32), checkpointing=checkpointing)
    assert found_loss == pytest.approx(loss, rel=1e-5)
    for key, gradient in expected.items():
        assert gradient.norm() > 0, key
        assert (found[key] - gradient).norm() < 1e-4 * gradient.norm(), key


@pytest.mark.parametrize("variant", ["triu", "full", "qr"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_of_ltxv_is_that_of_float64_finite_differences(checkpointing: bool, variant: str) -> None:
    test_frozen_linear.test_gradient_is_that_of_float64_finite_differences("ltxv", checkpointing, variant)


def test_what_is_kept_between_the_two_runs_changes_no_bit_of_ltxv() -> None:
    test_frozen_linear.test_what_is_kept_between_the_two_runs_changes_no_bit("ltxv", "full")


class Careless(torch.nn.Module):
    """Functions at every level, with positional and named arguments, and a method, save what is changed later."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x.addcmul_(F.rms_norm(x, (4,)), self.linear(x))
        y = x * 2
        x.add_(torch.square(input=y)).add_(y.cos())
        y.add_(1)
        y.addcmul_(y, self.linear(y)).add_(1)
        y *= x.tanh()
        return x.mul_(torch.sigmoid(y))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_whatever_function_saves_what_is_changed_later_has_a_copy(checkpointing: bool) -> None:
    with trainable_context():
        network = torch.nn.Sequential(torch.nn.Sequential(Careless(), Careless(), Careless()))
        x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
        parameters = [x, *network.double().parameters()]
        with torch.autograd.graph.allow_mutation_on_saved_tensors():
            expected = torch.autograd.grad(network(x * 1).sum(), parameters)
        protection, model = InplaceGuard(), torch.nn.ModuleDict({"diffusion_model": network})
        targets = [f"diffusion_model.0.{index}.linear" for index in range(3)]
        with (
            checkpointed_blocks(network, protection, ActivationCache(0), enabled=checkpointing),
            protected_inputs(model, targets, protection),
        ):
            protection.decide(network, lambda: network(x * 1))
            found = torch.autograd.grad(network(x * 1).sum(), parameters)
    for gradient, wanted in zip(found, expected, strict=True):
        assert torch.allclose(gradient, wanted, rtol=1e-12)


class Gate(torch.nn.Module):
    """A block."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.linear(x))


class Injecting(torch.nn.Module):
    """Between its blocks, writes into what a norm, a block, a layer and a function have just had views of."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = torch.nn.LayerNorm(4), torch.nn.Linear(4, 4)
        self.blocks = torch.nn.ModuleList([Gate(), Gate()])

    def forward(self, x: Tensor) -> Tensor:
        kept = x.new_empty(2, *x.shape)
        for block in self.blocks:
            x = block(x)
            x[1:] = x[1:] + self.norm(x[1:])
            kept[0] = x
            kept[1] = self.linear(kept[0])
            y = block(x[:2])
            x[:2] = x[:2] * 2 + y
            kept[1] = F.scaled_dot_product_attention(kept[0], kept[1], kept[1])
            x = x + kept[1].sin()
        return x


@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_is_changed_between_blocks_is_copied_for_whoever_saved_it(checkpointing: bool) -> None:
    """Held against finite differences: torch's `allow_mutation_on_saved_tensors` is wrong here, without an error."""
    torch.manual_seed(0)
    with trainable_context():
        network = Injecting().double()
        x, direction = torch.randn(2, 3, 4, dtype=torch.float64)
        with torch.no_grad():
            ahead, behind = (network(x + step * direction).sum() for step in (1e-6, -1e-6))
        protection, model = InplaceGuard(), torch.nn.ModuleDict({"diffusion_model": network})
        with (
            checkpointed_blocks(network, protection, ActivationCache(0), enabled=checkpointing),
            protected_inputs(model, ["diffusion_model.linear"], protection),
        ):
            protection.decide(network, lambda: network(x.clone()))
            leaf = x.clone().requires_grad_()
            (found,) = torch.autograd.grad(network(leaf * 1).sum(), leaf)
        assert protection.copies((Injecting, "norm"))
        assert F.scaled_dot_product_attention in protection.functions(Injecting)
        assert not protection.copies((Gate, "linear"))
    assert float((found * direction).sum()) == pytest.approx(float(ahead - behind) / 2e-6, rel=1e-7)


@every_network
def test_every_model_trains_and_only_blocks_in_need_copy_for_functions(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps with and without checkpointing: the same bits, every layer trained, the model as before."""
    decided: list[dict[str, frozenset[Any]]] = []
    original = InplaceGuard.decide

    def decide(protection: InplaceGuard, network: torch.nn.Module, run: Any) -> None:
        original(protection, network, run)
        found = {kind.__name__: protection.functions(kind) for kind in map(type, (network, *blocks(network)))}
        decided.append({kind: functions for kind, functions in found.items() if functions})

    monkeypatch.setattr(loop.InplaceGuard, "decide", decide)
    patcher = tiny_models.build(name)
    before, (latent, caption) = snapshot(patcher), tiny_models.example(name, patcher)
    plain, checkpointed = (
        train(patcher, [latent], [caption], steps=2, gradient_checkpointing=checkpointing)
        for checkpointing in (False, True)
    )
    assert_unchanged(patcher, before)
    if name in VIEWS:
        assert plain.losses == pytest.approx(checkpointed.losses, rel=1e-6)
        assert difference(plain.adapter, checkpointed.adapter) < 1e-5
    else:
        assert plain.losses == checkpointed.losses
        assert_same(plain.adapter, checkpointed.adapter)
    idle = [path for path, term in plain.adapter.terms() if not term.delta_r.any()]
    assert all(UNUSED[name].search(path) for path in idle)
    assert decided == [FUNCTIONS.get(name, {})] * 2


# Whose first block changes a view in place: without checkpointing, autograd adds up the gradients in another order.
VIEWS = ("ltxav", "ltx23")


def difference(first: QRLoRA, second: QRLoRA) -> float:
    """Relative, over all layers."""
    one, two = (torch.cat([term.delta_r.flatten() for _, term in adapter.terms()]) for adapter in (first, second))
    return float((one - two).norm() / two.norm())


# Layers whose output the host's model throws away, or that choose where there is one to choose from.
UNUSED = {
    "svd": re.compile(r"attn2\.to_[qk]|time_stack\.\d\.attn1\.to_[qk]"),  # one token of what was seen, one frame
    "sd3": re.compile(r"transformer_blocks\.1\.attn\.add_q_proj"),
    "sd35": re.compile(r"transformer_blocks\.1\.attn\.add_q_proj"),
    **dict.fromkeys(
        ("hunyuan_video15", "hunyuan_video15_sr"),
        re.compile(r"double_blocks\.1\.txt_(attn_proj|mlp\.)"),
    ),
    "lens": re.compile(r"transformer_blocks\.1\.(txt_mlp\.|attn\.to_add_out)"),
    **dict.fromkeys(
        ("qwen_image", "qwen_image_edit", "qwen_image_layered", "mage_flow"),
        re.compile(r"transformer_blocks\.1\.(txt_mlp\.|attn\.(add_q_proj|to_add_out))"),
    ),
    "joyimage": re.compile(r"double_blocks\.1\.(txt_mlp\.|attn\.txt_attn_proj)"),
    **dict.fromkeys(("pixeldit", "pid"), re.compile(r"patch_blocks\.1\.(mlp_y\.|attn\.proj_y)")),
    # For a reference picture, which there is not.
    **dict.fromkeys(("omnigen2", "boogu"), re.compile(r"ref_image_refiner\.")),
    "z_image_omni": re.compile(r"siglip_refiner\."),
}


def test_a_trained_ltxv_predicts_alike_live_and_patched() -> None:
    patcher = tiny_models.build("ltxv")
    latent, caption = tiny_models.example("ltxv", patcher)
    result = train(patcher, [latent], [caption], steps=30, gradient_checkpointing=True)
    assert sum(result.losses[-10:]) < 0.9 * sum(result.losses[:10])
    inputs = tiny_models.sample_inputs("ltxv", patcher)
    base = tiny_models.predict(patcher, inputs)
    live = tiny_models.predict(merged(patcher, (result.adapter, 1.0)), inputs)
    patched = tiny_models.predict(merged(patcher, (result.adapter, 1.0), apply="patch"), inputs)
    assert (live - base).norm() > 1e-3 * base.norm()
    assert relative_error(live, patched, base) < 1e-4
