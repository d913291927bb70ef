"""Metadata of files: the names in use, and text that may say anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

METADATA_PREFIX = "qr_lora."
FORMAT_VERSION = "1"
VERSION_KEY = f"{METADATA_PREFIX}format_version"
BASE_FINGERPRINT = f"{METADATA_PREFIX}base_fingerprint"
VARIANT = f"{METADATA_PREFIX}variant"
KINDS_KEY = f"{METADATA_PREFIX}kinds"  # of what is no low-rank sum, as a JSON list
MERGE_KEY = f"{METADATA_PREFIX}merge"  # how a merge came about, as JSON
ARCHITECTURE = "modelspec.architecture"


def json_object(metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    """The JSON object under a name; empty where there is none, or anything else."""
    try:
        told = json.loads(metadata.get(name, "{}"))
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}
