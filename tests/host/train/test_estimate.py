"""The estimate before a training: what it counts, that nothing of it stays, and every way in which it can go wrong."""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest import mock

import comfy.model_management
import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from comfyui_qr_lora.nodes.host.files import folders
from comfyui_qr_lora.nodes.host.model.bases import KeptBases
from comfyui_qr_lora.nodes.host.train import estimate, loop
from comfyui_qr_lora.nodes.host.train import train as training
from comfyui_qr_lora.nodes.host.train.dataset import DataSettings, collect, collect_examples
from comfyui_qr_lora.nodes.host.train.estimate import FEWEST_STEPS, largest_alone
from comfyui_qr_lora.nodes.host.train.graph.modules import aliased_parameters, trainable_context
from comfyui_qr_lora.nodes.host.train.memory import LiveTensors, MemoryShortageError, what_to_lower
from comfyui_qr_lora.nodes.host.train.role.settings import CONTENT, STYLE, RoleSettings
from comfyui_qr_lora.nodes.host.train.settings import RESUME_LATEST, VARIANTS, RunSettings
from comfyui_qr_lora.nodes.host.train.status import RunningTrainings, TrainingStatus
from comfyui_qr_lora.nodes.host.train.train import View
from comfyui_qr_lora.qrlora_core import ObjectiveSettings, OptimizerSettings, QRLoRA, Trainer, TrainingError
from devtools import tiny_models
from devtools.tiny_models.quantize import quantized, quantized_forms

from ...support.training_task import SETTINGS, assert_same, assert_unchanged, caption, latent, snapshot, train

STEPS = 3
ON_GPU = torch.device(tiny_models.build("sd3").load_device).type == "cuda"
counted = pytest.mark.skipif(ON_GPU, reason="a GPU counts by itself")
Interrupted = comfy.model_management.InterruptProcessingException


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of checkpoints, in an output folder of this test's own."""
    monkeypatch.setattr(folders.folder_paths, "get_output_directory", lambda: str(tmp_path))
    monkeypatch.setattr(training, "FEWEST_STEPS", STEPS)
    return tmp_path


def without_estimate() -> Any:
    """Within the context no training is measured before."""
    return mock.patch.object(training, "FEWEST_STEPS", 10**9)


@contextlib.contextmanager
def dry_step(error: Callable[[], BaseException], times: int = 1) -> Iterator[list[int]]:
    """Within the context, a dry step raises so many times when its loss is computed; yields how many did."""
    original, raised = Trainer.step, []

    def step(trainer: Trainer, losses: Any) -> float:
        def failing() -> Tensor:
            loss: Tensor = losses[0]()
            if trainer.steps == 2 and len(raised) < times:
                raised.append(1)
                raise error()
            return loss

        return original(trainer, [failing, *losses[1:]])

    with mock.patch.object(Trainer, "step", step):
        yield raised


# What is counted


def test_tensors_count_once_and_as_long_as_they_live() -> None:
    outer = torch.zeros(100)
    with LiveTensors() as count:
        seen = [outer.view(10, 10), outer.detach(), outer[2:]]
        assert count.live == 0
        first = torch.zeros(1000)
        views = [first.view(10, 100), first.detach(), first.T]
        assert count.live == 4000
        second = first + 1
        assert count.live == 8000
        first.add_(second)
        del first
        assert count.live == 8000
        del views
        assert count.live == 4000
        del second
    assert (count.live, count.peak, len(seen)) == (0, 8000, 3)


def test_the_alias_of_a_weight_does_not_count() -> None:
    model = torch.nn.Linear(64, 64)
    with LiveTensors() as count, aliased_parameters(model):
        assert count.live == 0
        model(torch.zeros(1, 64))
    assert count.peak == 2 * 64 * 4


def test_after_stop_nothing_is_counted() -> None:
    with LiveTensors() as count:
        first = torch.zeros(10)
        count.stop()
        second = torch.zeros(10)
        del first
        assert count.live == 0
    assert (count.peak, second.sum()) == (40, 0)


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Within the context, nothing of earlier tests is freed."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def allocated(run: Callable[[], Any]) -> int:
    """The most bytes that PyTorch's allocator gave out at once, by its own profiler."""
    gc.collect()
    with no_collection(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@counted
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_count_of_a_step_is_that_of_the_allocator(checkpointing: bool) -> None:
    """All but what an operation needs within itself."""

    @trainable_context()
    def step() -> None:
        layers = [torch.nn.Linear(64, 64) for _ in range(6)]
        x = torch.randn(512, 64)
        for layer in layers:
            run = torch.nn.Sequential(layer, torch.nn.GELU())
            x = torch.utils.checkpoint.checkpoint(run, x, use_reentrant=False) if checkpointing else run(x)
        x.square().mean().backward()

    with LiveTensors() as count:
        step()
    assert 0.95 * allocated(step) <= count.peak <= allocated(step)


@counted
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_memory_is_what_the_allocator_gave_for_a_step_and_the_model(
    model: Any, variant: str, checkpointing: bool
) -> None:
    """Of the steps that are timed, in which nothing takes more than the gradients of the second one."""
    found: list[int] = []
    original = estimate.DryRun.steps

    def profiled(dry: estimate.DryRun, count: int, *is_counted: Any) -> Any:
        done: list[Any] = []
        peak = allocated(lambda: done.append(original(dry, count, *is_counted)))
        found.extend([] if is_counted else [peak])
        return done[0]

    with mock.patch.object(estimate.DryRun, "steps", profiled):
        options = {"variant": variant, "gradient_checkpointing": checkpointing, "rank": 16}
        status = train(model, [latent(0, size=32)], steps=STEPS, **options).status
    assert status.estimate is not None
    counted_bytes = status.estimate["memory"] - model.model_size()
    assert 0.98 * found[0] <= counted_bytes <= found[0]


def numbers(adapter: QRLoRA, rank: int, variant: str) -> int:
    """Bytes that do not depend on the picture: factors, and what is trained with its two averages."""
    shapes = [term.delta_r.shape[1] for _, term in adapter.terms()], [term.q.shape[0] for _, term in adapter.terms()]
    inputs, outputs = map(sum, shapes)
    if variant == "lora":
        return 4 * 3 * rank * (inputs + outputs)
    trained = rank * (inputs + outputs) if variant == "qr" else rank * inputs
    return 4 * (rank * (inputs + outputs) + 3 * trained)


@counted
@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant != "qr"])
def test_memory_grows_by_factors_and_what_is_trained(model: Any, variant: str) -> None:
    """Rank by rank; the rest of what grows are gradients and the products' few columns."""
    memory, least, trained = {}, {}, {}
    for rank in (8, 16):
        result = train(model, steps=STEPS, rank=rank, variant=variant)
        assert result.status.estimate is not None
        memory[rank] = result.status.estimate["memory"]
        least[rank] = numbers(result.adapter, rank, variant)
        trained[rank] = least[rank] // 3
    grown = memory[16] - memory[8]
    assert least[16] - least[8] <= grown <= least[16] - least[8] + 2 * (trained[16] - trained[8])


def test_accumulation_multiplies_the_time_and_not_the_memory(model: Any) -> None:
    with mock.patch.object(loop.time, "monotonic", side_effect=(0.5 * n for n in range(10**6))):
        one = train(model, steps=STEPS).status.estimate
        four = train(model, steps=STEPS, grad_accumulation=4).status.estimate
        longer = train(model, steps=2 * STEPS).status.estimate
    assert None not in (one, four, longer)
    assert four["memory"] == one["memory"]
    assert four["seconds"] == pytest.approx(4 * one["seconds"])
    assert longer["seconds"] == pytest.approx(2 * one["seconds"])


def test_the_largest_picture_and_its_longest_caption_stand_for_all() -> None:
    prior = tuple(collect_examples([latent(7), latent(8, size=10)], [caption(9)]))
    data = collect(
        [latent(0), latent(1, size=12), latent(2, batch=2)], [caption(n, length=9 + n) for n in range(8)],
        DataSettings(captions_per_image=2, caption_dropout=0.5, prior=prior), [caption(9)],
    )  # fmt: skip
    alone = largest_alone(data)
    assert [example.latent.shape[-1] for example in (*alone.examples, *alone.prior)] == [12, 10]
    assert [text.shape[1] for text, _ in alone.examples[0].captions] == [12]
    assert (alone.caption_dropout, alone.empty_caption) == (0.0, None)


# Nothing of it stays


PRIOR = DataSettings(prior=tuple(collect_examples([latent(7), latent(8)], [caption(9)])), caption_dropout=0.3)
MASKED = [latent(0) | {"noise_mask": torch.ones(1, 32, 32).triu()}]
CASES: dict[str, dict[str, Any]] = {
    **{variant: {"variant": variant} for variant in VARIANTS},
    "checkpointing": {"gradient_checkpointing": True},
    "checkpointing in bf16": {"gradient_checkpointing": True, "training_dtype": "bf16"},
    "sizes in batches": {"latents": [latent(0), latent(1, size=12), latent(2, batch=3)], "batch_size": 2},
    "masks": {"latents": MASKED},
    "class images": {"data": PRIOR, "empty": [caption(50)], "latents": [latent(0), latent(1)]},
    "accumulation": {"grad_accumulation": 3, "optimizer": OptimizerSettings(schedule="cosine", warmup_steps=2)},
    "average": {"optimizer": OptimizerSettings(ema_decay=0.9, max_grad_norm=0.5)},
    "objective": {"objective": ObjectiveSettings(timesteps="logit_normal", weighting="min_snr", loss="huber")},
    "content": {"role": RoleSettings(variants=3).recipe(CONTENT)},
    "style": {"role": RoleSettings(variants=3).recipe(STYLE)},
    "alpha": {"alpha": 3.0, "targets": "attention", "rank": 64},
}


def assert_leaves_nothing(model: Any, *given: Any, **options: Any) -> None:
    before, state = snapshot(model), torch.get_rng_state()
    measured = train(model, *given, steps=STEPS, **options)
    assert torch.equal(torch.get_rng_state(), state)
    assert_unchanged(model, before)
    with without_estimate():
        plain = train(model, *given, steps=STEPS, **options)
    assert measured.status.estimate is not None, measured.notes
    assert plain.status.estimate is None
    assert_same(measured.adapter, plain.adapter)
    assert measured.losses == plain.losses


@pytest.mark.parametrize("case", CASES)
def test_a_training_is_the_same_with_the_estimate_and_without(model: Any, case: str) -> None:
    assert_leaves_nothing(model, **CASES[case])


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["sd15", "sdxl", "flux", "wan"])
def test_so_it_is_on_other_networks(name: str, checkpointing: bool) -> None:
    model = tiny_models.build(name)
    picture, text = tiny_models.example(name, model)
    assert_leaves_nothing(model, [picture], [text], gradient_checkpointing=checkpointing)


@pytest.mark.parametrize("form", quantized_forms())
@pytest.mark.parametrize("checkpointing", [False, True])
def test_so_it_is_on_quantized_bases(form: str, checkpointing: bool) -> None:
    assert_leaves_nothing(quantized("sd3", form), gradient_checkpointing=checkpointing)


def test_the_numbers_of_the_estimate_are_told_before_the_first_step(model: Any) -> None:
    reports: list[TrainingStatus] = []
    shown: list[str] = []
    sent = RunningTrainings(lambda status: reports.append(replace(status)))
    with mock.patch.object(KeptBases, "factors", autospec=True, side_effect=KeptBases.factors) as decomposed:
        told_before: list[tuple[int, str]] = []
        view = View("7", lambda text: (shown.append(text), told_before.append((decomposed.call_count, text))), None)
        result = train(model, steps=STEPS, view=replace(view, trainings=sent))
    (first,) = [line for line in result.notes if line.startswith("estimate: ")]
    assert told_before[0] == (0, shown[0])
    assert first in shown[0]
    assert f"for {STEPS} steps" in first
    assert "samples and checkpoints come on top" in first
    early = next(report for report in reports if report.estimate is not None)
    assert (early.step, early.losses) == (0, [])
    assert first in early.warnings
    assert set(asdict(early)["estimate"]) == {"seconds", "memory", "available"}
    assert json.loads(json.dumps(asdict(early)))["estimate"] == early.estimate
    assert all(report.estimate == early.estimate for report in reports[reports.index(early) :])


@pytest.mark.parametrize(("steps", "is_measured"), [(FEWEST_STEPS, True), (FEWEST_STEPS - 1, False)])
def test_a_short_training_is_not_measured(
    model: Any, steps: int, is_measured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "FEWEST_STEPS", FEWEST_STEPS)
    result = train(model, steps=steps)
    assert (result.status.estimate is not None) == is_measured
    assert any("estimate" in note for note in result.notes) == is_measured


def test_a_training_that_goes_on_is_not_measured(model: Any) -> None:
    run = RunSettings(run_name="short", keep_checkpoints=1)
    assert train(model, steps=STEPS, run=run).status.estimate is not None
    longer = train(model, steps=2 * STEPS, run=replace(run, resume_from=RESUME_LATEST))
    assert longer.status.estimate is None
    assert not any("estimate" in note for note in longer.notes)


# What can go wrong


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_dry_step_that_does_not_fit_is_an_error_before_anything_is_decomposed(
    model: Any, checkpointing: bool
) -> None:
    """The error is a stand-in: no GPU runs out of memory here. With blocks that run twice it comes once more."""
    before = snapshot(model)
    options = {"batch_size": 2, "gradient_checkpointing": checkpointing, "targets": "attention"}
    with (
        mock.patch.object(KeptBases, "factors") as decomposed,
        dry_step(lambda: torch.OutOfMemoryError("stand-in"), times=2),
        pytest.raises(TrainingError, match=r"^out of memory while training \(latents of 12 x 12\)") as raised,
    ):
        train(model, [latent(0), latent(1, size=12)], steps=STEPS, **options)
    assert not decomposed.called
    assert_unchanged(model, before)
    text = str(raised.value)
    assert ("switch gradient_checkpointing on" in text) == (not checkpointing)
    assert "set batch_size (now 2) to 1, or encode a smaller picture, or lower rank (now 8). Nothing" in text
    train(model, steps=2)


def test_out_of_memory_while_the_stand_ins_are_made_is_told_as_well(model: Any) -> None:
    """The error is a stand-in, as above."""
    with (
        mock.patch.object(estimate, "Trainer", side_effect=torch.OutOfMemoryError("stand-in")),
        pytest.raises(MemoryShortageError, match=r"latents of 8 x 8\): switch gradient_checkpointing on, or encode"),
    ):
        train(model, steps=STEPS)


def test_blocks_that_keep_too_much_are_tried_again_without(model: Any) -> None:
    """The error is a stand-in, as above."""
    with dry_step(lambda: torch.OutOfMemoryError("stand-in")) as raised:
        result = train(model, steps=STEPS, gradient_checkpointing=True)
    assert raised
    assert result.status.estimate is not None


def test_any_other_error_is_a_note_and_the_training_is_the_same(model: Any) -> None:
    before = snapshot(model)
    with dry_step(lambda: ValueError("a stand-in")) as raised:
        result = train(model, steps=STEPS)
    assert raised
    assert result.status.estimate is None
    assert "no estimate: the dry step failed (a stand-in); the training goes on" in result.notes
    assert_unchanged(model, before)
    with without_estimate():
        assert_same(result.adapter, train(model, steps=STEPS).adapter)


def test_cancel_in_a_dry_step_ends_the_training(model: Any) -> None:
    before = snapshot(model)
    with (
        mock.patch.object(KeptBases, "factors") as decomposed,
        dry_step(Interrupted) as raised,
        pytest.raises(Interrupted),
    ):
        train(model, steps=STEPS)
    assert raised
    assert not decomposed.called
    assert_unchanged(model, before)


def test_more_than_is_free_is_a_warning_with_what_to_lower(model: Any) -> None:
    """The figure is a stand-in: less than nothing is free, but for what the model has."""

    def free(device: Any = None, torch_free_too: bool = False) -> Any:
        return (10**12, 10**12) if torch_free_too else 1

    with mock.patch.object(comfy.model_management, "get_free_memory", free):
        result = train(model, steps=STEPS, batch_size=2, gradient_checkpointing=True)
    (warning,) = [note for note in result.notes if note.startswith("warning: that is more than is free")]
    assert "set batch_size (now 2) to 1, or encode a smaller picture, or lower rank (now 8), or set targets" in warning
    assert result.status.estimate is not None
    assert result.status.estimate["memory"] > result.status.estimate["available"] == model.model_size() + 1
    assert result.losses


def test_what_fits_brings_no_warning(model: Any) -> None:
    assert not any("more than is free" in note for note in train(model, steps=STEPS).notes)


@pytest.mark.parametrize(
    ("given", "closed"),
    [
        ({}, []),
        ({"gradient_checkpointing": True}, ["gradient_checkpointing"]),
        ({"batch_size": 1}, ["batch_size"]),
        ({"rank": 1}, ["rank"]),
        ({"targets": "attention"}, ["targets"]),
        ({"gradient_checkpointing": True, "batch_size": 1, "rank": 1, "targets": "attention"},
         ["gradient_checkpointing", "batch_size", "rank", "targets"]),
    ],
)  # fmt: skip
def test_only_what_is_still_open_is_named_in_the_order_of_the_help_page(
    given: dict[str, Any], closed: list[str]
) -> None:
    order = ["gradient_checkpointing", "batch_size", "smaller picture", "rank", "targets"]
    found = what_to_lower(replace(SETTINGS, **{"batch_size": 4, **given}))
    named = [next(word for word in order if word in line) for line in found]
    assert named == [word for word in order if word not in closed]
