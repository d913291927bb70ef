"""Whether the targets of a model are all of its linear weights, once."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch

from comfyui_qr_lora.nodes.host.model.key_map import KeyMap, Target


def assert_tiled(model: Any) -> dict[str, Target]:
    """Every row of every linear weight belongs to one target, which is found by its name; the targets by name."""
    key_map = KeyMap(model)
    targets = key_map.linear(model)
    rows: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for path, target in targets.items():
        assert key_map.find(path) == target
        rows[target.key].append(target.rows or (0, target.shape[0]))
    network = model.diffusion_model.named_modules(prefix="diffusion_model")
    weights = {f"{name}.weight": m.weight for name, m in network if isinstance(m, torch.nn.Linear)}
    assert rows.keys() == weights.keys()
    for key, slices in rows.items():
        starts, ends = zip(*((start, start + length) for start, length in sorted(slices)), strict=True)
        assert starts == (0, *ends[:-1]), key
        assert ends[-1] == weights[key].shape[0], key
    return targets
