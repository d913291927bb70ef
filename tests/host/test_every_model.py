"""Every architecture: train, save in all formats, load, live and patch; the table in the README is the result."""

from __future__ import annotations

import comfy.supported_models
import pytest

from comfyui_qr_lora.nodes.host.files.folders import register_folders
from devtools import tiny_models
from devtools.environment import ROOT
from devtools.host import comfyui_dir
from devtools.workspace import host_version
from generators import support
from generators.model_check import check

from ..support.models import models

RECORD = support.recorded()
HOST = host_version(comfyui_dir())
recorded_host = pytest.mark.skipif(HOST not in RECORD, reason=f"nothing is recorded of ComfyUI {HOST}")
register_folders()  # as the host does when it loads the pack


@pytest.mark.parametrize("name", models())
def test_works_in_every_way_but_for_what_has_a_reason(name: str) -> None:
    found = check(name)
    answers = found.answers()
    lacking = {aspect for aspect, answer in answers.items() if answer == "no"}
    assert lacking <= tiny_models.limits_of(name).keys(), found.failed()
    if HOST in RECORD:
        assert RECORD[HOST][name] == {"class": tiny_models.config_of(name), **answers}


@recorded_host
def test_the_record_has_the_models_that_this_host_has() -> None:
    assert [*RECORD[HOST]] == [name for name in tiny_models.NAMES if not tiny_models.lacking(name)]


def test_every_limit_shows_on_some_host() -> None:
    for name in tiny_models.NAMES:
        shown = {
            aspect for models in RECORD.values() for aspect, answer in models.get(name, {}).items() if answer == "no"
        }
        assert shown == tiny_models.limits_of(name).keys(), name


def test_the_readme_has_the_table() -> None:
    assert support.standing((ROOT / "README.md").read_text(encoding="utf-8")) == support.written()


def test_every_class_of_the_host_has_a_row_or_a_reason() -> None:
    classes = {kind.__name__ for kind in comfy.supported_models.models}
    rows = {tiny_models.config_of(name) for name in tiny_models.NAMES}
    assert classes - rows - tiny_models.UNSERVED.keys() == set()
    assert rows & tiny_models.UNSERVED.keys() == set()
    assert len({*tiny_models.TITLES.values()}) == len(tiny_models.NAMES)
