"""Make the host's frozen model differentiable with respect to its activations, and undo it without a trace."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor

from ...qrlora_core import TrainingError


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
            for store in (module._parameters, module._buffers):
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
def protected_inputs(model: torch.nn.Module, targets: Iterable[str]) -> Iterator[Callable[[Callable[[], Any]], None]]:
    """Within the context, layers save copies of their inputs for backward, if the model turns out to need it.

    Some of the host's blocks add to their residual stream in place and so overwrite what their norms, or the
    branches beside the target layers, saved. Backward notices, but not inside a checkpointed block.

    Args:
        model: the host's BaseModel.
        targets: dotted names of the layers with branches.

    Yields:
        ``decide(run)``: with a function that runs the model once; tries one block of every kind on its own,
        forward and backward, and switches the copies on if one fails for that reason.
    """
    switched_on = False

    def copy_input(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return tuple(map(_copied, args)) if switched_on else None

    def decide(run: Callable[[], Any]) -> None:
        nonlocal switched_on
        calls = _first_calls(list(_blocks(model.diffusion_model)), run)
        if any(_overwrites_saved(*call) for call in calls):
            switched_on = True
            for call in calls:
                _require_differentiable(*call)

    norms = (module for module in model.modules() if "Norm" in type(module).__name__)
    with contextlib.ExitStack() as stack:
        for module in {*norms, *map(model.get_submodule, targets)}:
            stack.callback(module.register_forward_pre_hook(copy_input).remove)
        yield decide


_Call = tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]


def _first_calls(blocks: Sequence[torch.nn.Module], run: Callable[[], Any]) -> list[_Call]:
    """The first call of a block of every class, with copies of its arguments."""
    calls: dict[type, _Call] = {}

    def remember(block: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.setdefault(type(block), (block, detached(args), detached(kwargs)))

    with contextlib.ExitStack() as stack:
        for block in blocks:
            stack.callback(block.register_forward_pre_hook(remember, with_kwargs=True).remove)
        with torch.no_grad():
            run()
    return list(calls.values())


def _overwrites_saved(block: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    try:
        _differentiate(block, args, kwargs)
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        return True
    return False


def _require_differentiable(block: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if _overwrites_saved(block, args, kwargs):
        raise TrainingError(
            f"this model's {type(block).__name__} overwrites values that its gradients need, so it cannot be "
            "trained by this version. Please report the model's name."
        )


def _differentiate(block: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Backward through one block, from inputs that need gradients and may be changed in place."""

    def prepared(value: Any) -> Any:
        return value.clone().requires_grad_().mul(1) if torch.is_tensor(value) and value.is_floating_point() else value

    # The class's own forward, not the checkpointed one, in which nothing is noticed.
    outputs = type(block).forward(block, *map(prepared, args), **{name: prepared(v) for name, v in kwargs.items()})
    tensors = [output for output in (outputs if isinstance(outputs, tuple) else (outputs,)) if torch.is_tensor(output)]
    torch.autograd.backward(sum(tensor.float().sum() for tensor in tensors))


@contextlib.contextmanager
def checkpointed_blocks(model: torch.nn.Module, *, enabled: bool) -> Iterator[None]:
    """Within the context, every block recomputes its activations in backward instead of keeping them."""
    blocks = list(_blocks(model)) if enabled else []
    try:
        for block in blocks:
            block.forward = _checkpointed(block.forward)
        yield
    finally:
        for block in blocks:
            del block.forward  # the class's own method shows again


def _checkpointed(forward: Any) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        # Copies: a block that changes its input in place would be computed again from the changed one.
        own = {name: _copied(value) for name, value in kwargs.items()}
        return forward(*map(_copied, args), **own)

    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        return torch.utils.checkpoint.checkpoint(run, *args, use_reentrant=False, **kwargs)

    return checkpointed


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) and value.is_floating_point() else value


def _blocks(module: torch.nn.Module, *, in_list: bool = False) -> Iterator[torch.nn.Module]:
    """The members of module lists, outermost first; lists and sequences themselves are looked into."""
    for child in module.children():
        container = isinstance(child, (torch.nn.ModuleList, torch.nn.ModuleDict, torch.nn.Sequential))
        if in_list and not container:
            yield child
        else:
            yield from _blocks(child, in_list=container)


def detached(value: Any) -> Any:
    """A copy of nested conditioning in which every tensor is a normal one (inference tensors are cloned)."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: detached(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(detached(item) for item in value)
    return value
