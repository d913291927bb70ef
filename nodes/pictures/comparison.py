"""Two adapters side by side: energies and interference by block, similarities by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...qrlora_core.functional.compare import Comparison
from .drawing import INK, PAPER, as_image, font_of

_WIDTH, _PANEL, _LEFT, _RIGHT = 960, 190, 64, 16
_TITLE, _HEADING, _FOOT = 34, 24, 34
_FIRST, _SECOND, _GAIN, _LOSS = (31, 99, 190), (214, 110, 30), (46, 139, 87), (190, 40, 50)
_AXIS, _SPACE = (190, 190, 190), (120, 120, 120)
# Attribute, name, colour and size of the dots: later ones are smaller, so that equal values show as rings.
_DOTS = (
    ("column_overlap", "column spaces", _SPACE, 5),
    ("q_cosine", "Q", _FIRST, 4),
    ("base_r_cosine", "R", _GAIN, 3),
    ("delta_r_cosine", "dR", _SECOND, 2),
)


@dataclass(frozen=True)
class _Panel:
    """One diagram: where it lies and what its lowest and highest values are."""

    draw: ImageDraw.ImageDraw
    font: ImageFont.FreeTypeFont
    top: int
    low: float
    high: float
    count: int

    def x(self, position: float) -> float:
        """Of the nth of `count` places, its middle at n + 0.5."""
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * position / max(1, self.count)

    def y(self, value: float) -> float:
        """Of a value, held inside the panel."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.top + _PANEL * (1 - share)

    def frame(self, heading: str, legend: Sequence[tuple[str, tuple[int, int, int]]], unit: str) -> None:
        """Axes with their ends labelled, a heading, and the colours explained."""
        for value in sorted({self.low, 0.0, self.high}):
            self.draw.line([(_LEFT, self.y(value)), (_WIDTH - _RIGHT, self.y(value))], fill=_AXIS)
            text = f"{value:.0%}" if unit == "%" else f"{value:.3g}"
            self.draw.text((_LEFT - 6, self.y(value)), text, fill=INK, font=self.font, anchor="rm")
        self.draw.text((_LEFT, self.top - _HEADING + 4), heading, fill=INK, font=self.font)
        right = _WIDTH - _RIGHT
        for name, colour in reversed(legend):
            right -= int(self.font.getlength(name)) + 8
            self.draw.text((right, self.top - _HEADING + 4), name, fill=INK, font=self.font)
            right -= 16
            self.draw.rectangle([right, self.top - _HEADING + 8, right + 10, self.top - _HEADING + 18], fill=colour)

    def bar(self, start: float, end: float, value: float, colour: tuple[int, int, int]) -> None:
        """A bar from zero."""
        zero, tip = self.y(0.0), self.y(value)
        self.draw.rectangle(
            [self.x(start), min(zero, tip), max(self.x(end), self.x(start) + 1), max(zero, tip)], colour
        )

    def label(self, names: Sequence[str]) -> None:
        """Names below, as many as there is room for."""
        widest = max((self.font.getlength(name) for name in names), default=1) + 10
        step = max(1, -(-len(names) * int(widest) // (_WIDTH - _LEFT - _RIGHT)))
        for index in range(0, len(names), step):
            x = self.x(index + 0.5)
            self.draw.text((x, self.top + _PANEL + 4), names[index], fill=INK, font=self.font, anchor="mt")


def comparison_plot(comparison: Comparison) -> Tensor:
    """Three diagrams: energy of each block in both adapters, interference of each block, cosines of each layer.

    Returns:
        (1, height, width, 3) float32, 0 to 1.
    """
    height = _TITLE + 3 * (_HEADING + _PANEL + _FOOT)
    canvas = Image.new("RGB", (_WIDTH, height), PAPER)
    draw, font = ImageDraw.Draw(canvas), font_of(13)
    title = f"{_short(comparison.first)}  and  {_short(comparison.second)}"
    draw.text((_WIDTH // 2, _TITLE // 2), title, fill=INK, font=font_of(16), anchor="mm")
    tops = [_TITLE + _HEADING + index * (_HEADING + _PANEL + _FOOT) for index in range(3)]
    _energies(comparison, draw, font, tops[0])
    _interference(comparison, draw, font, tops[1])
    _similarities(comparison, draw, font, tops[2])
    return as_image(canvas)


def _energies(comparison: Comparison, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, top: int) -> None:
    blocks = comparison.blocks
    highest = max((max(block.energy_first, block.energy_second) for block in blocks), default=0.0)
    panel = _Panel(draw, font, top, 0.0, highest or 1.0, len(blocks))
    legend = [(_short(comparison.first, 24), _FIRST), (_short(comparison.second, 24), _SECOND)]
    panel.frame("energy |delta|^2 of each block", legend, "")
    for index, block in enumerate(blocks):
        panel.bar(index + 0.1, index + 0.48, block.energy_first, _FIRST)
        panel.bar(index + 0.52, index + 0.9, block.energy_second, _SECOND)
    panel.label([_end(block.block) for block in blocks])


def _interference(comparison: Comparison, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, top: int) -> None:
    blocks = comparison.blocks
    reach = max((abs(block.interference) for block in blocks), default=0.0)
    reach = min(1.0, max(0.01, reach * 1.1))
    panel = _Panel(draw, font, top, -reach, reach, len(blocks))
    panel.frame(
        "interference of a merge at scales 1, 1: what the summed energy gains or loses",
        [("both pull one way", _GAIN), ("against each other", _LOSS)],
        "%",
    )
    for index, block in enumerate(blocks):
        panel.bar(index + 0.2, index + 0.8, block.interference, _GAIN if block.interference >= 0 else _LOSS)
    panel.label([_end(block.block) for block in blocks])


def _similarities(comparison: Comparison, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, top: int) -> None:
    layers = comparison.layers
    panel = _Panel(draw, font, top, -1.0, 1.0, len(layers))
    legend = [(name, colour) for _, name, colour, _ in _DOTS]
    panel.frame("cosine of Q, R and dR, overlap of the column spaces, layer by layer", legend, "")
    for attribute, _, colour, size in _DOTS:
        for index, layer in enumerate(layers):
            value = getattr(layer, attribute)
            if value is not None:
                x, y = panel.x(index + 0.5), panel.y(value)
                draw.ellipse([x - size, y - size, x + size, y + size], fill=colour)
    panel.label([str(index + 1) for index in range(len(layers))])


def _short(name: str, length: int = 48) -> str:
    """A name without its folder and suffix, cut where it is long."""
    name = name.removesuffix(".safetensors")
    return name if len(name) <= length else f"{name[: length - 3]}..."


def _end(block: str) -> str:
    """The last two parts of a block's name: ``double_blocks.3``."""
    parts = block.replace("transformer_blocks", "blocks").split(".")
    return ".".join(parts[-2:])[-18:]
