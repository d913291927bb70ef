"""Tensors read in the background: the library's, whatever is asked for in whichever order; and an end to it."""

import os
import threading
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from comfyui_qr_lora.qrlora_core import AdapterFileError
from comfyui_qr_lora.qrlora_core.files import tensor_reader
from comfyui_qr_lora.qrlora_core.files.safetensors_io import reading

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.uint8, torch.int64]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(tensor_reader, "CHUNK", 3000)


def file_of(tmp_path, seed, count=40):
    random = np.random.RandomState(seed)
    tensors = {}
    for index in range(count):
        shape = tuple(random.choice([0, 1, 3, 8, 64], random.randint(0, 4), p=[0.05, 0.15, 0.2, 0.3, 0.3]))
        numbers = torch.from_numpy(random.randint(0, 100, shape, dtype=np.int64))
        tensors[f"{random.randint(10**6)}.{index}"] = numbers.to(DTYPES[random.randint(len(DTYPES))])
    path = tmp_path / f"{seed}.safetensors"
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("expected", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(20))
def test_tensors_are_the_librarys(tmp_path, seed, expected):
    path = file_of(tmp_path, seed)
    random, own = np.random.RandomState(seed), load_file(path)
    with reading(path) as file:
        keys = file.keys()
        file.expect([key for key in keys if random.rand() < expected])
        found = {key: file.get_tensor(key) for key in random.permutation(keys)}
        again = {key: file.get_tensor(key) for key in keys[:5]}
    for key, tensor in [*found.items(), *again.items()]:
        assert tensor.dtype == own[key].dtype
        assert tensor.shape == own[key].shape
        assert torch.equal(tensor.flatten().view(torch.uint8), own[key].flatten().view(torch.uint8))
        assert tensor.is_floating_point() or tensor.storage_offset() == 0
    used = sorted((tensor.data_ptr(), tensor.nbytes) for tensor in found.values() if tensor.nbytes)
    assert all(start + size <= after for (start, size), (after, _) in pairwise(used))


def test_each_is_aligned(tmp_path):
    with reading(file_of(tmp_path, 7)) as file:
        keys = file.keys()
        file.expect(keys)
        assert all(tensor.data_ptr() % 64 == 0 for tensor in map(file.get_tensor, keys) if tensor.numel())


def is_reading():
    return any("reads a file" in thread.name for thread in threading.enumerate())


def test_nothing_is_read_on_when_the_file_is_left(tmp_path):
    def stopped():
        with reading(file_of(tmp_path, 3, count=400)) as file:
            file.expect(file.keys())
            file.get_tensor(file.keys()[0])
            assert is_reading()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stopped()
    assert not is_reading()


def test_nothing_is_read_before_a_tensor_is_asked_for(tmp_path):
    with reading(file_of(tmp_path, 3)) as file:
        file.expect(file.keys())
        assert file.shape(file.keys()[0]) is not None
        assert not is_reading()


def test_a_file_that_is_cut_short_meanwhile(tmp_path):
    path = file_of(tmp_path, 5)

    def cut():
        with reading(path) as file:
            keys = file.keys()
            file.expect(keys)
            os.truncate(path, path.stat().st_size - 2000)
            return [file.get_tensor(key) for key in keys]

    with pytest.raises(AdapterFileError, match="cut short while it was read"):
        cut()
