"""Which small models a test runs on: those that the host at hand lacks are skipped, and say so."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from devtools.tiny_models import NAMES, lacking, variant_of

# Without those whose network another one has with other settings: they have the checks of `generators.model_check`.
NETWORKS = tuple(name for name in NAMES if not variant_of(name))


def models(names: Iterable[str] = NAMES) -> list:
    """Parameters of a test, one for each model."""
    return [pytest.param(name, marks=pytest.mark.skipif(bool(lacking(name)), reason=lacking(name))) for name in names]


every_network = pytest.mark.parametrize("name", models(NETWORKS))
