"""Train in child processes, kill each at a random moment, and print how far it had come: a line of JSON for each.

    python -m tests.support.killed_trainings FOLDER COUNT SEED

A program of its own, since only a process that never ran a backward pass may fork ones that do.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from devtools.host import boot, import_pack

boot(nodes=True)
import_pack()

import folder_paths  # noqa: E402
import torch  # noqa: E402

from comfyui_qr_lora.nodes.host.train.monitor import Monitor  # noqa: E402
from comfyui_qr_lora.nodes.host.train.settings import RunSettings  # noqa: E402
from comfyui_qr_lora.tests.support.training_task import train  # noqa: E402
from devtools import tiny_models  # noqa: E402

EVERY = 2


def train_forever(model: Any, folder: Path, told: int) -> None:
    """In the child: write the number of every finished step to the pipe."""
    original = Monitor.step

    def step(monitor: Monitor, number: int, *rest: Any) -> None:
        original(monitor, number, *rest)
        os.write(told, f"{number}\n".encode())

    Monitor.step = step
    folder_paths.set_output_directory(str(folder))
    with torch.inference_mode():
        train(model, steps=1_000_000, run=RunSettings("killed", EVERY, 2))


def kill_one(model: Any, folder: Path, chance: random.Random) -> int:
    """Returns the last step that the child told of."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told)
        try:
            train_forever(model, folder, tell)
        finally:
            os._exit(1)
    os.close(tell)
    with os.fdopen(told) as lines:
        last, enough = 0, chance.randint(1, 8)
        while last < enough and (line := lines.readline()):
            last = int(line)
        time.sleep(chance.random() * 0.1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return max([last, *map(int, lines.read().split())])


def main() -> None:
    folder, count, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    model, chance = tiny_models.build("sd3"), random.Random(seed)
    for number in range(count):
        own = folder / str(number)
        own.mkdir(parents=True)
        print(json.dumps({"folder": str(own), "steps": kill_one(model, own, chance)}), flush=True)


if __name__ == "__main__":
    main()
