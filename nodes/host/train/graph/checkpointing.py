"""Gradient checkpointing that computes again only what is cheap, as far as memory allows.

A checkpointed block keeps its arguments alone and runs again in backward. Most of that time is linear layers, whose
weights are frozen: of them backward needs no more than the input, which the second run finds anyway. So where there
is room their outputs are kept, and the second run does norms, attention and the like. The bits are the same.

The second run itself is torch's `checkpoint`. Its `create_selective_checkpoint_contexts` keeps outputs too, by
operator: every operation goes through Python, there is no limit in bytes, and nothing tells which of them a frozen
layer made. `benchmarks/libraries.py` has it beside this one: more time and more memory for the same gradients.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor

from .differentiable_ops import differentiable_operators
from .inplace_guard import InplaceGuard
from .modules import blocks, copied, replaced_forward

# The block call that runs now: whether it is its second run, and what it kept, by layer, with tensor versions.
_Kept = dict[torch.nn.Module, list[tuple[Tensor, int]]]


class ActivationCache:
    """Outputs of frozen linear layers between the first run of a block and its second.

    Args:
        budget: bytes that may be kept at any time.
    """

    def __init__(self, budget: float) -> None:
        self._budget, self._used = budget, 0
        self._kept: _Kept | None = None
        self._again = False
        self._unfit: set[torch.nn.Module] = set()

    @property
    def active(self) -> bool:
        """Whether anything may be kept."""
        return self._budget > 0

    def begin(self) -> None:
        """Before a pass: what the last one kept is gone, also what its backward had no need of."""
        self._used = 0

    def give_up(self) -> None:
        """Keep nothing any more."""
        self._budget, self._used = 0, 0

    @contextlib.contextmanager
    def run(self, kept: _Kept, *, again: bool) -> Iterator[None]:
        """Within the context, the first or the second run of one block call."""
        self._kept, self._again = kept, again
        try:
            yield
        finally:
            self._kept = None

    def take(self, layer: torch.nn.Module) -> Tensor | None:
        """What the layer gave in the first run, if this is the second and it was kept."""
        if self._kept is None or not self._again or not self._kept.get(layer):
            return None
        output, version = self._kept[layer].pop(0)
        self._used = max(0, self._used - output.nbytes)
        if output._version == version:
            return output
        self._unfit.add(layer)  # the block changed it in place afterwards
        return None

    def offer(self, layer: torch.nn.Module, output: Tensor) -> None:
        """Keep an output of the first run, if there is room."""
        if self._kept is None or self._again or layer in self._unfit:
            return
        if self._used + output.nbytes <= self._budget:
            alias = output.detach()  # shares memory and version
            self._kept.setdefault(layer, []).append((alias, alias._version))
            self._used += output.nbytes


@contextlib.contextmanager
def checkpointed_blocks(
    model: torch.nn.Module, guard: InplaceGuard, outputs: ActivationCache, *, enabled: bool
) -> Iterator[None]:
    """Within the context, every block of a network runs again in backward instead of keeping its activations.

    Args:
        enabled: without it, blocks run once; what the guard copies is copied all the same.
    """
    with contextlib.ExitStack() as stack:
        for block in blocks(model):
            forward = guard.guarded(type(block), block.forward)
            if enabled:
                forward = _checkpointed(block, forward, guard, outputs)
            stack.enter_context(replaced_forward(block, guard.owning(type(block), forward)))
        stack.enter_context(replaced_forward(model, guard.guarded(type(model), model.forward)))
        yield


def _checkpointed(
    block: torch.nn.Module, forward: Callable[..., Any], guard: InplaceGuard, outputs: ActivationCache
) -> Callable[..., Any]:
    kind = type(block)

    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        if guard.is_last(block) or not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        kept: _Kept = {}
        runs = 0

        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal runs
            runs += 1
            again = runs > 1  # perhaps in a thread of autograd's, in which no mode of ours is active
            with outputs.run(kept, again=again), differentiable_operators() if again else contextlib.nullcontext():
                if not guard.changes_arguments(kind):
                    return forward(*args, **kwargs)
                # Copies: a block that changes its input in place would be computed again from the changed one.
                return forward(*map(copied, args), **{name: copied(value) for name, value in kwargs.items()})

        return torch.utils.checkpoint.checkpoint(run, *args, use_reentrant=False, **kwargs)

    return checkpointed
