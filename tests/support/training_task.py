"""What the tests of training share: a picture and a caption for the tiny SD3, short trainings, an unchanged model."""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import folder_paths
import pytest
import torch
from torch import Tensor

from comfyui_qr_lora.nodes.host.train import train as training
from comfyui_qr_lora.nodes.host.train.dataset import DataSettings, collect
from comfyui_qr_lora.nodes.host.train.report import TrainingResult
from comfyui_qr_lora.nodes.host.train.settings import RunSettings, TrainingSettings
from comfyui_qr_lora.nodes.host.train.train import View, train_adapter
from comfyui_qr_lora.qrlora_core import QRLoRA, Trainer, TrainingError

SETTINGS = TrainingSettings(
    steps=6, learning_rate=1e-2, rank=8, alpha=0.0, variant="triu", targets="paper", batch_size=1,
    grad_accumulation=1, seed=0, training_dtype="fp32", gradient_checkpointing=False,
)  # fmt: skip


def caption(seed: int, length: int = 12) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(1, 2048, generator=generator)
    return [[torch.randn(1, length, 96, generator=generator), {"pooled_output": pooled}]]


def latent(seed: int, size: int = 8, batch: int = 1) -> dict[str, Tensor]:
    return {"samples": torch.randn(batch, 16, size, size, generator=torch.Generator().manual_seed(seed))}


def train(
    patcher: Any,
    latents: Any = None,
    captions: Any = None,
    *,
    data: DataSettings | None = None,
    empty: Any = (),
    pixels: Sequence[Tensor] = (),
    run: RunSettings | None = None,
    view: View | None = None,
    **changes: Any,
) -> TrainingResult:
    """A short training; ``changes`` are settings."""
    collected = collect(latents or [latent(0)], captions or [caption(0)], data, empty, pixels)
    return train_adapter(patcher, collected, replace(SETTINGS, **changes), run, view)


def assert_same(first: QRLoRA, second: QRLoRA) -> None:
    """Bit for bit."""
    assert first.layers.keys() == second.layers.keys()
    for path, layer in first.layers.items():
        for a, b in zip(layer.terms, second.layers[path].terms, strict=True):
            assert torch.equal(a.q, b.q), path
            assert torch.equal(a.delta_r, b.delta_r), path


def snapshot(patcher: Any) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in patcher.model.state_dict().items()}


def assert_unchanged(patcher: Any, before: dict[str, Tensor]) -> None:
    after = patcher.model.state_dict()
    assert after.keys() == before.keys()
    assert all(
        torch.equal(after[key].view(torch.uint8), before[key].view(torch.uint8)) for key in before if before[key].ndim
    )
    assert sum(len(module._forward_hooks) for module in patcher.model.modules()) == 0
    assert all("forward" not in vars(module) for module in patcher.model.modules())


def assert_refused(patcher: Any, message: str, *given: Any, **options: Any) -> str:
    """Refused with this message, with no layer decomposed, no file written and the model as it was."""
    before, output = snapshot(patcher), Path(folder_paths.get_output_directory())
    run = options.pop("run", None) or RunSettings(keep_checkpoints=2, checkpoint_every=1)
    with mock.patch.object(training.KeptBases, "factors") as decompose, pytest.raises(TrainingError) as refused:
        train(patcher, *given, run=run, **options)
    assert re.search(message, str(refused.value)), str(refused.value)
    assert not decompose.called
    assert not [path for path in output.rglob("*") if path.is_file()]
    assert_unchanged(patcher, before)
    assert all(not module._forward_pre_hooks for module in patcher.model.modules())
    return str(refused.value)


@contextlib.contextmanager
def raising(error: Callable[[], BaseException], after: int, times: int = 1) -> Iterator[list[int]]:
    """Within the context, the step after so many updates raises, when its last loss is computed already."""
    original, raised = Trainer.step, []

    def step(trainer: Trainer, losses: Sequence[Callable[[], Tensor]]) -> float:
        def last() -> Tensor:
            loss = losses[-1]()
            if trainer.updates == after and len(raised) < times:
                raised.append(1)
                raise error()
            return loss

        return original(trainer, [*losses[:-1], last])

    with mock.patch.object(Trainer, "step", step):
        yield raised
