"""Seeded random weights that keep activations near one, the same in every dtype."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

BLOCK = 1_048_583  # random numbers drawn per tensor; a prime, so that no two rows of a larger one are equal


@torch.no_grad()
def fill(model: nn.Module, generator: Generator) -> None:
    """Overwrite everything that a checkpoint would hold: fresh host layers have uninitialised memory."""
    saved = model.state_dict(keep_vars=True)
    for path, module in model.named_modules():
        for name, tensor in {**module._parameters, **module._buffers}.items():
            if f"{path}.{name}".lstrip(".") in saved:
                tensor.copy_(_draw(tensor.shape, *_scale_of(module, name, tensor), generator))


def _draw(shape: torch.Size, mean: float, spread: float, generator: Generator) -> Tensor:
    """Normal random numbers, float32 whatever the storage: a seed means the same model in every dtype."""
    count = shape.numel()
    block = torch.empty(min(count, BLOCK)).normal_(mean, spread, generator=generator)
    return block.repeat(-(-count // BLOCK))[:count].reshape(shape)


def _scale_of(module: nn.Module, name: str, tensor: Tensor) -> tuple[float, float]:
    """Mean and standard deviation that keep activations near one."""
    if name == "bias":
        return 0.0, 0.02
    if name in ("weight", "scale") and (tensor.ndim == 1 or "Norm" in type(module).__name__):
        return 1.0, 0.02
    if name == "weight" and isinstance(getattr(module, "scale", None), float):
        return 0.0, 1.0  # by which the layer multiplies it
    if name == "weight" and not isinstance(module, nn.Embedding):
        return 0.0, tensor[0].numel() ** -0.5
    return 0.0, 0.1  # position embeddings, learned tokens, modulation tables
