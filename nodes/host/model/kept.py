"""What a network keeps of its prompt for later calls: with other weights, or in a training, it belongs to another one.

Networks are asked by what they have, so that what a host lacks costs nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from .host_types import HostModel


def keeps(model: HostModel) -> bool:
    """Whether the network keeps anything at all."""
    return bool(_resets(model))


def forget_network(model: HostModel) -> None:
    """Drop what a network keeps of its prompt."""
    for reset in _resets(model):
        reset()


@contextlib.contextmanager
def nothing_kept(model: HostModel) -> Iterator[None]:
    """Within the context, every call of the network begins with nothing kept, and nothing is left behind."""
    if not keeps(model):
        yield
        return
    hook = model.diffusion_model.register_forward_pre_hook(lambda *_: forget_network(model))
    try:
        yield
    finally:
        hook.remove()
        forget_network(model)


def _resets(model: HostModel) -> list[Callable[[], None]]:
    network: Any = getattr(model, "diffusion_model", None)
    resets = [network.clear_kv_cache] if hasattr(network, "clear_kv_cache") else []
    if hasattr(network, "reset_prefix_cache"):
        resets.append(lambda: network.reset_prefix_cache(network.prefix_cache_enabled))
    return resets
