"""Which small models a test runs on: those that the host at hand lacks are skipped, and say so."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from devtools.tiny_models import NAMES, lacking


def models(names: Iterable[str] = NAMES) -> list:
    """Parameters of a test, one for each model."""
    return [pytest.param(name, marks=pytest.mark.skipif(bool(lacking(name)), reason=lacking(name))) for name in names]


every_model = pytest.mark.parametrize("name", models())
