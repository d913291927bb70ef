"""What a role varies in a picture: a content keeps its shapes, a style keeps its texture, and nothing else is sure."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from comfyui_qr_lora.nodes.host.train.role.geometry import draw_move
from comfyui_qr_lora.nodes.host.train.role.jitter import jittered
from comfyui_qr_lora.nodes.host.train.role.settings import (
    CONTENT,
    LIMITS,
    ROLES,
    STRENGTHS,
    STYLE,
    Recipe,
    RoleSettings,
)
from comfyui_qr_lora.qrlora_core import TrainingError

SIZE = 96


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def disc(radius: float = 0.5) -> Tensor:
    """1 on a disc, (SIZE, SIZE)."""
    axis = torch.linspace(-1, 1, SIZE)
    return (axis[:, None] ** 2 + axis**2 < radius**2).float()


def picture(thing: tuple[float, ...] = (0.8, 0.2, 0.1), ground: tuple[float, ...] = (0.1, 0.3, 0.7)) -> Tensor:
    shape = disc()[..., None]
    return (shape * torch.tensor(thing) + (1 - shape) * torch.tensor(ground))[None]


def texture(seed: int = 0) -> Tensor:
    """Noise that is correlated over a few pixels, the same everywhere: (1, SIZE, SIZE, 3)."""
    noise = torch.rand(1, 3, SIZE, SIZE, generator=seeded(seed))
    return torch.nn.functional.avg_pool2d(noise, 5, stride=1, padding=2).movedim(1, -1)


def split_by_colour(image: Tensor) -> Tensor:
    """The two halves of a picture's colours along their widest axis: bool, (height, width)."""
    flat = image.reshape(-1, 3) - image.reshape(-1, 3).mean(0)
    return (flat @ torch.linalg.svd(flat, full_matrices=False).Vh[0] > 0).view(image.shape[:2])


def moved(images: Tensor, recipe: Recipe, seed: int) -> Tensor:
    move = draw_move(*images.shape[1:3], recipe, seeded(seed))
    return move.of(images.movedim(-1, 1)).movedim(1, -1)


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("seed", range(8))
def test_in_every_look_the_shape_is_found_where_it_was(strength: str, seed: int) -> None:
    recipe = RoleSettings(strength).recipe(CONTENT)
    varied = jittered(picture(), recipe, seeded(seed))
    found, wanted = split_by_colour(varied[0]), disc() > 0
    overlap = max(float((found == wanted).float().mean()), float((found != wanted).float().mean()))
    assert overlap > 0.9
    assert 0 <= float(varied.min()) <= float(varied.max()) <= 1


@pytest.mark.parametrize(("name", "least"), [("colour", 0.05), ("light", 0.02), ("texture", 0.01)])
def test_each_aspect_by_itself_changes_more_the_higher_it_is(name: str, least: float) -> None:
    def change(number: float) -> float:
        recipe = Recipe(CONTENT, **{name: number})
        variants = [jittered(picture(), recipe, seeded(seed)) for seed in range(20)]
        return sum(float((variant - picture()).abs().mean()) for variant in variants) / 20

    none, mild, strong = change(0.0), change(0.25), change(1.0)
    assert none < 1e-6
    assert least < strong
    assert 0 < mild < strong


def test_colours_are_turned_and_nothing_is_stretched() -> None:
    """Q of the docstring is orthogonal: distances between colours stay, so that two of them never fall together."""
    image = 0.5 + 0.2 * (torch.rand(1, 8, 8, 3, generator=seeded(0)) - 0.5)  # far from where colours are cut off
    for seed in range(10):
        turned = jittered(image, Recipe(CONTENT, colour=1.0), seeded(seed))
        before, after = (torch.nn.functional.pdist(x.reshape(-1, 3)) for x in (image, turned))
        assert torch.allclose(before, after, atol=1e-4)


def test_all_frames_of_a_video_get_one_look_and_one_move() -> None:
    frames = torch.cat([picture(), picture().flip(1)])
    look = jittered(frames, RoleSettings("medium").recipe(CONTENT), seeded(3))
    assert torch.allclose(look[:1], jittered(frames[:1], RoleSettings("medium").recipe(CONTENT), seeded(3)), atol=1e-6)
    recipe = RoleSettings("strong").recipe(STYLE)
    assert torch.equal(moved(frames, recipe, 3)[1:], moved(frames[1:], recipe, 3))


@pytest.mark.parametrize("ground", ["kept", "replaced"])
def test_a_mask_keeps_or_replaces_the_ground_and_nothing_of_the_thing(ground: str) -> None:
    mask = disc()[None, None]
    recipe = Recipe(CONTENT, colour=1.0, ground=ground)
    varied, plain = (jittered(picture(), r, seeded(1), mask) for r in (recipe, replace(recipe, ground="varied")))
    thing = disc() > 0
    assert torch.equal(varied[0][thing], plain[0][thing])
    outside = varied[0][~thing], picture()[0][~thing]
    assert torch.equal(*outside) == (ground == "kept")
    assert float((outside[0] - plain[0][~thing]).abs().mean()) > 0.02


def test_a_style_of_zeros_leaves_the_picture() -> None:
    assert torch.allclose(moved(texture(), Recipe(STYLE), 0), texture(), atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_a_flip_is_a_flip(seed: int) -> None:
    assert torch.allclose(moved(texture(), Recipe(STYLE, flip=1.0), seed), texture().flip(2), atol=1e-4)


def test_a_tilt_turns_and_does_not_shear_a_wide_picture() -> None:
    """A disc in the middle of a picture twice as wide stays a disc; further out, the picture is mirrored."""
    wide = torch.nn.functional.pad(disc(), (SIZE // 2, SIZE // 2))[None, ..., None]
    middle = slice(SIZE // 2, SIZE // 2 + SIZE)
    for seed in range(5):
        change = (moved(wide, Recipe(STYLE, tilt=90.0), seed) - wide).abs()[0, :, middle, 0]
        assert float((change * disc(1.0)).mean()) < 0.01


def test_zoom_makes_a_disc_larger_or_smaller_by_octaves() -> None:
    sizes = []
    for seed in range(40):
        from_the_middle = moved(disc(0.4)[None, ..., None], Recipe(STYLE, zoom=1.0), seed)[0, SIZE // 2, SIZE // 2 :, 0]
        sizes.append(float((from_the_middle > 0.5).float().cumprod(0).sum()) / (0.4 * SIZE / 2))
    assert 0.45 < min(sizes) < 0.65
    assert 1.6 < max(sizes) < 2.1


def spectrum(images: Tensor) -> Tensor:
    """Power at each of 12 wavelengths, of all directions together."""
    power = torch.fft.fft2(images[..., 0] - images[..., 0].mean()).abs().square()[0]
    rows = torch.fft.fftfreq(SIZE)
    radius = (rows[:, None] ** 2 + rows**2).sqrt()
    return torch.stack([power[(radius >= r) & (radius < r + 1 / 24)].mean() for r in torch.arange(1, 12) / 24])


def test_patches_and_tiles_keep_the_texture_and_lose_the_layout() -> None:
    recipe = Recipe(STYLE, patch=0.4, tiles=4)
    image = texture()
    variants = [moved(image, recipe, seed) for seed in range(12)]
    mean = torch.stack([spectrum(variant) for variant in variants]).mean(0)
    assert float((mean / spectrum(image)).log().abs().max()) < 1.0
    likeness = [torch.corrcoef(torch.stack([image.flatten(), variant.flatten()]))[0, 1] for variant in variants]
    assert max(likeness) < 0.5


@pytest.mark.parametrize("count", [2, 3, 5])
def test_tiles_hold_the_same_pixels_in_another_order(count: int) -> None:
    found = {}
    for seed in range(30):
        move = draw_move(SIZE, SIZE, Recipe(STYLE, tiles=count), seeded(seed))
        side = (move.seams is not None) and moved(texture(), Recipe(STYLE, tiles=count), seed)
        if side is not False:
            found[seed] = (side, move.seams)
    assert found
    for mixed, seams in found.values():
        assert torch.allclose(mixed.flatten().sort().values, texture().flatten().sort().values, atol=1e-3)
        assert 0.3 < float(seams.mean()) < 0.95


def test_what_is_learned_ends_before_the_seams() -> None:
    """Within a tile, neighbours are neighbours in the picture; across a seam they are not, and the mask is 0."""
    recipe = Recipe(STYLE, tiles=4)
    for seed in range(10):
        move = draw_move(SIZE, SIZE, recipe, seeded(seed))
        if move.seams is None:
            continue
        for axis in (0, 1):
            apart = move.source.diff(dim=axis).abs().sum(-1) > 2.5 * 2 / SIZE
            learned = move.seams[0, 0].bool().narrow(axis, 0, SIZE - 1)
            assert apart.any()
            assert not (apart & learned).any()


@pytest.mark.parametrize("role", [CONTENT, STYLE])
def test_a_stronger_role_varies_at_least_as_much_in_everything(role: str) -> None:
    mild, medium, strong = (RoleSettings(strength).recipe(role) for strength in STRENGTHS)
    assert mild.varied
    for name in (*mild.varied, "levels"):
        numbers = [getattr(recipe, name) for recipe in (mild, medium, strong)]
        assert numbers == sorted(numbers, reverse=name == "patch")
        assert all(LIMITS[name][0] <= number <= LIMITS[name][1] for number in numbers)


def test_a_number_counts_in_its_own_role_alone() -> None:
    settings = RoleSettings("mild", tilt=33.0, colour=0.9, ground="kept")
    content, style = settings.recipe(CONTENT), settings.recipe(STYLE)
    assert (content.tilt, content.colour, content.ground) == (0.0, 0.9, "kept")
    assert (style.tilt, style.colour, style.ground) == (33.0, 0.0, "varied")
    assert content.noise_bias < 0 < style.noise_bias


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"strength": "brutal"}, "strength: expected one of mild, medium, strong, found 'brutal'"),
        ({"ground": "gone"}, "ground: expected one of varied, kept, replaced, found 'gone'"),
        ({"variants": 0}, "variants: expected at least 1"),
        *(({name: most + 1}, f"{name}: expected a number from") for name, (_, most) in LIMITS.items()),
        ({"colour": float("nan")}, "colour: expected a number from 0 to 1, or -1 to go by strength, found nan"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused_by_name(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        RoleSettings(**wrong)
    with pytest.raises(TrainingError, match=f"role: expected one of {', '.join(ROLES)}"):
        RoleSettings().recipe("subject")


def test_every_number_of_a_recipe_can_be_set_by_itself() -> None:
    recipe = {field.name for field in fields(Recipe)} - {"role", "flips_latents"}
    assert recipe == {field.name for field in fields(RoleSettings)} - {"strength"}
