"""The embedded model in plain torch: many small adapters at once, trained and drawn with in one batch.

The network is the host's own class with the committed weights. What is batched is the adapters: of a layer with slices
(q, k and v of one fused weight count as three), adapter a adds ``up_a down_a x`` to slice s of its own items alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.setting import DEVICE
from playground import autoencoder
from playground.assemble import DECODER, DIFFUSION
from playground.train import COUNTS, KEPT, SHIFT, attention, build_model, cached, encode_captions

LATENT = (16, 16, 16)


@dataclass(frozen=True)
class Factors:
    """A layer's adapters: ``up`` (adapters, slices, out, rank), ``down`` (adapters, slices, rank, in)."""

    up: Tensor
    down: Tensor

    def __len__(self) -> int:
        return len(self.up)

    def added(self, x: Tensor) -> Tensor:
        """What the adapters add to a layer's output, of its input (adapters * items, tokens, in)."""
        inputs = rearrange(x, "(a b) ... i -> a (b ...) i", a=len(self))
        hidden = torch.einsum("ani,asri->asnr", inputs, self.down.to(x.dtype))
        out = rearrange(hidden @ self.up.to(x.dtype).transpose(-1, -2), "a s n o -> a n (s o)")
        return out.reshape(*x.shape[:-1], out.shape[-1])

    def scaled(self, scale: float) -> Factors:
        """Each adapter's change times a scale."""
        return Factors(self.up * scale, self.down)

    def beside(self, other: Factors) -> Factors:
        """The sum of two changes of each adapter: their ranks stand side by side."""
        return Factors(torch.cat([self.up, other.up], dim=-1), torch.cat([self.down, other.down], dim=-2))

    def chosen(self, rows: Sequence[int] | Tensor) -> Factors:
        """Some of the adapters, in this order."""
        index = torch.as_tensor(rows, device=self.up.device)
        return Factors(self.up[index], self.down[index])

    def to(self, device: torch.device) -> Factors:
        """The same on another device."""
        return Factors(self.up.to(device), self.down.to(device))

    def delta(self) -> Tensor:
        """(adapters, slices, out, in)."""
        return self.up @ self.down


Adapters = dict[str, Factors]  # layer name to its adapters


@dataclass(frozen=True)
class Words:
    """Captions as the network reads them, the empty one first.

    Attributes:
        hidden: (captions, tokens, 768). pooled: (captions, 768). Both where the network is.
    """

    captions: tuple[str, ...]
    hidden: Tensor
    pooled: Tensor

    @classmethod
    def encoded(cls, captions: Sequence[str], folder: Path) -> Words:
        """By the host's encoder, kept in a folder."""
        every = tuple(dict.fromkeys(["", *captions]))
        digest = hashlib.sha256("\n".join(every).encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        hidden, pooled = cached(folder / f"words_{digest}.pt", lambda: encode_captions(list(every)))
        return cls(every, hidden[:, KEPT].float().to(DEVICE), pooled.float().to(DEVICE))

    @cached_property
    def _places(self) -> dict[str, int]:
        return {caption: row for row, caption in enumerate(self.captions)}

    def rows(self, captions: Sequence[str]) -> Tensor:
        """Where captions stand."""
        return torch.tensor([self._places[caption] for caption in captions], device=self.hidden.device)


class Base:
    """The network, with what it reads.

    Attributes:
        slices: layer name to the weights of its slices, (slices, out, in), in memory.
    """

    def __init__(self, words: Words, net: nn.Module, decoder: nn.Module) -> None:
        self.words = words
        self._counts = COUNTS.to(words.hidden.device)
        self._net = net.eval().requires_grad_(False)
        self._decoder = decoder.eval().requires_grad_(False)
        self._layers = {name: layer for name, layer in self._net.named_modules() if _is_target(name, layer)}
        self.slices = {name: _slices(name, layer.weight.cpu()) for name, layer in self._layers.items()}

    @classmethod
    def trained(cls, words: Words) -> Base:
        """With the committed weights."""
        net, weights = build_model(), load_file(DIFFUSION)
        net.load_state_dict({key: value.float() for key, value in weights.items()})
        decoder = autoencoder.load_decoder(DECODER)
        return cls(words, net.to(DEVICE), decoder.to(DEVICE))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._counts.device

    @contextmanager
    def with_adapters(self, adapters: Mapping[str, Factors]) -> Iterator[None]:
        """While in here the adapters act, each on its share of the batch."""
        handles = [
            self._layers[name].register_forward_hook(partial(_add, factors)) for name, factors in adapters.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def velocity(self, x: Tensor, sigma: Tensor, rows: Tensor) -> Tensor:
        """``noise - x0`` as the network sees it, of ``(1 - sigma) x0 + sigma noise`` (n, 16, 16, 16)."""
        options: dict[str, Any] = {"optimized_attention_override": attention, "text_token_counts": self._counts}
        with torch.autocast(self.device.type, torch.bfloat16):
            out: Tensor = self._net(
                x, sigma * 1000, y=self.words.pooled[rows], context=self.words.hidden[rows], transformer_options=options
            )
        return out.float()

    @torch.inference_mode()
    def sample(self, rows: Tensor, noise: Tensor, *, steps: int, cfg: float) -> Tensor:
        """Latents (n, 16, 16, 16) by Euler's method from noise; both passes of guidance go in one batch.

        Each adapter's items must stand together, so the two passes of an item do too.
        """
        x, both = noise.to(self.device), torch.stack([rows, torch.zeros_like(rows)], dim=1).flatten()
        u = torch.linspace(1, 0, steps + 1)
        levels = SHIFT * u / (1 + (SHIFT - 1) * u)
        for now, after in pairwise(levels):
            twice = x.repeat_interleave(2, dim=0)
            sigma = torch.full((len(twice),), float(now), device=self.device)
            with_words, without = self.velocity(twice, sigma, both).unflatten(0, (-1, 2)).unbind(1)
            x = x + float(after - now) * (without + cfg * (with_words - without))
        return x

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (n, 128, 128, 3), bytes, in memory."""
        return autoencoder.to_bytes(self._decoder, latents).cpu()


def _is_target(name: str, layer: nn.Module) -> bool:
    """What the paper adapts: attention and feed-forward of every block, of pictures and of text."""
    return isinstance(layer, nn.Linear) and "joint_blocks" in name and "adaLN" not in name


def _slices(name: str, weight: Tensor) -> Tensor:
    return rearrange(weight.detach(), "(s o) i -> s o i", s=3 if name.endswith("qkv") else 1)


def _add(factors: Factors, _layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output + factors.added(inputs[0]).to(output.dtype)
