"""A judge that has learned to see: a small network with one answer each for shape, style, colour and ground."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from playground import draw as plain
from playground.judges.verdict import WEIGHTS, Judge, Verdict, shape_names, verdicts
from playground.world.styles import styles

EYE = WEIGHTS / "judge.safetensors"


@dataclass(frozen=True)
class Answers:
    """Of pictures (n, ...): logits, or shares that are to be answered.

    Attributes:
        shape: (n, shapes).
        style: (n, styles + 1), the last for a plain look.
        colour, ground: (n, 8) and (n, 7), of a plain look.
    """

    shape: Tensor
    style: Tensor
    colour: Tensor
    ground: Tensor


def batch_norm(width: int) -> nn.BatchNorm2d:
    """A norm all of whose state can be averaged."""
    norm = nn.BatchNorm2d(width)
    norm.num_batches_tracked = torch.zeros(())  # whole numbers cannot
    return norm


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), batch_norm(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), batch_norm(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(self.first(x)))


def _down(inputs: int, outputs: int, side: int = 3) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, side, stride=2, padding=side // 2, bias=False)
    return nn.Sequential(conv, batch_norm(outputs), nn.ReLU())


class Eye(nn.Module):
    """Looks are read from means over the picture, shapes from where things stand in it."""

    def __init__(self, widths: tuple[int, int, int] = (32, 64, 112)) -> None:
        super().__init__()
        first, second, third = widths
        self.fine = nn.Sequential(_down(3, first, 5), _Block(first), _down(first, second), _Block(second))  # 16 x 16
        self.coarse = nn.Sequential(_down(second, third), _Block(third))  # 8 x 8
        self.places = nn.Sequential(
            nn.Conv2d(third, 24, 1), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 64, 128), nn.ReLU()
        )
        self.shape = nn.Linear(128, len(shape_names()))
        counts = (len(styles()) + 1, len(plain.COLOURS), len(plain.BACKGROUNDS))
        self.look = nn.ModuleList(nn.Linear(second + third, count) for count in counts)

    def forward(self, pictures: Tensor) -> Answers:
        """Logits of pictures (n, 3, SIDE, SIDE) of 0 to 255."""
        fine = self.fine((pictures / 128 - 1).contiguous(memory_format=torch.channels_last))
        coarse = self.coarse(fine)
        means = torch.cat([fine.mean((2, 3)), coarse.mean((2, 3))], dim=1)
        return Answers(self.shape(self.places(coarse)), *(head(means) for head in self.look))


def ahead(shares: Tensor) -> tuple[Tensor, Tensor]:
    """The first of candidates (n, candidates), and how much more than the second it has."""
    best, where = shares.topk(2)
    return where[:, 0], best[:, 0] - best[:, 1]


@dataclass(frozen=True)
class LearnedJudge(Judge):
    """Sees what the network gives most of its share to."""

    name = "learned"
    at_once: ClassVar = {"cpu": 64, "cuda": 512}

    weights: Path = EYE

    @torch.inference_mode()
    def _few(self, pictures: Tensor) -> list[Verdict]:
        seen: Answers = self._eye(pictures)
        style, colour, ground = (logits.softmax(1) for logits in (seen.style, seen.colour, seen.ground))
        plains = style[:, -1, None, None] * colour[:, :, None] * ground[:, None]
        shape, shape_ahead = ahead(seen.shape.softmax(1))
        look, look_ahead = ahead(torch.cat([style[:, :-1], plains.flatten(1)], dim=1))
        return verdicts((shape, look, shape_ahead, look_ahead))

    @cached_property
    def _eye(self) -> Eye:
        eye = Eye().eval().requires_grad_(False)
        eye.load_state_dict({key: value.float() for key, value in load_file(self.weights).items()})
        return eye.to(self.device)
