"""The host's fused operators while training: their gradients against finite differences, and what is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import comfy.quant_ops
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from comfyui_qr_lora.nodes.host.train.graph.differentiable_ops import differentiable_operators
from comfyui_qr_lora.nodes.host.train.graph.modules import trainable_context
from comfyui_qr_lora.qrlora_core import TrainingError
from devtools import tiny_models

from ...support.models import models
from ...support.training_task import train
from .test_frozen_linear import Trained

kitchen = getattr(comfy.quant_ops, "ck", None)
pytestmark = pytest.mark.skipif(kitchen is None, reason="this ComfyUI has no fused operators")
FUSED = pytest.mark.parametrize("name", models(["cosmos_predict2", "anima"]))

HEADS, WIDTH = 2, 8
STEP = 1e-3


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rotations() -> Tensor:
    angles = random(1, 4, 1, WIDTH // 2, seed=9)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([cos, -sin, sin, cos], dim=-1).unflatten(-1, (2, 2))


def queries() -> Tensor:
    return random(1, 4, HEADS, WIDTH, seed=1)


def keys() -> Tensor:
    return random(1, 4, HEADS, WIDTH, seed=2)


def scale(seed: int) -> Tensor:
    return 1 + 0.1 * random(WIDTH, seed=seed)


# By operator: its inputs; those before the bar are what gradients are asked of.
SERVED: dict[str, Callable[[], tuple[list[Tensor], list[Any]]]] = {
    "apply_rope": lambda: ([queries(), keys()], [rotations()]),
    "apply_rope1": lambda: ([queries()], [rotations()]),
    "apply_rope_split_half": lambda: ([queries(), keys()], [rotations()]),
    "apply_rope_split_half1": lambda: ([queries()], [rotations()]),
    "rms_rope": lambda: ([queries(), keys()], [rotations(), scale(3), scale(4), 1e-6]),
    "rms_rope1": lambda: ([queries()], [rotations(), scale(3), 1e-6]),
    "rms_rope_split_half": lambda: ([queries(), keys()], [rotations(), scale(3), scale(4), 1e-6]),
    "rms_rope_split_half1": lambda: ([queries()], [rotations(), scale(3), 1e-6]),
    "adaln": lambda: ([queries(), random(1, 1, 1, WIDTH, seed=5), random(1, 1, 1, WIDTH, seed=6)], [1e-6]),
    "rms_adaln": lambda: ([queries(), random(1, 1, 1, WIDTH, seed=5), random(1, 1, 1, WIDTH, seed=6)], [1e-6]),
    "na3d": lambda: (
        [random(1, 2, 3, 3, HEADS, WIDTH, seed=seed) for seed in (1, 2, 3)],
        [[1, 3, 3], [False] * 3, None],
    ),
    "gemv_awq_w4a16": lambda: (
        [random(3, 64, seed=1)],
        [torch.randint(-128, 127, (5, 32)).to(torch.int8), random(1, 5, seed=2), random(1, 5, seed=3)],
    ),
}
IN_PLACE = [f"{name}_" for name in SERVED if "rope" in name]


def operator(name: str) -> Callable[..., Any]:
    return getattr(torch.ops.comfy_kitchen, name)  # type: ignore[no-any-return]


def listed(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def reduced(results: tuple[Tensor, ...]) -> Tensor:
    """A number in which every entry has a weight of its own."""
    return sum((r * random(*r.shape, seed=7 + n).to(r)).sum() for n, r in enumerate(results))  # type: ignore[return-value]


@pytest.mark.parametrize("name", SERVED)
@trainable_context()
def test_the_gradient_is_that_of_finite_differences_on_the_operator_itself(name: str) -> None:
    given, others = SERVED[name]()
    leaves = [value.clone().requires_grad_() for value in given]
    with differentiable_operators():
        results = listed(operator(name)(*leaves, *others))
        found = torch.autograd.grad(reduced(results), leaves)
    with torch.no_grad():  # here the operator is computed as always
        for result, plain in zip(results, listed(operator(name)(*given, *others)), strict=True):
            assert torch.allclose(result, plain, atol=1e-5)
        for number, (value, gradient) in enumerate(zip(given, found, strict=True)):
            direction = random(*value.shape, seed=20 + number)
            moved = [
                reduced(
                    listed(operator(name)(*given[:number], value + step * direction, *given[number + 1 :], *others))
                ).double()
                for step in (STEP, -STEP)
            ]
            expected = float(moved[0] - moved[1]) / (2 * STEP)
            assert float((gradient * direction).sum()) == pytest.approx(expected, rel=5e-3, abs=5e-3)


@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("views", [False, True])
@trainable_context()
def test_what_changes_its_inputs_changes_them_and_has_the_gradient_of_the_other(name: str, views: bool) -> None:
    given, others = SERVED[name[:-1]]()

    def run(changing: bool) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        leaves = [value.clone().requires_grad_() for value in given]
        if views:  # of one product, as of a fused projection
            whole = torch.cat([leaf * 2 for leaf in leaves], dim=-1)
            inputs = [whole[..., n * WIDTH : (n + 1) * WIDTH] for n in range(len(leaves))]
        else:
            inputs = [leaf * 2 for leaf in leaves]
        if changing:
            assert operator(name)(*inputs, *others) is None
        results = tuple(inputs) if changing else listed(operator(name[:-1])(*inputs, *others))
        return results, list(torch.autograd.grad(reduced(results), leaves))

    with differentiable_operators():
        results, found = run(True)
        plain, expected = run(False)
    for value, wanted in (*zip(results, plain, strict=True), *zip(found, expected, strict=True)):
        assert torch.allclose(value, wanted, atol=1e-6)


@trainable_context()
def test_a_view_that_cannot_be_changed_in_place_is_refused_by_name() -> None:
    with differentiable_operators(), pytest.raises(TrainingError, match=r"apply_rope1_.*in place"):
        operator("apply_rope1_")(random(1, 4, HEADS, 2 * WIDTH).requires_grad_().chunk(2, dim=-1)[0], rotations())


@trainable_context()
def test_what_torch_writes_into_a_given_tensor_has_a_gradient() -> None:
    """As the host's language models add their residual, into what their block was given."""
    first, second = (random(3, 4, seed=seed).requires_grad_() for seed in (1, 2))
    stream, values = first * 2, torch.empty(0)
    with differentiable_operators():
        written = torch.add(stream.exp(), second, out=stream)
        highest, _ = torch.max(stream, dim=-1, out=(values, torch.empty(0, dtype=torch.long)))
        found = torch.autograd.grad(stream.sum() + highest.sum(), [first, second])
    assert written is stream
    assert highest is values
    expected = (first * 2).exp() + second
    assert torch.equal(stream, expected)
    assert torch.equal(highest, expected.amax(dim=-1))
    wanted = torch.autograd.grad(expected.sum() + expected.amax(dim=-1).sum(), [first, second])
    assert all(torch.allclose(gradient, right) for gradient, right in zip(found, wanted, strict=True))


# Operators that round what they are given, or whose formula has another name or other inputs; and such inputs.
REFUSED: dict[str, Callable[[Tensor], list[Any]]] = {
    "quantize_fp8": lambda x: [x, torch.ones(()), 3],
    "quantize_nvfp4": lambda x: [x, torch.ones(()), 0.0, False],
    "quantize_mxfp8": lambda x: [x, False],
    "quantize_int8_tensorwise": lambda x: [x],
    "quantize_int8_rowwise": lambda x: [x],
    "quantize_int8_convrot_weight": lambda x: [x, 16],
    "int8_linear": lambda x: [x, torch.ones(4, 32).to(torch.int8), torch.ones(()), None, 0],
    "int8_attention": lambda x: [*[x[None, None]] * 3, None],
}


@pytest.mark.parametrize("name", REFUSED)
@trainable_context()
def test_what_has_no_gradient_is_refused_by_name(name: str) -> None:
    with differentiable_operators(), pytest.raises(TrainingError, match=rf"comfy_kitchen\.{name}, since"):
        operator(name)(*REFUSED[name](random(32, 32).requires_grad_()))


@trainable_context()
def test_what_the_library_keeps_since_a_picture_was_drawn_changes_no_refusal() -> None:
    """A rotation of a size that nothing else here asks for: made in inference mode, and kept by the library."""
    rotated = operator("quantize_int8_convrot_weight")
    with torch.inference_mode():
        rotated(random(32, 32), 4)
    with differentiable_operators(), pytest.raises(TrainingError, match=r"convrot_weight, since"):
        rotated(random(32, 32).requires_grad_(), 4)


@trainable_context()
def test_what_rounds_without_an_operator_is_refused() -> None:
    """The library's own functions call a back end directly: autograd would lose the gradient without a word."""
    x = random(32, 32).requires_grad_()
    with differentiable_operators():
        with pytest.raises(TrainingError, match=r"rounds a value that needs one to torch\.int8"):
            kitchen.int8_linear(x, torch.ones(4, 32).to(torch.int8), torch.ones(()))
        assert x.argmax(dim=-1).dtype is torch.int64  # counting and sorting are no rounding
        assert (x > 0).dtype is torch.bool
        assert kitchen.int8_linear(x.detach(), torch.ones(4, 32).to(torch.int8), torch.ones(())).isfinite().all()


@trainable_context()
def test_nothing_is_different_outside_of_it() -> None:
    """No formula is registered: the operator is as it was, and within it is the very same where nothing is recorded."""
    given, others = SERVED["apply_rope1"]()
    calls: list[Any] = []

    class Watching(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            calls.append(func)
            return func(*args, **(kwargs or {}))

    def seen(x: Tensor) -> bool:
        calls.clear()
        with Watching(), differentiable_operators():
            operator("apply_rope1")(x, *others)
        return any(str(func).startswith("comfy_kitchen.") for func in calls)

    x = given[0].clone().requires_grad_()
    assert not seen(x)
    assert seen(given[0])
    with torch.no_grad():
        assert seen(x)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        torch.autograd.grad(operator("apply_rope1")(x, *others).sum(), x)


def differentiate(task: Trained, *, checkpointing: bool, apart: bool = False) -> dict[str, Tensor]:
    """Gradients; ``apart``: backward in another thread, as autograd does it on a GPU."""
    with task.ready(checkpointing=checkpointing):
        if not apart:
            return task.differentiate()
        failed: list[BaseException] = []

        def backward(loss: Tensor) -> None:
            try:
                loss.backward()
            except BaseException as error:  # for the thread that waits
                failed.append(error)

        for batch in (0, 1):
            thread = threading.Thread(target=backward, args=(task.loss(batch) / 2,))
            thread.start()
            thread.join()
        assert not failed, failed
        return {
            f"{path}.{name}": torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for path, delta in task.deltas.items()
            for name, parameter in delta.named_parameters()
        }


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert any(gradient.any() for gradient in expected.values())
    for key, gradient in expected.items():
        assert (found[key] - gradient).norm() <= 1e-4 * gradient.norm(), key


@FUSED
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("apart", [False, True])
def test_a_model_trains_as_if_it_were_written_in_plain_torch(
    name: str, checkpointing: bool, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = differentiate(Trained(name, variant="full", dtype=torch.float32), checkpointing=checkpointing, apart=apart)

    def plain(q: Tensor, k: Tensor, freqs: Tensor, q_scale: Tensor, k_scale: Tensor, eps: float) -> Any:
        def rotated(x: Tensor, weight: Tensor) -> Tensor:
            x = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps) * weight
            halves = torch.stack(x.chunk(2, dim=-1), dim=-1)
            return torch.cat((freqs @ halves[..., None]).squeeze(-1).to(x).unbind(-1), dim=-1)

        return rotated(q, q_scale), rotated(k, k_scale)

    monkeypatch.setattr(kitchen, "rms_rope_split_half", plain)
    assert_close(found, differentiate(Trained(name, variant="full", dtype=torch.float32), checkpointing=False))


@FUSED
def test_a_model_that_rounds_is_refused_before_its_first_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with the attention in int8 that ComfyUI has an option for; without it the same model trains."""
    patcher = tiny_models.build(name)
    latent, caption = tiny_models.example(name, patcher)
    original = kitchen.rms_rope_split_half

    def rounding(q: Tensor, k: Tensor, *others: Any) -> Any:
        data, size = operator("quantize_int8_rowwise")(q)
        return original(data * size, k, *others)

    monkeypatch.setattr(kitchen, "rms_rope_split_half", rounding)
    with pytest.raises(
        TrainingError, match=r"stopped in step 1: .*kitchen\.quantize_int8_rowwise.*Nothing was trained"
    ):
        train(patcher, [latent], [caption], steps=1)
    monkeypatch.undo()
    assert train(patcher, [latent], [caption], steps=1).adapter.layers


def test_norms_and_rotations_of_one_head_have_the_values_of_their_formulas() -> None:
    """What the tests above compare with is the formula that the library documents."""
    x, freqs, weight = queries(), rotations(), scale(3)
    normed = F.rms_norm(x, (WIDTH,), weight, 1e-6)
    first, second = normed.chunk(2, dim=-1)
    cos, sin = freqs[..., 0, 0], freqs[..., 1, 0]
    expected = torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
    assert torch.allclose(operator("rms_rope_split_half1")(x, freqs, weight, 1e-6), expected, atol=1e-5)
