"""Memory that tensors of files share: apart from each other, aligned, and freed with the last of them."""

import threading
import weakref

import numpy as np
import pytest

from comfyui_qr_lora.qrlora_core.files.memory import Memory, room_for


@pytest.mark.parametrize("piece", [0, 1000, 2**20])
@pytest.mark.parametrize("seed", range(5))
def test_what_is_taken_is_aligned_and_nobody_elses(piece, seed):
    memory = Memory(piece)
    sizes = np.random.RandomState(seed).randint(1, 3000, 60)
    taken = [memory.take(int(size)) for size in sizes]
    for value, part in enumerate(taken):
        part[:] = value
    for value, (part, size) in enumerate(zip(taken, sizes, strict=True)):
        assert part.size == size
        assert part.ctypes.data % 64 == 0
        assert (part == value).all()


def test_by_several_threads_at_once():
    memory, taken = Memory(2**16), []

    def take():
        taken.extend(memory.take(100) for _ in range(2000))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({part.ctypes.data for part in taken}) == len(taken) == 8000


def test_one_piece_where_it_is_known_what_will_be_taken():
    sizes = [1, 64, 65, 7000]
    memory = Memory(sum(map(room_for, sizes)))
    first, *others = [memory.take(size) for size in sizes]
    assert all(part.base is first.base for part in others)


def test_a_piece_is_freed_with_the_last_part_of_it():
    memory = Memory(1000)
    first, second = memory.take(500), memory.take(400)
    freed = weakref.ref(first.base)
    memory.take(600)
    del first
    assert freed() is not None
    del second
    assert freed() is None
