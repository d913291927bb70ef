"""A model on two devices, which here are two names of the CPU."""

from __future__ import annotations

from typing import Any

import comfy.model_patcher
import pytest
import torch

SECOND = torch.device("cpu", 0)
needs_copies = pytest.mark.skipif(
    not hasattr(comfy.model_patcher.ModelPatcher, "deepclone_multigpu"),
    reason="this ComfyUI makes no copies of a model for other devices",
)


def on_two(patcher: Any) -> Any:
    """As MultiGPU CFG Split does, which finds no second device here."""
    from comfy.multigpu import GPUOptionsGroup

    patcher = patcher.clone()
    second = patcher.deepclone_multigpu(new_load_device=SECOND)
    second.is_multigpu_base_clone = True
    patcher.set_additional_models("multigpu", [second])
    patcher.match_multigpu_clones()
    GPUOptionsGroup().register(patcher)
    return patcher


def the_second(patcher: Any) -> Any:
    """The copy of a model that is on two devices."""
    (second,) = patcher.get_additional_models_with_key("multigpu")
    return second
