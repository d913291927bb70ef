"""Decomposition against a float64 transcription of the paper, and on weights that are hard to decompose."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from comfyui_qr_lora.qrlora_core.errors import DecompositionError, QRLoRAError
from comfyui_qr_lora.qrlora_core.functional.decompose import Factors, decompose, factors_on

ROOT = Path(__file__).resolve().parents[3]
ENERGY = {"exact": 0.999999, "fast": 0.999}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small matrices lose more time to waiting threads than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_spectrum(shape: tuple[int, int], values: Tensor, seed: int = 0) -> Tensor:
    """A matrix with the given singular values between random bases."""
    left = torch.linalg.qr(gaussian(shape[0], len(values), seed=seed).double()).Q
    right = torch.linalg.qr(gaussian(shape[1], len(values), seed=seed + 1).double()).Q
    return ((left * values) @ right.T).float()


def powers(count: int, exponent: float) -> Tensor:
    return torch.arange(1, count + 1).float() ** -exponent


def paper(weight: Tensor, rank: int, alpha: float) -> tuple[Tensor, Tensor]:
    """The published equations in float64: core = U_r S_r V_r^T / scaling, Q R = qr(core), diag(R) > 0."""
    left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
    core = (left[:, :rank] * values[:rank]) @ right[:rank] / (alpha / rank)
    q, r = torch.linalg.qr(core)
    signs = torch.sign(r.diagonal()[:rank])
    return q[:, :rank] * signs, r[:rank] * signs[:, None]


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-300))


def share_of_best(factors: Factors, weight: Tensor) -> float:
    """Energy in the span of Q over that of the best subspace of the rank, float64."""
    values = torch.linalg.svdvals(weight.double())
    q = torch.linalg.qr(factors.q.double()).Q
    return float((q.T @ weight.double()).square().sum() / values[: factors.rank].square().sum())


def assert_identities(factors: Factors, weight: Tensor) -> None:
    """Everything that holds for any weight: Q^T Q = I, scaling R = Q^T W, shape, triangle, signs, energy."""
    weight = weight.double()
    q, r = factors.q.double(), factors.base_r.double()
    assert factors.q.dtype == factors.base_r.dtype == torch.float32
    assert q.shape == (weight.shape[0], factors.rank)
    assert r.shape == (factors.rank, weight.shape[1])
    assert (q.T @ q - torch.eye(factors.rank)).abs().max() < 1e-5
    assert (factors.scaling * r - q.T @ weight).norm() <= 1e-5 * weight.norm()
    assert torch.equal(r[:, : factors.rank], r[:, : factors.rank].triu())
    assert (r.diagonal() >= 0).all()
    captured = float((q.T @ weight).square().sum() / weight.square().sum()) if weight.any() else 1.0
    assert factors.captured_energy == pytest.approx(captured, abs=1e-5)
    assert 0 <= factors.captured_energy <= 1


SHAPES = [((48, 48), 8), ((96, 40), 8), ((40, 96), 8), ((64, 32), 1), ((640, 576), 16), ((560, 900), 16)]


@pytest.mark.parametrize(("shape", "rank"), SHAPES)
@pytest.mark.parametrize("alpha", [None, 3.0])
def test_exact_equals_the_paper_in_float64(shape: tuple[int, int], rank: int, alpha: float | None) -> None:
    weight = with_spectrum(shape, 3.0 * 0.9 ** torch.arange(min(shape)).float())
    factors = decompose(weight, rank, alpha=alpha)
    expected_q, expected_r = paper(weight, rank, alpha or rank)
    assert factors.rank == rank
    assert factors.alpha == (alpha or rank)
    assert factors.scaling == factors.alpha / rank
    assert relative(factors.q, expected_q) < 1e-3
    assert relative(factors.base_r, expected_r) < 1e-3
    assert_identities(factors, weight)


def test_residual_and_core_give_the_weight_back_and_a_delta_stays_apart() -> None:
    weight, delta_r = gaussian(80, 60), gaussian(12, 60, seed=1)
    factors = decompose(weight, 12, alpha=5.0)
    residual = weight - factors.scaling * factors.q @ factors.base_r
    adapted = residual + factors.scaling * factors.q @ (factors.base_r + delta_r)
    assert relative(residual + factors.scaling * factors.q @ factors.base_r, weight) < 1e-6
    assert relative(adapted, weight + factors.scaling * factors.q @ delta_r) < 1e-6
    assert (factors.q.T @ residual).norm() < 1e-5 * weight.norm()


SPECTRA = {
    "gaussian": None,
    "steep": powers(576, 0.6),
    "very steep": powers(576, 2.0),
    "linear": torch.linspace(1, 0, 576),
    "nearly flat": 1 + 0.01 * gaussian(576).abs(),
    "flat": torch.ones(576),
    "plateaus": torch.cat([torch.full((40,), 10.0), torch.full((200,), 5.0), torch.full((336,), 1.0)]),
    "tiny tail": torch.cat([torch.full((10,), 1.0), torch.full((30,), 1e-4), torch.full((536,), 1e-6)]),
}


@pytest.mark.parametrize("method", ["exact", "fast"])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", [(700, 576), (576, 700)])
def test_captured_energy_reaches_the_best(shape: tuple[int, int], spectrum: str, method: str) -> None:
    values = SPECTRA[spectrum]
    weight = gaussian(*shape) if values is None else with_spectrum(shape, values)
    for rank in (1, 24):
        factors = decompose(weight, rank, method=method)
        assert share_of_best(factors, weight) >= ENERGY[method]
        assert_identities(factors, weight)


def test_krylov_space_that_does_not_converge_gives_way_to_the_dense_path() -> None:
    weight = with_spectrum((576, 576), torch.linspace(1, 0.9, 576))
    factors = decompose(weight, 36)
    assert share_of_best(factors, weight) >= 0.999999


@settings(deadline=None, max_examples=40)
@given(out=st.integers(1, 40), inner=st.integers(1, 40), data=st.data())
def test_any_shape_and_rank(out: int, inner: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, min(out, inner)))
    content = data.draw(st.integers(0, min(out, inner)))
    weight = gaussian(out, content) @ gaussian(content, inner, seed=1)
    factors = decompose(weight, rank)
    assert_identities(factors, weight)
    if content:
        assert share_of_best(factors, weight) >= 0.999999


@pytest.mark.parametrize("shape", [(24, 24), (40, 24), (24, 40), (600, 40), (1, 7), (7, 1), (1, 1)])
def test_full_rank_keeps_the_whole_weight(shape: tuple[int, int]) -> None:
    weight = gaussian(*shape)
    factors = decompose(weight, min(shape))
    assert_identities(factors, weight)
    assert relative(factors.scaling * factors.q @ factors.base_r, weight) < 1e-5
    assert factors.captured_energy == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (700, 640), (640, 700)])
def test_rank_deficient_weight_has_a_completed_basis_and_zero_rows(shape: tuple[int, int]) -> None:
    weight = gaussian(shape[0], 5) @ gaussian(5, shape[1], seed=1)
    factors = decompose(weight, 12)
    assert_identities(factors, weight)
    assert (factors.base_r[5:] == 0).all()
    assert (factors.base_r[:5].norm(dim=1) > 0).all()
    assert relative(factors.scaling * factors.q @ factors.base_r, weight) < 1e-5


def test_dependent_leading_columns() -> None:
    weight = gaussian(50, 40)
    weight[:, :3] = 0
    weight[:, 5] = weight[:, 4]
    assert_identities(decompose(weight, 10), weight)
    assert share_of_best(decompose(weight, 10), weight) >= 0.999999


@pytest.mark.parametrize("shape", [(30, 20), (640, 700)])
def test_zero_weight_has_an_orthonormal_basis_and_captures_all_of_nothing(shape: tuple[int, int]) -> None:
    factors = decompose(torch.zeros(shape), 6)
    assert_identities(factors, torch.zeros(shape))
    assert not factors.base_r.any()
    assert factors.captured_energy == 1


@pytest.mark.parametrize("weight", [torch.eye(640), torch.diag(powers(640, 1)), torch.ones(640, 600)])
def test_structured_weights(weight: Tensor) -> None:
    factors = decompose(weight, 16)
    assert_identities(factors, weight)
    assert share_of_best(factors, weight) >= 0.999999


def again(factors: Factors, weight: Tensor, alpha: float | None = None) -> Factors:
    """From Q alone, as it is kept."""
    return factors_on(factors.q, weight, int(factors.base_r.any(dim=1).sum()), alpha=alpha)


@given(out=st.integers(1, 40), inner=st.integers(1, 40), data=st.data())
def test_a_kept_basis_gives_the_same_factors(out: int, inner: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, min(out, inner)))
    content = data.draw(st.integers(0, min(out, inner)))
    alpha = data.draw(st.sampled_from([None, 0.5, 3.0, 1e4]))
    size = data.draw(st.sampled_from([1e-30, 1.0, 1e30]))
    weight = gaussian(out, content) @ gaussian(content, inner, seed=1) * size
    made = decompose(weight, rank, alpha=alpha)
    found = again(made, weight, alpha)
    assert_identities(found, weight)
    assert torch.equal(found.q, made.q)
    assert (found.rank, found.alpha) == (made.rank, made.alpha)
    peak = made.base_r.abs().max().clamp_min(1e-38)
    assert ((found.base_r - made.base_r) / peak).abs().max() < 1e-5
    assert torch.equal(found.base_r.any(dim=1), made.base_r.any(dim=1))


def test_a_kept_basis_that_does_not_fit_is_refused() -> None:
    with pytest.raises(DecompositionError, match="rank must be"):
        factors_on(gaussian(30, 12), gaussian(30, 8), 12)
    with pytest.raises(DecompositionError, match="layer 'x': base_weight must be finite"):
        factors_on(gaussian(30, 4), torch.full((30, 8), torch.nan), 4, layer="x")


DTYPES = [torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_other_dtypes_equal_their_float32_values(dtype: torch.dtype) -> None:
    weight = gaussian(64, 48).to(dtype)
    factors = decompose(weight, 8)
    same = decompose(weight.to(torch.float32), 8)
    assert torch.equal(factors.q, same.q)
    assert torch.equal(factors.base_r, same.base_r)
    assert_identities(factors, weight.to(torch.float32))


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e15, 1e30])
def test_very_small_and_very_large_entries(size: float) -> None:
    weight = gaussian(64, 48) * size
    factors = decompose(weight, 8)
    assert_identities(factors, weight)
    assert share_of_best(factors, weight) >= 0.999999


@pytest.mark.parametrize("method", ["exact", "fast"])
def test_same_result_every_time_and_the_global_generator_untouched(method: str) -> None:
    weight = gaussian(600, 640)
    before, copy = torch.get_rng_state(), weight.clone()
    first, second = decompose(weight, 8, method=method), decompose(weight, 8, method=method)
    assert torch.equal(first.q, second.q)
    assert torch.equal(first.base_r, second.base_r)
    assert first.captured_energy == second.captured_energy
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weight, copy)


def test_inference_mode_and_gradients() -> None:
    weight = gaussian(60, 40)
    expected = decompose(weight, 8)
    with torch.inference_mode():
        inference = weight.clone()
        inside = decompose(inference, 8)
    outside = decompose(inference, 8)
    tracked = decompose(weight.clone().requires_grad_(), 8)
    for factors in (inside, outside, tracked):
        assert torch.equal(factors.q, expected.q)
        assert not factors.q.requires_grad
        assert not factors.base_r.requires_grad
        # A trainer must be able to save them for backward.
        delta_r = torch.zeros(8, 40, requires_grad=True)
        (factors.q @ (factors.base_r + delta_r)).square().sum().backward()
        assert delta_r.grad is not None


def test_lower_precision_asked_for_by_the_caller_is_kept_out_and_no_setting_is_touched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A setting of the whole process would change what other threads compute meanwhile."""
    weight = gaussian(600, 640)
    expected = decompose(weight, 8)
    torch.set_float32_matmul_precision("medium")
    try:
        with monkeypatch.context() as within, torch.autocast("cpu", dtype=torch.bfloat16):
            within.setattr(torch, "set_float32_matmul_precision", None)  # whoever calls it fails
            factors = decompose(weight, 8)
            assert torch.is_autocast_enabled("cpu")
    finally:
        torch.set_float32_matmul_precision("highest")
    assert_identities(factors, weight)
    assert (factors.q.dtype, factors.base_r.dtype) == (torch.float32, torch.float32)
    # The same directions; the float32 of the one and the float64 of the other round differently.
    assert float((factors.q.T @ expected.q).diagonal().min()) > 1 - 1e-4


def test_view_that_is_not_contiguous() -> None:
    weight = gaussian(80, 50)[::2, 10:]
    assert_identities(decompose(weight, 8), weight)
    assert_identities(decompose(weight.T, 8), weight.T)


def holed(value: float) -> Tensor:
    weight = gaussian(8, 6)
    weight[2, 3] = value
    return weight


BAD = [
    (gaussian(4, 3, 3, 3), 2, {}, r"2-D \(out, in\), found shape \(4, 3, 3, 3\); flatten"),
    (gaussian(4), 2, {}, r"2-D \(out, in\), found shape \(4,\)"),
    (gaussian(8, 6), 0, {}, r"rank must be a whole number from 1 to min\(out, in\) = 6 .* found 0; choose"),
    (gaussian(8, 6), -3, {}, r"found -3; choose"),
    (gaussian(8, 6), 7, {}, r"1 to min\(out, in\) = 6 for shape \(8, 6\), found 7; choose"),
    (gaussian(8, 6), 2.5, {}, r"whole number .* found 2.5"),
    (gaussian(0, 6), 1, {}, r"min\(out, in\) = 0"),
    (gaussian(8, 6).to(torch.int8), 2, {}, r"floating point, found torch.int8; dequantize"),
    (holed(float("nan")), 2, {}, r"finite in float32, found 1 of 48 entries NaN or infinite; load"),
    (holed(float("-inf")), 2, {}, r"found 1 of 48 entries"),
    (holed(1.0).double() * 1e300, 2, {}, r"finite in float32, found 48 of 48"),
    (gaussian(8, 6), 2, {"alpha": 0.0}, r"alpha must be positive and finite, found 0.0"),
    (gaussian(8, 6), 2, {"alpha": -1.0}, r"alpha must be positive and finite, found -1.0"),
    (gaussian(8, 6), 2, {"alpha": float("nan")}, r"alpha must be positive and finite, found nan"),
    (gaussian(8, 6), 2, {"method": "random"}, r"method must be one of exact, fast, found 'random'"),
]


@pytest.mark.parametrize(("weight", "rank", "options", "message"), BAD)
def test_bad_input_is_refused(weight: Tensor, rank: int, options: dict[str, float | str], message: str) -> None:
    with pytest.raises(DecompositionError, match=message) as plain:
        decompose(weight, rank, **options)
    assert not str(plain.value).startswith("layer")
    with pytest.raises(QRLoRAError, match=r"^layer 'blocks\.0\.attn\.to_q': .*" + message):
        decompose(weight, rank, layer="blocks.0.attn.to_q", **options)


def test_failed_eigendecomposition_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "eigh", fail)
    with pytest.raises(DecompositionError, match=r"layer 'x': eigendecomposition failed \(did not converge\)"):
        decompose(gaussian(8, 6), 2, layer="x")


@pytest.mark.ci
@pytest.mark.process
def test_benchmark_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.decompose", "--quick"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "exact energy over the best, steep: ratio: 1" in done.stdout
    assert done.stdout.count("(bar ") == 2
