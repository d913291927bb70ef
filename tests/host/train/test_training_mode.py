"""The host's own switches for training: set while a training runs, never otherwise, and not for its samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comfy.model_management
import pytest

from comfyui_qr_lora.nodes.host.train import loop
from comfyui_qr_lora.nodes.host.train.graph.training_mode import training_mode
from comfyui_qr_lora.nodes.host.train.samples import SampleSettings
from comfyui_qr_lora.nodes.host.train.settings import RunSettings
from comfyui_qr_lora.qrlora_core import TrainingError
from devtools import tiny_models

from ...support.training_task import train

MANAGEMENT = comfy.model_management
SAMPLES = RunSettings(samples=SampleSettings(every=1, steps=2))


@pytest.fixture(autouse=True)
def switches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a newer host, on which a training of its own has left gradients in float8 behind."""
    monkeypatch.setattr(MANAGEMENT, "in_training", False, raising=False)
    monkeypatch.setattr(MANAGEMENT, "training_fp8_bwd", True, raising=False)
    yield
    assert state() == (False, True)


def state() -> tuple[bool, bool]:
    return MANAGEMENT.in_training, MANAGEMENT.training_fp8_bwd


def watched(patcher: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], list[Any]]:
    """The switches at every call of the network: in samples, and otherwise."""
    sampled, trained = [], []
    sampling = [False]
    original = loop.draw_sample

    def draw(*args: Any) -> Any:
        sampling[0] = True
        try:
            return original(*args)
        finally:
            sampling[0] = False

    monkeypatch.setattr(loop, "draw_sample", draw)
    patcher.model.diffusion_model.register_forward_pre_hook(
        lambda *_: (sampled if sampling[0] else trained).append(state())
    )
    return sampled, trained


def test_on_in_every_step_and_off_in_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    patcher = tiny_models.build("sd3")
    sampled, trained = watched(patcher, monkeypatch)
    train(patcher, steps=2, run=SAMPLES)
    assert sampled == [(False, True)] * 4
    # One call tries the example, and one asks which layers run in inference, once.
    assert [value for value in trained if value != (True, False)] == [(False, True)] * 2
    assert len(trained) >= 2 + 2


def test_samples_are_computed_as_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    patcher = tiny_models.build("sd3")
    sampled, trained = watched(patcher, monkeypatch)
    monkeypatch.setattr(MANAGEMENT, "in_training", True)  # within a training of somebody else's
    train(patcher, steps=1, run=SAMPLES)
    assert MANAGEMENT.in_training
    assert {value[0] for value in sampled + trained} == {True}
    monkeypatch.setattr(MANAGEMENT, "in_training", False)


@pytest.mark.parametrize("error", [RuntimeError("broken"), MANAGEMENT.InterruptProcessingException()])
@pytest.mark.parametrize("at", [1, 3])
def test_as_before_after_an_error(error: BaseException, at: int) -> None:
    """In the trial, which says what failed and is run again for that, and in a step."""
    patcher, calls, before = tiny_models.build("sd3"), [], state()
    is_told = at == 1 and isinstance(error, RuntimeError)

    def fail(*_: Any) -> None:
        calls.append(state())
        if len(calls) == at:
            raise error

    handle = patcher.model.diffusion_model.register_forward_pre_hook(fail)
    with pytest.raises(TrainingError if is_told else type(error), match="broken" if is_told else None):
        train(patcher, steps=3)
    handle.remove()
    assert state() == before
    if at == 1:
        assert {*calls} == {before}
    else:
        assert (calls[0], {*calls[1:]}) == (before, {(True, False)})


def test_as_before_after_an_error_in_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        assert state() == (False, True)
        raise RuntimeError("no picture")

    monkeypatch.setattr(loop, "draw_sample", fail)
    with pytest.raises(RuntimeError, match="no picture"):
        train(tiny_models.build("sd3"), steps=1, run=SAMPLES)


def test_one_within_another() -> None:
    with training_mode() as outer:
        with training_mode() as inner:
            with inner.resumed():
                assert state() == (True, False)
            with outer.resumed():
                assert state() == (False, True)
            assert state() == (True, False)
        assert state() == (True, False)


def test_a_host_without_switches_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.delattr(MANAGEMENT, "in_training")
        patch.delattr(MANAGEMENT, "training_fp8_bwd")
        with training_mode() as inference, inference.resumed():
            assert not hasattr(MANAGEMENT, "in_training")
        assert not hasattr(MANAGEMENT, "training_fp8_bwd")


FORMS = [form for form in tiny_models.quantized_forms() if form.startswith("int8")]


@pytest.mark.skipif(not FORMS, reason="this ComfyUI has no int8 weights")
def test_a_layer_that_inference_passes_by_is_in_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wan multiplies with an int8 weight after an activation without calling the layer: its branch would be missing."""
    patcher = tiny_models.quantized("wan", "int8")
    latent, caption = tiny_models.example("wan", patcher)
    sampled, _ = watched(patcher, monkeypatch)
    settings = {"targets": "ffn.2", "learning_rate": 0.3, "run": SAMPLES}
    result = train(patcher, [latent], [caption], steps=2, **settings)
    assert set(sampled) == {(True, False)}
    first, last = (picture for _, picture in result.pictures["own"])
    assert (first - last).abs().max() > 0.01
    sampled.clear()
    train(patcher, [latent], [caption], steps=1, **settings | {"targets": "ffn.0"})
    assert set(sampled) == {(False, True)}
