"""The second training on a base decomposes nothing and gives the same bits; another base gets bases of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from torch import Tensor

from comfyui_qr_lora.nodes.host.model import bases
from comfyui_qr_lora.nodes.host.model.key_map import KeyMap
from comfyui_qr_lora.nodes.host.model.rebase import rebase
from comfyui_qr_lora.nodes.host.train.report import TrainingResult, describe_training
from comfyui_qr_lora.nodes.save import Save
from comfyui_qr_lora.qrlora_core import DecompositionError, select
from devtools import tiny_models

from ...support.training_task import assert_same, train

FORMS = ("plain", *tiny_models.quantized_forms())


@pytest.fixture(autouse=True)
def folder() -> Iterator[Path]:
    """Where bases are kept; nothing is there yet."""
    found = Path(folder_paths.models_dir) / "qr_lora_bases"
    _clear(found)
    yield found
    _clear(found)


def _clear(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


@pytest.fixture
def no_decomposition(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, decomposing is an error."""

    def refuse(*_: Any, **__: Any) -> None:
        raise DecompositionError("decomposed again")

    return lambda: monkeypatch.setattr(bases, "decompose", refuse)


def quick(patcher: Any, **changes: Any) -> TrainingResult:
    return train(patcher, steps=2, **changes)


def quick_flux(patcher: Any) -> TrainingResult:
    latent, caption = tiny_models.example("flux", patcher)
    return train(patcher, [latent], [caption], steps=2)


def model(**options: Any) -> Any:
    return tiny_models.build("sd3", **options)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def weight_of(patcher: Any, path: str) -> Tensor:
    """The stored parameter that a layer is part of."""
    target = KeyMap(patcher.model).linear(patcher.model)[path]
    return patcher.model.get_parameter(target.key)


def assert_same_bits(first: TrainingResult, second: TrainingResult) -> None:
    assert first.losses == second.losses
    assert_same(first.adapter, second.adapter)
    for path, layer in first.adapter.layers.items():
        assert torch.equal(layer.terms[0].base_r, second.adapter.layers[path].terms[0].base_r), path


@pytest.mark.parametrize("variant", ["triu", "full", "qr"])
def test_the_second_training_is_the_first(variant: str, folder: Path, no_decomposition: Callable[[], None]) -> None:
    first = quick(model(), variant=variant)
    count = len(first.adapter.layers)
    assert f"{count} bases were made, 0 kept from before" in describe_training(first)
    no_decomposition()
    second = quick(model(), variant=variant)
    assert f"all {count} bases were kept from before" in describe_training(second)
    assert_same_bits(first, second)
    _clear(folder)
    with pytest.raises(DecompositionError, match="decomposed again"):
        quick(model())


@pytest.mark.parametrize("form", FORMS)
def test_so_it_is_on_quantized_bases(form: str, no_decomposition: Callable[[], None]) -> None:
    def build() -> Any:
        if form == "plain":
            return tiny_models.build("flux", dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
        return tiny_models.quantized("flux", form, compute_dtype=torch.float32)

    first = quick_flux(build())
    no_decomposition()
    assert_same_bits(first, quick_flux(build()))


def test_alpha_takes_no_other_basis(no_decomposition: Callable[[], None], folder: Path) -> None:
    expected = quick(model(), alpha=2.0)
    _clear(folder)
    quick(model())
    no_decomposition()
    assert_same_bits(expected, quick(model(), alpha=2.0))


def test_another_rank_or_layer_is_made_and_what_is_there_is_used() -> None:
    few = quick(model(), targets="*.attn.to_q")
    assert quick(model(), rank=4, targets="*.attn.to_q").bases.startswith(f"{len(few.adapter.layers)} bases were made")
    many = quick(model())
    count = len(many.adapter.layers) - len(few.adapter.layers)
    assert many.bases == f"{count} bases were made, {len(few.adapter.layers)} kept from before"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("change", [1e-3, -1e-3, 1e-6])
def test_a_weight_with_one_other_entry_gets_its_own_basis(seed: int, change: float, folder: Path) -> None:
    first = quick(model())
    paths = list(first.adapter.layers)
    generator = torch.Generator().manual_seed(seed)
    path = paths[int(torch.randint(len(paths), (), generator=generator))]
    changed = model()
    target = KeyMap(changed.model).linear(changed.model)[path]
    rows = target.of(weight_of(changed, path))
    place = tuple(int(torch.randint(side, (), generator=generator)) for side in rows.shape)
    with torch.no_grad():
        rows[place] += change
    second = quick(changed)
    assert second.bases == f"1 bases were made, {len(paths) - 1} kept from before"
    _clear(folder)
    assert_same_bits(quick(changed), second)


def others() -> dict[str, Callable[[], Any]]:
    return {
        "another model of this kind": lambda: model(seed=1),
        "in bfloat16": lambda: model(dtype=torch.bfloat16, compute_dtype=torch.float32),
        "in float16": lambda: model(dtype=torch.float16, compute_dtype=torch.float32),
        "in float8": lambda: model(dtype=torch.float8_e4m3fn, compute_dtype=torch.float32),
        "twice as large": lambda: changed_model(lambda weight: weight.mul_(2)),
        "with other signs": lambda: changed_model(lambda weight: weight.neg_()),
        "rows in another order": lambda: changed_model(lambda weight: weight.copy_(weight.flip(0))),
    }


def changed_model(change: Callable[[Tensor], Any]) -> Any:
    patcher = model()
    available = KeyMap(patcher.model).linear(patcher.model)
    with torch.no_grad():
        for key in {available[path].key for path in select(available, "paper")}:
            change(patcher.model.get_parameter(key))
    return patcher


@pytest.mark.parametrize("kind", others())
def test_another_base_gets_bases_of_its_own(kind: str, folder: Path) -> None:
    count = len(quick(model()).adapter.layers)
    second = quick(others()[kind]())
    assert second.bases == f"{count} bases were made, 0 kept from before"
    _clear(folder)
    assert_same_bits(quick(others()[kind]()), second)


def double_scale(patcher: Any, target: Any) -> None:
    """Where this host keeps it."""
    scale = getattr(patcher.model.get_submodule(target.module), "scale_weight", None)
    if scale is None:
        weight = patcher.model.get_parameter(target.key)
        scale = weight._params.scale if hasattr(weight, "_params") else weight._layout_params["scale"]
    with torch.no_grad():
        scale.mul_(2)


def test_another_scale_over_the_same_float8_numbers_is_another_base() -> None:
    first = tiny_models.quantized("flux", "scaled", compute_dtype=torch.float32)
    count = len(quick_flux(first).adapter.layers)
    assert quick_flux(first).bases == f"all {count} bases were kept from before"
    available = KeyMap(first.model).linear(first.model)
    path = next(iter(select(available, "paper")))
    double_scale(first, available[path])
    told = quick_flux(first).bases
    sharing = sum(available[other].key == available[path].key for other in select(available, "paper"))
    assert told == f"{sharing} bases were made, {count - sharing} kept from before"


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "folder"])
def test_what_is_damaged_is_made_again(damage: str, folder: Path) -> None:
    first = quick(model())
    for path in files(folder)[::2]:
        if damage == "folder":
            path.unlink()
            path.mkdir()
        else:
            whole = path.read_bytes()
            path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "noise": b"\xff" * len(whole)}[damage])
    second = quick(model())
    assert_same_bits(first, second)
    assert "bases were made" in second.bases


def test_a_folder_that_cannot_be_written_stops_no_training(folder: Path) -> None:
    expected = quick(model())
    _clear(folder)
    folder.write_text("a file in its place")
    found = quick(model())
    assert_same_bits(expected, found)
    assert "they could not be kept: " in describe_training(found)
    assert str(folder) in describe_training(found)


def test_a_compact_file_shares_them(folder: Path) -> None:
    result = quick(model())
    before = files(folder)
    Save.execute(result.adapter, "kept/compact", format="compact")
    assert files(folder) == before


def test_rebase_uses_them_too(no_decomposition: Callable[[], None]) -> None:
    patcher = model()
    result = quick(patcher)
    no_decomposition()
    moved, _ = rebase(patcher, result.adapter, 8, 0.0)
    for path, layer in result.adapter.layers.items():
        assert torch.equal(moved.layers[path].terms[0].q, layer.terms[0].q), path
