"""Split a base weight into the QR-LoRA factors `Q` and `R` without forming or decomposing the full core."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import DecompositionError

# Estimated loss of captured energy, relative to the best rank-r subspace, at which a method stops. On every
# spectrum tried the true loss of `fast` came out at least three times lower than the estimate.
_TOLERANCE = {"exact": 1e-6, "fast": 2.5e-3}
_SEED = 0
# Directions below this fraction of the largest singular value are rounding of float32, not content.
_NEGLIGIBLE = 1e-6
# Below this side, or where the rank is a larger share of it, one dense eigendecomposition is cheaper.
_DENSE_SIDE = 512
_DENSE_RANK_SHARE = 1 / 16
# Squared entries must neither overflow nor vanish in float32.
_SAFE_PEAK = (1e-6, 1e6)


@dataclass(frozen=True)
class Factors:
    """Basis and coefficients of one layer: `core = q @ base_r`, `W_res = W - scaling * q @ base_r`.

    Attributes:
        q: (out, rank) float32, orthonormal columns.
        base_r: (rank, in) float32, upper triangular in its leading block, diagonal >= 0.
        rank: number of columns of `q`.
        alpha: numerator of the scaling.
        captured_energy: `|Q^T W|_F^2 / |W|_F^2`, between 0 and 1; 1 for an all-zero weight.
    """

    q: Tensor
    base_r: Tensor
    rank: int
    alpha: float
    captured_energy: float

    @property
    def scaling(self) -> float:
        """`alpha / rank`."""
        return self.alpha / self.rank


def decompose(
    base_weight: Tensor, rank: int, *, alpha: float | None = None, method: str = "exact", layer: str = ""
) -> Factors:
    """Decompose a base weight into an orthonormal basis `Q` and a triangular `R`.

    `core = U_r S_r V_r^T / scaling`, `Q R = qr(core)` (QR-LoRA, arXiv 2507.04599, section 3), computed as
    `B = U_r^T W`, `Qt R = qr(B / scaling)`, `Q = U_r Qt`, so that `scaling * R = Q^T W` and the (out, in) core
    never exists. `U_r` comes from a block Krylov space of `W^T W` (or `W W^T`, whichever is smaller) that
    grows until the estimated loss of energy is below the method's tolerance; small weights, large ranks and
    spectra on which it does not converge take a dense eigendecomposition of that matrix.

    `Q` is unique only where the singular values at the rank are apart and the first `rank` columns of the core
    are independent; elsewhere only its span is. Directions that a rank-deficient weight does not have are
    filled with an orthonormal completion, and their rows of `R` are zero.

    Args:
        base_weight: (out, in), any floating dtype and device; not modified. The work is done there, in float32.
        rank: between 1 and min(out, in).
        alpha: positive; default `rank`, that is a scaling of 1.
        method: "exact" captures at least 0.999999 of the energy that the best rank-r subspace captures,
            "fast" at least 0.999. Both estimate their error as they go.
        layer: name used in error messages.

    Returns:
        `Factors`, float32 on the weight's device, the same on every call.

    Raises:
        DecompositionError: bad shape, dtype, rank, alpha or method, entries that are not finite, or an
            eigendecomposition that fails.
    """
    prefix = f"layer '{layer}': " if layer else ""
    alpha = float(rank) if alpha is None else alpha
    _check_arguments(base_weight, rank, alpha, method, prefix)
    # Leaving inference mode makes `q` and `base_r` normal tensors, which a trainer may save for backward.
    plain = torch.autocast(base_weight.device.type, enabled=False)
    with torch.inference_mode(False), torch.no_grad(), plain:
        weight, exponent = _at_safe_scale(base_weight, prefix)
        try:
            q, projection = _factorize(weight, rank, _TOLERANCE[method])
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise DecompositionError(f"{prefix}eigendecomposition failed ({error}); check the weight") from error
        return _factors(q.float(), projection, weight, exponent, alpha)


def factors_on(q: Tensor, base_weight: Tensor, content: int, *, alpha: float | None = None, layer: str = "") -> Factors:
    """The factors of a base weight on a basis that `decompose` found for it before: `scaling * R = triu(Q^T W)`.

    What `decompose` gives, but for the rounding of R, at the price of one product.

    Args:
        q: (out, rank), as `decompose` gave it for this very weight.
        base_weight: (out, in), as there. The work is done on its device.
        content: number of leading columns of `q` that the weight has; the others complete it, and their rows of R
            are zero.
        alpha, layer: as there.

    Returns:
        `Factors`, float32 on the weight's device, the same on every call.

    Raises:
        DecompositionError: bad shape, dtype, rank or alpha.
    """
    rank = q.shape[1]
    prefix = f"layer '{layer}': " if layer else ""
    alpha = float(rank) if alpha is None else alpha
    _check_arguments(base_weight, rank, alpha, "exact", prefix)
    plain = torch.autocast(base_weight.device.type, enabled=False)
    with torch.inference_mode(False), torch.no_grad(), plain:
        weight, exponent = _at_safe_scale(base_weight, prefix)
        basis = q.to(base_weight.device).clone(memory_format=torch.contiguous_format)  # a normal tensor, as there
        projection = (basis.to(weight.dtype).T @ weight).triu()  # (rank, in)
        projection[content:] = 0
        projection.diagonal().clamp_(min=0)
        return _factors(basis, projection, weight, exponent, alpha)


def _factors(q: Tensor, projection: Tensor, weight: Tensor, exponent: int, alpha: float) -> Factors:
    """Of ``Q^T W``, both times ``2^-exponent``."""
    rank, whole = q.shape[1], _squared_norm(weight)
    energy = _squared_norm(projection) / whole if whole else 1.0
    base_r = (projection * math.ldexp(rank / alpha, exponent)).float()
    return Factors(q, base_r, rank, float(alpha), min(energy, 1.0))


def _at_safe_scale(base_weight: Tensor, prefix: str) -> tuple[Tensor, int]:
    """The weight times ``2^-exponent`` in the dtype of work, and the exponent."""
    weight = base_weight.detach().to(torch.float32).to(_dtype_of_work())
    peak = _largest_entry(weight, prefix)
    exponent = 0 if peak == 0 or _SAFE_PEAK[0] < peak < _SAFE_PEAK[1] else math.frexp(peak)[1]
    if exponent:
        weight = torch.ldexp(weight, torch.tensor(-exponent, device=weight.device))
    return weight, exponent


def _check_arguments(base_weight: Tensor, rank: int, alpha: float, method: str, prefix: str) -> None:
    shape = tuple(base_weight.shape)
    if len(shape) != 2:
        raise DecompositionError(
            f"{prefix}base_weight must be 2-D (out, in), found shape {shape}; flatten a convolution first"
        )
    if not base_weight.is_floating_point():
        raise DecompositionError(
            f"{prefix}base_weight must be floating point, found {base_weight.dtype}; dequantize it first"
        )
    if not isinstance(rank, int) or not 1 <= rank <= min(shape):
        raise DecompositionError(
            f"{prefix}rank must be a whole number from 1 to min(out, in) = {min(shape)} for shape {shape}, "
            f"found {rank}; choose a rank in that range or leave this layer out"
        )
    if not (math.isfinite(alpha) and alpha > 0):
        raise DecompositionError(f"{prefix}alpha must be positive and finite, found {alpha}; alpha = rank is usual")
    if method not in _TOLERANCE:
        raise DecompositionError(f"{prefix}method must be one of {', '.join(_TOLERANCE)}, found {method!r}")


def _largest_entry(weight: Tensor, prefix: str) -> float:
    low, high = torch.aminmax(weight)
    peak = torch.maximum(-low, high).item()
    if not math.isfinite(peak):
        count = weight.numel() - int(weight.isfinite().sum())
        raise DecompositionError(
            f"{prefix}base_weight must be finite in float32, found {count} of {weight.numel()} entries "
            "NaN or infinite; load the base model again or use another file of it"
        )
    return peak


def _dtype_of_work() -> torch.dtype:
    """float32; float64 where the process rounds its products to TF32 or bfloat16, which no thread can undo alone."""
    return torch.float32 if torch.get_float32_matmul_precision() == "highest" else torch.float64


def _factorize(weight: Tensor, rank: int, tolerance: float) -> tuple[Tensor, Tensor]:
    """Return `Q` (out, rank) and `Q^T W` (rank, in), upper triangular with diagonal >= 0."""
    left = _left_basis(weight, rank, tolerance)  # (out, block)
    inside = left.T @ weight  # (block, in)
    rotation, values, _ = torch.linalg.svd(torch.linalg.qr(inside.T, mode="r").R.T)
    rotation, values = rotation[:, :rank], values[:rank]  # (block, rank)
    content = int((values > _NEGLIGIBLE * values[0]).sum())
    leading, completion = left @ rotation[:, :content], left @ rotation[:, content:]
    inner_q, triangle = torch.linalg.qr(rotation[:, :content].T @ inside)  # (content, content), (content, in)
    signs = torch.where(triangle.diagonal() < 0, -1.0, 1.0)
    q = torch.cat([leading @ (inner_q * signs), completion], dim=1)
    projection = torch.cat([triangle * signs[:, None], triangle.new_zeros(rank - content, weight.shape[1])])
    return q, projection


def _left_basis(weight: Tensor, rank: int, tolerance: float) -> Tensor:
    """Orthonormal columns (out, block >= rank) whose span holds the leading left singular subspace."""
    tall = weight.shape[0] >= weight.shape[1]
    matrix = weight if tall else weight.T
    leading = _leading_eigenvectors(matrix, rank, tolerance)
    # A power step by `matrix` itself restores small directions, which its square hides below float32.
    leading = _orthonormal(matrix @ leading)
    return leading if tall else _orthonormal(matrix.T @ leading)


def _leading_eigenvectors(matrix: Tensor, rank: int, tolerance: float) -> Tensor:
    """Leading eigenvectors (side, block >= rank) of `matrix.T @ matrix` for a matrix of shape (long, side)."""
    side = matrix.shape[1]
    block = min(rank + max(8, rank // 4), side)
    found = None
    if side > _DENSE_SIDE and rank <= side * _DENSE_RANK_SHARE:
        found = _block_krylov(matrix, rank, block, tolerance)
    if found is None:
        found = torch.linalg.eigh(matrix.T @ matrix).eigenvectors[:, -block:]
    return found


def _block_krylov(matrix: Tensor, rank: int, block: int, tolerance: float) -> Tensor | None:
    """Rayleigh-Ritz on the block Krylov space of `G = matrix.T @ matrix`; None where it would grow too large.

    A block at least as wide as the rank finds repeated singular values too (Musco and Musco,
    arXiv 1504.05477). Every new block is orthogonalized twice against the whole space.
    """
    side = matrix.shape[1]
    generator = torch.Generator("cpu").manual_seed(_SEED)
    start = torch.randn(side, block, generator=generator, device="cpu", dtype=torch.float32)
    latest = space = _orthonormal(start.to(matrix))  # (side, block); space grows by a block at a time
    projected = space.new_zeros(0, 0)
    next_check = 2 * block
    while space.shape[1] <= side * 2 // 3:
        image = matrix.T @ (matrix @ latest)  # (side, block)
        coefficients = space.T @ image  # (width of space, block)
        # space.T @ G @ space, of which eigh reads the lower triangle alone.
        projected = torch.cat([torch.nn.functional.pad(projected, (0, block)), coefficients.T])
        rest, coupling = torch.linalg.qr(image - space @ coefficients)
        if space.shape[1] >= next_check:
            values, vectors = torch.linalg.eigh(projected)
            values, leading = values[-block:], vectors[:, -block:]
            residuals = torch.linalg.vector_norm(coupling @ leading[-block:, -rank:], dim=0)
            loss = _energy_loss(values, residuals)
            if loss <= tolerance:
                basis: Tensor = space @ leading
                return basis
            # A check costs as much as a few blocks: the further from the goal, the later the next one.
            next_check = int(space.shape[1] * (1 + min(0.5, 0.2 * math.log10(loss / tolerance))))
        latest = _orthonormal(rest - space @ (space.T @ rest))
        space = torch.cat([space, latest], dim=1)
    return None


def _energy_loss(values: Tensor, residuals: Tensor) -> float:
    """Estimate what share of the best energy the leading Ritz vectors miss, from the ascending Ritz values.

    An eigenvalue lies above its Ritz value by about `residual^2 / gap` and by at most `residual`. With the gap
    to the last value of the block this exceeded the loss that remained in the result on every spectrum tried.
    """
    values, residuals = values.double(), residuals.double()
    leading = values[-len(residuals) :]
    gaps = (leading - values[0]).clamp_min(torch.finfo(torch.float64).tiny)
    return float(torch.minimum(residuals.square() / gaps, residuals).sum() / leading.sum())


def _orthonormal(columns: Tensor) -> Tensor:
    basis: Tensor = torch.linalg.qr(columns).Q
    return basis


def _squared_norm(matrix: Tensor) -> float:
    return float(torch.linalg.vector_norm(matrix, dim=1).double().square().sum())
