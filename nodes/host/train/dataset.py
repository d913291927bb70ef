"""Training examples from the host's LATENT and CONDITIONING values, and the order in which they are seen."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.utils
import torch
from torch import Tensor

from ....qrlora_core import TrainingError
from ..model.host_types import Caption, Conditioning, Latent
from .checks import check_aspect, check_caption, check_picture, check_pixels
from .graph.modules import detached

_VIDEO = 5  # axes of a latent with frames
MASK_MEANINGS = ("white is learned", "black is learned")


@dataclass(frozen=True)
class Example:
    """One latent (1, channels, ..., height, width) and its captions.

    Attributes:
        latent: as it came out of VAE Encode; of several parts (video and its sound) the pack (1, 1, n) that the
            host's samplers make of them.
        captions: conditioning entries ``[tensor, options]``; each time, one is drawn.
        mask: (1, 1, height, width) of the picture's mask, with frames before the height where it is a video, or like a
            pack of parts; 0 to 1, or None: where to learn.
        repeats: how often an epoch holds it.
        parts: shapes of the parts in the pack; empty for a latent that is none.
        pixels: (frames, height, width, 3), 0 to 1: what the latent was encoded from; None where it is not known.
            As the host gave it: maybe a tensor of inference mode.
        variants: of which one is seen in its place each time, itself among them; empty where it is always itself.
    """

    latent: Tensor
    captions: tuple[Caption, ...]
    mask: Tensor | None = None
    repeats: int = 1
    parts: tuple[torch.Size, ...] = ()
    pixels: Tensor | None = None
    variants: tuple[Example, ...] = ()

    @property
    def shapes(self) -> tuple[torch.Size, ...]:
        """What examples must have in common to stand in one batch."""
        return self.parts or (self.latent.shape,)

    def mask_at(self, size: torch.Size) -> Tensor:
        """(1, 1, *size), of a mask with as many sizes or with height and width alone; ones where there is none."""
        if self.mask is None:
            return torch.ones(1, 1, *size)
        if self.parts:  # has the size of the latent
            return self.mask.reshape(1, 1, *size)
        own = size[2 - self.mask.ndim :]
        resized = torch.nn.functional.interpolate(self.mask, size=own, mode="area")
        return resized.reshape(1, 1, *[1] * (len(size) - len(own)), *own).expand(1, 1, *size)


@dataclass(frozen=True)
class DataSettings:
    """What `QRLoRA_TrainingData` adds to the pictures and captions of the Train node.

    Attributes:
        captions_per_image: how many captions in turn belong to each picture.
        repeats: per picture in order, or one number for all; empty is 1.
        caption_dropout: share of the examples that are seen with the empty caption.
        prior: class images that are trained along, with their captions; empty for none.
        prior_weight: how much their loss counts.
        mask_meaning: one of `MASK_MEANINGS`.
    """

    captions_per_image: int = 1
    repeats: tuple[int, ...] = ()
    caption_dropout: float = 0.0
    prior: tuple[Example, ...] = ()
    prior_weight: float = 1.0
    mask_meaning: str = MASK_MEANINGS[0]


@dataclass(frozen=True)
class TrainingSet:
    """All that a training sees."""

    examples: tuple[Example, ...]
    prior: tuple[Example, ...] = ()
    prior_weight: float = 1.0
    caption_dropout: float = 0.0
    empty_caption: Caption | None = None

    def fingerprint(self) -> str:
        """Digest of every picture, caption and mask that is drawn: a training goes on exactly only from the same."""
        digest = hashlib.blake2b(digest_size=16)
        drawn = self.empty_caption if self.caption_dropout else None
        for value in _leaves([(*self.examples, *self.prior), drawn]):
            if isinstance(value, Tensor):
                digest.update(str(tuple(value.shape)).encode())
                digest.update(value.float().cpu().contiguous().numpy().data)
            else:
                digest.update(repr(value).encode())
        return digest.hexdigest()


def collect(
    latents: Sequence[Latent],
    positive: Sequence[Conditioning],
    settings: DataSettings | None = None,
    empty_caption: Sequence[Conditioning] = (),
    pixels: Sequence[Tensor] = (),
) -> TrainingSet:
    """Put together what a training sees.

    Args:
        latents, positive: see `collect_examples`.
        empty_caption: CONDITIONING values for dropped captions.
        pixels: IMAGE values (count, height, width, channels), what the latents were encoded from; none if unknown.

    Raises:
        TrainingError: see `collect_examples`; repeats or pixels that do not match; dropout without an empty caption.
    """
    settings = settings or DataSettings()
    examples = collect_examples(latents, positive, settings.captions_per_image, mask_meaning=settings.mask_meaning)
    examples = _with_pixels(examples, pixels)
    repeats = (
        settings.repeats * len(examples) if len(settings.repeats) == 1 else settings.repeats or (1,) * len(examples)
    )
    if len(repeats) != len(examples):
        raise TrainingError(
            f"repeats: expected one number, or one per image ({len(examples)}), found {len(settings.repeats)}."
        )
    empty = _entries("negative", empty_caption)
    if settings.caption_dropout > 0 and not empty:
        raise TrainingError(
            "caption_dropout is above 0, and nothing says what the empty caption is: connect a CLIP Text Encode "
            "with an empty text to negative of Train QR-LoRA, or set caption_dropout to 0."
        )
    return TrainingSet(
        tuple(replace(example, repeats=count) for example, count in zip(examples, repeats, strict=True)),
        settings.prior,
        settings.prior_weight,
        settings.caption_dropout,
        empty[0] if empty else None,
    )


def collect_examples(
    latents: Sequence[Latent],
    positive: Sequence[Conditioning],
    captions_per_image: int = 1,
    *,
    prefix: str = "",
    mask_meaning: str = MASK_MEANINGS[0],
) -> list[Example]:
    """Pair images and captions; one caption, or one set of captions, serves all images.

    Args:
        latents: LATENT values; batches are taken apart. A ``noise_mask``, as Set Latent Noise Mask gives it, says
            where to learn.
        positive: CONDITIONING values, each a list of entries; all entries are taken in order.
        captions_per_image: how many entries in turn belong to one image.
        prefix: of the names of both inputs, for messages.
        mask_meaning: one of `MASK_MEANINGS`.

    Raises:
        TrainingError: no image, captions or masks that are neither one set nor one per image, or one of them that
            nothing can be learned from.
    """
    images = [image for latent in latents for image in _images(latent, f"{prefix}latents", mask_meaning)]
    captions = _entries(f"{prefix}positive", positive)
    if not images:
        raise TrainingError(f"{prefix}latents: expected at least one image, found none. Connect an encoded picture.")
    for number, (image, mask, _) in enumerate(images, 1):
        check_picture(f"image {number} of {prefix}latents", image, mask)
    if len(captions) == captions_per_image:
        captions = captions * len(images)
    if len(captions) != len(images) * captions_per_image:
        raise TrainingError(_explain_captions(prefix, len(images), len(captions), captions_per_image))
    own = (tuple(captions[n * captions_per_image : (n + 1) * captions_per_image]) for n in range(len(images)))
    return [Example(image, texts, mask, parts=parts) for (image, mask, parts), texts in zip(images, own, strict=True)]


def first_caption(name: str, conditioning: Conditioning | None) -> Caption | None:
    """The first caption of an input, None where nothing is connected.

    Raises:
        TrainingError: it is none, or has numbers that are not finite.
    """
    if conditioning is None:
        return None
    captions = _entries(name, [conditioning])
    if not captions:
        raise TrainingError(f"{name}: expected a caption, found none. Connect a CLIP Text Encode.")
    return captions[0]


def _with_pixels(examples: list[Example], pixels: Sequence[Tensor]) -> list[Example]:
    """Each example with its picture, which is the host's own tensor: of a batch one each, of a video a batch."""
    if not pixels:
        return examples
    pictures = _taken_apart(examples, pixels)
    if len(pictures) != len(examples):
        what = "videos" if all(map(_is_video, examples)) else "pictures"
        raise TrainingError(
            f"pixels: expected as many {what} as latents ({len(examples)}), found {len(pictures)}. Connect the images "
            "that VAE Encode made latents of, in the same order, or none."
        )
    for number, picture in enumerate(pictures, 1):
        check_pixels(f"image {number} of pixels", picture)
    return [replace(example, pixels=picture[..., :3]) for example, picture in zip(examples, pictures, strict=True)]


def _taken_apart(examples: list[Example], pixels: Sequence[Tensor]) -> list[Tensor]:
    """In order, for a video all that is left of a batch, and for a picture the next one of it."""
    left, taken = deque(batch for batch in pixels if len(batch)), list[Tensor]()
    while left:
        batch = left.popleft()
        is_whole = len(taken) < len(examples) and _is_video(examples[len(taken)])
        taken.append(batch if is_whole else batch[:1])
        if len(batch) > len(taken[-1]):
            left.appendleft(batch[1:])
    return taken


def _is_video(example: Example) -> bool:
    return example.latent.ndim == _VIDEO and example.latent.shape[2] > 1


def _entries(name: str, conditionings: Sequence[Conditioning]) -> list[Caption]:
    """All captions in order."""
    captions = [detached(entry) for conditioning in conditionings for entry in conditioning]
    for number, caption in enumerate(captions, 1):
        check_caption(f"caption {number} of {name}", caption)
    return captions


def _explain_captions(prefix: str, images: int, captions: int, per_image: int) -> str:
    if per_image == 1:
        several = captions > images and captions % images == 0 and not prefix
        more = f" Or set captions_per_image of QR-LoRA Training Data to {captions // images}." if several else ""
        return (
            f"{prefix}positive: expected one caption, or one per image ({images}), found {captions}. "
            f"Connect a single caption for all images, or exactly one for each, in the same order.{more}"
        )
    return (
        f"{prefix}positive: expected {per_image} captions, or {per_image} per image ({images * per_image}), found "
        f"{captions}. Connect as many as captions_per_image says, for each image in turn, or change captions_per_image."
    )


def _images(
    latent: dict[str, Any], name: str, mask_meaning: str
) -> Iterator[tuple[Tensor, Tensor | None, tuple[torch.Size, ...]]]:
    """Latent, mask and, where the latent is a pack of parts, their shapes."""
    samples, given = latent["samples"], latent.get("noise_mask")
    if given is not None and mask_meaning != MASK_MEANINGS[0]:
        given = given * -1 + 1  # the host's packs of masks know no more
    if samples.is_nested:
        yield from _packs(samples.unbind(), given, name)
        return
    masks = _masks(given, samples)
    if masks is not None and len(masks) not in (1, len(samples)):
        raise TrainingError(
            f"{name}: expected one mask, or one for each of {len(samples)} images, found {len(masks)}. Connect as "
            "many masks as pictures to Set Latent Noise Mask, in the same order."
        )
    for index, image in enumerate(samples):
        mask = None if masks is None else detached(masks[index % len(masks)][None].float())
        yield detached(image[None]), mask, ()


def _packs(
    parts: Sequence[Tensor], masks: Any, name: str
) -> Iterator[tuple[Tensor, Tensor | None, tuple[torch.Size, ...]]]:
    """Latents of several parts, packed as the host's samplers do; a part without a mask is learned everywhere."""
    latents, _ = comfy.utils.pack_latents(parts)
    if masks is not None:
        given = list(masks.unbind() if masks.is_nested else [masks])[: len(parts)]
        for mask, part in zip(given, parts, strict=False):
            if part.ndim == 5:  # a video; sound has no picture
                check_aspect(name, part, mask)
        whole = [torch.ones_like(part) for part in parts[len(given) :]]
        shaped = [comfy.utils.reshape_mask(mask.float(), part.shape) for mask, part in zip(given, parts, strict=False)]
        masks, _ = comfy.utils.pack_latents([*shaped, *whole])
    shapes = tuple(torch.Size((1, *part.shape[1:])) for part in parts)
    for index, latent in enumerate(latents):
        yield detached(latent[None]), None if masks is None else detached(masks[index][None]), shapes


def _masks(given: Tensor | None, samples: Tensor) -> Tensor | None:
    """(count, 1, ..., height, width). Of a video, masks without frames are its frames', as the host takes them."""
    if given is None:
        return None
    if samples.ndim < 5 or samples.shape[2] == 1:
        return given.reshape(-1, 1, *given.shape[-2:])
    return given[:, :1] if given.ndim == 5 else given.reshape(1, 1, -1, *given.shape[-2:])


def _leaves(value: object) -> Iterator[Tensor | int | float | str]:
    """The tensors, numbers and texts in nested conditioning, in order; other objects are passed over."""
    if isinstance(value, (Tensor, int, float, str)):
        yield value
    elif isinstance(value, Example):
        yield from _leaves([value.latent, value.captions, value.mask, value.parts, value.variants])
    elif isinstance(value, dict):
        yield from _leaves([part for item in value.items() for part in item])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)


class BatchOrder:
    """Which examples each batch holds: shuffled epochs, one latent shape per batch, repeats when too few.

    Args:
        shapes: of every example's latent, or of its parts.
        generator: source of all randomness.
        repeats: how often each example stands in an epoch.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[object, ...]],
        batch_size: int,
        generator: torch.Generator,
        repeats: Sequence[int] | None = None,
    ) -> None:
        self._shapes, self._batch_size, self._generator = list(shapes), batch_size, generator
        self._epoch = [index for index, count in enumerate(repeats or [1] * len(shapes)) for _ in range(count)]
        self._queue: deque[int] = deque()

    def next(self) -> list[int]:
        """The indices of the next batch."""
        first = self._pop(None)
        return [first, *(self._pop(self._shapes[first]) for _ in range(self._batch_size - 1))]

    def waiting(self) -> list[int]:
        """What is left of the epoch, in order; with the generator's state, all that the order depends on."""
        return list(self._queue)

    def resume(self, waiting: Sequence[int]) -> None:
        """Go on where `waiting` was taken."""
        self._queue = deque(waiting)

    def _pop(self, shape: tuple[object, ...] | None) -> int:
        """The first in the queue of this shape, or of any."""
        if not any(shape in (None, self._shapes[index]) for index in self._queue):
            order = torch.randperm(len(self._epoch), generator=self._generator).tolist()
            self._queue.extend(self._epoch[position] for position in order)
        index = next(index for index in self._queue if shape in (None, self._shapes[index]))
        self._queue.remove(index)
        return index
