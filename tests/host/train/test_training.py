"""Training on real host models: the objective, the data, and a base model that stays bit-identical."""

from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.ops
import pytest
import torch
from torch import Tensor

from comfyui_qr_lora.nodes.host.model.key_map import KeyMap, Target
from comfyui_qr_lora.nodes.host.model.weights import base_weight, fingerprint
from comfyui_qr_lora.nodes.host.train.dataset import BatchOrder, collect_examples
from comfyui_qr_lora.nodes.host.train.graph.differentiable_ops import differentiable_operators
from comfyui_qr_lora.nodes.host.train.graph.inplace_guard import InplaceGuard
from comfyui_qr_lora.nodes.host.train.graph.modules import aliased_parameters, trainable_context
from comfyui_qr_lora.nodes.host.train.graph.training_mode import training_mode
from comfyui_qr_lora.nodes.host.train.objective import encode_conditioning, objective_loss, sample_sigmas
from comfyui_qr_lora.nodes.host.train.settings import check_settings
from comfyui_qr_lora.nodes.train import Train
from comfyui_qr_lora.qrlora_core import TargetError, TrainingError
from devtools import tiny_models

from ...support.adapters import merged, random_adapter
from ...support.training_task import SETTINGS, assert_unchanged, caption, latent, snapshot, train
from .test_frozen_linear import Trained

NEXT_TO_NOTHING = 1e-30  # a rate at which a training leaves the model as it is


@pytest.mark.parametrize("variant", ["triu", "full", "lora"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_loss_falls_and_base_stays(model: Any, variant: str, dtype: str) -> None:
    before, inputs = snapshot(model), tiny_models.sample_inputs("sd3", model)
    base = tiny_models.predict(model, inputs)
    result = train(model, variant=variant, training_dtype=dtype, steps=40)
    assert torch.equal(tiny_models.predict(model, inputs), base)
    assert sum(result.losses[-10:]) < 0.9 * sum(result.losses[:10])
    assert_unchanged(model, before)
    for _, term in result.adapter.terms():
        assert variant != "triu" or (term.delta_r.tril(-1) == 0).all()
        assert term.q.dtype == term.delta_r.dtype == torch.float32


@pytest.mark.parametrize("storage", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_low_precision_base_stays_bit_identical(storage: torch.dtype) -> None:
    model = tiny_models.build("sd3", dtype=storage, compute_dtype=torch.float32)
    before = snapshot(model)
    result = train(model, steps=3)
    assert_unchanged(model, before)
    assert any(term.delta_r.abs().max() > 0 for _, term in result.adapter.terms())


def test_same_seed_same_adapter_and_checkpointing_changes_nothing(model: Any) -> None:
    first, second = train(model, seed=3), train(model, seed=3)
    checkpointed = train(model, seed=3, gradient_checkpointing=True)
    other = train(model, seed=4)
    for (_, a), (_, b), (_, c) in zip(
        first.adapter.terms(), second.adapter.terms(), checkpointed.adapter.terms(), strict=True
    ):
        assert torch.equal(a.delta_r, b.delta_r)
        assert torch.allclose(a.delta_r, c.delta_r, atol=1e-6)
    assert first.losses == second.losses
    assert first.losses != other.losses


def test_global_random_state_is_untouched(model: Any) -> None:
    state = torch.get_rng_state()
    train(model, steps=2)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("apply", ["live", "patch"])
def test_the_adapter_predicts_what_training_saw(model: Any, apply: str) -> None:
    """The loss of the merged model on the data of the next step is the loss that this step of the training sees."""
    done, seed = 5, 3
    adapter = train(model, steps=done, seed=seed).adapter
    seen, alone, found = (
        train(trained, steps=done + 1, seed=seed, learning_rate=rate).losses[done]
        for trained, rate in (
            (model, SETTINGS.learning_rate),
            (model, NEXT_TO_NOTHING),
            (merged(model, (adapter, 1.0), apply=apply), NEXT_TO_NOTHING),
        )
    )
    effect = abs(seen - alone)
    assert effect > 1e-2 * alone
    assert abs(found - seen) < 1e-4 * effect


@pytest.mark.parametrize("name", ["sd3", "flux", "sd15"])
def test_gradient_equals_autograd_of_the_patched_weight(name: str) -> None:
    """d loss / d dR through our branches against autograd through ``W + scaling Q dR`` itself, in every slice.

    Layer by layer, where finite differences (test_frozen_linear) see all at once.
    """
    task = Trained(name, variant="triu", dtype=torch.float32)
    with task.ready(checkpointing=True):
        found = task.loss(0)
        found.backward()
    model = task.patcher.model
    with trainable_context(), training_mode(), differentiable_operators():
        plain = {path: delta.delta_r.detach().clone().requires_grad_() for path, delta in task.deltas.items()}
        weights: dict[str, Tensor] = {}
        for path, delta in task.deltas.items():
            target = task.targets[path]
            base = weights.get(target.key, model.get_parameter(target.key).detach().clone())
            start, length = target.rows or (0, base.shape[0])
            update = delta.factors.scaling * delta.q @ plain[path]
            weights[target.key] = base + torch.nn.functional.pad(update, (0, 0, start, base.shape[0] - start - length))
        with aliased_parameters(model), torch.autograd.graph.allow_mutation_on_saved_tensors():
            replaced = {f"model.{key}": weight for key, weight in weights.items()}
            loss = torch.func.functional_call(_Apply(model, task.batches[0]), replaced, ()).double().square().mean()
            gradients = torch.autograd.grad(loss, list(plain.values()), allow_unused=True)
            wanted = dict(zip(plain, gradients, strict=True))
    assert torch.allclose(found.detach(), loss.detach(), rtol=1e-4)
    for path, delta in task.deltas.items():
        if wanted[path] is not None:
            assert (delta.delta_r.grad - wanted[path].triu()).norm() < 1e-3 * wanted[path].norm() + 1e-9, path


class _ChangesAnOutput(torch.nn.Module):
    """Overwrites what `exp` saved: its result, which no copy of an input saves."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.exp()
        z = y.add(1)
        y.add_(1)
        return z


class _ChangesAFactor(torch.nn.Module):
    """Overwrites what a function saved that itself changes its first input: that one may not be a copy."""

    def forward(self, x: Tensor) -> Tensor:
        x, gate = x.clone(), x.tanh()
        x.mul_(gate)
        gate.add_(1)
        return x


@pytest.mark.parametrize("kind", [_ChangesAnOutput, _ChangesAFactor])
def test_a_model_that_cannot_be_differentiated_says_so(kind: Any) -> None:
    """An error, never a wrong gradient."""
    block = kind()
    block.inner = torch.nn.Linear(1, 1)  # a module without any is no block
    network = torch.nn.Sequential(torch.nn.Sequential(block))
    with trainable_context(), pytest.raises(TrainingError, match=f"{kind.__name__} overwrites"):
        InplaceGuard().decide(network, lambda: network(torch.ones(3)))


class _Apply(torch.nn.Module):
    def __init__(self, model: Any, inputs: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.inputs = model, inputs

    def forward(self) -> Tensor:
        return self.model.apply_model(**self.inputs, transformer_options={})


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("sd3", lambda x, noise, sigma, output: output - (noise - x)),  # velocity of the flow
        ("sd15", lambda x, noise, sigma, output: output - noise),  # epsilon
    ],
)
def test_objective_is_the_models_own(name: str, formula: Any) -> None:
    """Against the textbook: the network's raw output is caught on its way, and compared with its target."""
    patcher = tiny_models.build(name)
    seen: list[Tensor] = []
    handle = patcher.model.diffusion_model.register_forward_hook(lambda _m, _i, output: seen.append(output))
    generator = torch.Generator().manual_seed(0)
    shape = tiny_models.sample_inputs(name, patcher)["x"].shape
    clean, noise = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    sigma = torch.tensor([0.4])
    entry = {"cross_attn": caption(0)[0][0], "pooled_output": caption(0)[0][1]["pooled_output"], "model_conds": {}}
    cond = encode_conditioning(patcher.model, entry, clean, 0)
    comfy.model_management.load_models_gpu([patcher])
    loss = objective_loss(patcher.model, clean, [cond], sigma, noise, {})
    handle.remove()
    expected = formula(clean, noise, sigma, seen[0].float()).square().mean()
    assert torch.allclose(loss, expected, rtol=1e-4)


def test_v_prediction_objective() -> None:
    """v = alpha eps - sigma_vp x0, with alpha = 1 / sqrt(1 + sigma^2) (Salimans and Ho, 2022)."""

    class VSampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION):
        pass

    class Model:
        model_sampling = VSampling()

        def apply_model(self, x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
            return self.model_sampling.calculate_denoised(sigma, output, x)

    generator = torch.Generator().manual_seed(0)
    clean, noise, output = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(3))
    sigma = torch.tensor([0.7, 3.0])
    alpha = (1 / (1 + sigma**2).sqrt()).view(-1, 1, 1, 1)
    target = alpha * noise - alpha * sigma.view(-1, 1, 1, 1) * clean
    loss = objective_loss(Model(), clean, [{}, {}], sigma, noise, {})
    assert torch.allclose(loss, (output - target).square().mean(), rtol=1e-4)


def test_flow_sigmas_are_uniform() -> None:
    sigmas = sample_sigmas(tiny_models.build("sd3").model.model_sampling, 20000, torch.Generator().manual_seed(0))
    histogram = torch.histc(sigmas, bins=10, min=0, max=1) / len(sigmas)
    assert (histogram - 0.1).abs().max() < 0.01
    assert sigmas.min() >= 1e-3


def test_many_images_of_two_sizes_and_captions_of_two_lengths(model: Any) -> None:
    latents = [latent(0), latent(1, size=12), latent(2, batch=2)]
    captions = [caption(0), caption(1, length=20), caption(2), caption(3, length=20)]
    result = train(model, latents, captions, batch_size=2, grad_accumulation=2, steps=4)
    assert len(result.losses) == 4
    assert all(loss > 0 for loss in result.losses)


def test_batches_hold_one_shape_and_use_every_image_equally() -> None:
    shapes = [torch.Size([1, 16, 8, 8])] * 3 + [torch.Size([1, 16, 8, 12])] * 2
    order = BatchOrder(shapes, 2, torch.Generator().manual_seed(0))
    counts = [0] * 5
    for _ in range(200):
        batch = order.next()
        assert len({shapes[index] for index in batch}) == 1
        for index in batch:
            counts[index] += 1
    assert max(counts) - min(counts) < 0.2 * max(counts)


def test_no_image(model: Any) -> None:
    with pytest.raises(TrainingError, match="at least one image"):
        collect_examples([], [caption(0)])
    with pytest.raises(TrainingError, match="at least one image"):
        collect_examples([{"samples": torch.zeros(0, 16, 8, 8)}], [caption(0)])


def test_captions_that_do_not_match_the_images() -> None:
    with pytest.raises(TrainingError, match=r"one per image \(3\), found 2"):
        collect_examples([latent(0, batch=3)], [caption(0), caption(1)])


def test_one_caption_serves_all_images() -> None:
    examples = collect_examples([latent(0, batch=3)], [caption(0)])
    assert len(examples) == 3
    assert all(torch.equal(example.captions[0][0], examples[0].captions[0][0]) for example in examples)


def test_targets_that_match_nothing(model: Any) -> None:
    with pytest.raises(TargetError, match=r"transformer_blocks\.N\.attn\.to_q"):
        train(model, targets="no_such_layer")


def test_rank_above_a_layers_size_keeps_the_scaling_and_is_counted(model: Any) -> None:
    result = train(model, rank=200, alpha=100.0, steps=1)
    assert result.narrow_layers > 0
    for _, term in result.adapter.terms():
        assert term.rank == min(200, *term.delta_weight().shape)
        assert term.scaling == pytest.approx(0.5)


def test_numbers_that_cannot_work(model: Any) -> None:
    for name in ("steps", "rank", "batch_size", "grad_accumulation"):
        with pytest.raises(TrainingError, match=name):
            check_settings(replace(SETTINGS, **{name: 0}))


def test_interrupt_leaves_the_model_clean(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before, calls = snapshot(model), []

    def interrupt_later() -> None:
        calls.append(1)
        if len(calls) == 30:
            raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", interrupt_later)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(model, steps=100, gradient_checkpointing=True)
    assert_unchanged(model, before)


def test_diverging_training_stops_with_a_clear_error(model: Any) -> None:
    before = snapshot(model)
    with pytest.raises(TrainingError, match="lower learning_rate"):
        train(model, learning_rate=1e30)
    assert_unchanged(model, before)


def test_training_on_a_live_model(model: Any) -> None:
    first = train(model, steps=3, seed=1).adapter
    second = train(merged(model, (first, 1.0)), steps=3, seed=2)
    assert len(second.losses) == 3
    assert {term.basis_id for _, term in first.terms()} == {term.basis_id for _, term in second.adapter.terms()}


def test_the_node_takes_lists_and_gives_a_loss_map(model: Any) -> None:
    options = {name: [value] for name, value in vars(SETTINGS).items()}
    output = Train.execute(model=[model], latents=[latent(0), latent(1)], positive=[caption(0), caption(1)], **options)
    adapter, loss_map, view = output.args
    assert view.shape[0] == 1
    assert view.shape[-1] == 3
    assert len(loss_map["loss"]) == SETTINGS.steps
    assert adapter.metadata["qr_lora.base_model"] == "SD3"
    options |= {"targets": ["custom"], "custom_targets": ["attn.to_v\n*ff.net.2"]}
    chosen = Train.execute(model=[model], latents=[latent(0)], positive=[caption(0)], **options).args[0]
    assert {path.split(".", 3)[-1] for path in chosen.layers} == {"attn.to_v", "ff.net.2"}


def test_base_weights_are_read_without_patches_and_dequantized() -> None:
    """Under a loaded stock LoRA, and from scaled float8: what comes back is the base."""
    patcher = tiny_models.build("sd3")
    targets = KeyMap(patcher.model).linear(patcher.model)
    before = {path: base_weight(patcher, target) for path, target in targets.items()}
    marks = fingerprint(patcher, targets)
    patched = merged(patcher, (random_adapter(patcher), 1.0), apply="patch")
    comfy.model_management.load_models_gpu([patched])
    path = "transformer.transformer_blocks.0.attn.to_k"
    changed = patcher.model.get_parameter(targets[path].key)
    assert not torch.equal(targets[path].of(changed), before[path])
    assert all(torch.equal(base_weight(patched, target), before[name]) for name, target in targets.items())
    assert fingerprint(patched, targets) == marks
    comfy.model_management.unload_all_models()


@pytest.mark.skipif(
    not hasattr(comfy.ops, "scaled_fp8_ops"),
    reason="this ComfyUI keeps scaled float8 in a tensor of its own kind, as in test_quantized_bases",
)
def test_scaled_float8_is_dequantized_by_its_scale() -> None:
    linear = comfy.ops.scaled_fp8_ops().Linear(8, 6, bias=False, dtype=torch.float32)
    plain = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    linear.weight = torch.nn.Parameter((plain / 0.25).to(torch.float8_e4m3fn), requires_grad=False)
    linear.scale_weight = torch.nn.Parameter(torch.tensor(0.25), requires_grad=False)

    class Patcher:
        model, backup = torch.nn.ModuleDict({"layer": linear}), {}

    found = base_weight(Patcher(), Target("layer.weight", (2, 8), (3, 2)))
    assert torch.equal(found, linear.weight.float()[3:5] * 0.25)
    assert (found - plain[3:5]).abs().max() < 0.1 * plain.abs().max()
