"""Quantized weights read by hand, in float64, from what their formats are documented to hold."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor

_E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=torch.float64)
_ROTATION = torch.tensor([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]], dtype=torch.float64) / 2


def dequantized(weight: Any) -> Tensor:
    """The weight of one of the host's quantized tensors."""
    layout, rows = str(getattr(weight, "_layout_cls", None) or weight._layout_type), weight.shape[0]
    data, params = weight._qdata, getattr(weight, "_params", None)
    if params is None:  # hosts that know float8 alone
        return data.double() * weight._layout_params["scale"].double()
    if "MXFP8" in layout:
        exponents = _tiled(params.scale.view(torch.uint8), rows, data.shape[1] // 32)
        return _cropped(data.double() * 2.0 ** (exponents.double() - 127).repeat_interleave(32, dim=1), weight)
    if "NVFP4" in layout:
        codes = torch.stack([data >> 4, data & 15], dim=-1).flatten(1)
        scales = _tiled(params.block_scale.double(), len(codes), codes.shape[1] // 16).repeat_interleave(16, dim=1)
        return _cropped(_E2M1[codes.long()] * scales * params.scale.double(), weight)
    if "W4A8" in layout:
        levels = params.codebook.double()[_halves(data)] * params.scale.double().repeat_interleave(params.group_size, 1)
        whole = levels.round().clamp(-127, 127) * params.s_channel.double()[:, None]
        if params.correction is not None:
            whole += params.correction.double().T.repeat_interleave(params.group_size, dim=1)
        return _rotated(whole, params.convrot_groupsize)
    if "W4A4" in layout:
        codes = _halves(data)
        signed = torch.where(codes > 7, codes - 16, codes)
        return _rotated(signed.double() * params.scale.double().reshape(-1, 1), params.convrot_groupsize)
    plain = data.double() * params.scale.double()
    return _rotated(plain, params.convrot_groupsize) if getattr(params, "convrot", False) else plain


def _halves(data: Tensor) -> Tensor:
    """The two numbers of four bits in every byte, the lower half first."""
    data = data.view(torch.uint8)
    return torch.stack([data & 15, data >> 4], dim=-1).flatten(1).long()


def _tiled(scales: Tensor, rows: int, columns: int) -> Tensor:
    """(rows, columns) of scales that lie in tiles of 128 x 4, each as 32 rows of 4 x 4."""
    r, c = torch.arange(rows)[:, None], torch.arange(columns)[None]
    tiles_in_a_row = -(-columns // 4)
    tile = (r // 128) * tiles_in_a_row + c // 4
    return scales.flatten()[tile * 512 + (r % 32) * 16 + (r % 128) // 32 * 4 + c % 4]


def _cropped(padded: Tensor, weight: Any) -> Tensor:
    return padded[: weight.shape[0], : weight.shape[1]]


def _rotated(weight: Tensor, group: int) -> Tensor:
    """Groups of columns times the symmetric rotation that was applied to them when they were quantized."""
    power = next(n for n in range(1, 9) if 4**n == group)
    rotation = reduce(torch.kron, [_ROTATION] * power)
    return (weight.reshape(len(weight), -1, group) @ rotation.T).reshape(len(weight), -1)
