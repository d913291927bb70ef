"""Prompts that are queued, cancelled and queued again at any moment leave nothing behind in the model."""

from __future__ import annotations

import copy
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from devtools.server import Server

from ..test_server import LATENT, LOADER, MERGE, SAMPLER, example, generate, picture

pytestmark = [pytest.mark.server, pytest.mark.slow]

ROUNDS = 200
NAMES = [f"output/qr_loras/{prefix}_00001_.safetensors" for prefix in ("content", "style")]


@pytest.fixture(scope="module", autouse=True)
def trained(server: Server) -> None:
    """Two adapters that were trained a little."""
    server.queue(example(steps=4))


def merging(apply: str, scales: tuple[float, float]) -> dict[str, Any]:
    """A small picture in steps enough to be interrupted in, with both adapters."""
    prompt = base()
    inputs: dict[str, Any] = {"model": [LOADER, 0], "apply": apply}
    for slot, (name, scale) in enumerate(zip(NAMES, scales, strict=True), 1):
        prompt[f"2{slot}"] = {"class_type": "QRLoRA_Load", "inputs": {"adapter_name": name}}
        inputs |= {f"adapter_{slot}": [f"2{slot}", 0], f"scale_{slot}": scale}
    prompt[MERGE] = {"class_type": "QRLoRA_Merge", "inputs": inputs}
    prompt[SAMPLER]["inputs"]["model"] = [MERGE, 0]
    return prompt


def base(seed: int = 1) -> dict[str, Any]:
    prompt = generate()
    prompt[LATENT]["inputs"] |= {"width": 64, "height": 64}
    prompt[SAMPLER]["inputs"] |= {"steps": 6, "seed": seed}
    return prompt


PROMPTS = {"live": merging("live", (3.0, -2.0)), "patch": merging("patch", (-2.0, 4.0))}


def varied(chance: random.Random) -> dict[str, Any]:
    """One of the two prompts, mostly with something changed, so that not everything is cached."""
    prompt = copy.deepcopy(PROMPTS[chance.choice(list(PROMPTS))])
    prompt[SAMPLER]["inputs"]["seed"] = chance.randrange(5)
    if chance.random() < 0.5:
        prompt[MERGE]["inputs"]["scale_1"] = chance.choice([0.0, 0.5, 1.0])
    return prompt


def cancel(server: Server, chance: random.Random, submitted: list[str]) -> None:
    """At a random moment, in one of the ways in which users do: what runs, what waits, or both."""
    if chance.random() < 0.5:
        wait_until(server, lambda queue: bool(queue["queue_running"]) or not queue["queue_pending"])
    time.sleep(chance.choice([0.0, 0.02, 0.1, 0.2]) * chance.random())
    ways: list[tuple[str, Any]] = [
        ("/interrupt", {}), ("/interrupt", {"prompt_id": submitted[-1]}), ("/queue", {"delete": submitted[-2:]}),
        ("/queue", {"clear": True}),
    ]  # fmt: skip
    for path, payload in chance.sample(ways, chance.choice([0, 1, 1, 2])):
        server.post(path, payload)


def wait_until(server: Server, reached: Callable[[dict[str, Any]], bool]) -> None:
    while not reached(server.get("/queue")):
        time.sleep(0.002)


def is_idle(queue: dict[str, Any]) -> bool:
    return not queue["queue_running"] and not queue["queue_pending"]


def pictures(server: Server) -> dict[str, np.ndarray]:
    """Of both prompts and of the base model, none of them from the cache: each takes the place of another model."""
    prompts = {"base": base(), **copy.deepcopy(PROMPTS)}
    picture(server, base(seed=99))
    return {name: picture(server, prompt) for name, prompt in prompts.items()}


def test_prompts_cancelled_at_random_moments_leave_the_model_as_it_was(server: Server) -> None:
    before = pictures(server)
    assert not np.array_equal(before["live"], before["base"])
    assert not np.array_equal(before["patch"], before["base"])
    chance, submitted, start = random.Random(5), [], len(server.log)
    for _ in range(ROUNDS):
        finish = chance.random() < 0.1
        if finish:
            server.post("/queue", {"clear": True})
        submitted.append(server.submit(varied(chance)))
        if finish:
            wait_until(server, is_idle)
        else:
            cancel(server, chance, submitted)
    wait_until(server, is_idle)
    after = pictures(server)
    for name, image in before.items():
        assert np.array_equal(after[name], image), name
    assert "Traceback" not in server.log[start:]
    history = server.get("/history?max_items=10000")
    ends = Counter(history[name]["status"]["messages"][-1][0] for name in submitted if name in history)
    assert set(ends) == {"execution_success", "execution_interrupted"}
    assert min(ends.values()) >= ROUNDS / 20, ends  # else the moments are not those that matter
