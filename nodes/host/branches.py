"""Low-rank branches beside the host's layers, as PyTorch forward hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from .key_map import Target

Branch = Callable[[Tensor], Tensor]


@contextlib.contextmanager
def attached(model: torch.nn.Module, branches: Mapping[str, tuple[Target, Branch]]) -> Iterator[None]:
    """Within the context, every target's layer computes ``y + branch(x)``, on its rows of y only.

    Args:
        model: the host's BaseModel.
        branches: module path to (target, branch); several may belong to one fused layer.
    """
    by_module: dict[str, list[tuple[Target, Branch]]] = {}
    for target, branch in branches.values():
        by_module.setdefault(target.module, []).append((target, branch))
    with contextlib.ExitStack() as stack:
        for name, members in by_module.items():
            handle = model.get_submodule(name).register_forward_hook(_hook(members))
            stack.callback(handle.remove)
        yield


def _hook(members: Sequence[tuple[Target, Branch]]) -> Callable[..., Tensor]:
    def add_branches(_module: torch.nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        parts = [(target.rows, branch(args[0])) for target, branch in members]
        return output + _assemble(parts, output)

    return add_branches


def _assemble(parts: Sequence[tuple[tuple[int, int] | None, Tensor]], output: Tensor) -> Tensor:
    """The parts in their rows of the layer's output, zeros elsewhere."""
    whole = [part for rows, part in parts if rows is None]
    sliced = sorted(((rows, part) for rows, part in parts if rows is not None), key=lambda item: item[0])
    total = torch.stack(whole).sum(0) if len(whole) > 1 else (whole[0] if whole else None)
    if not sliced:
        return total
    pieces, filled = [], 0
    for (start, length), part in sliced:
        if start > filled:
            pieces.append(output.new_zeros(*output.shape[:-1], start - filled))
        pieces.append(part)
        filled = start + length
    if filled < output.shape[-1]:
        pieces.append(output.new_zeros(*output.shape[:-1], output.shape[-1] - filled))
    joined = torch.cat(pieces, dim=-1)
    return joined if total is None else joined + total
