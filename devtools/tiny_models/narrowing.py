"""Build a part of a network anew, narrower, where the host gives it a fixed width."""

from __future__ import annotations

from typing import Any

from torch import nn


def layer_kinds(network: nn.Module) -> Any:
    """The classes of layers that a network was built from, by name: what the host calls operations."""
    return _Kinds(network)


class _Kinds:
    def __init__(self, network: nn.Module) -> None:
        self._kinds = {type(module).__name__: type(module) for module in network.modules()}

    def __getattr__(self, name: str) -> Any:
        return self._kinds[name]
