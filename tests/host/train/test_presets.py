"""Presets: a family for every model, settings that are known and sourced, and the same bits as typed in."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from comfyui_qr_lora.nodes.host.files import folders
from comfyui_qr_lora.nodes.host.model.key_map import KeyMap
from comfyui_qr_lora.nodes.host.train.dataset import TrainingSet, collect
from comfyui_qr_lora.nodes.host.train.presets import preset as presets
from comfyui_qr_lora.nodes.host.train.presets.families import ANY_OTHER, FAMILIES, Family, family_of
from comfyui_qr_lora.nodes.host.train.presets.preset import (
    MANY_PICTURES,
    NO_PRESET,
    ONE_PICTURE,
    PRESET_NAMES,
    preset_for,
    preset_values,
    steps_for,
)
from comfyui_qr_lora.nodes.host.train.settings import RESUME_LATEST, RunSettings
from comfyui_qr_lora.nodes.host.train.status import RunningTrainings, TrainingStatus
from comfyui_qr_lora.nodes.host.train.train import View
from comfyui_qr_lora.nodes.train import Train
from comfyui_qr_lora.qrlora_core import ObjectiveSettings, TrainingError, select
from devtools import tiny_models
from devtools.tiny_models.build import released
from devtools.tiny_models.registry import ARCHITECTURES, lacking
from generators.presets import PAGE, with_table

from ...support.training_task import SETTINGS, assert_same, caption, latent, train

EVERY = (*FAMILIES, ANY_OTHER)
CHOICES = [name for name in PRESET_NAMES if name != NO_PRESET]
# What people call each, by the models of the registry; all others have no row.
TITLES = {
    **dict.fromkeys(("sd15", "sd15_inpaint", "sd15_ip2p"), "SD 1.5"),
    **dict.fromkeys(("sdxl", "sdxl_ip2p"), "SDXL"),
    **dict.fromkeys(("ssd1b", "vega", "koala_700m", "koala_1b"), "SSD-1B, Vega, KOALA"),
    **dict.fromkeys(("sd3", "sd35", "sd35_large"), "SD 3"),
    **dict.fromkeys(("flux", "flux_control", "flux_fill"), "FLUX.1"),
    "flux_schnell": "FLUX.1 schnell",
    **dict.fromkeys(("flux2", "flux2_klein"), "FLUX.2"),
    "krea2": "Krea 2",
    "anima": "Anima",
    **dict.fromkeys(("z_image", "z_image_omni", "z_image_pixel"), "Z-Image"),
    **dict.fromkeys(("qwen_image", "qwen_image_edit", "qwen_image_layered"), "Qwen-Image"),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of checkpoints, in an output folder of this test's own."""
    monkeypatch.setattr(folders.folder_paths, "get_output_directory", lambda: str(tmp_path))
    return tmp_path


def short(steps: int = 3) -> Any:
    """Within the context every preset trains so many steps only."""
    rows = tuple(replace(family, steps=steps) for family in EVERY)
    by_title = {family.title: family for family in rows}
    return mock.patch.object(presets, "family_of", lambda patcher: by_title[family_of(patcher).title])


def run_node(model: Any, **inputs: Any) -> Any:
    """The node's own defaults, but for what is given."""
    defaults = {entry.id: [entry.default] for entry in Train.define_schema().inputs if hasattr(entry, "default")}
    given = {"latents": [latent(0)], "positive": [caption(0)], "keep_checkpoints": [0], **inputs}
    named = {name: value if isinstance(value, list) else [value] for name, value in given.items()}
    defaults = {name: value for name, value in defaults.items() if value != [None]}
    return Train.execute(**{**defaults, "model": [model], **named})


def told(output: Any) -> dict[str, Any]:
    """The status and report that the page gets."""
    (status,) = output.ui["qr_lora_training"]
    return dict(status)


def pictures(count: int, size: int = 8) -> TrainingSet:
    return collect([latent(n, size=size) for n in range(count)], [caption(0)])


# The table


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_model_has_the_family_that_people_call_it(name: str) -> None:
    if reason := lacking(name):
        pytest.skip(reason)
    expected = TITLES.get(name, "Wan" if name.startswith("wan") else ANY_OTHER.title)
    assert family_of(tiny_models.build(name)).title == expected


def test_no_class_of_the_host_is_in_two_rows() -> None:
    classes = [name for family in FAMILIES for name in family.classes]
    assert len(set(classes)) == len(classes)
    assert {architecture.config for architecture in ARCHITECTURES.values()} >= set(classes)


@pytest.mark.parametrize("family", EVERY, ids=lambda family: family.title)
@pytest.mark.parametrize("name", CHOICES)
def test_a_preset_sets_inputs_of_the_node_to_values_that_they_take(family: Family, name: str) -> None:
    inputs = {entry.id: entry for entry in Train.define_schema().inputs}
    for field, value in preset_values(family, name, 20, on_cpu=False).items():
        entry = inputs[field]
        if hasattr(entry, "options"):
            assert value in entry.options, field
        elif isinstance(entry.default, (int, float)) and not isinstance(entry.default, bool):
            assert type(value) is type(entry.default), field
            assert entry.min <= value <= entry.max, field
        else:
            assert type(value) is type(entry.default), field


@pytest.mark.parametrize("family", EVERY, ids=lambda family: family.title)
def test_every_setting_has_a_source_for_what_it_sets_itself(family: Family) -> None:
    for setting, own in ((family.one, {"learning_rate", "rank", "steps"}), (family.many, {"learning_rate", "rank"})):
        assert "https://" in setting.source
        assert [name for name in own if name not in setting.source and "as SDXL's" not in setting.source] == []


def test_rank_and_alpha_are_the_same_in_both_so_that_adapters_share_their_basis() -> None:
    for family in EVERY:
        one, many = (preset_values(family, name, 20, on_cpu=False) for name in CHOICES)
        assert [one[name] for name in ("rank", "alpha", "variant")] == [many[n] for n in ("rank", "alpha", "variant")]


def test_the_paper_is_what_flux_and_any_other_get_for_one_picture() -> None:
    """arXiv 2507.04599 and its scripts: rank 64, alpha as rank, 1e-4, 1,000 steps, accumulation 4, batch 1, bf16."""
    published = {
        "steps": 1000, "learning_rate": 1e-4, "rank": 64, "alpha": 0.0, "variant": "triu", "targets": "paper",
        "batch_size": 1, "grad_accumulation": 4, "training_dtype": "bf16", "gradient_checkpointing": True,
    }  # fmt: skip
    flux = next(family for family in FAMILIES if family.title == "FLUX.1")
    for family in (flux, ANY_OTHER):
        assert preset_values(family, ONE_PICTURE, 1, on_cpu=False) == published


def test_steps_for_many_pictures_are_a_hundred_each_within_bounds() -> None:
    assert [steps_for(count) for count in (1, 5, 10, 11, 20, 40, 41, 500)] == [
        1000, 1000, 1000, 1100, 2000, 4000, 4000, 4000,
    ]  # fmt: skip


def test_the_table_in_the_documents_is_the_one_that_trains() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page) == page
    assert with_table(page.replace("| 0.0001 |", "| 0.0002 |", 1)) == page


def test_the_blocks_of_a_row_are_there_in_the_published_network() -> None:
    """B-LoRA's two, of content and style, and of either whole."""
    network = next(one for one in ARCHITECTURES["sdxl"].released if one.title == "SDXL base")
    model = released("sdxl", network.title)
    family = next(family for family in FAMILIES if family.title == "SDXL")
    paths = list(KeyMap(model).linear(model))
    chosen = select(paths, family.one.blocks)
    blocks = ("unet.up_blocks.0.attentions.0.", "unet.up_blocks.0.attentions.1.")
    assert chosen == [path for path in paths if path.startswith(blocks)]
    assert sum(path.endswith(".attn1.to_q") for path in chosen) == 20


# On a model


@pytest.mark.parametrize("name", CHOICES)
def test_a_preset_and_its_values_typed_in_are_the_same_adapter(model: Any, name: str) -> None:
    with short(), mock.patch.object(presets, "FEWEST_STEPS", 3), mock.patch.object(presets, "STEPS_PER_PICTURE", 1):
        preset = run_node(model, preset=name)
    status = told(preset)["preset"]
    assert (status["name"], status["family"]) == (name, "SD 3")
    typed = run_node(model, **status["values"], preset=NO_PRESET)
    assert_same(preset.args[0], typed.args[0])
    assert preset.args[1] == typed.args[1]
    assert told(typed)["preset"] is None
    other = run_node(model, **{**status["values"], "learning_rate": 3e-4}, preset=NO_PRESET)
    with pytest.raises(AssertionError):
        assert_same(preset.args[0], other.args[0])


def test_a_preset_with_blocks_and_its_values_typed_in_are_the_same_adapter() -> None:
    sdxl = tiny_models.build("sdxl")
    positive = [[torch.randn(1, 8, 96), {"pooled_output": torch.randn(1, 1280)}]]
    given = {"latents": {"samples": torch.randn(1, 4, 16, 16)}, "positive": [positive]}
    with short():
        preset = run_node(sdxl, preset=ONE_PICTURE, **given)
    status = told(preset)["preset"]
    assert {path.split(".attentions.")[0] for path in preset.args[0].layers} == {"unet.up_blocks.0"}
    typed = run_node(sdxl, **status["values"], **given)
    assert_same(preset.args[0], typed.args[0])


def test_none_is_a_training_without_the_input(model: Any) -> None:
    options = {name: [value] for name, value in vars(replace(SETTINGS, steps=3)).items()}
    given = {"model": [model], "latents": [latent(0)], "positive": [caption(0)], **options}
    plain, none = Train.execute(**given), Train.execute(**given, preset=[NO_PRESET])
    assert_same(plain.args[0], none.args[0])
    assert plain.args[0].metadata.keys() == none.args[0].metadata.keys()
    assert "preset" not in told(none)["text"] + " ".join(none.args[0].metadata.values())


def test_the_report_names_every_value_that_differs_and_the_source(model: Any) -> None:
    with short():
        output = run_node(
            model, preset=ONE_PICTURE, rank=7, learning_rate=0.25, targets="custom", custom_targets="nothing"
        )
    status, text = told(output), told(output)["text"]
    values, inputs = status["preset"]["values"], {entry.id: entry for entry in Train.define_schema().inputs}
    assert "rank 16 by preset, 7 on the node is not used" in text
    assert "learning_rate 0.0004 by preset, 0.25 on the node is not used" in text
    assert "targets paper by preset, custom on the node is not used" in text
    same = [
        name
        for name, value in values.items()
        if name not in ("rank", "learning_rate", "targets") and inputs[name].default == value
    ]
    assert same
    assert not [name for name in same if f"{name} {values[name]} by preset" in text]
    assert status["preset"]["source"] in text
    assert "README_sd3.md" in text


def test_every_report_has_the_preset(model: Any) -> None:
    reports: list[TrainingStatus] = []
    sent = RunningTrainings(lambda status: reports.append(replace(status)))
    preset = preset_for(ONE_PICTURE, model, pictures(1), {})
    assert preset is not None
    train(model, steps=2, run=RunSettings(preset=preset), view=View("7", trainings=sent))
    assert len(reports) > 2
    assert all(asdict(report)["preset"] == preset.as_status() for report in reports)
    assert json.loads(json.dumps(preset.as_status())) == preset.as_status()


def test_the_file_says_which_preset_it_was(model: Any) -> None:
    preset = preset_for(ONE_PICTURE, model, pictures(1), {})
    with_it = train(model, steps=2, run=RunSettings(preset=preset)).adapter.metadata
    without = train(model, steps=2).adapter.metadata
    assert any("one picture, SD 3" in text for text in with_it.values())
    assert not any("one picture" in text for text in without.values())


def test_connected_settings_are_left_as_they_are(model: Any) -> None:
    objective = ObjectiveSettings(timesteps="style")
    with short():
        output = run_node(model, preset=ONE_PICTURE, objective=objective)
    values = told(output)["preset"]["values"]
    typed = run_node(model, **values, objective=objective)
    assert_same(output.args[0], typed.args[0])
    with pytest.raises(AssertionError):
        assert_same(output.args[0], run_node(model, **values).args[0])


# Going on


@pytest.mark.parametrize("then", ["preset", "typed"])
def test_a_checkpoint_of_a_preset_goes_on_with_it_or_with_its_values(model: Any, then: str) -> None:
    with short(6):
        whole = run_node(model, preset=ONE_PICTURE)
    with short(2):
        run_node(model, preset=ONE_PICTURE, run_name="kept", keep_checkpoints=2)
    values = told(whole)["preset"]["values"]
    given = {"preset": ONE_PICTURE} if then == "preset" else values
    with short(6):
        gone_on = run_node(model, **given, run_name="kept", keep_checkpoints=2, resume_from=RESUME_LATEST)
    assert_same(whole.args[0], gone_on.args[0])


# Notes


def notes(model: Any, name: str, data: TrainingSet, **given: Any) -> str:
    preset = preset_for(name, model, data, given)
    assert preset is not None
    return "\n".join(preset.notes)


def test_a_preset_for_another_number_of_pictures_is_noted(model: Any) -> None:
    assert "2 pictures are connected: preset many pictures is made for that" in notes(model, ONE_PICTURE, pictures(2))
    assert "1 picture is connected: preset one picture is made" in notes(model, MANY_PICTURES, pictures(1))
    assert "made for that" not in notes(model, ONE_PICTURE, pictures(1)) + notes(model, MANY_PICTURES, pictures(2))


@pytest.mark.parametrize(
    ("cells", "is_far"), [(8, True), (47, True), (48, False), (64, False), (170, False), (171, True)]
)
def test_pictures_of_another_size_are_noted(model: Any, cells: int, is_far: bool) -> None:
    """SD 3, one picture: 512 to 1024 px; a latent has a cell for 8 px, and a quarter off is far."""
    found = notes(model, ONE_PICTURE, pictures(1, size=cells))
    assert ("1 of 1 pictures are of another size than the preset's source has, 512 to 1024 px" in found) == is_far
    assert (f"they have {8 * cells} px" in found) == is_far


def test_noise_levels_of_a_family_are_a_note_that_a_connected_objective_answers() -> None:
    model = tiny_models.build("qwen_image")
    said = "timesteps shifted"
    assert said in notes(model, ONE_PICTURE, pictures(1))
    assert said not in notes(model, ONE_PICTURE, pictures(1), objective=ObjectiveSettings())


def test_another_name_is_refused(model: Any) -> None:
    with pytest.raises(TrainingError, match="preset: expected one of none, one picture, many pictures, found 'two'"):
        preset_for("two", model, pictures(1), {})


def test_a_gpu_computes_in_bf16_and_a_cpu_in_fp32(model: Any) -> None:
    found = preset_for(ONE_PICTURE, model, pictures(1), {})
    assert found is not None
    on_cpu = model.load_device.type == "cpu"
    assert found.values["training_dtype"] == ("fp32" if on_cpu else "bf16")
    assert preset_values(ANY_OTHER, ONE_PICTURE, 1, on_cpu=False)["training_dtype"] == "bf16"
