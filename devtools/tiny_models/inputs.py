"""What a small model is given: noisy latents and encoded texts for a call, pictures and captions for a training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

from .architecture import Architecture
from .registry import ARCHITECTURES

if TYPE_CHECKING:
    from comfyui_qr_lora.nodes.host.model.host_types import HostModel, Patcher

_NOISE_LEVEL = 0.5  # share of the sampling schedule at which inputs are made
_GUIDANCE = 4.0  # 1000 times this is a bfloat16 number: the host embeds it in the model's dtype


def sample_inputs(
    name: str, patcher: Patcher, *, batch: int = 1, seed: int = 1, reference: bool = False
) -> dict[str, Any]:
    """Keyword arguments of the host's `apply_model`: a noisy latent, a sigma, a text and what else the model takes.

    Args:
        name: the patcher's entry in `NAMES`; "flux" also fits `real_width_flux`.
        batch: number of latents, each with its own text; one where the network takes no more.
        seed: of latent, noise and text.
        reference: whether a picture to edit stands beside the text.
    """
    import comfy.model_management

    model, architecture = patcher.model, ARCHITECTURES[name]
    generator = torch.Generator().manual_seed(seed)
    batch = 1 if architecture.alone else batch
    shape = _shape_in_model(architecture, model)
    latent, noise = (torch.randn(batch, *shape, generator=generator) for _ in range(2))
    text = torch.randn(batch, *_text_shape(architecture, patcher), generator=generator)
    options = _of_all([_options(architecture, generator, reference) for _ in range(batch)])
    device = patcher.load_device
    sigma = torch.full((batch,), float(model.model_sampling.percent_to_sigma(_NOISE_LEVEL)))
    per_sample = sigma.reshape(-1, *[1] * (latent.ndim - 1))
    # In inference mode a host that prepares the text first does so here, where no adapter is at work.
    with torch.inference_mode(False), torch.no_grad():
        conds = model.extra_conds(
            **{
                "cross_attn": text.clone(), "guidance": _GUIDANCE, "noise": noise, "latent_image": latent,
                "device": noise.device, "attention_mask": None, "prompt_type": "positive",
                "width": latent.shape[-1] * 8, "height": latent.shape[-2] * 8, "seed": seed,
                "latent_shapes": _shapes(architecture), **_cloned(options),
            }
        )  # fmt: skip
    extra = {key: cond.process_cond(batch_size=batch, device=device, area=None).cond for key, cond in conds.items()}
    inputs = {"x": model.model_sampling.noise_scaling(per_sample, noise, latent), "t": sigma} | extra
    return {
        key: comfy.model_management.cast_to_device(value, device, None) if torch.is_tensor(value) else value
        for key, value in inputs.items()
    }


def call_options(inputs: dict[str, Any]) -> dict[str, Any]:
    """What the host's samplers tell a model of the call beside its inputs: the last step of a sampling, one caption."""
    sigma = inputs["t"]
    schedule = torch.stack([sigma[0], torch.zeros_like(sigma[0])])
    return {"cond_or_uncond": [0] * len(sigma), "sigmas": sigma, "sample_sigmas": schedule}


def example(name: str, patcher: Patcher, *, seed: int = 1, reference: bool = False) -> tuple[dict[str, Any], list[Any]]:
    """A picture and its caption, as the host's nodes give them: LATENT and CONDITIONING.

    Args:
        name: the patcher's entry in `NAMES`; "flux" also fits `real_width_flux`.
        seed: of both.
        reference: whether a picture to edit stands beside the caption.
    """
    architecture, generator = ARCHITECTURES[name], torch.Generator().manual_seed(seed)
    latent = torch.randn(1, *architecture.latent, generator=generator)
    if architecture.sound:
        latent = _nested(latent, torch.randn(1, *architecture.sound, generator=generator))
    text = torch.randn(1, *_text_shape(architecture, patcher), generator=generator)
    return {"samples": latent}, [[text, _options(architecture, generator, reference)]]


def predict(patcher: Patcher, inputs: dict[str, Any]) -> Tensor:
    """The denoised latent, float32, after the host has loaded the model with its patches and injections.

    As at the start of a sampling, the network keeps nothing of an earlier call.

    Args:
        inputs: from `sample_inputs`.
    """
    import comfy.model_management

    from comfyui_qr_lora.nodes.host.model.kept import forget_network

    comfy.model_management.load_models_gpu([patcher])
    forget_network(patcher.model)
    options = {**patcher.model_options.get("transformer_options", {}), **call_options(inputs)}  # models write into it
    with torch.no_grad():
        prediction: Tensor = patcher.model.apply_model(**inputs, transformer_options=options)
    return prediction.float()


def _shapes(architecture: Architecture) -> list[torch.Size]:
    """Of what one latent consists of."""
    return [torch.Size((1, *shape)) for shape in (architecture.latent, architecture.sound) if shape]


def _shape_in_model(architecture: Architecture, model: HostModel) -> torch.Size:
    """Of one latent as the host hands it to the model, without the batch: several are one pack, a few are folded."""
    import comfy.utils

    shapes = _shapes(architecture)
    latent = torch.zeros(shapes[0])
    if len(shapes) > 1:
        model.latent_shapes = shapes  # as the host's sampler tells the model
        latent, _ = comfy.utils.pack_latents([torch.zeros(shape) for shape in shapes])
    return model.process_latent_in(latent).shape[1:]


def _nested(*parts: Tensor) -> Any:
    from comfy.nested_tensor import NestedTensor

    return NestedTensor(parts)


def _text_shape(architecture: Architecture, patcher: Patcher) -> tuple[int, int]:
    """Of one encoded text; the width is the model's own where its settings have it."""
    length, width = architecture.text
    return length, patcher.model.model_config.unet_config.get("context_in_dim", width)


def _options(architecture: Architecture, generator: Generator, reference: bool) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for make in (*architecture.conditioning, *(architecture.reference if reference else ())):
        options |= make(generator)
    return options


def _of_all(options: list[dict[str, Any]]) -> dict[str, Any]:
    """Each text with its own pooled embedding; what else stands beside them is that of the first."""
    pooled = [one["pooled_output"] for one in options if isinstance(one.get("pooled_output"), Tensor)]
    return options[0] | ({"pooled_output": torch.cat(pooled)} if pooled else {})


def _cloned(options: dict[str, Any]) -> dict[str, Any]:
    """Tensors made in inference mode as ordinary ones."""
    return {key: _clone(value) for key, value in options.items()}


def _clone(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return [_clone(item) for item in value] if isinstance(value, list) else value
