"""The host's own Train LoRA node, whichever inputs it takes. Call `devtools.host.boot(nodes=True)` first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def train_lora(patcher: Any, latents: Sequence[Any], positive: Sequence[Any], **settings: Any) -> dict[str, Any]:
    """What Train LoRA gives out, by type: ``LORA_MODEL``, ``LOSS_MAP``, and others.

    Args:
        patcher: the model.
        latents, positive: as its list inputs take them.
        settings: more of its inputs, by name; all others are as the node itself sets them.

    Raises:
        TypeError: a setting that this host's node does not have.
    """
    from comfy_extras.nodes_train import TrainLoraNode

    schema = TrainLoraNode.define_schema()
    inputs = {spec.id: getattr(spec, "default", None) for spec in schema.inputs}
    unknown = settings.keys() - inputs.keys()
    if unknown:
        raise TypeError(
            f"Train LoRA of this ComfyUI has no input {', '.join(sorted(unknown))}; it has {sorted(inputs)}"
        )
    single = inputs | settings | {"model": patcher}
    lists = {name: [value] for name, value in single.items()} | {"latents": [*latents], "positive": [*positive]}
    given = TrainLoraNode.execute(**lists).args
    return {output.get_io_type(): value for output, value in zip(schema.outputs, given, strict=True)}
