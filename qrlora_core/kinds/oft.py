"""OFT and BOFT: the outputs of a weight turned within blocks (arXiv 2306.07280, 2311.06243, as LyCORIS has them).

Each block B of ``oft_blocks`` stands for the rotation ``R = (I + Q) (I - Q)^-1`` with ``Q = B - B^T``; where alpha is
above 0 and Q of all blocks longer than that, Q is shortened to it. OFT, of three dimensions: ``W' = diag(rescale)
diag(R_1^T, R_2^T, ...) W``. BOFT, of four: ``W' = diag(rescale) B_m ... B_1 W``, see `changes.blocks`.

ComfyUI ignores the rescaling of OFT, and ends in an error that it logs where BOFT has no alpha.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..adapter import Layer
from ..changes.blocks import BlockProduct, Butterfly
from ..errors import AdapterError
from .keys import endings
from .kind import Kind
from .tensors import lone_change, require_parts

_BUTTERFLY = 4  # dimensions
_ROUNDING = 1e-5  # of what is a rotation in float32


def _layer(name: str, tensors: Mapping[str, Tensor], alpha: float) -> tuple[str, Layer]:
    require_parts(tensors, ("oft_blocks",))
    blocks = tensors["oft_blocks"]
    if blocks.ndim not in (3, _BUTTERFLY) or blocks.shape[-1] != blocks.shape[-2] or 0 in blocks.shape:
        raise AdapterError(f"expected square oft_blocks with 3 or 4 dimensions, found {tuple(blocks.shape)}.")
    turned = _rotations(blocks.double(), 0.0 if math.isnan(alpha) else alpha)
    rescale = tensors.get("rescale")
    more = {} if rescale is None else {"extra": (rescale.double() - 1).float()}
    if blocks.ndim == _BUTTERFLY:
        return name, Layer((), changes=(Butterfly.of({"blocks": turned.float(), **more}, "BOFT", 1.0),))
    own = {"blocks": turned.transpose(1, 2).float(), **more}
    return name, Layer((), changes=(BlockProduct.of(own, OFT.name, 1.0),))


def _rotations(blocks: Tensor, constraint: float) -> Tensor:
    """``R - I = 2 Q (I - Q)^-1``, in which nothing cancels."""
    skew = blocks - blocks.transpose(-1, -2)
    length = float(skew.norm()) + 1e-8
    if 0 < constraint < length:
        skew = skew * (constraint / length)
    if not bool(torch.isfinite(skew).all()):
        raise AdapterError("NaN or infinity in its numbers.")
    identity = torch.eye(blocks.shape[-1], dtype=blocks.dtype)
    try:
        turned: Tensor = torch.linalg.solve(identity - skew, 2 * skew, left=False)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise AdapterError("its blocks stand for no rotation.") from error
    return turned


def _tensors(layer: Layer) -> dict[str, Tensor] | None:
    """``B = Q / 2`` with ``Q = (R - I) (R + I)^-1``, of rotations R: other matrices are none of this kind."""
    change = lone_change(layer, BlockProduct) or lone_change(layer, Butterfly)
    if change is None or change.scale != 1:
        return None
    identity = torch.eye(change.blocks.shape[-1], dtype=torch.float64)
    turned = change.blocks.double() + identity
    turned = turned.transpose(1, 2) if isinstance(change, BlockProduct) else turned
    if float((turned @ turned.transpose(-1, -2) - identity).abs().max()) > _ROUNDING:
        return None
    try:
        skew = torch.linalg.solve(turned + identity, turned - identity, left=False)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        return None
    more = {} if change.extra is None else {"rescale": (change.extra.double() + 1).float()}
    return {"oft_blocks": (skew / 2).float(), "alpha": torch.zeros(()), **more}


def _notes(tensors: Mapping[str, Tensor]) -> str:
    is_butterfly = tensors["oft_blocks"].ndim == _BUTTERFLY
    if is_butterfly and "alpha" not in tensors:
        return "BOFT without alpha, on which ComfyUI's own loader stops"
    return (
        "OFT with a rescaling, which ComfyUI's own loader leaves out"
        if "rescale" in tensors and not is_butterfly
        else ""
    )


OFT = Kind("OFT", endings(("oft_blocks",)), _layer, beside={".rescale": "rescale"}, write=_tensors, notes=_notes)
