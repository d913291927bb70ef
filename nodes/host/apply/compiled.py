"""Models that `torch.compile` turned into programs: how they are known, and how a program is made anew."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
from comfy.patcher_extension import WrappersMP

from ..model.host_types import Patcher


def is_compiled(patcher: Patcher, modules: Iterable[torch.nn.Module]) -> bool:
    """Whether a node or a pack has compiled the model, or one of these modules of it."""
    if "_dynamo" not in vars(torch):  # nothing was ever compiled, and importing the compiler takes seconds
        return False
    kind = torch._dynamo.eval_frame.OptimizedModule
    return (
        any("compile" in str(key) for key in patcher.wrappers.get(WrappersMP.APPLY_MODEL, {}))
        or any(isinstance(patch, kind) for patch in patcher.object_patches.values())
        or any(isinstance(module, kind) or _is_own(module) for module in modules)
    )


def _is_own(module: torch.nn.Module) -> bool:
    """Whether a module's own call or its ``forward`` was replaced by a compiled one."""
    own = vars(module)
    return own.get("_compiled_call_impl") is not None or hasattr(own.get("forward"), "_torchdynamo_orig_callable")


def compile_anew() -> None:
    """Drop every program that was compiled before our hooks were there: it would run without them.

    The compiler does not look at hooks again, and has no way to forget a single model's programs.
    """
    logging.info("QR-LoRA: compiled models are compiled once more, with the branches of live adapters in them.")
    torch.compiler.reset()
