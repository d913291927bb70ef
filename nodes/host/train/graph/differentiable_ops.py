"""The host's fused operators while training: computed by the plain formula of the same name, which has a gradient.

Newer hosts compute norms, rotations and products with operators of comfy-kitchen, through which autograd cannot go.
Each has a formula in plain PyTorch, for machines without a kernel. Where a gradient is needed, that one is called
instead; where it rounds, or there is none, the training is refused by the operator's name. Nothing is registered:
outside of the context, and where no gradient is needed, all is as it was.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import comfy.quant_ops
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .....qrlora_core import TrainingError

_NAMESPACE = "comfy_kitchen"
_OPERATORS = (torch._ops.OpOverload, torch._ops.OpOverloadPacket)


def differentiable_operators() -> contextlib.AbstractContextManager[Any]:
    """Within the context, operators without a gradient are computed by their formulas wherever one is needed.

    So is what torch's own functions write into a given tensor (``out=``), which autograd refuses.

    It acts in its own thread alone: what runs again in backward, perhaps in a thread of autograd's, enters another.

    Raises:
        TrainingError: by the calls within, for an operator without such a formula, and for a rounded value.
    """
    return contextlib.nullcontext() if _formulas() is None else _Redirection()


class _Redirection(TorchFunctionMode):
    def __init__(self, within: str = "") -> None:
        super().__init__()
        self._within = within  # the operator whose formula runs

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if kwargs.get("out") is not None and _any_needs_gradient(args, kwargs):
            return _write_out(func, args, kwargs)
        if (
            isinstance(func, _OPERATORS)
            and str(func).startswith(f"{_NAMESPACE}.")
            and _any_needs_gradient(args, kwargs)
        ):
            return _differentiable(func, args, kwargs)
        result = _computed(func, args, kwargs) if self._within else func(*args, **kwargs)
        if _is_rounded(result, strictly=bool(self._within)) and _any_smooth(args, kwargs):
            raise _refusal(self._within, f"it rounds a value that needs one to {result.dtype}")
        return result


def _differentiable(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    overload = func.default if isinstance(func, torch._ops.OpOverloadPacket) else func
    name = str(func).split(".")[1]
    given = _bound(overload._schema, args, kwargs)
    written = {argument.name: given[argument.name] for argument in overload._schema.arguments if _is_written(argument)}
    formula = _formula(name.removesuffix("_") if written else name)
    if formula is None or not given.keys() <= inspect.signature(formula).parameters.keys():
        raise _refusal(name, "there is no formula of the same name and inputs")
    with _Redirection(within=name):
        # Copies: what the formula saves for backward must not change with them.
        result = formula(**given | {name: value.clone() for name, value in written.items()})
    results = result if isinstance(result, tuple) else (result,)
    if not any(value.requires_grad for value in results):
        raise _refusal(name, "its formula loses it")
    if not written:
        return result
    return _write(name, list(written.values()), results)


def _computed(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What a formula computes, also with a constant that the library keeps since a picture was drawn.

    Autograd refuses to save what was made in inference mode, before anything is computed.
    """
    try:
        return func(*args, **kwargs)
    except RuntimeError as error:
        if "Inference tensors cannot be saved for backward" not in str(error):
            raise
        return func(*map(_normal, args), **{name: _normal(value) for name, value in kwargs.items()})


def _normal(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def _write(name: str, written: Sequence[Tensor], results: Sequence[Tensor]) -> None:
    """What an operator that changes its inputs does, in the way that autograd follows."""
    if len(written) != len(results):
        raise _refusal(name, f"it changes {len(written)} inputs, and its formula gives {len(results)} results")
    try:
        for target, value in zip(written, results, strict=True):
            target.copy_(value)
    except RuntimeError as error:  # some views cannot be changed in place where gradients are recorded
        raise _refusal(name, f"it changes its inputs in place: {error}") from error


def _write_out(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """``out=`` in the way that autograd follows: computed beside it, then copied into it."""
    out = kwargs["out"]
    result = func(*args, **{name: value for name, value in kwargs.items() if name != "out"})
    pairs = zip(out, result, strict=True) if isinstance(out, tuple) else ((out, result),)
    for target, value in pairs:
        if target.shape != value.shape:  # torch makes room, too
            target.resize_(value.shape)
        target.copy_(value)
    return out


def _formulas() -> Any:
    """The module of the formulas, or None on a host without such operators."""
    kitchen = getattr(comfy.quant_ops, "ck", None)
    return getattr(getattr(kitchen, "backends", None), "eager", None)


def _formula(name: str) -> Callable[..., Any] | None:
    formula = getattr(_formulas(), name, None)
    return formula if inspect.isfunction(formula) else None


def _bound(schema: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Every argument by its name, with the operator's own defaults: the formula's may be others."""
    defaults = {entry.name: entry.default_value for entry in schema.arguments if entry.has_default_value()}
    return defaults | {entry.name: value for entry, value in zip(schema.arguments, args, strict=False)} | kwargs


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _any_needs_gradient(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    return any(tensor.requires_grad for tensor in _tensors((*args, *kwargs.values())))


def _any_smooth(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether a value that needs a gradient comes in that is not rounded itself, as a stored weight may be."""
    given = _tensors((*args, *kwargs.values()))
    return any(tensor.requires_grad and tensor.dtype.itemsize > 1 for tensor in given)


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _is_rounded(result: Any, *, strictly: bool) -> bool:
    """Whether this is no number any more that follows its origin smoothly.

    Args:
        strictly: any integer is; otherwise only what quantized storage consists of, as models count and sort as well.
    """
    if not isinstance(result, Tensor):
        return False
    dtype = result.dtype
    if dtype.is_complex or dtype is torch.bool:
        return False
    return dtype.itemsize == 1 or (strictly and not dtype.is_floating_point)


def _refusal(operator: str, why: str) -> TrainingError:
    subject = f"the operator {_NAMESPACE}.{operator}" if operator else "an operation"
    return TrainingError(
        f"this model cannot be trained as it is computed here: no gradient flows through {subject}, since {why}. If an "
        "option of ComfyUI or another node chose a quantized way to compute (an attention, for example), switch it "
        "off; otherwise please report the model's name."
    )
