"""Gradients and memory of training through the host's layers: against finite differences, and by watching tensors."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

import comfy.quant_ops
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from comfyui_qr_lora.nodes.host.model.kept import nothing_kept
from comfyui_qr_lora.nodes.host.model.key_map import KeyMap
from comfyui_qr_lora.nodes.host.model.weights import base_weight
from comfyui_qr_lora.nodes.host.train import loop
from comfyui_qr_lora.nodes.host.train.graph.checkpointing import ActivationCache, checkpointed_blocks
from comfyui_qr_lora.nodes.host.train.graph.differentiable_ops import differentiable_operators
from comfyui_qr_lora.nodes.host.train.graph.frozen_linear import attached
from comfyui_qr_lora.nodes.host.train.graph.inplace_guard import InplaceGuard, protected_inputs
from comfyui_qr_lora.nodes.host.train.graph.modules import aliased_parameters, trainable_context
from comfyui_qr_lora.nodes.host.train.graph.training_mode import training_mode
from comfyui_qr_lora.nodes.host.train.samples import SampleSettings
from comfyui_qr_lora.nodes.host.train.settings import RunSettings
from comfyui_qr_lora.qrlora_core import TrainableDelta, Trainer, decompose, select
from devtools import tiny_models

from ...support.models import NETWORKS as OWN_NETWORKS
from ...support.models import models
from ...support.training_task import assert_same, train

STEP = 2.0**-6
NETWORKS = ["sd3", "flux", "sd15", "hunyuan_image"]
FUSED = ["cosmos_predict2", "anima"]  # newer hosts compute their norms with operators that have no gradient


class Trained:
    """A tiny model with branches on its paper targets, and a loss over two batches, as accumulation adds them."""

    @trainable_context()
    def __init__(self, name: str, *, variant: str, dtype: torch.dtype) -> None:
        self.patcher = tiny_models.build(name, dtype=dtype)
        self.targets = KeyMap(self.patcher.model).linear(self.patcher.model)
        paths = select(self.targets, "paper")
        generator = torch.Generator().manual_seed(3)
        self.deltas = {}
        for path in paths:
            weight = base_weight(self.patcher, self.targets[path])
            factors = decompose(weight, min(4, *weight.shape), alpha=6.0)
            delta = TrainableDelta(factors, variant=variant, compute_dtype=dtype)
            for parameter in delta.parameters():
                parameter.data.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
            if variant == "triu":
                delta.delta_r.data.triu_()
            self.deltas[path] = delta
        with _AnyDtype():  # some models prepare the text
            batches = [tiny_models.sample_inputs(name, self.patcher, seed=seed) for seed in (1, 2)]
        self.batches = [{key: _cast(value, dtype) for key, value in batch.items()} for batch in batches]

    @contextlib.contextmanager
    def ready(self, *, checkpointing: bool, budget: float = 1e9) -> Iterator[None]:
        model, protection, outputs = self.patcher.model, InplaceGuard(), ActivationCache(budget)
        members = {path: (self.targets[path], delta) for path, delta in self.deltas.items()}
        with (
            trainable_context(),
            nothing_kept(model),
            training_mode(),
            _AnyDtype(),
            differentiable_operators(),
            aliased_parameters(model),
            checkpointed_blocks(model.diffusion_model, protection, outputs, enabled=checkpointing),
            attached(model, members, outputs),
            protected_inputs(model, {self.targets[path].module for path in self.deltas}, protection),
        ):
            protection.decide(model.diffusion_model, lambda: self.loss(0))
            yield

    def loss(self, batch: int) -> Tensor:
        inputs = self.batches[batch]
        output = self.patcher.model.apply_model(**inputs, transformer_options=tiny_models.call_options(inputs))
        return output.double().square().mean()

    def differentiate(self) -> dict[str, Tensor]:
        for batch in (0, 1):
            (self.loss(batch) / 2).backward()
        gradients = {}
        for path, delta in self.deltas.items():
            for name, parameter in delta.named_parameters():
                gradients[f"{path}.{name}"] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = None
        return gradients


class _AnyDtype(TorchFunctionMode):
    """Within the context, what the host computes in float32 at most takes float64: its fused operators, and a norm."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if str(func).startswith("comfy_kitchen.") and args[0].dtype is torch.float64:
            func = getattr(comfy.quant_ops.ck.backends.eager, str(func).split(".")[1])
        if func is torch.linalg.vector_norm and args[0].dtype is torch.float64:
            kwargs = kwargs | {"dtype": torch.float64}
        return func(*args, **kwargs)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.clone().to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value


# Without checkpointing, those of the other two variants are the same bits: the test after the next two.
@pytest.mark.parametrize(("checkpointing", "variant"), [(True, "triu"), (True, "full"), (True, "qr"), (False, "full")])
@pytest.mark.parametrize("name", models([*NETWORKS, *FUSED]))
def test_gradient_is_that_of_float64_finite_differences(name: str, checkpointing: bool, variant: str) -> None:
    assert_gradient_is_slope(name, checkpointing, variant, STEP)


def assert_gradient_is_slope(name: str, checkpointing: bool, variant: str, step: float) -> None:
    """Along a direction in all layers at once, with slices, accumulation and checkpointing."""
    task = Trained(name, variant=variant, dtype=torch.float64)
    with task.ready(checkpointing=checkpointing):
        gradients = task.differentiate()
        directions, found = direction(gradients)
        expected = slope(task, directions, step)
    assert abs(expected) > 1e-3
    assert found == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize("name", models(name for name in OWN_NETWORKS if name not in [*NETWORKS, *FUSED]))
def test_gradient_of_every_other_model_is_that_of_float64_finite_differences(name: str) -> None:
    assert_gradient_is_slope(name, True, "qr", STEP / 8)  # the loss of some bends more


def direction(gradients: dict[str, Tensor]) -> tuple[dict[str, Tensor], float]:
    """A direction of length one in all parameters at once, and the slope along it that the gradients say.

    Near the gradient's own, element by element another one: a large slope, in which all take part.
    """
    generator = torch.Generator().manual_seed(0)
    weights = {key: 0.2 + 1.6 * torch.rand(value.shape, generator=generator) for key, value in gradients.items()}
    length = torch.cat([value.flatten() for value in gradients.values()]).norm()
    directions = {key: value * weights[key] / length for key, value in gradients.items()}
    return directions, sum(float((gradients[key].double() * directions[key].double()).sum()) for key in gradients)


def slope(task: Trained, directions: dict[str, Tensor], step: float = STEP) -> float:
    """The slope of the loss by finite differences, in float64."""
    near, far = (
        (_moved(task, directions, length) - _moved(task, directions, -length)) / (2 * length)
        for length in (step, 2 * step)
    )
    return (4 * near - far) / 3  # Richardson: a long step, since the host rounds some values to float32


def _moved(task: Trained, directions: dict[str, Tensor], step: float) -> float:
    """The loss with all parameters moved, in float64."""
    originals = {}
    for path, delta in task.deltas.items():
        for name, parameter in delta.named_parameters():
            originals[path, name] = parameter.data
            parameter.data = parameter.data.double() + step * directions[f"{path}.{name}"].double()
    with torch.no_grad():
        loss = sum(float(task.loss(batch)) / 2 for batch in (0, 1))
    for (path, name), data in originals.items():
        dict(task.deltas[path].named_parameters())[name].data = data
    return loss


@pytest.mark.parametrize("variant", ["triu", "qr"])
@pytest.mark.parametrize("name", models([*NETWORKS, "z_image", "qwen_image", "wan", *FUSED]))
def test_what_is_kept_between_the_two_runs_changes_no_bit(name: str, variant: str) -> None:
    task = Trained(name, variant=variant, dtype=torch.float32)
    results = []
    for checkpointing, budget in ((False, 0), (True, 0), (True, 3e5), (True, 1e9)):
        with task.ready(checkpointing=checkpointing, budget=budget):
            results.append(task.differentiate())
    assert any(gradient.any() for gradient in results[0].values())
    for other in results[1:]:
        for key, gradient in results[0].items():
            assert torch.equal(other[key], gradient), key


def test_outputs_are_really_kept_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    task, calls = Trained("flux", variant="triu", dtype=torch.float32), []
    network = task.patcher.model.diffusion_model
    module, last = network.double_blocks[0].img_mlp[0], network.single_blocks[-1].linear1
    original = type(module).forward
    monkeypatch.setattr(type(module), "forward", lambda self, x: (calls.append(self), original(self, x))[1])
    counts = {}
    for budget in (0, 1e9):
        with task.ready(checkpointing=True, budget=budget):
            calls.clear()
            task.loss(0).backward()
            counts[budget] = calls.count(module)
            assert calls.count(last) == 1  # backward begins with the last block: it never runs twice
    assert counts == {0: 2, 1e9: 1}


def test_a_budget_for_one_step_serves_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples in between, and outputs that no backward asks for (of Chroma's modulations), use none of it up."""
    model = tiny_models.build("chroma")
    latent, caption = tiny_models.example("chroma", model)
    kind, calls = type(model.model.diffusion_model.img_in), [0]
    forward, step = kind.forward, Trainer.step
    counts: dict[float, list[int]] = {}

    def counted(layer: Any, x: Tensor) -> Tensor:
        calls[0] += 1
        return forward(layer, x)

    def counting(trainer: Trainer, losses: Any) -> float:
        before, loss = calls[0], step(trainer, losses)
        counts[budget].append(calls[0] - before)
        return loss

    monkeypatch.setattr(kind, "forward", counted)
    monkeypatch.setattr(Trainer, "step", counting)
    monkeypatch.setattr(loop, "ActivationCache", lambda _: ActivationCache(budget))
    run = RunSettings(samples=SampleSettings(every=1, steps=2))
    for budget in (0, 5e5, 1e9):
        counts[budget] = []
        train(model, [latent], [caption], steps=4, gradient_checkpointing=True, run=run)
    assert all(own == own[:1] * 4 for own in counts.values()), counts
    assert counts[0] > counts[5e5] > counts[1e9]


@trainable_context()
def test_an_output_that_the_block_changes_in_place_is_computed_again() -> None:
    outputs, layer = ActivationCache(1e9), torch.nn.Linear(2, 2)
    kept: dict[Any, Any] = {}
    given = torch.ones(3, 2)
    with outputs.run(kept, again=False):
        outputs.offer(layer, given)
    given.add_(1)
    with outputs.run(kept, again=True):
        assert outputs.take(layer) is None
    kept = {}
    with outputs.run(kept, again=False):  # never tried again
        outputs.offer(layer, torch.ones(3, 2))
    assert not kept


@trainable_context()
def test_the_budget_is_never_exceeded_and_comes_back() -> None:
    outputs, layer = ActivationCache(100), torch.nn.Linear(2, 2)
    kept: dict[Any, Any] = {}
    values = [torch.full((10,), float(number)) for number in range(4)]  # 40 bytes each
    with outputs.run(kept, again=False):
        for value in values:
            outputs.offer(layer, value)
    assert len(kept[layer]) == 2
    with outputs.run(kept, again=True):
        assert [outputs.take(layer) is not None for _ in values] == [True, True, False, False]
    kept = {}
    with outputs.run(kept, again=False):
        outputs.offer(layer, values[0])
    assert len(kept[layer]) == 1


class Shapes(TorchDispatchMode):
    """Shapes of everything that operations give within the context."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        views = func.is_view or func.overloadpacket is torch.ops.aten.detach
        if not views:
            self.seen |= {tuple(leaf.shape) for leaf in tree_leaves(result) if torch.is_tensor(leaf)}
        return result


@pytest.mark.parametrize("checkpointing", [False, True])
def test_no_gradient_of_a_whole_weight_is_ever_made(checkpointing: bool) -> None:
    """No operation of a step gives anything of the shape of a target's weight, either way round."""
    task = Trained("flux", variant="full", dtype=torch.float32)
    weights = {tuple(task.patcher.model.get_parameter(task.targets[path].key).shape) for path in task.deltas}
    with task.ready(checkpointing=checkpointing), Shapes() as shapes:
        task.loss(0).backward()
    assert shapes.seen
    assert not shapes.seen & {shape for weight in weights for shape in (weight, weight[::-1])}
    assert all(parameter.grad is None for parameter in task.patcher.model.parameters())


@pytest.mark.parametrize("form", ["plain", *tiny_models.quantized_forms()])
def test_cast_weights_do_not_stay_alive_until_backward(form: str) -> None:
    """Float8 and quantized: at the end of the forward, no weight of a linear layer is there in the compute dtype."""
    if form == "plain":
        model = tiny_models.build("sd3", dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    else:
        model = tiny_models.quantized("sd3", form)
    shapes = {tuple(m.weight.shape) for m in model.model.modules() if isinstance(m, torch.nn.Linear)}
    alive: list[int] = []

    def count(*_: Any) -> None:
        if torch.is_grad_enabled():
            gc.collect()
            tensors = [x for x in gc.get_objects() if type(x) is Tensor and x.dtype == torch.float32]
            alive.append(sum(tuple(x.shape) in shapes and x.ndim == 2 and x.grad_fn is None for x in tensors))

    before = sum(type(x) is Tensor and x.dtype == torch.float32 and tuple(x.shape) in shapes for x in gc.get_objects())
    handle = model.model.diffusion_model.register_forward_hook(count)
    try:
        train(model, steps=2, rank=3)  # q and dR of rank 3 have other shapes
    finally:
        handle.remove()
    assert alive
    assert max(alive) <= before


def test_giving_up_what_is_kept_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_models.build("flux")
    inputs = {"latents": [{"samples": torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))}]}
    text = [[torch.randn(1, 12, 96, generator=torch.Generator().manual_seed(2)), {"pooled_output": torch.ones(1, 768)}]]
    kept = train(model, captions=[text], steps=3, gradient_checkpointing=True, **inputs)
    monkeypatch.setattr(loop, "ActivationCache", lambda _: ActivationCache(0))
    assert_same(train(model, captions=[text], steps=3, gradient_checkpointing=True, **inputs).adapter, kept.adapter)
