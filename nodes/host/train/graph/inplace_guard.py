"""Keep what autograd saved from being overwritten, in blocks that change tensors in place.

torch has `allow_mutation_on_saved_tensors` for it, which takes the same time. Around checkpointed blocks it ends in an
error, or, when their arguments are copied, in gradients that are wrong without one: `benchmarks/libraries.py` shows
both. So it does where a network writes between its blocks. The copies are made here.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .....qrlora_core import TrainingError
from ...model.host_types import HostModel
from .between_blocks import watched
from .modules import blocks, copied, detached, mapped, tensors


class InplaceGuard:
    """Which inputs must be copied, since a block changes them in place after they were saved for backward.

    Many of the host's blocks add to their residual stream in place, and so overwrite what their norms, or the
    branches beside the target layers, saved. Backward notices, but not inside a checkpointed block. So one block
    of every kind is tried on its own first, and what it overwrites is remembered by kind and place. Where that is
    not enough, since a block passes its stream to a function that saves it (LTXV's norms are no modules), these
    functions get copies of what they are given, within blocks of that kind alone. The same is found out of what runs
    between the blocks, in one run of the whole network.
    """

    def __init__(self) -> None:
        self._copied: set[_Place] = set()
        self._functions: dict[type, frozenset[_Function]] = {}
        self._changing: set[type] | None = None
        self._given_away: set[type] = set()
        self._last: torch.nn.Module | None = None

    def copies(self, place: _Place) -> bool:
        """Whether the module at this place needs a copy of its input."""
        return place in self._copied

    def functions(self, kind: type) -> frozenset[_Function]:
        """The functions that get copies of what they are given, within blocks of this kind."""
        return self._functions.get(kind, frozenset())

    def changes_arguments(self, kind: type) -> bool:
        """Whether a block of this kind may change what it is given; true until it was tried."""
        return self._changing is None or kind in self._changing

    def guarded(self, kind: type, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The forward of a block of this kind, or of the network: its functions get copies where they need them."""

        def run(*args: Any, **kwargs: Any) -> Any:
            functions = self.functions(kind)
            if not functions or not torch.is_grad_enabled():
                return forward(*args, **kwargs)
            with _Copying(functions):
                return forward(*args, **kwargs)

        return run

    def owning(self, kind: type, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The forward of a block of this kind, which gets copies of what the network changes after the block had it."""

        def run(*args: Any, **kwargs: Any) -> Any:
            if kind not in self._given_away or not torch.is_grad_enabled():
                return forward(*args, **kwargs)
            return forward(*map(copied, args), **{name: copied(value) for name, value in kwargs.items()})

        return run

    def is_last(self, block: torch.nn.Module) -> bool:
        """Whether this block runs last: backward begins with it, so nothing is saved by computing it again."""
        return block is self._last

    def decide(self, model: torch.nn.Module, run: Callable[[], Any]) -> None:
        """Try one block of every kind, forward and backward; ``run`` runs the model once.

        Raises:
            TrainingError: a block overwrites values that no copy of a module's or a function's input saves.
        """
        changing = set()
        tried = list(blocks(model))
        with watched(model, tried) as overwritten:
            calls, self._last = _first_calls(tried, run)
        self._given_away = overwritten.blocks
        self._copied |= {(type(model), name) for name in overwritten.modules}
        if overwritten.functions:
            self._functions[type(model)] = frozenset(overwritten.functions)
        for block, args, kwargs in calls:
            places, changes = _overwrites(block, args, kwargs)
            self._copied |= places
            if changes:
                changing.add(type(block))
            self._differentiate(block, args, kwargs)
        self._changing = changing

    def _differentiate(self, block: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kind = type(block)
        forward = functools.partial(kind.forward, block)  # not the checkpointed one, in which nothing is noticed
        if _overwriting(forward, args, kwargs) is None:
            return
        self._functions[kind] = frozenset(_overwritten_functions(forward, args, kwargs))
        error = _overwriting(self.guarded(kind, forward), args, kwargs)
        if error is not None:
            raise TrainingError(
                f"this model's {kind.__name__} overwrites values that its gradients need, so it cannot be "
                "trained by this version. Please report the model's name."
            ) from error


# A kind of block, and the dotted name of a module within it.
_Place = tuple[type, str]

_Function = Callable[..., Any]


class _Copying(TorchFunctionMode):
    """Within the context, these functions get copies of the tensors that they are given."""

    def __init__(self, functions: frozenset[_Function]) -> None:
        super().__init__()
        self._functions = functions

    def __torch_function__(self, func: _Function, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in self._functions:
            return func(*args, **kwargs)
        kept = 1 if _changes_first(func) else 0  # a copy would take the change
        rest = map(copied, args[kept:])
        return func(*args[:kept], *rest, **{name: copied(value) for name, value in kwargs.items()})


def _changes_first(func: _Function) -> bool:
    """Whether a method changes its own tensor: ``x.mul_(y)`` and ``x *= y``."""
    name = getattr(func, "__name__", "")
    return name.startswith("__i") if name.startswith("__") else name.endswith("_")


class _Watching(TorchFunctionMode):
    """Within the context, notes what functions save for backward, with versions.

    Functions that change others than their first tensor are left out: a copy would take the change.
    """

    def __init__(self) -> None:
        super().__init__()
        self._saved: list[tuple[Tensor, int]] = []
        self._noted: list[tuple[_Function, Tensor, int]] = []

    def __torch_function__(self, func: _Function, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._saved.clear()
        given = [(value, value._version) for value in args if isinstance(value, Tensor)]
        result = func(*args, **(kwargs or {}))
        if _changes_first(func) or all(value._version == version for value, version in given):
            self._noted += [(func, value, version) for value, version in self._saved]
        return result

    def save(self, tensor: Tensor) -> Tensor:
        """For `saved_tensors_hooks`; the version before the function changes it."""
        self._saved.append((tensor, tensor._version))
        return tensor

    def overwritten(self) -> set[_Function]:
        """The functions some of whose tensors were changed after they saved them."""
        return {func for func, value, version in self._noted if value._version != version}


@contextlib.contextmanager
def protected_inputs(model: HostModel, targets: Iterable[str], guard: InplaceGuard) -> Iterator[None]:
    """Within the context, norms and target layers save copies of their inputs where the guard says so.

    Args:
        model: the host's BaseModel.
        targets: dotted names of the layers with branches.
    """
    wanted = set(map(model.get_submodule, targets))

    def copy_input(place: _Place) -> Callable[..., Any]:
        return lambda _module, args: tuple(map(copied, args)) if guard.copies(place) else None

    network = model.diffusion_model
    with contextlib.ExitStack() as stack:
        for block in (network, *blocks(network)):
            for name, module in block.named_modules():
                if module in wanted or "Norm" in type(module).__name__:
                    hook = copy_input((type(block), name))
                    stack.callback(module.register_forward_pre_hook(hook).remove)
        yield


_Call = tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]


def _first_calls(
    tried: Sequence[torch.nn.Module], run: Callable[[], Any]
) -> tuple[list[_Call], torch.nn.Module | None]:
    """The first call of a block of every class, with copies of its arguments, and the block that was called last."""
    calls: dict[type, _Call] = {}
    last = None

    def remember(block: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal last
        last = block
        if type(block) not in calls:
            calls[type(block)] = (block, detached(args), detached(kwargs))

    with contextlib.ExitStack() as stack:
        for block in tried:
            stack.callback(block.register_forward_pre_hook(remember, with_kwargs=True).remove)
        run()
    return list(calls.values()), last


def _overwrites(block: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[set[_Place], bool]:
    """Run a block once: the places of modules whose input was changed after they had it, and whether an argument was.

    Every change in place raises a tensor's version, with and without a graph.
    """
    seen: list[tuple[_Place, Tensor, int]] = []

    def watch(place: _Place) -> Callable[..., None]:
        def note(_module: Any, inputs: tuple[Any, ...]) -> None:
            seen.extend((place, value, value._version) for value in inputs if torch.is_tensor(value))

        return note

    given, named = tuple(map(copied, args)), {name: copied(value) for name, value in kwargs.items()}
    arguments = list(tensors([*given, *named.values()]))
    versions = [value._version for value in arguments]
    with contextlib.ExitStack() as stack, torch.no_grad():
        for name, module in block.named_modules():
            stack.callback(module.register_forward_pre_hook(watch((type(block), name))).remove)
        type(block).forward(block, *given, **named)  # not the checkpointed one
    places = {place for place, value, version in seen if value._version != version}
    return places, versions != [value._version for value in arguments]


def _overwriting(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> RuntimeError | None:
    """Backward through one block; autograd's error if the block overwrote what it had saved."""
    leaves, outputs = _recorded(forward, args, kwargs)
    try:
        # To the inputs alone, so that no gradient of this trial is left anywhere.
        torch.autograd.grad(
            functools.reduce(torch.add, [tensor.float().sum() for tensor in outputs]), leaves, allow_unused=True
        )
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        return error
    return None


def _overwritten_functions(
    forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> set[_Function]:
    """The functions that save what the block changes in place afterwards."""
    watching = _Watching()
    with watching, torch.autograd.graph.saved_tensors_hooks(watching.save, lambda tensor: tensor):
        _recorded(forward, args, kwargs)
    return watching.overwritten()


def _recorded(
    forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs that need gradients, and what a block makes of them; it may change what it is given in place."""
    leaves: list[Tensor] = []

    def prepared(value: Tensor) -> Tensor:
        leaves.append(value.clone().requires_grad_())
        return leaves[-1].mul(1)

    given, named = mapped(prepared, args), {name: mapped(prepared, value) for name, value in kwargs.items()}
    return leaves, list(tensors(forward(*given, **named)))
