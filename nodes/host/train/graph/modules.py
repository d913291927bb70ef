"""Make the host's frozen model differentiable with respect to its activations, and undo it without a trace."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


@contextlib.contextmanager
def trainable_context() -> Iterator[None]:
    """Leave the host's inference mode, in which autograd records nothing."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextlib.contextmanager
def aliased_parameters(model: torch.nn.Module) -> Iterator[None]:
    """Within the context, parameters and buffers are normal frozen tensors on the very same memory.

    The host loads weights in inference mode, and autograd refuses to save inference tensors. A clone would
    double the model; an alias costs nothing. The original objects come back on exit.
    """
    replaced: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for module in model.modules():
            stores: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for store in stores:
                for name, tensor in store.items():
                    if tensor is not None and type(tensor.data) is Tensor:
                        replaced.append((store, name, tensor))
                        store[name] = _alias(tensor, as_parameter=store is module._parameters)
        yield
    finally:
        for store, name, tensor in replaced:
            store[name] = tensor


def _alias(tensor: Tensor, *, as_parameter: bool) -> Tensor:
    alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())
    return torch.nn.Parameter(alias, requires_grad=False) if as_parameter else alias


@contextlib.contextmanager
def replaced_forward(module: torch.nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Within the context, the module computes this instead."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward  # the class's own method shows again


def copied(value: Any) -> Any:
    """A clone of a floating tensor, through which gradients flow, also in tuples and lists; anything else as it is."""
    return mapped(torch.clone, value)


def mapped(function: Callable[[Tensor], Any], value: Any) -> Any:
    """What a function makes of a floating tensor, also in tuples and lists; anything else as it is."""
    if is_floating(value):
        return function(value)
    if type(value) in (tuple, list):
        return type(value)(mapped(function, item) for item in value)
    return value


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples and lists."""
    if isinstance(value, Tensor):
        yield value
    elif type(value) in (tuple, list):
        for item in value:
            yield from tensors(item)


def is_floating(value: object) -> bool:
    """True for a tensor that may have a gradient."""
    return isinstance(value, Tensor) and value.is_floating_point()


def blocks(module: torch.nn.Module, *, in_list: bool = False) -> Iterator[torch.nn.Module]:
    """The members of module lists, outermost first; lists and sequences are looked into, single layers left out."""
    for child in module.children():
        container = isinstance(child, (torch.nn.ModuleList, torch.nn.ModuleDict, torch.nn.Sequential))
        if in_list and not container:
            if next(child.children(), None) is not None:
                yield child
        else:
            yield from blocks(child, in_list=container)


def detached(value: Any) -> Any:
    """A copy of nested conditioning in which every tensor is a normal one (inference tensors are cloned)."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: detached(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(detached(item) for item in value)
    return value
