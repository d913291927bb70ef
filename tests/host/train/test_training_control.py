"""Every way in which a training can end, and go on: nothing is lost, and what goes on is what would have been."""

from __future__ import annotations

import contextlib
import json
import math
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest import mock

import comfy.model_management
import pytest
import torch

from comfyui_qr_lora.nodes.host.files import checkpoints, folders
from comfyui_qr_lora.nodes.host.files.checkpoints import checkpoint_names, checkpoint_path, latest_checkpoint
from comfyui_qr_lora.nodes.host.train import loop
from comfyui_qr_lora.nodes.host.train.dataset import DataSettings, collect_examples
from comfyui_qr_lora.nodes.host.train.samples import SampleSettings
from comfyui_qr_lora.nodes.host.train.settings import RESUME_LATEST, RunSettings
from comfyui_qr_lora.nodes.host.train.status import RunningTrainings
from comfyui_qr_lora.nodes.host.train.train import View
from comfyui_qr_lora.qrlora_core import (
    AdapterFileError,
    ObjectiveSettings,
    OptimizerSettings,
    TrainingError,
    load_adapter,
    load_training,
)
from comfyui_qr_lora.qrlora_core.files.training_state import read_record
from devtools import tiny_models
from devtools.environment import ROOT

from ...support.training_task import assert_same, assert_unchanged, caption, latent, raising, snapshot, train

RUN = RunSettings(run_name="test", checkpoint_every=2, keep_checkpoints=2)
RESUME = replace(RUN, resume_from=RESUME_LATEST)
Interrupted = comfy.model_management.InterruptProcessingException


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of checkpoints, in an output folder of this test's own."""
    monkeypatch.setattr(folders.folder_paths, "get_output_directory", lambda: str(tmp_path))
    return tmp_path / "qr_loras" / "checkpoints"


def interrupt(model: Any, after: int, run: RunSettings = RUN, **given: Any) -> None:
    with raising(Interrupted, after), pytest.raises(Interrupted):
        train(model, run=run, **given)


EVERYTHING: dict[str, Any] = {
    "variant": "qr",
    "grad_accumulation": 2,
    "batch_size": 2,
    "objective": ObjectiveSettings(timesteps="logit_normal", weighting="min_snr", loss="huber"),
    "optimizer": OptimizerSettings(schedule="cosine", warmup_steps=2, max_grad_norm=0.5, ema_decay=0.9),
    "latents": [latent(0), latent(1, size=12), latent(2, batch=3)],
    "captions": [caption(seed) for seed in range(10)],
    "empty": [caption(50)],
    "data": DataSettings(
        captions_per_image=2,
        repeats=(1, 2, 1, 1, 3),
        caption_dropout=0.3,
        prior=tuple(collect_examples([latent(7), latent(8)], [caption(9)])),
        prior_weight=0.5,
    ),
}


@pytest.mark.parametrize("after", [1, 3, 5])
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"variant": "full", "gradient_checkpointing": True, "training_dtype": "bf16"},
        EVERYTHING,
        EVERYTHING | {"variant": "lora"},
    ],
    ids=["plain", "checkpointing", "everything", "lora"],
)
def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(model: Any, after: int, given: dict[str, Any]) -> None:
    """Optimizer, schedule, random state and data order: all losses and every bit of the adapter."""
    whole = train(model, steps=6, **given)
    interrupt(model, after, steps=6, **given)
    resumed = train(model, run=RESUME, steps=6, **given)
    assert resumed.losses == whole.losses
    assert_same(resumed.adapter, whole.adapter)


def test_interrupts_at_every_stage(model: Any) -> None:
    """At every single moment at which the host can interrupt: decomposition, trial, each pass, showing."""
    with mock.patch.object(comfy.model_management, "throw_exception_if_processing_interrupted") as asked:
        whole = train(model, steps=3)
    moments = {1, 2, asked.call_count, *random.Random(0).sample(range(3, asked.call_count), 25)}
    before, kept = snapshot(model), set()
    for moment in sorted(moments):
        name = f"moment{moment}"
        told: list[str] = []
        calls: list[int] = []

        def ask(moment: int = moment, calls: list[int] = calls) -> None:
            calls.append(1)
            if len(calls) == moment:
                raise Interrupted

        with (
            mock.patch.object(comfy.model_management, "throw_exception_if_processing_interrupted", ask),
            pytest.raises(Interrupted),
        ):
            train(model, steps=3, run=replace(RUN, run_name=name, checkpoint_every=0), view=View("7", told.append))
        assert_unchanged(model, before)
        latest = latest_checkpoint(name)
        if latest is None:
            kept.add(0)
            continue
        kept.add(load_training(latest).record["trainer"]["updates"])
        assert f"Kept: {latest.parent.name}/{latest.name}; set resume_from to it to go on" in told[-1]
        resumed = train(model, steps=3, run=RunSettings(name, 0, 2, RESUME_LATEST))
        assert_same(resumed.adapter, whole.adapter)
    assert {0, 1, 2} <= kept


@pytest.mark.process
def test_a_killed_process_loses_at_most_the_steps_since_its_last_checkpoint(model: Any, tmp_path: Path) -> None:
    every = 2
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.killed_trainings", str(tmp_path), "12", "5"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    lines = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == 12
    found = 0
    for line in lines:
        written = sorted(Path(line["folder"]).rglob("step_*.safetensors"))
        for path in written:  # whole, every one
            assert load_training(path).record["trainer"]["updates"] == int(path.stem.removeprefix("step_"))
        last = int(written[-1].stem.removeprefix("step_")) if written else 0
        assert last >= line["steps"] - every
        if written and not found:
            found = last
            folders.folder_paths.get_output_directory = lambda line=line: line["folder"]
            resumed = train(model, steps=last + 2, run=RunSettings("killed", 0, 2, RESUME_LATEST))
            assert_same(resumed.adapter, train(model, steps=last + 2).adapter)
    assert found


def test_stop_and_keep_ends_early_and_hands_on_the_adapter(model: Any) -> None:
    trainings = RunningTrainings()

    def stop_at_three(text: str) -> None:
        if "step 3 of" in text:
            assert trainings.stop("other") == []
            assert trainings.stop("7") == ["7"]

    told_of_each = replace(RUN, samples=SampleSettings(every=1, steps=1))
    result = train(model, steps=50, run=told_of_each, view=View("7", stop_at_three, trainings=trainings))
    assert result.stopped
    assert len(result.losses) == 3
    assert (result.status.state, result.status.losses) == ("stopped", result.losses)
    assert_same(result.adapter, train(model, steps=3).adapter)
    assert result.checkpoint == "test_00001/step_00000003.safetensors"
    assert trainings.all() == []


def test_every_end_is_told(model: Any) -> None:
    """Once at the start, before anything is computed, and once at the end with the whole curve."""
    told: list[dict[str, Any]] = []
    view = View(trainings=RunningTrainings(lambda status: told.append(asdict(status))))
    losses = train(model, steps=4, view=view).losses
    interrupt(model, 2, steps=4, view=view)
    told = [status for status in told if status["state"] != "running" or status["step"] == 0]
    assert [(status["state"], status["step"], status["steps"]) for status in told] == [
        ("running", 0, 4), ("finished", 4, 4), ("running", 0, 4), ("failed", 2, 4),
    ]  # fmt: skip
    assert told[1]["losses"] == losses
    assert told[3]["losses"] == losses[:2]
    assert told[3]["warnings"][0].startswith("interrupted at step 2")


def test_the_last_checkpoints_stay_and_older_ones_go(model: Any, folder: Path) -> None:
    train(model, steps=9, run=RUN)
    assert [path.name for path in sorted((folder / "test_00001").glob("*.safetensors"))] == [
        "step_00000008.safetensors", "step_00000009.safetensors",
    ]  # fmt: skip
    train(model, steps=2, run=RUN)  # a new run writes elsewhere
    assert checkpoint_names()[0] == "test_00002/step_00000002.safetensors"
    assert len(list((folder / "test_00001").glob("*.safetensors"))) == 2


def test_resuming_from_an_older_checkpoint_never_overwrites_a_newer_one(model: Any, folder: Path) -> None:
    train(model, steps=4, run=RUN)
    first, last = sorted((folder / "test_00001").glob("*.safetensors"))
    newer = last.read_bytes()
    train(model, steps=4, run=replace(RUN, resume_from=f"test_00001/{first.name}"))
    assert last.read_bytes() == newer
    assert (folder / "test_00002" / last.name).is_file()


def test_no_checkpoints_where_none_are_wanted(model: Any, folder: Path) -> None:
    train(model, steps=4, run=replace(RUN, keep_checkpoints=0))
    interrupt(model, 2, replace(RUN, keep_checkpoints=0))
    assert not folder.exists()


def test_a_finished_training_goes_on_with_more_steps(model: Any) -> None:
    train(model, steps=3, run=RUN)
    longer = train(model, steps=6, run=RESUME)
    assert_same(longer.adapter, train(model, steps=6).adapter)
    again = train(model, steps=6, run=RESUME)  # nothing left to do
    assert_same(again.adapter, longer.adapter)


def test_a_checkpoint_loads_as_the_adapter_that_it_was(model: Any) -> None:
    train(model, steps=2, run=RUN)
    path = latest_checkpoint("test")
    assert path is not None
    loaded = load_adapter(path)
    assert_same(loaded, train(model, steps=2).adapter)
    assert json.loads(loaded.metadata["qr_lora.training"])["steps_done"] == 2
    with mock.patch.object(folders.folder_paths, "get_folder_paths", return_value=[]):
        assert folders.adapter_names() == [f"output/qr_loras/checkpoints/{path.parent.name}/{path.name}"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.5}, "learning_rate was 0.01 and is 0.5"),
        ({"rank": 4}, "rank was 8 and is 4"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"steps": 1}, "steps was 4 and is 1"),
        ({"variant": "full"}, "variant was triu and is full"),
        ({"objective": ObjectiveSettings(timesteps="style")}, "timesteps was uniform and is style"),
        ({"optimizer": OptimizerSettings(schedule="cosine")}, "schedule was constant and is cosine"),
        ({"data": DataSettings(repeats=(3,))}, r"repeats was \[1\] and is \[3\]"),
        ({"latents": [latent(5)]}, "the pictures, captions or masks are others"),
        ({"captions": [caption(5)]}, "the pictures, captions or masks are others"),
    ],
)
def test_resuming_another_training_is_refused_with_the_difference_named(
    model: Any, folder: Path, changes: dict[str, Any], message: str
) -> None:
    train(model, steps=4, run=RUN)
    before = {path: path.read_bytes() for path in folder.rglob("*.safetensors")}
    with pytest.raises(TrainingError, match=message):
        train(model, run=RESUME, **{"steps": 4, **changes})
    assert {path: path.read_bytes() for path in folder.rglob("*.safetensors")} == before


def test_resuming_on_another_base_is_refused(model: Any) -> None:
    train(model, steps=2, run=RUN)
    with pytest.raises(TrainingError, match=r"the base model is another in \d+ of \d+ layers"):
        train(tiny_models.build("sd3", seed=1), steps=2, run=RESUME)


def test_steps_may_not_change_under_a_schedule_that_depends_on_them(model: Any) -> None:
    cosine = {"optimizer": OptimizerSettings(schedule="cosine")}
    train(model, steps=2, run=RUN, **cosine)
    with pytest.raises(TrainingError, match="steps was 2 and is 4"):
        train(model, steps=4, run=RESUME, **cosine)


@pytest.mark.parametrize(
    "name", ["gone_00001/step_00000002.safetensors", "../../secret.safetensors", "/etc/passwd", ""]
)
def test_a_checkpoint_that_is_not_there(name: str) -> None:
    with pytest.raises(AdapterFileError, match="no checkpoint"):
        checkpoint_path(name)


@pytest.mark.parametrize("name", ["", "a/b", "..", "../x", "a\\b", ".hidden"])
def test_run_names_that_are_no_plain_name(name: str) -> None:
    with pytest.raises(TrainingError, match="run_name: expected a plain name"):
        checkpoints.new_run(name, 1)


def test_latest_without_a_checkpoint_starts_anew(model: Any) -> None:
    assert_same(train(model, steps=2, run=RESUME).adapter, train(model, steps=2).adapter)


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """The system refuses to write more than 4 kB into any file of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_ends_no_training_and_harms_no_file(model: Any, folder: Path) -> None:
    train(model, steps=2, run=RUN)
    (old,) = folder.rglob("*.safetensors")
    before, told = old.read_bytes(), []
    with full_disk():
        result = train(model, steps=5, run=RUN, view=View("7", told.append))
    assert_same(result.adapter, train(model, steps=5).adapter)
    assert any(
        note.startswith("warning: no checkpoint at step 5:") and "cannot be written" in note for note in result.notes
    )
    assert old.read_bytes() == before
    assert [path for path in folder.rglob("*") if path.is_file() and "tensorboard" not in str(path)] == [old]
    later = train(model, steps=6, run=RESUME)  # room again
    assert later.checkpoint is not None
    assert_same(later.adapter, train(model, steps=6).adapter)


def test_an_interrupt_on_a_full_disk_says_that_nothing_was_kept(model: Any) -> None:
    told: list[str] = []
    with full_disk():
        interrupt(model, 2, view=View("7", told.append))
    assert "Nothing was kept." in told[-1]
    assert "cannot be written" in told[-1]


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_good_state(model: Any) -> None:
    original = loop.objective_loss

    def spoiled(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(*args, **kwargs) * (math.nan if len(calls) == 5 else 1.0)  # the first is the trial

    calls: list[int] = []
    before = snapshot(model)
    with (
        mock.patch.object(loop, "objective_loss", spoiled),
        pytest.raises(TrainingError, match=r"stopped in step 4: the loss became nan.*Kept: test_00001/step_00000003"),
    ):
        train(model, steps=8, run=replace(RUN, checkpoint_every=100))
    assert_unchanged(model, before)
    path = latest_checkpoint("test")
    assert path is not None
    assert_same(load_adapter(path), train(model, steps=3).adapter)
    assert_same(train(model, steps=8, run=RESUME).adapter, train(model, steps=8).adapter)


def test_out_of_memory_is_tried_again_without_what_was_kept_for_speed(model: Any) -> None:
    """The error is a stand-in: no GPU runs out of memory here."""
    with raising(lambda: torch.OutOfMemoryError("stand-in"), 1) as raised:
        result = train(model, steps=3, gradient_checkpointing=True)
    assert raised
    assert_same(result.adapter, train(model, steps=3).adapter)


def test_out_of_memory_says_what_to_lower_and_keeps_what_was_trained(model: Any) -> None:
    """The error is a stand-in, as above."""
    before = snapshot(model)
    with (
        raising(lambda: torch.OutOfMemoryError("stand-in"), 2, times=2),
        pytest.raises(TrainingError, match=r"out of memory.*gradient_checkpointing.*batch_size \(now 2\).*resume_from"),
    ):
        train(model, [latent(0), latent(1)], steps=4, batch_size=2, run=RUN)
    assert_unchanged(model, before)
    assert latest_checkpoint("test") is not None


def test_out_of_memory_in_the_trial_before_the_first_step_says_what_to_lower(model: Any) -> None:
    """The error is a stand-in, as above."""
    with (
        mock.patch.object(loop.InplaceGuard, "decide", side_effect=torch.OutOfMemoryError("stand-in")),
        pytest.raises(
            TrainingError, match=r"out of memory while training \(latents of 8 x 8\).*Nothing was trained yet"
        ),
    ):
        train(model, steps=2, run=RUN)


def test_out_of_memory_in_a_sample_ends_no_training(model: Any) -> None:
    """The error is a stand-in, as above."""
    with mock.patch.object(loop, "draw_sample", side_effect=torch.OutOfMemoryError("stand-in")):
        result = train(model, steps=3, run=RunSettings(samples=SampleSettings(every=1, steps=1)))
    assert_same(result.adapter, train(model, steps=3).adapter)
    assert any("out of memory while drawing" in note for note in result.notes)


def test_an_unknown_error_passes_as_it_is_and_keeps_what_was_trained(model: Any) -> None:
    with (
        raising(lambda: ZeroDivisionError("of another pack"), 2),
        pytest.raises(ZeroDivisionError, match="another pack"),
    ):
        train(model, steps=4, run=RUN)
    assert_same(train(model, steps=4, run=RESUME).adapter, train(model, steps=4).adapter)


def test_hundreds_of_images(model: Any) -> None:
    latents = [latent(seed, size=(8, 10, 12)[seed % 3]) for seed in range(300)]
    captions = [caption(seed) for seed in range(300)]
    result = train(model, latents, captions, batch_size=4, steps=5)
    assert len(result.losses) == 5
    assert json.loads(result.adapter.metadata["qr_lora.training"])["images"] == 300


def test_samples_are_drawn_with_the_adapter_as_it_is_and_change_nothing(model: Any) -> None:
    samples = SampleSettings(every=2, steps=2)
    result = train(model, steps=6, learning_rate=0.1, run=RunSettings(samples=samples))
    assert_same(result.adapter, train(model, steps=6, learning_rate=0.1).adapter)
    assert [step for step, _ in result.pictures["own"]] == [2, 4, 6]
    pictures = [picture for _, picture in result.pictures["own"]]
    assert all(picture.ndim == 3 and picture.shape[-1] == 3 for picture in pictures)
    assert not torch.equal(pictures[0], pictures[-1])
    again = train(model, steps=6, learning_rate=0.1, run=RunSettings(samples=samples))
    assert all(torch.equal(a, b) for a, (_, b) in zip(pictures, again.pictures["own"], strict=True))  # one seed


def test_the_record_of_a_checkpoint_is_read_without_its_tensors(model: Any) -> None:
    train(model, steps=2, run=RUN)
    path = latest_checkpoint("test")
    assert path is not None
    record = read_record(path)
    assert record is not None
    assert record["settings"]["learning_rate"] == 0.01
