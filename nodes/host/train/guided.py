"""A training in the host's guider, which loads the model and processes the captions: the trial, and the loop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import comfy.samplers
import comfy.utils
import torch

from ..model.host_types import Caption, Patcher
from .dataset import Example, TrainingSet
from .loop import Loop, TrainSampler
from .settings import RunSettings, TrainingSettings
from .trial import TrialSampler, cases, require_vae


def try_out(patcher: Patcher, data: TrainingSet, settings: TrainingSettings, run: RunSettings) -> list[str]:
    """Refuse what the network cannot take, before the work that takes minutes; returns what else to know of the data.

    Raises:
        TrainingError: names the picture or the caption, and what to connect.
    """
    require_vae(run.samples, data)
    tried = TrialSampler(
        cases(data, empty_is_used=bool(data.caption_dropout or run.samples.every), drawn=run.samples.captions),
        settings.whole_objective(),
    )
    _in_guider(patcher, data.examples[0], 1, [], tried, settings.seed)
    return tried.notes


def run_loop(patcher: Patcher, loop: Loop) -> None:
    """Run the loop as a sampler in the host's guider, which loads the model and processes the captions."""
    captions = _captions(loop.data, loop.samples.captions.values())
    sampler = TrainSampler(loop, captions)
    _in_guider(patcher, loop.data.examples[0], loop.batch_size, captions, sampler, loop.seed)


def computing_in(patcher: Patcher, dtype: torch.dtype) -> Patcher:
    """Another patcher of the model, which computes in a dtype."""
    clone = patcher.clone()
    # Always: what the model computes in now may be the doing of another clone, undone when this one is loaded.
    clone.set_model_compute_dtype(dtype)
    return clone


def _in_guider(
    patcher: Patcher, first: Example, batch_size: int, captions: list[Any], sampler: comfy.samplers.Sampler, seed: int
) -> None:
    guider = comfy.samplers.CFGGuider(patcher)
    guider.inner_set_conds({"positive": captions})
    batch = first.latent.expand(batch_size, *first.latent.shape[1:])  # the host reserves memory for this shape
    noise, latent = _for_the_host(torch.zeros_like(batch), first), _for_the_host(batch, first)
    # As the host runs: a quantized tensor that is moved outside of inference mode can never be used inside again.
    with torch.inference_mode():
        guider.sample(noise, latent, sampler, torch.zeros(1), seed=seed)


def _for_the_host(latent: torch.Tensor, example: Example) -> Any:
    """A latent as the host's sampler takes it: what is packed in it by parts."""
    if not example.parts:
        return latent
    import comfy.nested_tensor  # which older hosts lack, as they lack such latents

    return comfy.nested_tensor.NestedTensor(comfy.utils.unpack_latents(latent, example.parts))


def _captions(data: TrainingSet, drawn: Iterable[Caption]) -> list[Any]:
    """Every conditioning entry once, however many pictures share it.

    Args:
        drawn: those of samples alone.
    """
    entries = [caption for example in (*data.examples, *data.prior) for caption in example.captions]
    entries += drawn
    if data.empty_caption is not None:
        entries.append(data.empty_caption)
    return list({id(entry): entry for entry in entries}.values())
