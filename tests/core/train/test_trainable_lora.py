"""The variant lora, an ordinary LoRA in training: its equation, its start, its steps and its file."""

import math

import pytest
import torch

from comfyui_qr_lora.qrlora_core import OptimizerSettings, TrainableLoRA, Trainer, load_adapter, save_adapter

OUT, WIDTH, RANK, ALPHA = 12, 10, 4, 6.0


def fresh(seed=0, **options):
    return TrainableLoRA((OUT, WIDTH), RANK, ALPHA, generator=torch.Generator().manual_seed(seed), **options)


def away_from_zero(seed=0, **options):
    made, generator = fresh(seed, **options), torch.Generator().manual_seed(seed + 1)
    made.lora_up.data = torch.randn(OUT, RANK, generator=generator)
    return made


def inputs(seed=5):
    return torch.randn(3, 7, WIDTH, generator=torch.Generator().manual_seed(seed))


def weight_of(made):
    """``alpha / rank * B A`` in float64, of the parameters."""
    return ALPHA / RANK * made.lora_up.detach().double() @ made.lora_down.detach().double()


class TestTheStart:
    def test_is_silent(self):
        assert torch.count_nonzero(fresh()(inputs())) == 0

    def test_has_a_within_its_bound_and_as_wide_as_uniform_numbers_are(self):
        a = TrainableLoRA((8, 4096), 64, 64.0, generator=torch.Generator().manual_seed(1)).lora_down.detach()
        assert a.abs().max() <= 1 / math.sqrt(4096)
        assert float(a.std()) == pytest.approx(1 / math.sqrt(3 * 4096), rel=0.01)

    def test_hangs_on_the_seed(self):
        assert torch.equal(fresh(3).lora_down, fresh(3).lora_down)
        assert not torch.equal(fresh(3).lora_down, fresh(4).lora_down)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_the_branch_is_the_product(dtype, error):
    made = away_from_zero(compute_dtype=dtype)
    expected = inputs().double() @ weight_of(made).T
    found = made(inputs().to(dtype)).detach()
    assert found.dtype == dtype
    assert float((found.double() - expected).norm() / expected.norm()) < error
    assert made.lora_up.dtype == made.lora_down.dtype == torch.float32


def test_gradients_are_those_of_the_product():
    made = away_from_zero()
    b, a = (value.detach().double().requires_grad_() for value in (made.lora_up, made.lora_down))
    (inputs().double() @ (ALPHA / RANK * b @ a).T).square().mean().backward()
    made(inputs()).square().mean().backward()
    for found, expected in ((made.lora_up.grad, b.grad), (made.lora_down.grad, a.grad)):
        assert float((found.double() - expected).norm() / expected.norm()) < 1e-5


def test_the_layer_is_the_ordinary_lora_that_was_trained():
    made = away_from_zero()
    (term,) = made.layer().terms
    assert (term.alpha, term.base_r) == (ALPHA, None)
    assert torch.equal(term.q, made.lora_up.detach())
    assert torch.equal(term.delta_r, made.lora_down.detach())
    assert made.layer({name: value + 1 for name, value in made.named_parameters()}).terms[0].q.equal(term.q + 1)


def test_a_training_learns_a_map_of_its_rank():
    target = torch.randn(OUT, 2, generator=torch.Generator().manual_seed(8)) @ torch.randn(2, WIDTH)
    made = fresh()
    trainer = Trainer({"x": made}, OptimizerSettings(learning_rate=3e-2), steps=300)
    losses = [trainer.step([lambda: (made(inputs()) - inputs() @ target.T).square().mean()]) for _ in range(300)]
    assert losses[-1] < 1e-2 * losses[0]


@pytest.mark.parametrize("layout", ["full", "lora"])
def test_its_file_is_its_product(layout, tmp_path):
    made = away_from_zero()
    adapter = Trainer({"blocks.0.x": made}).adapter({})
    save_adapter(adapter, tmp_path / "a.safetensors", format=layout)
    found = load_adapter(tmp_path / "a.safetensors").layers["blocks.0.x"].delta_weight().double()
    assert float((found - weight_of(made)).norm() / weight_of(made).norm()) < 1e-5
