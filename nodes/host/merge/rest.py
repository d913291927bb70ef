"""The layers of a merge that no connected model has: not applied, but saved with the others."""

from __future__ import annotations

import logging
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import combinations, starmap

from ....qrlora_core import Layer, QRLoRA, are_one_shape, is_of_text_encoder, merge
from ....qrlora_core.files.text_encoder_names import dotted_names
from ..apply.source import Source
from ..text import paths_as_text
from .combine import Combination, combine_by_name


class LayersWhenAsked(Mapping[str, Layer]):
    """Layers that are worked out when one asks for any of them: most merges are seen, and few are saved."""

    def __init__(self, make: Callable[[], Mapping[str, Layer]]) -> None:
        self._make = make

    @cached_property
    def _layers(self) -> Mapping[str, Layer]:
        return self._make()

    def __getitem__(self, path: str) -> Layer:
        return self._layers[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)


def merge_of_rest(sources: Sequence[Source], how: Combination, clip_scale: float) -> LayersWhenAsked:
    """The merge of layers that have only their names to be told by, in the mode and at the scales of the others.

    Args:
        sources: with adapters of these layers alone.
        clip_scale: times the scales, for layers of text encoders.
    """
    return LayersWhenAsked(lambda: _merged(sources, how, clip_scale))


def _merged(sources: Sequence[Source], how: Combination, clip_scale: float) -> Mapping[str, Layer]:
    named = _of_one_shape([replace(source, adapter=_dotted(source.adapter)) for source in sources if not source.is_off])
    of_text = [replace(own, adapter=_part(own.adapter, True), scale=own.in_text_encoder(clip_scale)) for own in named]
    of_network = [replace(own, adapter=_part(own.adapter, False)) for own in named]
    parts = [
        merge([(own.adapter, own.scale) for own in combine_by_name(part, how)]).layers for part in (of_text, of_network)
    ]
    return ChainMap(*map(dict, parts))


def _dotted(adapter: QRLoRA) -> QRLoRA:
    """Under names that are one for one layer of a text encoder, whichever trainer's it has."""
    names, layers = dotted_names(adapter.layers), dict[str, Layer]()
    for path, layer in adapter.layers.items():
        before = layers.get(names[path])
        layers[names[path]] = Layer.joined([layer] if before is None else [before, layer])
    return replace(adapter, layers=layers)


def _of_one_shape(sources: Sequence[Source]) -> list[Source]:
    """The sources without layers that are of other shapes in another of them, and so were made for another model."""
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for source in sources:
        for path, layer in source.adapter.layers.items():
            shapes.setdefault(path, set()).add(layer.shape)
    torn = [path for path, found in shapes.items() if not all(starmap(are_one_shape, combinations(found, 2)))]
    if not torn:
        return list(sources)
    logging.warning(
        "QR-LoRA: %d layers that the connected models lack are of other shapes in each adapter, and are not in the "
        "merge that is saved: %s", len(torn), paths_as_text(torn),
    )  # fmt: skip
    return [replace(source, adapter=_without(source.adapter, torn)) for source in sources]


def _without(adapter: QRLoRA, paths: Sequence[str]) -> QRLoRA:
    return replace(adapter, layers={path: layer for path, layer in adapter.layers.items() if path not in paths})


def _part(adapter: QRLoRA, of_text: bool) -> QRLoRA:
    return replace(
        adapter, layers={path: layer for path, layer in adapter.layers.items() if is_of_text_encoder(path) == of_text}
    )
