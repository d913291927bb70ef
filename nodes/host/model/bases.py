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

from ....qrlora_core import AdapterError, AdapterFileError, BasisStore, Factors, Layer, decompose
from ....qrlora_core.functional.decompose import factors_on
from ....qrlora_core.functional.digest import weight_digest
from .host_types import Patcher
from .key_map import KeyMap, Target
from .weights import base_name, base_weight

_FOLDER = "qr_lora_bases"
_MOST_BYTES = 32 * 2**30


@contextlib.contextmanager
def basis_store() -> Iterator[BasisStore]:
    """Where bases lie, of compact files and of weights that were decomposed: ``models/qr_lora_bases``.

    It may be deleted at any time. Behind the context, what lies there has at most 32 GiB: some sixty base models at
    rank 64.
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


class KeptBases:
    """Decompositions by way of a store: a weight that was decomposed before, at this rank, is not decomposed again.

    Attributes:
        found: how many bases the store had. made: how many it had not.
        not_kept: why those that were made could not be stored, in words; else empty.
    """

    def __init__(self, store: BasisStore) -> None:
        self._store = store
        self.found = self.made = 0
        self.not_kept = ""

    def factors(self, patcher: Patcher, path: str, target: Target, rank: int, alpha: float | None = None) -> Factors:
        """Q and R of a target's unpatched base weight, on the CPU: the same bits whether Q was in the store or not."""
        weight = _weight(patcher, target)
        q, content = self._known(weight_digest(weight), weight, rank, path)
        return _on_cpu(factors_on(q, weight, content, alpha=alpha, layer=path))

    def told(self) -> str:
        """How many bases were found and made, for a report; empty where there was none to find."""
        if not self.found + self.made:
            return ""
        if not self.made:
            return f"all {self.found} bases were kept from before"
        counts = f"{self.made} bases were made, {self.found} kept from before"
        return f"{counts}; they could not be kept: {self.not_kept}" if self.not_kept else counts

    def _known(self, digest: str, weight: Tensor, rank: int, path: str) -> tuple[Tensor, int]:
        known = self._store.find_of(digest, rank)
        if known is not None:
            self.found += 1
            return known
        factors = decompose(weight, rank, layer=path)
        self.made += 1
        q, content = factors.q.cpu(), int(factors.base_r.any(dim=1).sum())
        if not self.not_kept:
            try:
                self._store.put_of(digest, q, content)
            except AdapterFileError as error:  # a full disk stops no training
                self.not_kept = str(error)
                logging.warning("QR-LoRA: the bases of this model are not kept: %s", error)
        return q, content


def decompose_target(patcher: Patcher, path: str, target: Target, rank: int) -> Factors:
    """Q and R of a target's unpatched base weight, worked out on the host's device and kept on the CPU."""
    return _on_cpu(decompose(_weight(patcher, target), rank, layer=path))


def _weight(patcher: Patcher, target: Target) -> Tensor:
    comfy.model_management.throw_exception_if_processing_interrupted()
    return base_weight(patcher, target).to(patcher.load_device).flatten(1)


def _on_cpu(factors: Factors) -> Factors:
    return replace(factors, q=factors.q.cpu(), base_r=factors.base_r.cpu())
