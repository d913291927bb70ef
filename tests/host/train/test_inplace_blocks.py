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
from devtools import tiny_models

from ...support.adapters import merged, relative_error
from ...support.models import every_network
from ...support.training_task import assert_same, assert_unchanged, snapshot, train
from . import test_frozen_linear
from .test_frozen_linear import Trained

# What the block calls by itself and then overwrites the input of, by model; all others need nothing of this kind.
FUNCTIONS = {"ltxv": {"BasicTransformerBlock": {F.rms_norm}}}


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


@every_network
def test_every_model_trains_and_only_blocks_in_need_copy_for_functions(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps with and without checkpointing: the same bits, every layer trained, the model as before."""
    decided: list[dict[str, frozenset[Any]]] = []
    original = InplaceGuard.decide

    def decide(protection: InplaceGuard, network: torch.nn.Module, run: Any) -> None:
        original(protection, network, run)
        found = {kind.__name__: protection.functions(kind) for kind in map(type, blocks(network))}
        decided.append({kind: functions for kind, functions in found.items() if functions})

    monkeypatch.setattr(loop.InplaceGuard, "decide", decide)
    patcher = tiny_models.build(name)
    before, (latent, caption) = snapshot(patcher), tiny_models.example(name, patcher)
    plain, checkpointed = (
        train(patcher, [latent], [caption], steps=2, gradient_checkpointing=checkpointing)
        for checkpointing in (False, True)
    )
    assert_unchanged(patcher, before)
    assert plain.losses == checkpointed.losses
    assert_same(plain.adapter, checkpointed.adapter)
    idle = [path for path, term in plain.adapter.terms() if not term.delta_r.any()]
    assert all(UNUSED[name].search(path) for path in idle)
    assert decided == [FUNCTIONS.get(name, {})] * 2


# Layers whose output the host's model throws away, or that choose where there is one to choose from.
UNUSED = {
    "svd": re.compile(r"attn2\.to_[qk]|time_stack\.\d\.attn1\.to_[qk]"),  # one token of what was seen, one frame
    "sd3": re.compile(r"transformer_blocks\.1\.attn\.add_q_proj"),
    "sd35": re.compile(r"transformer_blocks\.1\.attn\.add_q_proj"),
    "qwen_image": re.compile(r"transformer_blocks\.1\.(txt_mlp\.|attn\.(add_q_proj|to_add_out))"),
    "omnigen2": re.compile(r"ref_image_refiner\."),  # for a reference picture, which there is not
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
