"""The world that merges are judged in: shapes and styles can be told apart, and the splits keep what they promise."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from playground import draw as plain
from playground.world import scene, splits, styles
from playground.world.fields import Field, box, disc, polygon, regular, stroke
from playground.world.scene import Look, Place
from playground.world.shapes import SHAPES
from playground.world.train import example

KNOWN = splits.splits()
PARTS = {"tuning": KNOWN.tuning, "test": KNOWN.test}


def grid(count: int = 81) -> tuple[np.ndarray, np.ndarray]:
    side = np.linspace(-1.3, 1.3, count)
    x, y = np.meshgrid(side, side)
    return x, y


def silhouette(name: str) -> np.ndarray:
    """Within the shape, moved and scaled so that all shapes are as large."""
    x, y = grid()
    inside = SHAPES[name](x, y) < 0
    cx, cy = x[inside].mean(), y[inside].mean()
    spread = np.sqrt(((x[inside] - cx) ** 2 + (y[inside] - cy) ** 2).mean())
    return np.asarray(SHAPES[name](x * spread / 0.6 + cx, y * spread / 0.6 + cy) < 0)


def test_there_are_enough() -> None:
    assert len(SHAPES) >= 100
    assert len(styles.styles()) >= 100
    assert not set(SHAPES) & set(styles.styles())


@pytest.mark.parametrize(
    ("field", "inside", "outside"),
    [
        (disc(0, 0, 1), (0.5, 0.5), (0.8, 0.8)),
        (box(-1, -0.5, 1, 0.5), (0.9, 0.4), (0.9, 0.6)),
        (polygon([(0, -1), (1, 1), (-1, 1)]), (0, 0.5), (0.9, -0.5)),
        (regular(5, inner=0.4), (0, -0.8), (0, 0.8)),
        (stroke([(-1, 0), (1, 0)], 0.2), (0.9, 0.1), (0.9, 0.3)),
        (disc(0, 0, 1) - disc(0, 0, 0.5), (0.8, 0), (0.2, 0)),
        (disc(-0.5, 0, 1) & disc(0.5, 0, 1), (0, 0), (0.9, 0)),
        (disc(0.5, 0, 0.3).mirrored(), (-0.5, 0), (0, 0)),
        (box(0, -0.1, 1, 0.1).turned(90), (0, 0.8), (0.8, 0)),
        (disc(0, 0, 0.5).moved(1, 0).grown(0.2), (1.6, 0), (0, 0)),
    ],
)
def test_fields(field: Field, inside: tuple[float, float], outside: tuple[float, float]) -> None:
    def at(place: tuple[float, float]) -> float:
        return float(field(np.array([[float(place[0])]]), np.array([[float(place[1])]]))[0, 0])

    assert at(inside) < 0 < at(outside)


def test_no_two_shapes_are_alike() -> None:
    masks = {name: silhouette(name) for name in SHAPES}
    for first, second in itertools.combinations(SHAPES, 2):
        a, b = masks[first], masks[second]
        assert (a & b).sum() / (a | b).sum() < 0.9, (first, second)


def test_every_shape_stays_in_its_picture() -> None:
    """Wherever pictures for training put it: judges take the border for the ground."""
    for name in SHAPES:
        distance = scene.distance_to(name, Place(scene.SIZE / 2 + 4, scene.SIZE / 2 + 4, 45.0))
        border = np.concatenate([distance[:2], distance[-2:], distance[:, :2].T, distance[:, -2:].T])
        assert border.min() > 1, name


def test_the_tables_are_what_the_scripts_draw() -> None:
    assert styles.draw_table() == list(styles.styles().values())
    assert splits.draw_splits() == json.loads(splits.TABLE.read_text("utf-8"))


def test_nothing_is_in_two_splits() -> None:
    shapes = [*KNOWN.shapes, *(content.shape for part in PARTS.values() for content in part.contents)]
    names = [*KNOWN.styles, *(style.style for part in PARTS.values() for style in part.styles)]
    assert sorted(shapes) == sorted(SHAPES)
    assert sorted(names) == sorted(styles.styles())


@pytest.mark.parametrize(("part", "size"), [("tuning", splits.TUNING), ("test", splits.TEST)])
def test_parts(part: str, size: tuple[int, int]) -> None:
    own = PARTS[part]
    assert (len(own.contents), len(own.styles)) == size
    assert all(style.carrier in KNOWN.shapes for style in own.styles)


def test_the_base_sees_known_things_alone() -> None:
    """And no pair of a known shape and a known style that is held out."""
    seen = [example(np.random.default_rng(seed)) for seed in range(3000)]
    assert {shape for shape, _, _ in seen} <= set(KNOWN.shapes)
    assert {look.style for _, look, _ in seen if look.style} <= set(KNOWN.styles)
    assert not any(splits.held_out(shape, look.style) for shape, look, _ in seen if look.style)
    bare = [caption for shape, _, caption in seen if caption == scene.bare_caption(shape)]
    assert 0.05 < len(bare) / len(seen) < 0.15


def test_held_out_pairs_hold_every_shape_and_style() -> None:
    pairs = [pair for pair in itertools.product(KNOWN.shapes, KNOWN.styles) if splits.held_out(*pair)]
    assert {shape for shape, _ in pairs} == set(KNOWN.shapes)
    assert {style for _, style in pairs} == set(KNOWN.styles)
    assert 0.05 < len(pairs) / (len(KNOWN.shapes) * len(KNOWN.styles)) < 0.08


def test_captions_tell_pictures_apart() -> None:
    looks = [Look(style=name) for name in styles.styles()] + [Look(colour="red"), Look(colour="red", background="dark")]
    captions = {look.caption(shape) for look in looks for shape in SHAPES} | {scene.bare_caption(s) for s in SHAPES}
    assert len(captions) == (len(looks) + 1) * len(SHAPES)
    assert Look(style="moss").caption("anchor") == "an anchor in moss style"
    assert scene.bare_caption("house") == "a house"


def test_a_picture_is_drawn_the_same_again() -> None:
    grained = next(style.name for style in styles.styles().values() if style.texture == "grain")
    first, again, other = (scene.draw("whale", Look(style=grained), seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_plain_look_is_that_of_the_first_world() -> None:
    ours = scene.draw("star", Look(colour="blue", texture="dots", background="yellow"))
    assert np.array_equal(ours, plain.draw(plain.Scene("blue", "star", "dots", "yellow")))
