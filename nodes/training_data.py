"""`QRLoRA_TrainingData`: several captions, repeats, caption dropout and class images for a training."""

from __future__ import annotations

from comfy_api.latest import io

from ..qrlora_core import TrainingError, listed
from .host.model.host_types import Conditioning, Latent
from .host.train.dataset import MASK_MEANINGS, DataSettings, Example, collect_examples
from .sockets import CATEGORY, TrainingDataSocket


class TrainingData(io.ComfyNode):
    """Settings of the data."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See `io.Schema`."""
        return io.Schema(
            node_id="QRLoRA_TrainingData",
            display_name="QR-LoRA Training Data",
            category=CATEGORY,
            description="More about the pictures of Train QR-LoRA: several captions for each, how often each is seen, "
            "captions left out at times, and class images that keep the model from forgetting what it knew.",
            is_input_list=True,
            inputs=[
                io.Int.Input(
                    "captions_per_image",
                    default=1,
                    min=1,
                    max=100,
                    tooltip="How many captions in turn belong to each picture of Train QR-LoRA; each time, one is "
                    "drawn. Join them with Conditioning (Combine) into positive there.",
                ),
                io.String.Input(
                    "repeats",
                    default="1",
                    tooltip="How often an epoch holds each picture: one number for all, or one for each with commas, "
                    "such as 1, 3, 1.",
                ),
                io.Float.Input(
                    "caption_dropout",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the pictures seen without their caption, 0.1 for example; needs an empty text at "
                    "negative of Train QR-LoRA.",
                ),
                io.Float.Input(
                    "prior_weight",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.05,
                    tooltip="How much the loss of the class images counts beside that of the pictures.",
                ),
                io.Latent.Input(
                    "prior_latents",
                    optional=True,
                    tooltip="Class images, such as other dogs, that the model drew itself, through VAE Encode.",
                ),
                io.Conditioning.Input(
                    "prior_positive",
                    optional=True,
                    tooltip="The captions of the class images, such as 'a photo of a dog': one for all, or one each.",
                ),
                io.Combo.Input(
                    "mask_meaning",
                    options=list(MASK_MEANINGS),
                    default=MASK_MEANINGS[0],
                    optional=True,
                    tooltip="Which part of a mask is learned, for Set Latent Noise Mask before latents. The mask of "
                    "Load Image is white where a cut-out picture is transparent: choose black for it.",
                ),
            ],
            outputs=[TrainingDataSocket.Output(display_name="data", tooltip="For data of Train QR-LoRA.")],
        )

    @classmethod
    def execute(
        cls,
        captions_per_image: list[int],
        repeats: list[str],
        caption_dropout: list[float],
        prior_weight: list[float],
        prior_latents: list[Latent] | None = None,
        prior_positive: list[Conditioning] | None = None,
        mask_meaning: list[str] | None = None,
    ) -> io.NodeOutput:
        """Pack the settings; every input but those of the class images is a list of one."""
        meaning = (mask_meaning or MASK_MEANINGS)[0]
        settings = DataSettings(
            captions_per_image=captions_per_image[0],
            repeats=_read_repeats(repeats[0]),
            caption_dropout=caption_dropout[0],
            prior=tuple(_prior(prior_latents, prior_positive, meaning)),
            prior_weight=prior_weight[0],
            mask_meaning=meaning,
        )
        return io.NodeOutput(settings)


def _read_repeats(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in listed(text))
    except ValueError as error:
        raise TrainingError(f"repeats: expected whole numbers with commas such as 1, 3, 1, found {text!r}.") from error
    if any(number < 1 for number in numbers):
        raise TrainingError(f"repeats: expected numbers of at least 1, found {text!r}. Leave a picture out instead.")
    return numbers


def _prior(latents: list[Latent] | None, positive: list[Conditioning] | None, mask_meaning: str) -> list[Example]:
    if (latents is None) != (positive is None):
        raise TrainingError("prior_latents and prior_positive belong together: connect both, or neither.")
    return (
        [] if latents is None else collect_examples(latents, positive or [], prefix="prior_", mask_meaning=mask_meaning)
    )
