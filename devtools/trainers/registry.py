"""The layouts of all trainers: `LAYOUTS` of every file here that has them."""

from __future__ import annotations

import importlib
import pkgutil

from . import __name__ as package
from . import __path__ as folder
from .layout import Layout


def layouts() -> tuple[Layout, ...]:
    """All of them, trainer by trainer."""
    files = (importlib.import_module(f"{package}.{found.name}") for found in pkgutil.iter_modules(folder))
    return tuple(layout for file in files for layout in getattr(file, "LAYOUTS", ()))
