"""A published-format FLUX file gives on a ComfyUI FLUX what diffusers gives with weights patched by the equation.

Yang et al., "QR-LoRA", ICCV 2025 (arXiv 2507.04599), eq. 4-7. Files and oracle are made here by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from comfyui_qr_lora.qrlora_core import QRLoRA, load_adapter, merge
from devtools import tiny_models

from ...support.adapters import merged, relative_error
from ...support.diffusers_flux import host_velocity, twin_of, twin_velocity

TARGETS = (
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
    "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
    "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2",
)  # fmt: skip
RANK, OTHER_RANK = 8, 5
TOLERANCE = 1e-4  # relative to the adapter's effect

Weights = Mapping[str, Tensor]  # module path to weight, float32


class Factors(NamedTuple):
    """One module of a published file: q (out, rank), base_r and delta_r (rank, in); alpha = rank."""

    q: Tensor
    base_r: Tensor
    delta_r: Tensor

    def to(self, dtype: torch.dtype) -> Factors:
        return Factors(*(tensor.to(dtype) for tensor in self))

    def mirrored(self) -> Factors:
        """The same product from another Q: every other column of q has the opposite sign."""
        signs = torch.ones(len(self.base_r), dtype=self.q.dtype)
        signs[::2] = -1
        return Factors(self.q * signs, self.base_r * signs[:, None], self.delta_r * signs[:, None])


Published = dict[str, Factors]
Parts = Sequence[tuple[Factors, float]]  # with the scale of each


class Pair(NamedTuple):
    """One tiny FLUX in both programs, and what both are asked."""

    host: Any
    twin: Any
    inputs: dict[str, Any]

    def targets(self) -> Weights:
        suffixes = tuple(f".{suffix}" for suffix in TARGETS)
        return {name: module.weight for name, module in self.twin.named_modules() if name.endswith(suffixes)}

    def ours(self, *sources: tuple[QRLoRA, float], apply: str) -> Tensor:
        return host_velocity(merged(self.host, *sources, apply=apply), self.inputs)

    def theirs(self, equation: Callable[[Tensor, Parts], Tensor], *sources: tuple[Published, float]) -> Tensor:
        """What diffusers predicts with all target weights patched in float64 by an equation."""
        weights = {
            f"{module}.weight": equation(weight.double(), [(file[module], scale) for file, scale in sources]).float()
            for module, weight in self.targets().items()
        }
        return twin_velocity(self.twin, self.inputs, weights)

    def base(self) -> Tensor:
        return twin_velocity(self.twin, self.inputs)


@pytest.fixture(scope="module")
def pair() -> Pair:
    host = tiny_models.build("flux")
    inputs = tiny_models.sample_inputs("flux", host, batch=2)
    inputs["x"] = inputs["x"][:, :, :12]  # not square: rows and columns must not change places
    return Pair(host, twin_of(host), inputs)


@pytest.fixture(scope="module")
def files(pair: Pair) -> list[Published]:
    """Content and style on one basis, and a third of another rank, all float32."""
    basis, other_basis = ({m: initial(W, rank) for m, W in pair.targets().items()} for rank in (RANK, OTHER_RANK))
    return [trained(basis, seed=1), trained(basis, seed=2), trained(other_basis, seed=3)]


def initial(W: Tensor, rank: int) -> Factors:
    """The published start: ``Q R = qr(U_r S_r V_r^T)`` by a full SVD and a QR of the full core, and dR = 0."""
    U, S, Vh = torch.linalg.svd(W.detach().double(), full_matrices=False)
    Q, R = torch.linalg.qr(U[:, :rank] @ torch.diag(S[:rank]) @ Vh[:rank])
    return Factors(Q[:, :rank], R[:rank], torch.zeros_like(R[:rank])).to(torch.float32)


def trained(basis: Published, *, seed: int) -> Published:
    """A file on this basis whose dR is random, upper triangular, and a tenth of R in size."""
    generator = torch.Generator().manual_seed(seed)
    return {module: factors._replace(delta_r=_random(factors.base_r, generator)) for module, factors in basis.items()}


def _random(base_r: Tensor, generator: torch.Generator) -> Tensor:
    delta_r = torch.randn(base_r.shape, generator=generator).triu()
    return delta_r * (0.1 * base_r.norm() / delta_r.norm())


def mirrored(file: Published) -> Published:
    return {module: factors.mirrored() for module, factors in file.items()}


def stored(file: Published, dtype: torch.dtype) -> Published:
    """What a file in this dtype can hold."""
    return {module: factors.to(dtype) for module, factors in file.items()}


def write(file: Published, path: Path) -> QRLoRA:
    """Write the published layout, no alpha and no metadata, and read it with our own code."""
    tensors = {
        f"transformer.{module}.lora.{part}.weight": tensor.contiguous()
        for module, factors in file.items()
        for part, tensor in factors._asdict().items()
    }
    save_file(tensors, path)
    return load_adapter(path)


def published_equation(W: Tensor, parts: Parts) -> Tensor:
    """``W_res + Q (R + sum_i scale_i dR_i)`` with ``W_res = W - Q R``; Q and R are those of the first part."""
    Q, R = (factor.double() for factor in parts[0][0][:2])
    return W - Q @ R + Q @ (R + sum(scale * factors.delta_r.double() for factors, scale in parts))


def sum_of_products(W: Tensor, parts: Parts) -> Tensor:
    """``W + sum_i scale_i Q_i dR_i``: every adapter on its own Q."""
    return W + sum(scale * factors.q.double() @ factors.delta_r.double() for factors, scale in parts)


def test_both_programs_hold_the_same_model(pair: Pair) -> None:
    base = pair.base()
    assert (host_velocity(pair.host, pair.inputs) - base).norm() < 3e-6 * base.norm()


@pytest.mark.parametrize("apply", ["live", "patch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
class TestAgainstDiffusers:
    def test_one_file(self, pair: Pair, files: list[Published], tmp_path: Path, dtype: torch.dtype, apply: str) -> None:
        content = stored(files[0], dtype)
        adapter = write(content, tmp_path / "content.safetensors")
        expected, base = pair.theirs(published_equation, (content, 0.8)), pair.base()
        assert 0.02 < (expected - base).norm() / base.norm() < 0.5  # neither lost in rounding nor another model
        assert relative_error(pair.ours((adapter, 0.8), apply=apply), expected, base) < TOLERANCE

    def test_two_files_that_share_q(
        self, pair: Pair, files: list[Published], tmp_path: Path, dtype: torch.dtype, apply: str
    ) -> None:
        content, style = (stored(file, dtype) for file in files[:2])
        sources = [
            (write(content, tmp_path / "content.safetensors"), 0.8),
            (write(style, tmp_path / "style.safetensors"), -0.5),
        ]
        assert how(sources) == {"shared": 30, "concatenated": 0, "single": 0}
        expected = pair.theirs(published_equation, (content, 0.8), (style, -0.5))
        assert relative_error(pair.ours(*sources, apply=apply), expected, pair.base()) < TOLERANCE

    def test_files_with_different_q_are_summed_each_on_its_own(
        self, pair: Pair, files: list[Published], tmp_path: Path, dtype: torch.dtype, apply: str
    ) -> None:
        content, style, third = (stored(f, dtype) for f in (files[0], mirrored(files[1]), files[2]))
        sources = [
            (write(content, tmp_path / "content.safetensors"), 0.8),
            (write(style, tmp_path / "style.safetensors"), -0.5),
            (write(third, tmp_path / "third.safetensors"), 0.6),
        ]
        assert how(sources) == {"shared": 0, "concatenated": 30, "single": 0}
        expected = pair.theirs(sum_of_products, (content, 0.8), (style, -0.5), (third, 0.6))
        assert relative_error(pair.ours(*sources, apply=apply), expected, pair.base()) < TOLERANCE


@pytest.mark.parametrize("apply", ["live", "patch"])
def test_the_published_fault_is_not_repeated(pair: Pair, files: list[Published], tmp_path: Path, apply: str) -> None:
    """The published merge multiplies both dR by the style's Q, unchecked."""
    content, style = files[0], mirrored(files[1])
    adapters = [write(content, tmp_path / "content.safetensors"), write(style, tmp_path / "style.safetensors")]
    ours, base = pair.ours((adapters[0], 0.8), (adapters[1], -0.5), apply=apply), pair.base()
    faulty = pair.theirs(published_equation, (style, -0.5), (content, 0.8))
    # Mirroring changes Q and dR, not their product: the result is that of the files before.
    right = pair.theirs(published_equation, (content, 0.8), (files[1], -0.5))
    assert relative_error(ours, right, base) < TOLERANCE
    assert relative_error(ours, faulty, base) > 0.5


def how(sources: Sequence[tuple[QRLoRA, float]]) -> dict[str, int]:
    """How many layers a merge summed, and how."""
    record = merge(sources).merge_record
    assert record is not None
    return {kind: len(getattr(record, kind)) for kind in ("shared", "concatenated", "single")}
