"""The pictures of a training with their variants, made once before the first step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from .....qrlora_core import TrainingError
from ...model.host_types import Vae
from ..checks import check_picture
from ..dataset import Example, TrainingSet
from ..graph.modules import detached
from ..memory import OUT_OF_MEMORY
from .geometry import Move, draw_move
from .jitter import jittered
from .latents import is_picture, moved, varied_on_latents
from .settings import CONTENT, Recipe

# Where the host's nodes put a second picture or video into a caption, beside which the own one would be varied alone.
_PAIRED = (
    "reference_latents", "concat_latent_image", "concat_image", "ref_latent", "context_latents", "condition",
    "lq_latent", "vace_frames", "control_video", "pose_video_latent", "face_video_pixels", "reference_motion",
    "minimax_refs", "minimax_keyframes",
)  # fmt: skip
_NOT_OF_THE_PICTURE = (comfy.model_management.InterruptProcessingException, OUT_OF_MEMORY)
_DRAWS = 20  # of a move, until something is left to learn
_LEFT = 0.1  # share of what there is to learn that a move must leave
_SAME = 0.5  # relative distance of two latents of one picture, however its VAE rounds; 1.4 of two pictures


def require_variable(data: TrainingSet, recipe: Recipe, vae: Vae | None) -> None:
    """Refuse what a role cannot vary, before anything is loaded.

    Raises:
        TrainingError: pixels without a VAE, a mask of another size, no mask for another ground, or a pair of pictures.
    """
    for number, example in enumerate(data.examples, 1):
        _require_no_pair(number, example)
        if example.pixels is not None:
            _require_encodable(number, example, vae)
        _require_ground(number, example, recipe)


def _require_no_pair(number: int, example: Example) -> None:
    paired = [name for caption in example.captions for name in _PAIRED if caption[1].get(name) is not None]
    if paired:
        raise TrainingError(
            f"role: the caption of image {number} has a second picture ({paired[0]}). A model that edits learns from "
            "pairs, of which a role would vary one alone. Set role to none, or connect a caption without the picture."
        )


def _require_encodable(number: int, example: Example, vae: Vae | None) -> None:
    if vae is None:
        raise TrainingError(
            "pixels are connected, and vae is not, which encodes their variants. Connect the VAE that the pictures "
            "were encoded with, or disconnect pixels, and the role does what can be done on latents alone."
        )
    if example.parts:
        raise TrainingError(
            f"pixels: image {number} of latents is of several parts (video with sound), of which pixels are one alone. "
            "Disconnect pixels."
        )
    assert example.pixels is not None
    (frames, height, width), mask = example.pixels.shape[:3], example.mask
    if mask is not None and (mask.shape[-2:] != (height, width) or len(_by_frame(mask)) not in (1, frames)):
        raise TrainingError(
            f"image {number} of latents: its mask is {_size(mask)}, and its picture in pixels is {width} x {height}, "
            f"of {frames} frames. Connect a mask of the picture as it is in pixels to Set Latent Noise Mask, or none."
        )


def _size(mask: Tensor) -> str:
    return f"{mask.shape[-1]} x {mask.shape[-2]}, of {len(_by_frame(mask))} frames"


def _require_ground(number: int, example: Example, recipe: Recipe) -> None:
    if recipe.ground == "varied" or (example.pixels is not None and example.mask is not None):
        return
    lacking = "no mask, which says where the ground is" if example.pixels is not None else "no pixels to change it in"
    raise TrainingError(
        f"ground {recipe.ground}: image {number} of latents has {lacking}. Connect pixels, vae and a mask by Set "
        "Latent Noise Mask, white on the thing, or set ground of QR-LoRA Role to varied."
    )


def varied(data: TrainingSet, recipe: Recipe, vae: Vae | None, seed: int) -> TrainingSet:
    """The data with the variants of every picture; class images stay as they are.

    One generator draws the variants in order, so that a picture added at the end changes none of those before. Each is
    encoded by itself, so that what it becomes depends on no other and on no free memory.

    Raises:
        TrainingError: pixels that do not give the latents that they came with.
    """
    generator = torch.Generator().manual_seed(seed)
    bar = comfy.utils.ProgressBar(len(data.examples) * recipe.variants)
    examples: list[Example] = []
    for number, example in enumerate(data.examples, 1):
        own = replace(example, pixels=None)
        variants = [own]
        for variant in _variants(number, example, recipe, vae, generator):
            comfy.model_management.throw_exception_if_processing_interrupted()
            variants.append(replace(variant, pixels=None))
            bar.update(1)
        examples.append(replace(own, variants=tuple(variants)) if len(variants) > 1 else own)
    return replace(data, examples=tuple(examples))


def _variants(
    number: int, example: Example, recipe: Recipe, vae: Vae | None, generator: torch.Generator
) -> Iterator[Example]:
    """All but the picture itself."""
    if example.pixels is not None and vae is not None and recipe.varied:
        example = replace(example, pixels=detached(example.pixels.float().cpu()))
        _require_same(number, example, vae)
        vary = _looks if recipe.role == CONTENT else _moves
        for count in range(1, recipe.variants):
            pixels, mask = vary(example, recipe, generator)
            latent = _encoded(vae, pixels).reshape(example.latent.shape)
            check_picture(f"variant {count} of image {number}", latent, None)
            variant = replace(example, latent=latent, mask=mask)
            if mask is not example.mask:  # in the size of the picture it would take more memory than the latent
                variant = replace(variant, mask=variant.mask_at(latent.shape[2:]))
            yield variant
    elif varied_on_latents(recipe) and is_picture(example):
        yield from (moved(example, recipe, generator) for _ in range(1, recipe.variants))


def _looks(example: Example, recipe: Recipe, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """Another look; the mask stays."""
    assert example.pixels is not None
    frames = None if example.mask is None else _by_frame(example.mask)
    return jittered(example.pixels, recipe, generator, frames), example.mask


def _moves(example: Example, recipe: Recipe, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """Another place and size, the mask moved along; the picture as it is where none leaves enough of a mask."""
    assert example.pixels is not None
    height, width = example.pixels.shape[1:3]
    for _ in range(_DRAWS):
        move = draw_move(height, width, recipe, generator)
        mask = _moved_mask(example.mask, move)
        if mask is None or mask.mean() >= _LEFT * (1.0 if example.mask is None else example.mask.mean()):
            return move.of(example.pixels.movedim(-1, 1)).movedim(1, -1), mask
    return example.pixels, example.mask


def _moved_mask(mask: Tensor | None, move: Move) -> Tensor | None:
    """Like mask, without the seams; these alone where there is no mask."""
    if mask is None:
        return move.seams
    moved_along = move.of(_by_frame(mask)).reshape(mask.shape)
    return moved_along if move.seams is None else moved_along * move.seams


def _by_frame(mask: Tensor) -> Tensor:
    """(frames, 1, height, width) of a mask (1, 1, frames, height, width) or (1, 1, height, width)."""
    return mask.reshape(-1, 1, *mask.shape[-2:])


def _encoded(vae: Vae, pixels: Tensor) -> Tensor:
    with torch.inference_mode():  # as the host runs
        latent = vae.encode(pixels)
    encoded: Tensor = detached(latent.float().cpu())
    return encoded


def _first_encoded(number: int, vae: Vae, pixels: Tensor) -> Tensor:
    """Encoded, or refused where this VAE can make nothing of a picture, as one of sounds."""
    try:
        return _encoded(vae, pixels)
    except _NOT_OF_THE_PICTURE:
        raise
    except Exception as error:
        said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise TrainingError(
            f"pixels: vae cannot encode image {number} of {tuple(pixels.shape)}: {said}. Connect the VAE that encoded "
            "latents, or disconnect pixels, and the role does what can be done on latents alone."
        ) from error


def _require_same(number: int, example: Example, vae: Vae) -> None:
    """Refuse pixels that are of another picture than their latent, or a VAE that is another."""
    assert example.pixels is not None
    latent, found = example.latent.float().cpu(), _first_encoded(number, vae, example.pixels)
    if (found.shape[1], found.numel(), found.shape[-2:]) != (latent.shape[1], latent.numel(), latent.shape[-2:]):
        raise TrainingError(
            f"pixels: image {number} becomes a latent of {tuple(found.shape)} by vae, and its latent is "
            f"{tuple(latent.shape)}. Connect the pictures that latents were encoded from, in the same size, and the "
            "VAE that encoded them."
        )
    distance = float((found.reshape(latent.shape) - latent).norm() / latent.norm())
    if not distance < _SAME:
        raise TrainingError(
            f"pixels: image {number} is another picture than image {number} of latents, or vae is another than the one "
            f"that encoded it: its latent is off by {distance:.0%}. Connect the same pictures in the same order, and "
            "the same VAE."
        )
