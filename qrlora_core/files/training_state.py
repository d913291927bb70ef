"""Checkpoints of a training: the adapter as it is, and all that the next update depends on, in one file.

The file is an adapter file (see `checkpoint`) with further tensors, so it loads as an adapter too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..adapter import QRLoRA
from ..errors import AdapterFileError
from .adapter_file import STATE_KEY, STATE_PREFIX, load_adapter, save_adapter
from .safetensors_io import reading


@dataclass(frozen=True)
class TrainingState:
    """What a training goes on from.

    Attributes:
        adapter: the adapter as it was, with Q and R, which are never computed again.
        tensors: optimizer, parameters, random state, by name.
        record: numbers and settings, as JSON can hold them.
    """

    adapter: QRLoRA
    tensors: Mapping[str, Tensor]
    record: Mapping[str, Any]


def save_training(state: TrainingState, path: str | os.PathLike[str]) -> Path:
    """Write a checkpoint as `save_adapter` does: whole or not at all.

    Raises:
        AdapterFileError: it cannot be written. AdapterError: NaN or infinity in the adapter.
    """
    adapter = replace(state.adapter, metadata={**state.adapter.metadata, STATE_KEY: json.dumps(dict(state.record))})
    return save_adapter(adapter, path, extra={STATE_PREFIX + name: tensor for name, tensor in state.tensors.items()})


def load_training(path: str | os.PathLike[str]) -> TrainingState:
    """Read a checkpoint.

    Raises:
        AdapterFileError: it is damaged, or an adapter file without a training state.
    """
    source = Path(path)
    adapter = load_adapter(source)
    record = read_record(source)
    if record is None:
        raise AdapterFileError(
            f"{source.name}: this is a finished adapter, not a checkpoint of a training, so no training can go on "
            "from it. Choose a file from the folder checkpoints."
        )
    with reading(source) as file:
        names = [key for key in file.keys() if key.startswith(STATE_PREFIX)]  # noqa: SIM118
        tensors = {name.removeprefix(STATE_PREFIX): file.get_tensor(name) for name in names}
    return TrainingState(adapter, tensors, record)


def read_record(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The numbers and settings of a checkpoint, without its tensors; None where the file has none.

    Raises:
        AdapterFileError: not a readable file.
    """
    source = Path(path)
    with reading(source) as file:
        text = file.metadata().get(STATE_KEY)
    try:
        return None if text is None else dict(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise AdapterFileError(f"{source.name}: not a readable checkpoint ({error}); choose another.") from error
