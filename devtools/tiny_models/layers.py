"""The host's classes of layers that a network was built from, to build a part of it again, smaller."""

from __future__ import annotations

from typing import Any

from torch import nn


class Layers:
    """What a host's modules take as `operations`: classes of layers by name.

    Args:
        network: whose layers these are.
    """

    def __init__(self, network: nn.Module) -> None:
        self._kinds = {type(module).__name__: type(module) for module in network.modules()}

    def __getattr__(self, name: str) -> Any:
        return self._kinds[name]
