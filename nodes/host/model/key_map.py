"""Which weight, or row slice of a fused weight, an adapter's module path means on a host model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import comfy.lora
import comfy.utils
import torch
from torch import Tensor

from ....qrlora_core import QRLoRA
from ....qrlora_core.files.parts import split_parameter
from . import diffusers_names, original_names
from .host_types import Entry, HostModel, Patcher, Reorder, Slice

_WEIGHT = ".weight"
_HOST_PREFIX = "diffusion_model."
_PEFT_PREFIX = "base_model.model."
# What trainers put before a layer's name, and before one in which underscores stand for dots.
_DOTTED_PREFIXES = ("transformer.", "unet.", "prior.", _HOST_PREFIX)
# What checkpoints put before them, which some trainers keep.
_WRAPPERS = ("model.diffusion_model.", "model.model.", "model.", "net.")
_FLAT_WRAPPERS = tuple(wrapper.replace(".", "_") for wrapper in _WRAPPERS)
# Before the host's own names of layers of text encoders in its table of LoRA names, and before diffusers'.
_TEXT_PREFIX, _DIFFUSERS_TEXT = "text_encoders.", ("text_encoder.", "text_encoder_2.")
_FLAT_PREFIXES = ("lycoris_", "lora_transformer_", "lora_unet_")


@dataclass(frozen=True)
class Target:
    """A host weight, or rows of one, that an adapter layer belongs to.

    Args:
        key: state-dict key of the host weight.
        shape: shape of the weight, or of the slice, as the adapter sees it.
        rows: (start, length) of the slice, or None for the whole weight.
        reorder: how the host orders rows against the adapter (swapped scale and shift), or None.
        vector: ``.bias``, ``.weight`` of a norm or another parameter's name, for a vector, whose shape is (n, 1) then;
            else empty.
    """

    key: str
    shape: tuple[int, ...]
    rows: tuple[int, int] | None = None
    reorder: Reorder | None = None
    vector: str = ""

    @property
    def module(self) -> str:
        """Dotted name of the host module that holds the weight."""
        return self.key.rpartition(".")[0]

    @property
    def patch_key(self) -> Entry:
        """The key as the host's ``add_patches`` takes it."""
        offset = None if self.rows is None else (0, *self.rows)
        if self.reorder is not None:
            return (self.key, offset, self.reorder)
        return self.key if offset is None else (self.key, offset)

    def of(self, weight: Tensor) -> Tensor:
        """The target's rows of the host weight, in the adapter's order."""
        part = weight if self.rows is None else weight.narrow(0, *self.rows)
        return part if self.reorder is None else self.reorder(part)


class KeyMap:
    """All names under which adapters may call the layers of one host model.

    Args:
        model: the host's BaseModel, as in ``ModelPatcher.model``, or its text encoders (``CLIP.cond_stage_model``).
    """

    def __init__(self, model: HostModel) -> None:
        is_network = hasattr(model, "diffusion_model")
        prefix, list_names = (
            (_HOST_PREFIX, comfy.lora.model_lora_keys_unet) if is_network else ("", comfy.lora.model_lora_keys_clip)
        )
        lora_names: dict[str, Entry] = list_names(model, {})
        self._shapes = {key: tuple(shape) for key, shape in _weight_shapes(model, prefix)}
        self._text_names = {} if is_network else dict(_named_as_diffusers_does(lora_names))
        self._prefix = "" if is_network else _TEXT_PREFIX
        self._published = self._of_this_model(_published_names(model, lora_names)) if is_network else {}
        self._vectors = dict(_vector_lengths(model, prefix))
        self._bare = dict(_bare_shapes(model, prefix)) if is_network else {}
        self._fixed = {entry for entry in lora_names.values() if isinstance(entry, str) and not self._serves(entry)}
        vector_names = _host_names(key for key in self._vectors if key.endswith(_WEIGHT))
        self._names = lora_names | self._published | dict(_host_names(self._shapes)) | dict(vector_names)

    def _of_this_model(self, published: Iterable[tuple[str, Entry]]) -> dict[str, Entry]:
        """The published names that the layers of this very model have; the host lists those of its relatives too.

        None where slices do not fit (Lumina 2 under the names of Z-Image): a file would mix two conventions. And none
        of a whole weight whose slices are the published layers (FLUX.1 under a name of FLUX.2).
        """
        names = dict(published)
        slices = {self._target(entry) for entry in names.values() if _parts(entry)[1] and entry[0] in self._shapes}
        if None in slices:
            return {}
        rows = Counter[str]()
        for target in filter(None, slices):
            rows[target.key] += target.shape[0]
        tiled = {key for key, count in rows.items() if count == self._shapes[key][0]}
        return {name: entry for name, entry in names.items() if entry not in tiled}

    def find(self, path: str) -> Target | None:
        """The target of an adapter's module path, or None when this model has no such layer."""
        path, parameter = split_parameter(path)
        bare = _without(path.removeprefix(_PEFT_PREFIX), _DOTTED_PREFIXES)
        for name in (path, f"transformer.{bare}", f"unet.{bare}", f"{_HOST_PREFIX}{bare}", bare):
            if name in self._names:
                return self._at(self._names[name], parameter)
        flat = _without(path, _FLAT_PREFIXES) if path.startswith(_FLAT_PREFIXES) else ""
        other = self._flat.get(flat) if flat else self._others.get(bare)
        other = other or self._whatever_the_dots((flat or bare).replace(".", "_"))
        return None if other is None else self._at(other, parameter)

    def of_another_shape(self, path: str) -> Target | None:
        """Of a name that `find` finds nothing for: a matrix where it means a vector, or the other way round."""
        stem, parameter = split_parameter(path)
        other = None if parameter == ".bias" else self.find(stem if parameter else path + _WEIGHT)
        return other if other is not None and bool(other.vector) != bool(parameter) else None

    def is_fixed(self, path: str) -> bool:
        """Whether a name means a parameter that the host has in its tables and that no patch of it changes."""
        stem, _ = split_parameter(path)
        bare = _without(stem.removeprefix(_PEFT_PREFIX), _DOTTED_PREFIXES)
        return not self._fixed.isdisjoint({stem, f"{_HOST_PREFIX}{bare}"})

    def _serves(self, key: str) -> bool:
        return key in self._shapes or key in self._vectors or key in self._bare

    def _whatever_the_dots(self, flat: str) -> Entry | None:
        """What a name means in which all dots are underscores: some converters bring back others than there were."""
        names = (flat, *(flat.removeprefix(wrapper) for wrapper in _FLAT_WRAPPERS if flat.startswith(wrapper)))
        return next((self._flat[name] for name in names if name in self._flat), None)

    def _at(self, entry: Entry, parameter: str) -> Target | None:
        return self._vector(entry, parameter) if parameter else self._target(entry)

    @cached_property
    def _others(self) -> dict[str, Entry]:
        """Names of diffusers and of original checkpoints that the host's tables lack."""
        return dict(self._of_others())

    def _of_others(self) -> Iterator[tuple[str, Entry]]:
        layers = {key.removeprefix(_HOST_PREFIX).removesuffix(_WEIGHT): key for key in self._shapes}
        for named in diffusers_names.names_of(layers, (*diffusers_names.NAMINGS, *original_names.NAMINGS)):
            key = layers[named.layer]
            rows = named.rows(self._shapes[key])
            offset = None if rows is None else (0, *rows)
            yield named.name, (key, offset, comfy.utils.swap_scale_shift) if named.swapped else (key, offset)

    @cached_property
    def _flat(self) -> dict[str, Entry]:
        """Names in which underscores stand for dots, but for those that could mean several layers."""
        meanings: dict[str, set[Entry]] = {}
        for name, entry in (self._names | self._others).items():
            target = self._target(entry)
            if target is not None and not name.startswith(_FLAT_PREFIXES):
                flat = _without(name, _DOTTED_PREFIXES).replace(".", "_")
                meanings.setdefault(flat, set()).add(target.patch_key)
        return {name: entries.pop() for name, entries in meanings.items() if len(entries) == 1}

    def shape_of(self, key: str) -> tuple[int, ...]:
        """The shape of a whole host weight."""
        return self._shapes[key]

    def named(self, target: Target) -> Target:
        """A target that has a name in the host's tables: itself, or the whole weight of which it is some rows."""
        if target.rows is None or self._name_of(target) is not None:
            return target
        whole = self._vectors[target.key] if target.vector else self._shapes[target.key][0]
        return replace(target, shape=(whole, *target.shape[1:]), rows=None)

    def name_of(self, target: Target) -> str:
        """The one name for a target that files have: published where it has one, else the host's own."""
        if target.key in self._bare:
            return self._prefix + target.key + (_WEIGHT if target.vector else "")
        return self._name_of(target) or self._prefix + target.module + target.vector

    def _name_of(self, target: Target) -> str | None:
        if not target.vector:
            return self._by_target.get(target)
        weight = f"{target.module}{_WEIGHT}"
        shape = self._shapes.get(weight, (0,))
        beside = Target(weight, (target.shape[0], *shape[1:]), target.rows, target.reorder)
        name = self._by_target.get(beside)
        return None if name is None else name + target.vector

    @cached_property
    def _by_target(self) -> dict[Target, str]:
        names: dict[Target, str] = {}
        published = self._published | self._text_names
        for name in (*published, *self._names):
            target = self._target(published.get(name) or self._names[name])
            # A whole weight without a published name is called by its module.
            if target is not None and (name in published or target.rows or target.reorder):
                names.setdefault(target, name)
        return names

    def linear(self, model: torch.nn.Module) -> dict[str, Target]:
        """Every linear layer once, by its published name where it has one, else by the host's own.

        A fused weight appears as its slices when their published names cover all of its rows.
        """
        is_linear = {f"{name}{_WEIGHT}" for name, module in model.named_modules() if _is_linear(module)}
        published: dict[str, dict[Target, str]] = {key: {} for key in self._shapes if key in is_linear}
        for name, entry in self._published.items():
            target = self._target(entry)
            if target is not None and target.key in published and target.reorder is None:
                published[target.key].setdefault(target, name)
        targets: dict[str, Target] = {}
        for key, names in published.items():
            whole = Target(key, self._shapes[key])
            if sum(target.shape[0] for target in names) == whole.shape[0]:
                targets.update({name: target for target, name in names.items()})
            else:
                targets[names.get(whole, whole.module)] = whole
        return targets

    def _vector(self, entry: Entry, parameter: str) -> Target | None:
        """The vector beside, or in place of, the weight that an entry of the host's tables means."""
        weight, offset, reorder = _parts(entry)
        if parameter == _WEIGHT and not weight.endswith(_WEIGHT):  # a parameter by its own name
            return self._vector_by_name(weight)
        key = weight.removesuffix(_WEIGHT) + parameter
        length = self._vectors.get(key)
        if length is None:
            return None
        rows = None if offset is None else (offset[1], offset[2])
        if rows is not None and sum(rows) > length:
            return None
        return Target(key, (length if rows is None else rows[1], 1), rows, reorder, parameter)

    def _vector_by_name(self, key: str) -> Target | None:
        shape = (self._vectors[key],) if key in self._vectors else self._bare.get(key, (0, 0))
        if len(shape) > 1:
            return None
        return Target(key, (math.prod(shape), 1), vector="." + key.rpartition(".")[2])

    def _target(self, entry: Entry) -> Target | None:
        key, offset, reorder = _parts(entry)
        shape = self._shapes.get(key) or self._bare.get(key, ())
        if len(shape) < 2:
            return None
        if offset is None:
            return Target(key, shape, None, reorder)
        dimension, start, length = offset
        if dimension != 0 or start + length > shape[0]:  # the host's tables overstate some models' slices
            return None
        return Target(key, (length, *shape[1:]), (start, length), reorder)


def _without(name: str, prefixes: Iterable[str]) -> str:
    """A name without the first of these prefixes that it has."""
    return name.removeprefix(next(filter(name.startswith, prefixes), ""))


def _parts(entry: Entry) -> tuple[str, Slice | None, Reorder | None]:
    """(key, slice, reordering) of an entry of the host's tables."""
    return (entry, None, None) if isinstance(entry, str) else (*entry, None, None)[:3]


def _vector_lengths(model: torch.nn.Module, prefix: str) -> Iterator[tuple[str, int]]:
    for key, parameter in model.named_parameters():
        if key.startswith(prefix) and key.endswith((_WEIGHT, ".bias")) and parameter.ndim == 1:
            yield key, parameter.shape[0]


def _weight_shapes(model: torch.nn.Module, prefix: str) -> Iterator[tuple[str, torch.Size]]:
    for key, parameter in model.named_parameters():
        if key.startswith(prefix) and key.endswith(_WEIGHT) and parameter.ndim >= 2:
            # GGUF packs the data, not the shape.
            yield key, getattr(parameter, "tensor_shape", parameter.shape)


def _bare_shapes(model: torch.nn.Module, prefix: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Parameters that are neither weight nor bias, where the host changes them: in modules without others in them."""
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if f"{name}.".startswith(prefix) and len(own) == sum(1 for _ in module.parameters()):
            shapes = {f"{name}.{key}": tuple(parameter.shape) for key, parameter in own.items()}
            yield from ((key, shape) for key, shape in shapes.items() if not key.endswith((_WEIGHT, ".bias")))


def _host_names(keys: Iterable[str]) -> Iterator[tuple[str, Entry]]:
    for key in keys:
        yield key.removesuffix(_WEIGHT), key


def _published_names(model: HostModel, lora_names: dict[str, Entry]) -> Iterator[tuple[str, Entry]]:
    """(diffusers name, host entry): ``transformer.*`` or ``unet.*``, from the host's own tables."""
    for name, entry in comfy.utils.unet_to_diffusers(model.model_config.unet_config).items():
        if name.endswith(_WEIGHT):
            yield f"unet.{name.removesuffix(_WEIGHT)}", f"{_HOST_PREFIX}{entry}"
    # Newer hosts list slices under both conventions: the first one counts.
    yield from ((name, entry) for name, entry in lora_names.items() if name.startswith("transformer."))
    for name, entry in lora_names.items():
        sliced = not isinstance(entry, str)
        if sliced and name.startswith(_HOST_PREFIX) and ".linear1_qkv" not in name:
            yield name, entry


def _named_as_diffusers_does(lora_names: dict[str, Entry]) -> Iterator[tuple[str, Entry]]:
    """(name, host entry) of the layers of text encoders for which the host knows diffusers' names."""
    yield from ((name, entry) for name, entry in lora_names.items() if name.startswith(_DIFFUSERS_TEXT))


def _is_linear(module: torch.nn.Module) -> bool:
    # By shape, not by class: the host's quantized layers are no torch.nn.Linear.
    weight = getattr(module, "weight", None)
    return hasattr(module, "in_features") and hasattr(module, "out_features") and weight is not None


def host_names(patcher: Patcher, adapter: QRLoRA) -> dict[str, tuple[str, ...]]:
    """Module path to the host's own dotted name of the layer, where the model has it."""
    key_map = KeyMap(patcher.model)
    targets = {path: key_map.find(path) for path in adapter.layers}
    return {path: (target.module,) for path, target in targets.items() if target is not None}
