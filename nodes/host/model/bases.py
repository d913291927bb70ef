"""Bases of a host model: worked out from its weights, and kept in a cache under the models folder."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import comfy.model_management
import folder_paths
from torch import Tensor

from ....qrlora_core import AdapterError, BasisStore, Factors, Layer, decompose
from .host_types import Patcher
from .key_map import KeyMap, Target
from .weights import base_name, base_weight

_FOLDER = "qr_lora_bases"
_MOST_BYTES = 32 * 2**30


@contextlib.contextmanager
def basis_store() -> Iterator[BasisStore]:
    """Where the bases of compact files lie: ``models/qr_lora_bases``, which may be deleted at any time.

    Behind the context, what lies there has at most 32 GiB: some sixty base models at rank 64.
    """
    store = BasisStore(Path(folder_paths.models_dir) / _FOLDER)
    yield store
    if store.has_grown and (deleted := store.prune(_MOST_BYTES)):
        logging.info("QR-LoRA: %d bases that were not used for the longest time left %s", deleted, _FOLDER)


class BaseModel:
    """Decompositions of a host model's layers by an adapter's names for them."""

    def __init__(self, patcher: Patcher) -> None:
        self._patcher, self._key_map = patcher, KeyMap(patcher.model)

    def fits(self, path: str, layer: Layer) -> bool:
        """Whether the model has a matrix of a layer's name and shape."""
        target = self._key_map.find(path)
        if target is None or layer.is_vector:
            return False
        found, expected = layer.shape, target.shape
        return (found[0], math.prod(found[1:])) == (expected[0], math.prod(expected[1:]))

    def factors(self, path: str, rank: int) -> Factors:
        """Q and R of a layer at a rank, on the CPU."""
        target = self._key_map.find(path)
        if target is None:
            raise AdapterError(
                f"layer {path} does not exist in this model ({base_name(self._patcher)}); connect the model that the "
                "adapter was trained on."
            )
        return decompose_target(self._patcher, path, target, rank)

    def basis(self, path: str, rank: int) -> Tensor:
        """Q alone."""
        return self.factors(path, rank).q


def decompose_target(patcher: Patcher, path: str, target: Target, rank: int, alpha: float | None = None) -> Factors:
    """Q and R of a target's unpatched base weight, worked out on the host's device and kept on the CPU."""
    comfy.model_management.throw_exception_if_processing_interrupted()
    weight = base_weight(patcher, target).to(patcher.load_device).flatten(1)
    factors = decompose(weight, rank, alpha=alpha, layer=path)
    return replace(factors, q=factors.q.cpu(), base_r=factors.base_r.cpu())
