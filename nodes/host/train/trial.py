"""One pass of the network on each kind of example, before anything is decomposed: what it cannot take is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor

from ....qrlora_core import ObjectiveSettings, QRLoRAError, TrainingError
from ..model.host_types import Caption, Guider, Patcher
from ..model.kept import nothing_kept
from .dataset import Example, TrainingSet
from .memory import OUT_OF_MEMORY
from .misfits import Case, explain, notes, pooled_misfit
from .objective import check_noise, encode_conditioning, latent_in, predict, sample_sigmas
from .samples import SampleSettings

_INTERRUPTED = comfy.model_management.InterruptProcessingException


class TrialSampler(comfy.samplers.Sampler):
    """Stands where the host expects a sampler: the model is loaded.

    Args:
        cases: what to try.

    Attributes:
        notes: what is no reason to refuse, and should be known.
    """

    def __init__(self, cases: list[Case], objective: ObjectiveSettings) -> None:
        self._cases, self._objective = cases, objective
        self.notes: list[str] = []

    def sample(
        self,
        model_wrap: Guider,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        *_unused: Any,
        **_unused_too: Any,
    ) -> Tensor:
        """Try all cases; returns the latent that came in, as the host expects one.

        Raises:
            TrainingError: what cannot be trained, and why.
        """
        model, patcher = model_wrap.inner_model, model_wrap.model_patcher
        options = extra_args["model_options"].get("transformer_options", {})
        check_noise(model.model_sampling)
        sigma = sample_sigmas(model.model_sampling, 1, torch.Generator().manual_seed(0), self._objective)
        for case in self._cases:
            if misfit := pooled_misfit(patcher, case):
                raise TrainingError(misfit)
            with torch.no_grad(), nothing_kept(model):
                encoded = _try(patcher, case, partial(_run, model_wrap, case, sigma, options))
            self.notes += [note for note in notes(model, case, encoded) if note not in self.notes]
        return noise


def cases(data: TrainingSet, *, empty_is_used: bool, drawn: Mapping[str, Caption]) -> list[Case]:
    """One case of each kind, and that of the largest picture.

    Args:
        drawn: captions of samples alone, by the input that they come from.
    """
    every = [*_cases("", data.examples), *_cases("prior_", data.prior)]
    largest = max(every, key=lambda case: case.example.latent.numel())
    if empty_is_used and data.empty_caption is not None:
        every.append(Case(every[0].image, every[0].example, "caption 1 of negative", data.empty_caption))
    every += [Case(every[0].image, every[0].example, f"caption 1 of {name}", one) for name, one in drawn.items()]
    first = {case.kind: case for case in reversed(every)}
    chosen = list(reversed(first.values()))
    return chosen if any(case is largest for case in chosen) else [*chosen, largest]


def require_vae(samples: SampleSettings, data: TrainingSet) -> None:
    """Refuse a VAE that could not decode the first sample, hours later.

    Raises:
        TrainingError: it is of latents with another number of channels.
    """
    expected = data.examples[0].shapes[0][1]
    found = getattr(samples.vae, "latent_channels", expected)
    if samples.every and found != expected:
        raise TrainingError(
            f"vae: expected one for latents of {expected} channels, as the pictures have, found one for {found}. "
            "Connect the VAE that the pictures were encoded with, or none."
        )


def _cases(prefix: str, examples: tuple[Example, ...]) -> list[Case]:
    places: dict[int, int] = {}  # one caption may serve all pictures
    for example in examples:
        for caption in example.captions:
            places.setdefault(id(caption), len(places) + 1)

    def case(number: int, example: Example, caption: Caption) -> Case:
        text = f"caption {places[id(caption)]} of {prefix}positive"
        return Case(f"image {number} of {prefix}latents", example, text, caption)

    return [case(n, example, caption) for n, example in enumerate(examples, 1) for caption in example.captions]


def _run(guider: Guider, case: Case, sigma: Tensor, options: dict[str, Any]) -> dict[str, Any]:
    """Run the network once; returns what the host made of the caption."""
    model, parts, device = guider.inner_model, case.example.parts, guider.model_patcher.load_device
    latent = latent_in(model, case.example.latent.to(device, torch.float32), parts)
    (conditioning,) = comfy.sampler_helpers.convert_cond([case.caption])
    cond = encode_conditioning(model, conditioning, latent, 0, parts)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0)).to(device)
    noisy = model.model_sampling.noise_scaling(sigma.to(device), noise, latent, False)
    predict(model, noisy, [cond], sigma.to(device), options)
    return cond


def _try(patcher: Patcher, case: Case, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return run()
    except (_INTERRUPTED, QRLoRAError):
        raise
    except OUT_OF_MEMORY:  # the training needs more, and says what to lower
        return {}
    except Exception as error:  # whatever a network raises for what it was not made for
        raise TrainingError(explain(patcher, case, error, run)) from error
