"""What `python dev.py lint` needs beside the environment."""

from __future__ import annotations

from pathlib import Path

from devtools.environment import ROOT
from devtools.host import PACK_ALIAS
from devtools.workspace import link_folder


def findable_pack(run: Path) -> Path:
    """A folder in which a type checker finds the pack under its alias: relative imports leave `nodes` for the core.

    Args:
        run: the home's folder of everything that runs.
    """
    folder = run / "types"
    folder.mkdir(parents=True, exist_ok=True)
    link_folder(folder / PACK_ALIAS, ROOT)
    return folder
