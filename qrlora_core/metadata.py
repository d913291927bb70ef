"""Metadata of files: text that may say anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def json_object(metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    """The JSON object under a name; empty where there is none, or anything else."""
    try:
        told = json.loads(metadata.get(name, "{}"))
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}
