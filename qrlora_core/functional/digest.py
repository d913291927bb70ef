"""Digests of weights: any change of an entry gives another, whatever the device and its order of sums."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

_SEED = 0
_AT_ONCE = 2**19  # entries: with more, a CPU waits for new memory ten times as long as it sums


def weight_digest(weight: Tensor) -> str:
    """32 hexadecimal digits of a matrix, from the bits of its entries as float32.

    Each row is `sum_j c_j w_ij mod 2^64`, with the bits of `w_ij` as a whole number and odd random `c_j`: multilinear
    hashing (Lemire and Kaser, arXiv 1202.4961), which is exact, so the same in any order of summing. A single change
    within a row always shows; of several the chance to go unseen is at most 2^-32. BLAKE2 takes the rows together.

    Args:
        weight: (out, in), any floating dtype and device. The sums are done there.

    Returns:
        Digits that tell weights apart by accident, not against an adversary.
    """
    with torch.inference_mode(False), torch.no_grad():
        bits = weight.detach().to(torch.float32).contiguous().view(torch.int32)
        odd = _odd_numbers(bits.shape[1]).to(bits.device)
        parts = bits.split(max(1, _AT_ONCE // max(1, bits.shape[1])))
        sums = [rows.to(torch.int64).mul_(odd).sum(1) for rows in parts]  # each (rows,)
        digest = hashlib.blake2b(torch.cat(sums).cpu().numpy().tobytes(), digest_size=16, person=b"qr-lora weight")
    digest.update(str(tuple(weight.shape)).encode())
    return digest.hexdigest()


def _odd_numbers(count: int) -> Tensor:
    """(count,) int64, in which 64 bits are random but for the last."""
    # This generator's stream is frozen for all versions of numpy, which torch promises for none of its own.
    drawn = np.random.RandomState(_SEED).randint(-(2**63), 2**63, count, dtype=np.int64)
    return torch.from_numpy(drawn | 1)
