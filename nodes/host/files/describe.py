"""What a user reads about an adapter that was loaded."""

from __future__ import annotations

from ....qrlora_core import QRLoRA, json_object
from ..text import ranks_as_text

_LONGEST = 500
_SHOWN_SETTINGS = ("variant", "learning_rate", "optimizer", "schedule", "timesteps", "images")
_SHOWN_LOSSES = (("first_loss", "first"), ("last_loss", "last"))


def describe_adapter(adapter: QRLoRA) -> str:
    """``cat.safetensors: 48 layers, rank 16, made for SD3``, and how it was trained where the file tells."""
    base = adapter.metadata.get("qr_lora.base_model")
    made_for = f", made for {_short(base)}" if base else ""
    kind = _kind(adapter)
    lines = [f"{adapter.name}: {kind}{len(adapter.layers)} layers, {ranks_as_text(adapter.ranks)}{made_for}"]
    if adapter.origin.not_loaded:
        lines.append(f"not loaded: {adapter.origin.not_loaded}")
    lines += [f"note: {note}" for note in adapter.origin.notes]
    if adapter.origin.may_replace_core:
        lines.append(
            "its up matrices are orthonormal, as in published QR-LoRA files of the variant qr, which replace a part of "
            "the base weights: if it is one, set file_kind to published qr and connect the model"
        )
    return "\n".join([*lines, *_how_trained(adapter)])


def _kind(adapter: QRLoRA) -> str:
    """What it was read as, and a comma; empty for low-rank terms of our own files."""
    return "".join(f"{kind}, " for kind in adapter.kinds) or ("ordinary LoRA, " if adapter.origin.is_lora else "")


def _how_trained(adapter: QRLoRA) -> list[str]:
    """One line of settings and one of figures; the file may tell anything, so what cannot be read is left out."""
    told = json_object(adapter.metadata, "qr_lora.training")
    settings = [f"{name} {_short(told[name])}" for name in _SHOWN_SETTINGS if name in told]
    steps = [f"{_short(told['steps_done'])} steps"] if "steps_done" in told else []
    losses = [f"{told[name]:.4g} at {when}" for name, when in _SHOWN_LOSSES if isinstance(told.get(name), float)]
    loss = [f"loss {', '.join(losses)}"] if losses else []
    return [*([", ".join([*steps, *settings])] if steps or settings else []), *loss]


def _short(told: object) -> str:
    """What a file says, on one line and of bearable length."""
    text = str(told)
    return " ".join(text[:_LONGEST].split()) + ("…" if len(text) > _LONGEST else "")
