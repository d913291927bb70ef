"""Bases of weights that were decomposed before: found bit for bit, or not at all."""

from pathlib import Path

import pytest
import torch

from comfyui_qr_lora.qrlora_core import BasisStore, Term, decompose
from comfyui_qr_lora.qrlora_core.functional.digest import weight_digest

OUT, IN, RANK = 24, 16, 4


def weight(seed=0):
    return torch.randn(OUT, IN, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def store(tmp_path):
    return BasisStore(tmp_path)


@pytest.fixture
def kept(store):
    """(digest, q) of a weight in the store."""
    q = decompose(weight(), RANK).q
    store.put_of(weight_digest(weight()), q, RANK)
    return weight_digest(weight()), q


def entries(folder: Path):
    return sorted(folder.rglob("*.safetensors"))


def test_is_found_bit_for_bit(store, kept):
    q, content = store.find_of(kept[0], RANK)
    assert torch.equal(q, kept[1])
    assert content == RANK


def test_is_kept_once_with_that_of_compact_files(store, kept, tmp_path):
    name = Term(kept[1], torch.ones(RANK, IN)).basis_id
    assert [path.stem == name for path in entries(tmp_path)].count(True) == 1
    assert len(entries(tmp_path)) == 2  # the basis, and whose it is


def test_is_not_found_for_another_weight_or_rank(store, kept):
    for seed in range(1, 5):
        assert store.find_of(weight_digest(weight(seed)), RANK) is None
    assert store.find_of(kept[0], RANK + 1) is None


def test_one_that_was_rebuilt_elsewhere_under_its_name_is_not_it(store, kept):
    name = Term(kept[1], torch.ones(RANK, IN)).basis_id
    store.put(name, kept[1] + 1e-6)
    assert store.find_of(kept[0], RANK) is None
    store.put_of(kept[0], kept[1], RANK)
    assert torch.equal(store.find_of(kept[0], RANK)[0], kept[1])


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_entry_is_missing_or_makes_no_difference(store, kept, tmp_path, which, seed):
    path = entries(tmp_path)[which]
    whole = path.read_bytes()
    generator = torch.Generator().manual_seed(seed)
    at = int(torch.randint(len(whole), (), generator=generator))
    damaged = whole[:at] if seed % 3 == 0 else whole[:at] + bytes([whole[at] ^ (1 << seed % 8)]) + whole[at + 1 :]
    path.write_bytes(damaged)
    found = store.find_of(kept[0], RANK)
    assert found is None or (torch.equal(found[0], kept[1]) and found[1] <= RANK)


def test_what_is_left_of_a_pruned_basis_is_missing(store, kept, tmp_path):
    for path in entries(tmp_path):
        if not path.stem.startswith("of_weight_"):
            path.unlink()
    assert store.find_of(kept[0], RANK) is None
