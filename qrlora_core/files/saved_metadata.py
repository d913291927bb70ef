"""What a saved file may say of itself, of all that was told of the adapters in it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from ..adapter import MergeRecord, QRLoRA
from ..metadata import ARCHITECTURE, KINDS_KEY, MERGE_KEY, METADATA_PREFIX, VARIANT
from .compact import BASIS_IDS
from .hashes import HASHES
from .peft_settings import PEFT_SETTINGS

_TITLE, _MERGED_FROM = "modelspec.title", "modelspec.merged_from"
# What reading, or one file, alone needs to know, so that no other file claims it.
_OF_ONE_FILE = (
    "format",
    BASIS_IDS,
    KINDS_KEY,
    PEFT_SETTINGS,
    _TITLE,
    *HASHES,
    "title",
    "hash_sha256",
    "sha256",
    "hash",
)
OUR_RANK, OUR_ALPHA = f"{METADATA_PREFIX}rank", f"{METADATA_PREFIX}alpha"
KOHYAS_RANK, KOHYAS_ALPHA = "ss_network_dim", "ss_network_alpha"
# Of kohya's network as it was trained: factors of another kind and alphas are worked into what is saved.
_OF_A_NETWORK = ("ss_network_args", "ss_network_module")
_OF_A_TRAINING = {
    OUR_RANK, OUR_ALPHA, VARIANT, f"{METADATA_PREFIX}training", "author", "date", "description", "thumbnail",
}  # fmt: skip
_NAMESPACES = ("modelspec.", "ss_", "sshs_")
# Of these, what is true of a merge where it is true of each source: of the base, and how it is used.
_OF_ALL_SOURCES = {
    *(f"modelspec.{name}" for name in (
        "sai_model_spec", "architecture", "implementation", "prediction_type", "encoder_layer", "timestep_range",
        "resolution", "license", "trigger_phrase",
    )),
    *(f"ss_{name}" for name in (
        "base_model_version", "sd_model_name", "sd_model_hash", "new_sd_model_hash", "vae_name", "vae_hash",
        "new_vae_hash", "v2", "clip_skip", "zero_terminal_snr", "tag_frequency",
    )),
}  # fmt: skip


def told_of(adapter: QRLoRA, title: str) -> dict[str, str]:
    """What is true of an adapter in a file of any format.

    A merge keeps what its sources agree on, but for what is of one training or of one file: ranks, settings, dates,
    pictures, authors.
    """
    record = adapter.merge_record
    told = {key: text for key, text in adapter.metadata.items() if key not in _OF_ONE_FILE}
    if record is not None:
        told = {key: text for key, text in told.items() if _is_of_merge(key)} | _merge_text(record)
    return {**told, _TITLE: title}


def _is_of_merge(key: str) -> bool:
    return key in _OF_ALL_SOURCES or not (key.startswith(_NAMESPACES) or key in _OF_A_TRAINING)


def _merge_text(record: MergeRecord) -> dict[str, str]:
    sources = [{"name": name, "scale": scale} for name, scale in record.sources]
    names = ", ".join(name for name, _ in record.sources)
    return {MERGE_KEY: json.dumps({**asdict(record), "sources": sources}), _MERGED_FROM: names}


def with_truth(metadata: Mapping[str, str], numbers: Mapping[str, Sequence[float]], kind: str) -> dict[str, str]:
    """The metadata without ranks and alphas that most layers of the file do not have, and with its kind.

    Args:
        numbers: those of the layers of matrices, as they are written, by the keys that tell one of them.
        kind: ``lora`` or ``qr-lora``, as the architecture ends.
    """
    untrue = {*_OF_A_NETWORK, *(key for key, own in numbers.items() if not _is_usual(metadata.get(key, ""), own))}
    told = {key: text for key, text in metadata.items() if key not in untrue}
    base, ends, _ = told.get(ARCHITECTURE, "").partition("/")
    return {**told, ARCHITECTURE: f"{base}/{kind}"} if ends else told


def _is_usual(text: str, numbers: Sequence[float]) -> bool:
    try:
        return [float(text)] == [number for number, _ in Counter(numbers).most_common(1)]
    except ValueError:
        return False
