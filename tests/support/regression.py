"""A small regression that the tests of training share: one frozen layer ``W`` and the branch beside it."""

import torch
from safetensors import safe_open

from comfyui_qr_lora.qrlora_core import Factors
from comfyui_qr_lora.tests.support import oracle
from comfyui_qr_lora.tests.support.oracle import normal

OUT, RANK, WIDTH, ALPHA = 6, 3, 5, 4.5
W = normal(OUT, WIDTH, seed=1)
X = normal(64, WIDTH, seed=2)
SHIFT = oracle.delta_weight(oracle.split(W, RANK).Q, normal(RANK, WIDTH, seed=3)).float()
TARGET = X @ (W + SHIFT).T


def factors(seed=1, rank=RANK, alpha=ALPHA):
    parts = oracle.split(normal(OUT, WIDTH, seed=seed), rank, alpha)
    return Factors(parts.Q.float(), parts.R.float(), rank, alpha, captured_energy=0.9)


def regression(delta, x=X, target=TARGET):
    """Mean square error of the frozen layer and its branch."""
    return (x @ W.T + delta(x) - target).square().mean()


def assert_same_bits(left, right):
    assert left.layers.keys() == right.layers.keys()
    pairs = [(path, zip(left.layers[path].terms, right.layers[path].terms, strict=True)) for path in left.layers]
    for path, (ours, theirs) in ((path, pair) for path, terms in pairs for pair in terms):
        assert ours.alpha == theirs.alpha, path
        for name in ("q", "delta_r", "base_r"):
            a, b = getattr(ours, name), getattr(theirs, name)
            assert (a is None) == (b is None), (path, name)
            if a is not None:
                assert (a.dtype, a.shape) == (b.dtype, b.shape), (path, name)
                assert torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)), (path, name)
        assert ours.basis_id == theirs.basis_id
        assert torch.equal(ours.delta_weight(), theirs.delta_weight())


def stored(path):
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118 (no mapping)
