"""Sample pictures while training: the model as it is now, one caption, one seed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ..model.host_types import Caption, ClipVision, Guider, HostModel, Vae
from .graph.training_mode import Inference
from .shown import Picture, show

OWN, WITHOUT_WORD, ELSEWHERE = KINDS = ("own", "without_word", "elsewhere")
NO_MARK = "none"
_SAMPLER, _SCHEDULER = "euler", "simple"


@dataclass(frozen=True)
class SampleSettings:
    """When and how to draw a sample.

    Attributes:
        every: updates between two samples; 0 for none.
        steps: sampling steps. cfg: above 1 it needs an empty or negative caption.
        vae: decodes the sample; None shows the rough colours of the latent itself.
        seed: of the noise, always the same.
        without_word, elsewhere: further captions to draw each time. judge: what compares the pictures.
        mark_best: one of `judge.best.MARKS`.
    """

    every: int = 0
    steps: int = 20
    cfg: float = 1.0
    vae: Vae | None = None
    seed: int = 0
    without_word: Caption | None = None
    elsewhere: Caption | None = None
    judge: ClipVision | None = None
    mark_best: str = NO_MARK

    @property
    def captions(self) -> dict[str, Caption]:
        """The further captions by their kind; none where nothing is drawn."""
        given = {WITHOUT_WORD: self.without_word, ELSEWHERE: self.elsewhere}
        return {kind: caption for kind, caption in given.items() if caption is not None and self.every}

    @property
    def is_judged(self) -> bool:
        """Whether anything asks for more than samples to look at."""
        return bool(self.every and (self.captions or self.judge is not None or self.mark_best != NO_MARK))


class SamplingMode:
    """How the host computes sample pictures: as in inference, unless it then passes by layers that train.

    It may multiply with a quantized weight without calling the layer, whose branch the picture would lack.
    """

    def __init__(self, inference: Inference, ran: set[str]) -> None:
        self._inference, self._ran = inference, ran
        self._passes_by = None if inference.differs else False

    def mode(self, run: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        """The context for a sample; ``run`` runs the model once."""
        if self._passes_by is None:
            trained, sampled = self._layers(run), self._layers_of_inference(run)
            self._passes_by = not trained <= sampled
        return contextlib.nullcontext() if self._passes_by else self._inference.resumed()

    def _layers_of_inference(self, run: Callable[[], None]) -> set[str]:
        with self._inference.resumed():
            return self._layers(run)

    @torch.no_grad()
    def _layers(self, run: Callable[[], None]) -> set[str]:
        self._ran.clear()
        run()
        return set(self._ran)


def draw_sample(
    guider: Guider,
    settings: SampleSettings,
    positive: Any,
    negative: Any,
    shape: torch.Size,
    options: dict[str, Any],
    parts: Sequence[torch.Size] = (),
) -> Picture | None:
    """Sample once with the host's own sampler on the model that is loaded for training.

    Args:
        guider: the host's guider whose model trains; its conditioning is put back afterwards.
        positive, negative: processed conditioning entries; negative may be None, which means cfg 1.
        shape: of the latent as the model takes it.
        parts: shapes of what is packed in it; the first is shown.

    Returns:
        None for a latent that nothing can show.
    """
    model, before = guider.inner_model, (guider.conds, guider.cfg)
    device = guider.model_patcher.load_device
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(settings.seed)).to(device)
    sigmas = comfy.samplers.calculate_sigmas(model.model_sampling, _SCHEDULER, settings.steps).to(device)
    guider.cfg = 1.0 if negative is None else settings.cfg
    try:
        with torch.no_grad():
            entries = {"positive": [positive], "negative": [] if negative is None else [negative]}
            guider.conds = {
                name: _encoded(model, name, given, noise, settings, parts) for name, given in entries.items()
            }
            latent = comfy.samplers.sampler_object(_SAMPLER).sample(
                guider, sigmas, options, None, noise, torch.zeros_like(noise), None, True
            )
            return show(latent, settings.vae, model, parts)
    finally:
        guider.conds, guider.cfg = before


def _encoded(
    model: HostModel,
    name: str,
    entries: list[Any],
    noise: Tensor,
    settings: SampleSettings,
    parts: Sequence[torch.Size],
) -> list[Any]:
    """Conditioning as the model encodes it now: some have a text adapter within, which trains along."""
    encoded: list[Any] = comfy.samplers.encode_model_conds(
        model.extra_conds,
        entries,
        noise,
        noise.device,
        name,
        latent_image=torch.zeros_like(noise),
        denoise_mask=None,
        seed=settings.seed,
        latent_shapes=list(parts or [noise.shape]),
    )
    return encoded
