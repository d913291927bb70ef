"""``add``: the weighted sum, and nothing before it."""

from __future__ import annotations

from .mode import Mode

ADD = Mode("add", "the weighted sum, as in the QR-LoRA paper.", "ΔW = Σ scaleᵢ · ΔWᵢ")
