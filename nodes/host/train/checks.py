"""What is wrong with one picture, mask or caption by itself, told before anything is trained on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from ....qrlora_core import TrainingError
from ..model.host_types import Caption

_TEXT = "text embedding"
_PICTURE_AXES, _COLOURS = 4, 3  # of an IMAGE
_OF_ASPECT = 0.05  # masks are also drawn on a copy of the picture in another size


def check_picture(where: str, latent: Tensor, mask: Tensor | None) -> None:
    """Refuse a latent or mask that nothing can be learned from.

    Args:
        where: the input and the place of the picture in it.

    Raises:
        TrainingError: numbers that are not finite, a latent of zeros, an empty mask, or one of another aspect ratio.
    """
    if broken := _broken(latent):
        raise TrainingError(
            f"{where}: {broken} numbers of its latent are NaN or infinite. A VAE in half precision is the usual "
            "cause: start ComfyUI with --fp32-vae and encode the pictures again, or leave this one out."
        )
    if not latent.any():
        raise TrainingError(
            f"{where}: its latent is all zeros, as an Empty Latent Image is. Connect the picture through VAE Encode."
        )
    if mask is None:
        return
    if broken := _broken(mask):
        raise TrainingError(
            f"{where}: {broken} numbers of its mask are NaN or infinite. Make the mask anew, or leave it out."
        )
    if not mask.any():
        raise TrainingError(
            f"{where}: its mask is empty, so there is nothing to learn from it. White is where to learn; draw a mask, "
            "leave it out, or change mask_meaning of QR-LoRA Training Data."
        )
    if latent.ndim >= 4:
        check_aspect(where, latent, mask)


def check_pixels(where: str, picture: Tensor) -> None:
    """Refuse a picture that no VAE of pictures encodes.

    Args:
        where: the input and the place of the picture in it.
        picture: (frames, height, width, channels).

    Raises:
        TrainingError: without colours, or with numbers that are not finite.
    """
    if picture.ndim != _PICTURE_AXES or picture.shape[-1] < _COLOURS:
        raise TrainingError(
            f"{where}: expected an image of (count, height, width, 3) with red, green and blue, found one of "
            f"{tuple(picture.shape)}. Connect the IMAGE that VAE Encode made latents of."
        )
    if broken := _broken(picture):
        raise TrainingError(
            f"{where}: {broken} of its numbers are NaN or infinite. Load or make the picture again, or leave it out of "
            "pixels and latents."
        )


def check_aspect(where: str, latent: Tensor, mask: Tensor) -> None:
    """Refuse a mask that would be stretched over a picture, or over each frame.

    Raises:
        TrainingError: height and width of the two are in another ratio.
    """
    if _is_stretched(mask.shape[-2:], latent.shape[-2:]):
        (height, width), (rows, columns) = mask.shape[-2:], latent.shape[-2:]
        raise TrainingError(
            f"{where}: its mask is {width} x {height}, of another aspect ratio than its latent of {columns} x {rows}, "
            "so it would lie elsewhere on the picture. Make the mask of the picture as it is encoded, after it was cut "
            "or resized, or leave it out."
        )


def _is_stretched(mask: Sequence[int], latent: Sequence[int]) -> bool:
    """Whether the aspect ratios differ by more than the VAE cuts off, which is less than one row of the latent.

    What is one row or column, such as a mask of time, is the same all along and has nothing that could be distorted.
    """
    if 1 in mask:
        return False
    ratio = mask[0] * latent[1] / (mask[1] * latent[0])
    return max(ratio, 1 / ratio) > 1 + 1 / min(latent) + _OF_ASPECT


def check_caption(where: str, caption: Caption) -> None:
    """Refuse a caption with numbers that are not finite, in its embedding or beside it.

    Args:
        where: the input and the place of the caption in it.

    Raises:
        TrainingError: such numbers; names what they are in.
    """
    for name, tensor in named_tensors(caption):
        # Some encoders write what is masked out as minus infinity.
        if broken := _broken(tensor, only_nan="mask" in name):
            raise TrainingError(
                f"{where}: {broken} numbers of its {name} are NaN or infinite. A text encoder in half precision is the "
                "usual cause: start ComfyUI with --fp32-text-enc, or load the text encoder from another file."
            )


def named_tensors(caption: Caption) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a caption with their names, the text itself first; of what other nodes added, their attributes."""
    yield from _named(_TEXT, caption[0])
    for name, value in caption[1].items():
        yield from _named(name, value)


def _named(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _named(f"{name}.{key}", item)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _named(f"{name}[{index}]", item)
    else:  # the host's output of CLIP Vision holds its tensors as attributes
        yield from ((f"{name}.{key}", item) for key, item in _attributes(value) if isinstance(item, Tensor))


def _attributes(value: Any) -> list[tuple[str, Any]]:
    return list(getattr(value, "__dict__", {}).items())


def _broken(tensor: Tensor, *, only_nan: bool = False) -> str:
    """How many numbers are not finite; empty where all are."""
    if not tensor.is_floating_point():
        return ""
    values = tensor.float()
    bad = values.isnan() if only_nan else ~values.isfinite()
    return f"{int(bad.sum())} of {bad.numel()}" if bad.any() else ""
