"""Copies of a model for several devices, here two names of the CPU: each has its own branches, with its own factors."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from comfyui_qr_lora.qrlora_core import QRLoRA
from comfyui_qr_lora.qrlora_core.schedule import make_curve
from devtools import tiny_models

from ...support.adapters import merged, random_adapter, relative_error, with_stock_lora
from ...support.sampling import sample
from ...support.two_devices import SECOND, needs_copies, on_two, the_second

pytestmark = needs_copies
TOLERANCE = 1e-4  # relative to the adapter's effect: halves of a batch are summed in another order


def load(**_: Any) -> Any:
    """What a loader node leaves with its model, for the host to load it once more."""
    model = tiny_models.build("sd3")
    model.cached_patcher_init = load, ()
    return model


@cache
def model() -> Any:
    return load()


@cache
def adapter(seed: int = 1) -> QRLoRA:
    return random_adapter(model(), seed=seed)


def hooks(patcher: Any) -> int:
    return sum(bool(module._forward_hooks) for module in patcher.model.modules())


@cache
def split_before() -> Any:
    """A model that was split before any adapter came to it."""
    return on_two(model())


@pytest.mark.parametrize("apply", ["live", "patch"])
@pytest.mark.parametrize("split_first", [True, False])
def test_two_devices_draw_what_one_does(split_first: bool, apply: str) -> None:
    base = sample(model())
    assert relative_error(sample(split_before()), base, torch.zeros_like(base)) < 1e-5
    for scale in (0.8, -0.3):
        pairs = ((adapter(), scale), (adapter(2), 0.5))
        expected = sample(merged(model(), *pairs, apply=apply))
        found = (
            merged(split_before(), *pairs, apply=apply) if split_first else on_two(merged(model(), *pairs, apply=apply))
        )
        assert relative_error(sample(found), expected, base) < TOLERANCE


def test_both_copies_run_branches_with_factors_of_their_own() -> None:
    live = on_two(merged(model(), (adapter(), 1.0)))
    seen: list[tuple[int, int]] = []
    sample(live, callback=lambda *_: seen.append((hooks(live), hooks(the_second(live)))))
    first, second = seen[0]
    assert first == second > 10
    factors, copies = (set(map(id, factor_modules(patcher))) for patcher in (live, the_second(live)))
    assert len(factors) == len(copies) == 1
    assert factors.isdisjoint(copies)
    assert the_second(live).model is not live.model


def factor_modules(patcher: Any) -> list[torch.nn.Module]:
    mine = {key: models for key, models in patcher.additional_models.items() if key.startswith("qr_lora")}
    return [one.model for models in mine.values() for one in models]


@pytest.mark.parametrize("split_first", [True, False])
def test_a_schedule_acts_on_both(split_first: bool) -> None:
    base, curve = sample(model()), make_curve("ramp down", 0.0, 0.6)
    expected = sample(merged(model(), (adapter(), 1.0), schedule_1=curve))
    if split_first:
        found = merged(split_before(), (adapter(), 1.0), schedule_1=curve)
    else:
        found = on_two(merged(model(), (adapter(), 1.0), schedule_1=curve))
    assert relative_error(sample(found), expected, base) < TOLERANCE
    assert relative_error(sample(merged(model(), (adapter(), 1.0))), expected, base) > 0.05


def test_merges_in_series_and_stock_loras_beside() -> None:
    """The same adapter twice has its factors once, also on the second device."""
    base = sample(model())
    expected = sample(with_stock_lora(with_stock_lora(model(), adapter(), 0.7), adapter(2), 0.4))
    live = merged(merged(with_stock_lora(split_before(), adapter(2), 0.4), (adapter(), 0.5)), (adapter(), 0.2))
    assert relative_error(sample(live), expected, base) < TOLERANCE
    assert relative_error(sample(live), expected, base) < TOLERANCE
    assert relative_error(sample(split_before()), base, torch.zeros_like(base)) < 1e-5


def test_a_copy_for_another_device_samples_alone() -> None:
    """As Select Model Device makes it."""
    base, expected = sample(model()), sample(merged(model(), (adapter(), 0.6)))
    copy = merged(model(), (adapter(), 0.6)).deepclone_multigpu(new_load_device=SECOND)
    assert relative_error(sample(copy), expected, base) < TOLERANCE
    after = merged(model().deepclone_multigpu(new_load_device=SECOND), (adapter(), 0.6))
    assert relative_error(sample(after), expected, base) < TOLERANCE
