"""What models and nodes keep between steps and pictures: a scale that has changed is seen, at once and everywhere.

The oracle is the model at the new scale, patched by the stock loader, from the same latent, with nothing kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.supported_models
import pytest
import torch
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from torch import Tensor

import nodes as host_nodes
from comfyui_qr_lora.nodes.host.apply.source import Source
from comfyui_qr_lora.nodes.host.merge.merge import apply_adapters
from comfyui_qr_lora.nodes.host.model.kept import forget_network
from comfyui_qr_lora.qrlora_core import QRLoRA, ScheduleError
from comfyui_qr_lora.qrlora_core.schedule import make_curve
from devtools import tiny_models

from ...support.adapters import merged, random_adapter, relative_error, with_stock_lora
from ...support.two_devices import needs_copies, on_two

STEPS = 8
TOLERANCE = 1e-4
FIRST_HALF = make_curve("constant", 0.0, 0.55)  # no step lies where it ends
RISING = make_curve("ramp up")


def host_has(model: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not hasattr(comfy.supported_models, model), reason=f"this ComfyUI has no {model}")


def node(name: str) -> Any:
    return host_nodes.NODE_CLASS_MAPPINGS[name]


@dataclass(frozen=True)
class Subject:
    """A model and what it is sampled with, and a node that keeps something, put before the merge or after it."""

    model: Any
    adapter: QRLoRA
    latent: tuple[int, ...]
    positive: list[Any]
    wrap: Callable[[Any], Any] = lambda patcher: patcher

    def sample(self, patcher: Any, start: Tensor | None = None, index: int = 0) -> list[tuple[Tensor, Tensor]]:
        """The latent before every step, and what the model makes of it; one step from ``start``, if it is given."""
        noise = torch.randn(*self.latent, generator=torch.Generator().manual_seed(0))
        sampling = patcher.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", STEPS)
        if start is not None:
            sigmas = sigmas[index : index + 2]
            noise = start / (float(sigmas[0]) * getattr(sampling, "noise_scale", 1.0))
        seen: list[tuple[Tensor, Tensor]] = []
        comfy.sample.sample_custom(
            patcher, noise, 1.0, comfy.samplers.sampler_object("euler"), sigmas, self.positive, self.positive,
            torch.zeros_like(noise), disable_pbar=True, seed=0,
            callback=lambda step, found, latent, total: seen.append((latent.clone(), found.clone())),
        )  # fmt: skip
        return seen

    def expected(self, scale: float, latent: Tensor, index: int) -> Tensor:
        """What the model predicts with the adapter at a scale, with nothing kept before or after."""
        patched = self.wrap(with_stock_lora(self.model, self.adapter, scale) if scale else self.model)
        forget_network(patched.model)
        ((again, found),) = self.sample(patched, latent, index)
        forget_network(patched.model)
        assert (again - latent).norm() < 1e-5 * latent.norm()
        return found

    def error(self, step: tuple[Tensor, Tensor], scale: float, index: int) -> float:
        """Of a step, relative to the adapter's effect in it."""
        latent, found = step
        expected, base, full = (self.expected(scale, latent, index) for scale in (scale, 0.0, 1.0))
        return float((found - expected).norm() / (full - base).norm())


def small(kind: str, **unet: Any) -> Any:
    """A model of random weights that `tiny_models` has no need of."""
    config = getattr(comfy.supported_models, kind)(unet)
    config.set_inference_dtype(torch.float32, None)
    model, generator = config.get_model({}, ""), torch.Generator().manual_seed(0)
    for name, parameter in model.diffusion_model.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            parameter.data = (1.0 if "norm" in name and name.endswith("weight") else 0.0) + 0.02 * values
        else:
            parameter.data = values / (3.0 if "embed_tokens" in name else parameter[0].numel() ** 0.5)
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def text(width: int, seed: int = 1, **options: Any) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(1, 2048, generator=generator)
    return [[torch.randn(1, 12, width, generator=generator), {"pooled_output": pooled, **options}]]


@cache
def hidream_o1() -> Subject:
    """Keeps keys and values of its prompt on the network, also from one picture to the next."""
    model = small(
        "HiDreamO1",
        image_model="hidream_o1",
        text_config_overrides={
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 32, "rope_dims": [8, 4, 4],
        },
        vision_config_overrides={"hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "depth": 1},
    )  # fmt: skip
    words = torch.randint(0, 150_000, (1, 9), generator=torch.Generator().manual_seed(1))
    model.cached_patcher_init = lambda: hidream_o1.__wrapped__().model, ()
    adapter = random_adapter(model, seed=1, targets="all-linear", size=1.0)
    return Subject(model, adapter, (1, 3, 64, 64), [[words.unsqueeze(-1).float(), {"text_input_ids": words}]])


@cache
def flux_with_reference() -> Subject:
    """FluxKVCache keeps keys and values of reference images from the first step on."""
    model = tiny_models.build("flux2")
    reference = torch.randn(1, 128, 4, 4, generator=torch.Generator().manual_seed(3))
    adapter = random_adapter(model, seed=1, size=1.0)
    positive = text(96, reference_latents=[reference])
    return Subject(model, adapter, (1, 128, 4, 4), positive, lambda patcher: node("FluxKVCache").execute(patcher)[0])


SMALL_WAN = {
    "image_model": "wan2.1", "dim": 128, "out_dim": 16, "num_heads": 4, "ffn_dim": 256, "num_layers": 2,
    "patch_size": (1, 2, 2), "freq_dim": 256, "text_dim": 96,
}  # fmt: skip


@cache
def animate2() -> Subject:
    """WanAnimate2Cache keeps what the blocks made of the pose video."""
    model = small("WAN_Animate2", model_type="animate2", in_dim=36, **SMALL_WAN)
    generator = torch.Generator().manual_seed(3)
    pose, image = (torch.randn(1, 16, frames, 8, 8, generator=generator) for frames in (2, 3))
    positive = text(
        96, concat_latent_image=image, concat_mask=torch.ones(1, 1, 3, 8, 8), pose_video_latent=pose,
        cross_attn_pose=torch.randn(1, 12, 96, generator=generator),
    )  # fmt: skip
    adapter = random_adapter(model, seed=1, targets="all-linear", size=0.3)
    wrap = lambda patcher: node("WanAnimate2Cache").execute(patcher, "cpu")[0]  # noqa: E731
    return Subject(model, adapter, (1, 16, 3, 8, 8), positive, wrap)


@host_has("HiDreamO1")
@pytest.mark.parametrize("apply", ["live", "patch"])
def test_a_prompt_kept_by_the_model_is_forgotten_with_the_scale(apply: str) -> None:
    subject = hidream_o1()
    plain = subject.sample(subject.model)
    assert subject.model.model.diffusion_model._kv_cache_entries
    for scale in (1.0, 0.5, 1.0):
        steps = subject.sample(merged(subject.model, (subject.adapter, scale), apply=apply))
        assert max(subject.error(step, scale, index) for index, step in enumerate(steps)) < TOLERANCE
    again = subject.sample(subject.model)
    assert all(torch.equal(found, other) for (_, found), (_, other) in zip(again, plain, strict=True))


@needs_copies
@host_has("HiDreamO1")
def test_copies_of_the_model_on_other_devices_forget_too() -> None:
    """Each keeps the prompt that was its share."""
    first = hidream_o1()
    other = torch.randint(0, 150_000, (1, 9), generator=torch.Generator().manual_seed(2))
    both = [*first.positive, [other.unsqueeze(-1).float(), {"text_input_ids": other}]]
    subject = replace(first, positive=both)
    live = merged(subject.model, (subject.adapter, 0.8), schedule_1=RISING)
    expected, found = subject.sample(live), subject.sample(on_two(live))
    for (_, one), (_, two) in zip(expected, found, strict=True):
        assert (one - two).norm() < 1e-4 * one.norm()


KEEPERS = [
    pytest.param(hidream_o1, marks=host_has("HiDreamO1"), id="hidream_o1"),
    pytest.param(animate2, marks=host_has("WAN_Animate2"), id="animate2"),
]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("make", KEEPERS)
def test_every_step_of_a_schedule_is_that_of_its_scale(make: Callable[[], Subject], first: bool) -> None:
    """With a prefix that does not depend on the step, what is kept changes nothing else."""
    subject = make()
    model = subject.wrap(subject.model) if first else subject.model
    live = merged(model, (subject.adapter, 0.8), schedule_1=RISING)
    steps = subject.sample(live if first else subject.wrap(live))
    scales = scales_of(subject, 0.8, RISING)
    assert len(set(scales)) == STEPS
    assert max(subject.error(step, scales[index], index) for index, step in enumerate(steps)) < TOLERANCE


@pytest.mark.skipif("FluxKVCache" not in host_nodes.NODE_CLASS_MAPPINGS, reason="this ComfyUI has no FluxKVCache")
@pytest.mark.parametrize("first", [True, False])
def test_a_reference_kept_by_a_node_is_computed_anew_when_a_scale_changes(first: bool) -> None:
    """What it keeps depends on the step a little, so only the step in which it is computed is exact."""
    subject = flux_with_reference()
    model = subject.wrap(subject.model) if first else subject.model
    live = merged(model, (subject.adapter, 1.0), schedule_1=FIRST_HALF)
    steps = subject.sample(live if first else subject.wrap(live))
    scales = scales_of(subject, 1.0, FIRST_HALF)
    change = scales.index(0.0)
    assert 1 < change < STEPS - 1
    assert subject.error(steps[0], 1.0, 0) < TOLERANCE
    assert 1e-3 < subject.error(steps[change - 1], 1.0, change - 1) < 1.0
    assert subject.error(steps[change], 0.0, change) < TOLERANCE


@cache
def wan() -> Subject:
    model = tiny_models.build("wan")
    return Subject(model, random_adapter(model, seed=1), (1, 16, 2, 8, 8), text(96))


@pytest.mark.parametrize("first", [True, False])
def test_easy_cache_passes_over_no_step_in_which_a_scale_changes(first: bool) -> None:
    subject = wan()
    wrap = lambda patcher: EasyCacheNode.execute(patcher, 1e3, 0.0, 1.0, False)[0]  # noqa: E731
    model = wrap(subject.model) if first else subject.model
    live = merged(model, (subject.adapter, 1.0), schedule_1=FIRST_HALF)
    steps = subject.sample(live if first else wrap(live))
    scales = scales_of(subject, 1.0, FIRST_HALF)
    change = scales.index(0.0)
    errors = [subject.error(step, scales[index], index) for index, step in enumerate(steps)]
    assert errors[0] < TOLERANCE
    assert errors[change - 1] > 1e-2  # passed over, as the node is there to do
    assert errors[change] < TOLERANCE


@host_has("WAN21_CausalAR_T2V")
def test_a_prompt_kept_for_all_frames_of_a_video_follows_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle keeps nothing of the prompt; the frames before are kept in both, as they were made."""
    model = small("WAN21_CausalAR_T2V", model_type="t2v", causal_ar=True, in_dim=16, **SMALL_WAN)
    adapter = random_adapter(model, seed=1, targets="all-linear", size=0.3)
    live = merged(model, (adapter, 1.0), schedule_1=RISING)
    noise = torch.randn(1, 16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 4)

    def drawn(patcher: Any) -> Tensor:
        return comfy.sample.sample_custom(
            patcher, noise, 1.0, comfy.samplers.ksampler("ar_video"), sigmas, text(96), text(96),
            torch.zeros_like(noise), disable_pbar=True, seed=0,
        )  # fmt: skip

    class KeepsNothing(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            return False if key == "is_init" else super().get(key, default)

    base, found = drawn(model), drawn(live)
    network = model.model.diffusion_model
    monkeypatch.setattr(network, "init_crossattn_caches", lambda *_: [KeepsNothing() for _ in network.blocks])
    expected = drawn(live)
    assert relative_error(found, expected, base) < TOLERANCE
    assert torch.equal(drawn(model), base)


def test_lazy_cache_is_refused_with_a_schedule_and_works_without() -> None:
    subject = wan()
    model = LazyCacheNode.execute(subject.model, 1e3, 0.0, 1.0, False)[0]
    with pytest.raises(ScheduleError, match="Replace it by EasyCache"):
        subject.sample(merged(model, (subject.adapter, 1.0), schedule_1=FIRST_HALF))
    steps = subject.sample(merged(model, (subject.adapter, 1.0)))
    assert subject.error(steps[0], 1.0, 0) < TOLERANCE


def test_a_network_with_a_prefix_cache_is_reset_as_it_was() -> None:
    """A stand-in for Qwen-Image 2.1, which newer hosts have: what it offers, and nothing else of it."""

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.prefix_cache, self.prefix_cache_enabled = "of another scale", True

        def reset_prefix_cache(self, enabled: bool) -> None:
            self.prefix_cache, self.prefix_cache_enabled = None, enabled

    model = torch.nn.Module()
    model.diffusion_model = Network()
    for enabled in (True, False):
        model.diffusion_model.prefix_cache_enabled = enabled
        forget_network(model)
        assert model.diffusion_model.prefix_cache is None
        assert model.diffusion_model.prefix_cache_enabled is enabled


def scales_of(subject: Subject, scale: float, curve: Any) -> list[float]:
    """Of every step, by the host's own count of percents."""
    sampling = subject.model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", STEPS)[:-1]
    percents = torch.linspace(0, 1, 20_001)
    levels = torch.tensor([float(sampling.percent_to_sigma(float(percent))) for percent in percents])
    return [scale * curve.at(float(percents[(levels - sigma).abs().argmin()])) for sigma in sigmas]


@cache
def anima() -> Subject:
    """Reads its prompt once, by layers of its own, before the first step."""
    model = tiny_models.build("anima")
    adapter = random_adapter(model, seed=1, targets="all-linear")
    words = torch.randint(0, 1000, (12,), generator=torch.Generator().manual_seed(1))
    return Subject(model, adapter, (1, 16, 1, 16, 16), text(96, t5xxl_ids=words, t5xxl_weights=torch.ones(12)))


@host_has("Anima")
def test_layers_that_run_once_before_the_first_step_are_named_with_a_schedule() -> None:
    """They cannot follow it, and keep the scale of its start."""
    subject, told = anima(), list[list[str]]()
    reading = [path for path in subject.adapter.layers if ".llm_adapter." in path]
    assert reading
    for schedule in (RISING, None):
        source = Source("both", subject.adapter, 0.8, schedule)
        subject.sample(apply_adapters(subject.model, [source], "live", tell=told.append).model)
    scheduled, constant = told
    assert scheduled[-1].startswith(
        f"both: {len(reading)} layers run once, before the first step, at the scale of its schedule there: "
    )
    assert not any("run once" in line for line in constant)
