"""What the host's own LoRA loader makes of layers that are of other kinds than ours: asked of the host itself."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.lora_convert
import torch

from ....qrlora_core import AdapterError, AdapterFileError, Reason
from ....qrlora_core.files import parts, safetensors_io
from ....qrlora_core.kinds.low_rank import LOW_RANK
from ....qrlora_core.kinds.registry import part_of
from ..advice import advised
from .stock_trial import acts

_ELSEWHERE = {
    "all": "ComfyUI's own LoRA loader applies it to a model that has it",
    "a part": "ComfyUI's own LoRA loader applies a part of it",
    "nothing": "ComfyUI's own LoRA loader does not apply it either",
}
_MOST_SIDES = 8  # of a weight
_ADVICE = {
    "all": "Load it with ComfyUI's own LoRA loader, before or after QR-LoRA Merge: both act.",
    "a part": "ComfyUI's own LoRA loader, which may stand before or after QR-LoRA Merge, applies a part of it.",
    "nothing": "ComfyUI's own LoRA loader does not apply it either.",
}


def elsewhere(path: Path, stems: Sequence[str]) -> Mapping[str, str]:
    """What the host's own loader does with each of these layers of a file, in words."""
    return {stem: _ELSEWHERE[taken] for stem, taken in _taken(path, stems).items()}


@contextlib.contextmanager
def advised_of(path: Path) -> Iterator[None]:
    """Within the context, errors about this file say what to do in ComfyUI, and a file of another kind who takes it."""
    with advised():
        try:
            yield
        except AdapterFileError as error:
            if error.reason is not Reason.OTHER_KIND:
                raise
            raise AdapterFileError(f"{error} {_ADVICE[_of_most(path)]}") from error


def _of_most(path: Path) -> str:
    """What the host's own loader takes of a file of another kind."""
    with safetensors_io.reading(path) as file:
        keys = file.keys()
    stems = dict.fromkeys(found[1] for key in keys if (found := part_of(key)))
    taken = set(_taken(path, list(stems)).values())
    return taken.pop() if len(taken) == 1 else "a part" if taken else "nothing"


def _taken(path: Path, stems: Sequence[str]) -> dict[str, str]:
    """By layer, whether the host takes ``all`` of its tensors, ``a part`` or ``nothing``."""
    with safetensors_io.reading(path) as file:
        keys = file.keys()
        lora = {key: _like(key, file) for key in keys}
    try:
        lora = dict(comfy.lora_convert.convert_lora(lora))
    except Exception:  # the host stops at such a file
        return {}
    return {stem: _taken_of(parts.split_parameter(stem)[0], lora) for stem in stems}


def _like(key: str, file: safetensors_io.SafetensorsFile) -> torch.Tensor:
    """A tensor of its shape that takes no memory: which keys the host takes hangs on names and shapes.

    But for the shape that a weight is to get, which it reads.
    """
    shape = file.shape(key)
    if key.endswith(".reshape_weight") and math.prod(shape) <= _MOST_SIDES:
        with contextlib.suppress(AdapterError):  # damaged, as the host will find
            return file.get_tensor(key)
    return torch.zeros(()).expand(shape)


def _part(key: str, stem: str) -> str:
    """``up``, ``down`` or ``mid`` under any trainer's names; of other kinds what stands behind the layer's name."""
    factor = LOW_RANK.part(key)
    return factor[1] if factor else key.removeprefix(f"{stem}.")


def _taken_of(stem: str, lora: dict[str, Any]) -> str:
    own = {key: tensor for key, tensor in lora.items() if key.startswith((f"{stem}.", f"{stem}_lora."))}
    try:
        patches = comfy.lora.load_lora(own, {stem: f"{stem}.weight"}, log_missing=False)
    except Exception:  # it stops at such a layer, and at the whole file
        return "nothing"
    adapters = [patch for patch in patches.values() if not isinstance(patch, tuple)]
    taken = set().union(*(adapter.loaded_keys for adapter in adapters))
    shapes = {_part(key, stem): tuple(tensor.shape) for key, tensor in own.items()}
    if not patches or not all(acts(adapter, shapes) for adapter in adapters):
        return "nothing"
    return "all" if len(adapters) < len(patches) or taken >= own.keys() else "a part"
