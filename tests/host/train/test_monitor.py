"""What a user sees of a training: text, messages, pictures, log files; and the numbers in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from PIL import Image

from comfyui_qr_lora.nodes.host.files import folders
from comfyui_qr_lora.nodes.host.files.describe import describe_adapter
from comfyui_qr_lora.nodes.host.train import monitor
from comfyui_qr_lora.nodes.host.train.monitor import Monitor, duration
from comfyui_qr_lora.nodes.host.train.samples import OWN, SampleSettings
from comfyui_qr_lora.nodes.host.train.settings import RunSettings
from comfyui_qr_lora.nodes.host.train.status import TrainingStatus
from comfyui_qr_lora.nodes.host.train.train import View
from comfyui_qr_lora.nodes.pictures import as_image, training_view
from comfyui_qr_lora.qrlora_core import load_adapter, save_adapter

from ...support.training_task import train


def nobody(status: TrainingStatus) -> None:
    """Gets what is sent, and drops it."""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (45, "45 s"), (100, "2 min"), (720, "12 min"), (12000, "3 h 20 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_text_tells_step_loss_and_time_left() -> None:
    told: list[str] = []
    status = TrainingStatus("7", steps=10)
    watched = Monitor(status, show=told.append, send=nobody, draw=None, device=torch.device("cpu"), logs=None)
    with mock.patch.object(monitor.time, "monotonic", side_effect=[100.0, 100.0, 100.5, 100.6, 200.0]):
        watched.step(1, 0.5, 1e-4, 2.0)
        watched.step(2, 0.25, 1e-4, 4.0)  # too soon to be shown
    assert len(told) == 1
    assert told[0].startswith("step 1 of 10, loss 0.5, 2 s a step, 18 s left")
    watched.tell()
    assert "step 2 of 10, loss 0.25, 3 s a step, 24 s left" in told[1]


def test_a_step_that_shows_nothing_draws_and_sends_nothing() -> None:
    drawn: list[int] = []
    status = TrainingStatus("7", steps=1000)
    sent: list[TrainingStatus] = []
    watched = Monitor(
        status,
        show=lambda text: None,
        send=sent.append,
        draw=lambda *_: drawn.append(1),
        device=torch.device("cpu"),
        logs=None,
    )
    for step in range(1, 500):
        watched.step(step, 0.1, 1e-4, 0.001)
    assert len(drawn) <= 2
    assert len(sent) <= 2


@pytest.mark.parametrize(("count", "points", "span"), [(0, 0, 1), (200, 200, 1), (201, 101, 2), (100_000, 200, 500)])
def test_the_curve_for_the_page_is_thinned_and_keeps_the_mean(count: int, points: int, span: int) -> None:
    losses = [float(step % 7) for step in range(count)]
    means, found = monitor.thinned(losses)
    assert (len(means), found) == (points, span)
    sizes = [min(span, count - index * span) for index in range(points)]
    assert sum(mean * size for mean, size in zip(means, sizes, strict=True)) == pytest.approx(sum(losses))


def test_samples_are_files_that_the_report_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders.folder_paths, "get_temp_directory", lambda: str(tmp_path))
    status = TrainingStatus("7", steps=100)
    watched = Monitor(status, show=lambda text: None, send=nobody, draw=None, device=torch.device("cpu"), logs=None)
    for step in range(1, 31):
        watched.samples(step, {OWN: torch.full((4, 6, 3), step / 255)})
    assert [sample["step"] for sample in status.samples] == list(range(7, 31))  # the last ones
    with Image.open(tmp_path / status.samples[-1]["subfolder"] / status.samples[-1]["filename"]) as picture:
        assert picture.size == (6, 4)
        assert picture.getpixel((0, 0)) == (30, 30, 30)
    tmp_path.joinpath("gone").touch()
    monkeypatch.setattr(folders.folder_paths, "get_temp_directory", lambda: str(tmp_path / "gone"))
    watched.samples(31, {OWN: torch.zeros(4, 6, 3)})
    assert "the sample of step 31 could not be written" in watched.warnings[0]
    assert len(status.samples) == 24


def test_tensorboard_files_hold_the_losses(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read back by TensorBoard itself."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setattr(folders.folder_paths, "get_output_directory", lambda: str(tmp_path))
    result = train(model, steps=5, run=RunSettings("logged", keep_checkpoints=1, samples=SampleSettings(2, 2)))
    reader = events.EventAccumulator(str(tmp_path / "qr_loras" / "checkpoints" / "logged_00001" / "tensorboard"))
    reader.Reload()
    assert [event.step for event in reader.Scalars("loss")] == [1, 2, 3, 4, 5]
    assert [event.value for event in reader.Scalars("loss")] == pytest.approx(result.losses)
    assert [event.step for event in reader.Images("sample")] == [2, 4]


def test_without_tensorboard_nothing_is_written(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders.folder_paths, "get_output_directory", lambda: str(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    train(model, steps=2, run=RunSettings("silent", keep_checkpoints=1))
    folder = tmp_path / "qr_loras" / "checkpoints" / "silent_00001"
    assert [path.name for path in folder.iterdir()] == ["step_00000002.safetensors"]


def test_the_loaded_file_tells_how_it_was_trained(model: Any, tmp_path: Path) -> None:
    result = train(model, steps=4, learning_rate=0.02)
    text = describe_adapter(load_adapter(save_adapter(result.adapter, tmp_path / "cat.safetensors")))
    assert text.startswith("cat.safetensors: ")
    assert "4 steps, variant triu, learning_rate 0.02, optimizer adamw, schedule constant" in text
    assert f"loss {result.losses[0]:.4g} at first, {result.losses[-1]:.4g} at last" in text


def test_layers_without_a_gradient_are_named(model: Any) -> None:
    """The last block of SD3 throws its text away, and with it what the text's query could learn."""
    (note,) = train(model, steps=2).notes
    assert note.startswith("1 of 21 layers learned nothing")
    assert note.endswith("transformer_blocks.1.attn.add_q_proj")


def test_the_view_shows_falling_losses_as_a_falling_line() -> None:
    losses = [1.0 / (1 + step / 20) for step in range(200)]
    picture = as_image(training_view(losses, {}))[0]
    line = (picture - torch.tensor([31, 99, 190]) / 255).abs().sum(-1) < 0.05
    rows = [line[:, column].nonzero().float().mean() for column in (100, 300, 600)]
    assert rows[0] < rows[1] < rows[2]  # further down, further right


def test_the_view_has_a_strip_of_the_last_samples() -> None:
    samples = [(step, torch.full((8, 8, 3), step / 10)) for step in range(1, 9)]
    without, strip = (as_image(training_view([1.0, 0.5], {OWN: shown})) for shown in ([], samples))
    assert strip.shape[1] > without.shape[1]
    centre = strip[0, without.shape[1] + 4, [64 + 128 * index for index in range(5)]]
    assert torch.allclose(centre[:, 0], torch.tensor([0.4, 0.5, 0.6, 0.7, 0.8]), atol=0.01)


def test_a_view_of_nothing_is_no_error() -> None:
    assert training_view([], {}).width == 640
    assert View().show("") is None
