"""How adapters are merged and applied, as inputs of a node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from comfy_api.latest import io

from ..qrlora_core import QRLoRAError
from .host.merge.combine import Combination
from .host.merge.merge import APPLY_MODES
from .host.merge.modes.mode import Mode, Parameter
from .host.merge.modes.registry import MODES, mode_named


def apply_input() -> io.Input:
    """``apply``."""
    return io.Combo.Input(
        "apply",
        options=list(APPLY_MODES),
        default=APPLY_MODES[0],
        optional=True,
        tooltip="live: the adapters run beside the model's layers, so a new scale acts at once; quantized and compiled "
        "models work. patch: the weights are changed, as LoRA loaders do; for saving a checkpoint and model merging.",
    )


def clip_input() -> io.Input:
    """``clip``."""
    return io.Clip.Input(
        "clip",
        optional=True,
        tooltip="The text encoder, for LoRAs and other kinds that change it too; take the output clip for the prompts.",
    )


def mode_inputs(slots: int) -> list[io.Input]:
    """``mode`` and what each mode needs; they are optional, so that they may stand last in a released node."""
    texts = [f"{mode.name}: {mode.text}" for mode in MODES]
    names = [mode.name for mode in MODES]
    choice = io.Combo.Input("mode", options=names, default=names[0], optional=True, tooltip=" ".join(texts))
    return [choice, *(_input(mode, own, slots) for mode in MODES for own in mode.parameters)]


def _input(mode: Mode, own: Parameter, slots: int) -> io.Input:
    """The widget of a parameter; the page reads beside it to which mode it belongs, and whether it names a slot."""
    tooltip = f"{mode.name}: {own.text}"
    if own.names_adapter:
        made = io.Int.Input(
            own.name, default=int(own.default), min=int(own.least), max=slots, optional=True, tooltip=tooltip
        )
    else:
        made = io.Float.Input(
            own.name, default=own.default, min=own.least, max=own.most, step=own.step, optional=True, tooltip=tooltip
        )
    made.extra_dict = {"qr_lora_mode": mode.name, "qr_lora_slot": own.names_adapter}
    return made


def combination(name: str | None, given: Mapping[str, Any], connected: Sequence[int]) -> Combination:
    """What the inputs ask for.

    Args:
        name: of the mode; None for the default.
        given: the inputs of the node by name, those of the mode's parameters among them.
        connected: numbers of the adapters that are connected, in their order.

    Raises:
        QRLoRAError: no such mode, or a parameter that names an adapter which is not connected.
    """
    mode = MODES[0] if name is None else mode_named(name)
    values = {own.name: given.get(own.name, own.default) for own in mode.parameters}
    for own in mode.parameters:
        if own.names_adapter:
            values[own.name] = _position(own.name, values[own.name], connected)
    return Combination(mode, values)


def _position(name: str, slot: int, connected: Sequence[int]) -> int:
    if slot not in connected:
        there = ", ".join(map(str, connected)) or "there is none"
        raise QRLoRAError(f"{name}: expected the number of a connected adapter ({there}), found {slot}.")
    return connected.index(slot)
