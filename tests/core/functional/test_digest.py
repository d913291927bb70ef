"""Digests of weights: the same for the same numbers, another after any change."""

import pytest
import torch

from comfyui_qr_lora.qrlora_core.functional.digest import weight_digest

SHAPES = [(1, 1), (3, 2), (5, 64), (64, 5), (33, 300)]


def weight(shape=(33, 300), seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def entry(seed, found):
    """(row, column), drawn."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(int(torch.randint(side, (), generator=generator)) for side in found.shape)


def with_entry(found, at, value):
    changed = found.clone()
    changed[at] = value
    return changed


def bit_flipped(found, at, bit):
    changed = found.clone()
    changed.view(torch.int32)[at] ^= torch.tensor(1 << bit if bit < 31 else -(2**31), dtype=torch.int32)
    return changed


@pytest.mark.parametrize("shape", SHAPES)
def test_is_the_same_however_the_numbers_lie(shape):
    found = weight(shape).to(torch.bfloat16).float()
    expected = weight_digest(found)
    assert weight_digest(found.clone()) == expected
    assert weight_digest(found.T.contiguous().T) == expected
    assert weight_digest(torch.cat([found, found])[: shape[0]]) == expected
    assert weight_digest(found.to(torch.bfloat16)) == expected
    assert weight_digest(found.double()) == expected
    with torch.inference_mode():
        assert weight_digest(found * 1) == expected


def test_of_more_rows_than_are_summed_at_once():
    found = weight((3000, 1600))
    digests = {weight_digest(with_entry(found, (row, 1599), found[row, 1599] + 1e-6)) for row in (0, 1500, 2999)}
    assert len({weight_digest(found), weight_digest(found.clone()), *digests}) == 4


@pytest.mark.parametrize("seed", range(8))
def test_one_changed_entry_shows(seed):
    found = weight()
    at = entry(seed, found)
    for value in (found[at] + 1e-3, found[at] - 1e-6, -found[at], 2 * found[at], torch.tensor(float("nan"))):
        assert weight_digest(with_entry(found, at, value)) != weight_digest(found)


def test_every_bit_counts():
    found = weight((4, 6))
    digests = {weight_digest(found)} | {
        weight_digest(bit_flipped(found, (row, column), bit))
        for row in range(4)
        for column in range(6)
        for bit in range(32)
    }
    assert len(digests) == 1 + 4 * 6 * 32


@pytest.mark.parametrize("seed", range(20))
def test_changes_do_not_take_each_other_back(seed):
    """Signs and exponents are the high bits, in which sums are weakest."""
    found = weight((2, 40), seed)
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(found.shape, generator=generator) < 0.5
    changed = [
        -found, 2 * found, found / 4, torch.where(mask, -found, found), torch.where(mask, 2 * found, found),
        found.flip(0), found.flip(1), found.roll(1, 1), found[:, torch.randperm(40, generator=generator)],
        found.to(torch.bfloat16), found.half(), torch.zeros_like(found), found.reshape(4, 20), found.reshape(1, 80),
    ]  # fmt: skip
    digests = {weight_digest(other) for other in (found, *changed)}
    assert len(digests) == len(changed) + 1
