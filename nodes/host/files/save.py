"""Save an adapter in a format and precision that a node offers by name."""

from __future__ import annotations

from pathlib import Path

import torch

from ....qrlora_core import AdapterFileError, QRLoRA, save_adapter
from ..advice import advised
from ..model.bases import basis_store

DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def save(adapter: QRLoRA, path: Path, format: str, dtype: str) -> Path:
    """Write the file, and for ``compact`` the bases that the cache does not have yet.

    Raises:
        AdapterFileError, AdapterError: see `save_adapter`; or an unknown dtype.
    """
    if dtype not in DTYPES:
        raise AdapterFileError(f"dtype: expected one of {', '.join(DTYPES)}, found {dtype!r}.")
    with advised(), basis_store() as bases:
        return save_adapter(adapter, path, format=format, dtype=DTYPES[dtype], bases=bases)
