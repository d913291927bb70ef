"""The model's own training objective, whatever it predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.model_sampling
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ....qrlora_core import ObjectiveSettings, TrainingError
from ....qrlora_core.train.objective import bent, example_losses, loss_weight, sample_levels
from ..model.host_types import HostModel, ModelSampling

_SMALLEST_SIGMA = 1e-3
_MOST_DRAWS = 10_000
_PUBLISHED = ObjectiveSettings()


def check_noise(model_sampling: ModelSampling) -> None:
    """Only models that make something of noise can be trained from pictures alone.

    Raises:
        TrainingError: the model makes one picture of another: it is never given noise.
    """
    sigma, noise = torch.tensor([0.5]), torch.ones(1, 1, 1, 1)
    noisy = model_sampling.noise_scaling(sigma, noise.clone(), torch.zeros_like(noise), False)
    if isinstance(model_sampling, comfy.model_sampling.IMG_TO_IMG) or not noisy.any():
        raise TrainingError(
            "this model makes one picture of another, with no noise, and would have to be trained on pairs of both, "
            "which there is no input for here. Adapters from elsewhere can be loaded and merged."
        )


def sample_sigmas(
    model_sampling: ModelSampling,
    count: int,
    generator: torch.Generator,
    settings: ObjectiveSettings = _PUBLISHED,
) -> Tensor:
    """Noise levels at random timesteps: (count,) float32.

    Flow models take sigma itself as the timestep, in [0.001, 1), as the published recipe does, without the shift
    that their samplers use unless it is ``shifted``; others take the host's timestep. What lies outside of
    ``min_timestep`` and ``max_timestep`` is drawn again, so that the distribution within keeps its form.

    Raises:
        TrainingError: hardly anything that is drawn lies between the two.
    """
    seen = torch.empty(0)
    for _ in range(_MOST_DRAWS):
        drawn = _draw(model_sampling, count - len(seen), generator, settings)
        seen = torch.cat([seen, drawn])
        if len(seen) == count:
            return seen
    raise TrainingError(
        f"timesteps {settings.timesteps}: in {_MOST_DRAWS} draws hardly any noise lay between min_timestep "
        f"{settings.min_timestep} and max_timestep {settings.max_timestep}; choose uniform, or a wider range."
    )


def _draw(model_sampling: ModelSampling, count: int, generator: torch.Generator, settings: ObjectiveSettings) -> Tensor:
    """At most so many noise levels that may be seen: of a flow by sigma, of others by the share of all timesteps."""
    levels = bent(sample_levels(settings.timesteps, count, generator), settings.noise_bias)
    if not _is_flow(model_sampling):
        return _sigmas(model_sampling, levels[settings.sees(levels)])
    if settings.timesteps != "shifted":
        return levels[settings.sees(levels)].clamp(min=_SMALLEST_SIGMA)
    sigmas = _sigmas(model_sampling, levels)
    return sigmas[settings.sees(sigmas)]


def _sigmas(model_sampling: ModelSampling, levels: Tensor) -> Tensor:
    """The model's own noise levels at shares of all timesteps."""
    percents = (1 - levels).clamp(_SMALLEST_SIGMA, 1 - _SMALLEST_SIGMA)
    return torch.tensor([float(model_sampling.percent_to_sigma(float(percent))) for percent in percents])


def _is_flow(model_sampling: ModelSampling) -> bool:
    return isinstance(model_sampling, comfy.model_sampling.CONST)


def latent_in(model: HostModel, latent: Tensor, parts: Sequence[torch.Size] = ()) -> Tensor:
    """Latents in the model's scale.

    Args:
        parts: shapes of what is packed in each, if anything is; the model scales each part in its own way.
    """
    if hasattr(model, "latent_shapes"):  # where the host's samplers put them, and leave them
        model.latent_shapes = list(parts or [latent.shape])
    return model.process_latent_in(latent)


def encode_conditioning(
    model: HostModel, conditioning: dict[str, Any], latent: Tensor, seed: int, parts: Sequence[torch.Size] = ()
) -> dict[str, Any]:
    """What the host's model wants for one caption at one latent shape: name to the host's COND object."""
    entry = {"guidance": 1.0, **conditioning}  # the published guidance, unless the workflow sets one
    encoded = comfy.samplers.encode_model_conds(
        model.extra_conds,
        [entry],
        latent,
        latent.device,
        "positive",
        latent_image=latent,
        denoise_mask=None,
        seed=seed,
        latent_shapes=list(parts or [latent.shape]),
    )
    conds = encoded[0]["model_conds"]
    return {name: cond.process_cond(batch_size=1, device=latent.device, area=None) for name, cond in conds.items()}


def objective_loss(
    model: HostModel,
    latent: Tensor,
    conds: list[dict[str, Any]],
    sigma: Tensor,
    noise: Tensor,
    options: dict[str, Any],
    settings: ObjectiveSettings = _PUBLISHED,
    mask: Tensor | None = None,
    parts: Sequence[torch.Size] = (),
) -> Tensor:
    """Mean over the examples of the error of what the network itself predicts: velocity, epsilon or v.

    Every host parametrization is affine in the network's output F: ``x0 = a(sigma) x + c(sigma) F``. So with
    the true x0, ``F_predicted - F_true = (x0_predicted - x0) / c(sigma)`` whichever the parametrization is.

    Args:
        latent: (batch, channels, ...) clean latents in the model's scale.
        conds: one per example, from `encode_conditioning`.
        sigma: (batch,). noise: like latent.
        options: the host's transformer options.
        mask: (batch, 1, ...) broadcastable to latent, or None.
        parts: shapes of what is packed in each latent; all parts count alike, however large they are.
    """
    sampling = model.model_sampling
    noisy = sampling.noise_scaling(sigma, noise.clone(), latent, False)
    clean = predict(model, noisy, conds, sigma, options)
    # c, as one number per example: the same in every element.
    one = latent.new_ones(len(latent), *[1] * (latent.ndim - 1))
    output_scale = sampling.calculate_denoised(sigma, one, torch.zeros_like(one))
    if parts:
        mask = _balanced(torch.ones_like(latent) if mask is None else mask, parts)
    losses = example_losses(settings, (clean.float() - latent) / output_scale, mask)
    return (losses * loss_weight(settings, sigma, output_scale.flatten(), flow=_is_flow(sampling))).mean()


def _balanced(mask: Tensor, parts: Sequence[torch.Size]) -> Tensor:
    """A mask in which every part that has anything to learn has the same sum: sound is small beside its video."""
    pieces = comfy.utils.unpack_latents(mask, parts)
    sums = [piece.flatten(1).sum(1).reshape(-1, *[1] * (piece.ndim - 1)) for piece in pieces]
    balanced: Tensor = comfy.utils.pack_latents(
        [piece / total.clamp(min=torch.finfo(mask.dtype).tiny) for piece, total in zip(pieces, sums, strict=True)]
    )[0]
    return balanced


def predict(
    model: HostModel, noisy: Tensor, conds: list[dict[str, Any]], sigma: Tensor, options: dict[str, Any]
) -> Tensor:
    """The clean latents that the network sees in noisy ones, each with its own conditioning."""
    if all(comfy.samplers.cond_equal_size(conds[0], other) for other in conds[1:]):
        return _apply(model, noisy, conds, sigma, options)
    # Captions whose encodings do not fit in one batch run one by one.
    singles = zip(noisy.split(1), conds, sigma.split(1), strict=True)
    return torch.cat([_apply(model, x, [cond], s, options) for x, cond, s in singles])


def _apply(
    model: HostModel, noisy: Tensor, conds: list[dict[str, Any]], sigma: Tensor, options: dict[str, Any]
) -> Tensor:
    own = {**options, "cond_or_uncond": [0] * len(conds), "sigmas": sigma}
    return model.apply_model(noisy, sigma, transformer_options=own, **comfy.samplers.cond_cat(conds))
