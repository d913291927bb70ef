"""Why a network cannot take a picture or a caption, in words: which input, what was expected, what was found."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..model.host_types import Caption, HostModel, Patcher
from ..model.weights import base_name
from .checks import named_tensors
from .dataset import Example

_UNUSED = {
    "control": "a ControlNet", "gligen": "boxes", "area": "an area", "mask": "a mask", "hooks": "hooks",
    "start_percent": "a range of steps",
}  # fmt: skip
# With a default of its own, an option is none that a model needs.
_READ = re.compile(r"""kwargs(?:\[["'](\w+)["']\]|\.get\(["'](\w+)["'](?:, None)?\))""")


@dataclass(frozen=True)
class Case:
    """One example with one caption, and the places of both in what was connected."""

    image: str
    example: Example
    text: str
    caption: Caption

    @property
    def kind(self) -> tuple[object, ...]:
        """What cases have in common of which one stands for all: everything but lengths and sizes."""
        latents = [(shape[1], len(shape)) for shape in self.example.shapes]
        texts = [(name, tensor.ndim, tensor.shape[-1:]) for name, tensor in named_tensors(self.caption)]
        return (*latents, *texts, *sorted(name for name, value in self.caption[1].items() if value is not None))


def notes(model: HostModel, case: Case, encoded: Mapping[str, Any]) -> Iterator[str]:
    """What is no reason to refuse a caption: what of it has no part in a training, and a picture that is not there.

    Args:
        encoded: what the host made of the caption.
    """
    for name, what in _UNUSED.items():
        if name in case.caption[1]:
            yield f"{case.text} has {what}, which a training does not use: only what is in the text counts."
    beside = encoded.get("c_concat")
    given = any(name.startswith("concat") for name in case.caption[1])
    if beside is None or given or not _reads_a_picture(model):
        return
    if beside.cond.shape[1] >= case.example.shapes[0][1]:  # with fewer channels it is a mask alone
        yield (
            f"{case.text} has no picture beside the text, which this model can be given (image to video, inpainting, "
            "control): it learns without one. Connect captions as you sample with them."
        )


def pooled_misfit(patcher: Patcher, case: Case) -> str:
    """What is wrong with a caption for networks that would fill in or cut in silence; empty where nothing is.

    FLUX and Hunyuan Video take zeros for a pooled embedding that is not there, and cut one that is too long; Anima
    takes the text past its adapter where the words for it are missing.
    """
    network: Any = patcher.model.diffusion_model
    given = case.caption[1]
    if hasattr(network, "llm_adapter") and given.get("t5xxl_ids") is None:
        return _caption_message(patcher, case, "it has no t5xxl_ids, which this model's text adapter reads.")
    if getattr(network, "vector_in", None) is None:
        return ""
    pooled = given.get("pooled_output")
    expected, found = network.params.vec_in_dim, pooled.shape[-1] if isinstance(pooled, Tensor) else 0
    if found == expected:
        return ""
    wrong = f"its pooled_output is {found} wide" if found else "it has no pooled_output"
    return _caption_message(patcher, case, f"{wrong}, and the model takes one of {expected}.")


def explain(patcher: Patcher, case: Case, error: Exception, run: Callable[[], object]) -> str:
    """What a pass that fails means.

    Args:
        run: the pass, which is run once more to see in which layer it ends.
    """
    if misfit := _misfit(patcher.model, run):
        if wrong := _explain_widths(case, misfit):
            return _caption_message(patcher, case, wrong)
    elif isinstance(error, KeyError):
        return _caption_message(patcher, case, f"it has no {error.args[0]}.")
    return _message(patcher, case, error, misfit)


@dataclass
class _Misfit:
    """The layer that was called last, and the widths that it takes and was given."""

    layer: str = ""
    expected: int = 0
    found: int = 0


def _misfit(model: HostModel, run: Callable[[], object]) -> _Misfit | None:
    """The layer in which a pass fails for the width of what it is given; None where it fails otherwise."""
    with _watched(model) as last:
        try:
            run()
        except Exception:  # what it is has been seen; this time only the layer counts
            return last if last.expected != last.found else None
    return None


@contextmanager
def _watched(model: HostModel) -> Iterator[_Misfit]:
    """Within the context, what is yielded is about the layer that was called last."""
    last = _Misfit()

    def note(name: str, expected: int, given: tuple[Any, ...]) -> None:
        last.layer, last.expected = name, expected
        last.found = given[0].shape[-1] if given and isinstance(given[0], Tensor) and given[0].ndim else expected

    hooks = [
        module.register_forward_pre_hook(lambda _, given, name=name, width=width: note(name, width, given))
        for name, module in model.diffusion_model.named_modules()
        if (width := _width(module))
    ]
    try:
        yield last
    finally:
        for hook in hooks:
            hook.remove()


def _width(module: Any) -> int:
    """Of what a linear layer or a norm takes; 0 for anything else."""
    shape = getattr(module, "normalized_shape", None) or (0,)
    width: int = getattr(module, "in_features", None) or shape[-1]
    return width


def _explain_widths(case: Case, misfit: _Misfit) -> str:
    """What of a caption has another width than a layer takes; empty where it is no matter of the caption's."""
    takes = f"layer {misfit.layer} takes {misfit.expected}"
    for name, tensor in named_tensors(case.caption):
        if tensor.ndim and tensor.shape[-1] == misfit.found:
            return f"its {name} is {misfit.found} wide, and {takes}."
    pooled = case.caption[1].get("pooled_output")
    if not isinstance(pooled, Tensor):
        return ""
    found = pooled.shape[-1]
    expected = found + misfit.expected - misfit.found  # where it stands in one row with other numbers
    if not 0 < expected <= misfit.expected or found > misfit.found:
        return ""
    return f"its pooled_output is {found} wide, and the model takes one of {expected} ({takes} in all)."


def _caption_message(patcher: Patcher, case: Case, wrong: str) -> str:
    return (
        f"{case.text} does not fit {base_name(patcher)}: {wrong} It holds {_held(case)}. Connect a text from the text "
        "encoder of this model, loaded with its own type in Load CLIP."
    )


def _message(patcher: Patcher, case: Case, error: Exception, misfit: _Misfit | None) -> str:
    sizes = " and ".join(str(tuple(shape)) for shape in case.example.shapes)
    lacking = _lacking(patcher.model, case)
    lacks = f", without {', '.join(lacking)}, which this model can read" if lacking else ""
    where = f" in layer {misfit.layer}, which takes {misfit.expected}, not {misfit.found}" if misfit else ""
    said = str(error).strip().rstrip(".") or type(error).__name__
    return (
        f"{base_name(patcher)} cannot be trained on {case.image} with {case.text}. The latent is {sizes}; the caption "
        f"holds {_held(case)}{lacks}. The model fails{where}: {said}. Connect pictures from the VAE of this model and "
        "texts from its text encoder, with all that you would sample with."
    )


def _reads_a_picture(model: HostModel) -> bool:
    """Whether the host's class puts a caption's picture beside the noise; some fill that place themselves."""
    methods = (getattr(type(model), name, None) for name in ("concat_cond", "extra_conds"))
    try:
        return any("concat_latent_image" in inspect.getsource(method) for method in methods if method)
    except OSError:  # a host without its sources
        return False


def _held(case: Case) -> str:
    return ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in named_tensors(case.caption)) or "nothing"


def _lacking(model: HostModel, case: Case) -> list[str]:
    """What the host's class reads of a caption, as its source has it, and this one lacks."""
    ours = {"cross_attn", "noise", "device", "seed", "guidance", "latent_shapes", "latent_image", "denoise_mask"}
    try:
        found = _READ.findall(inspect.getsource(type(model)))
    except OSError:  # a host without its sources
        return []
    names = {first or second for first, second in found}
    return sorted(name for name in names - ours if case.caption[1].get(name) is None)
