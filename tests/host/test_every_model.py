"""Every architecture: train, save in all formats, load, live and patch; the table in the README is the result."""

import pytest

from comfyui_qr_lora.nodes.host.files.folders import register_folders
from devtools import tiny_models
from devtools.environment import ROOT
from devtools.host import comfyui_dir
from devtools.workspace import host_version
from generators import support

from ..support.models import every_model

README = support.columns_in((ROOT / "README.md").read_text(encoding="utf-8"))
HOST = host_version(comfyui_dir())
register_folders()  # as the host does when it loads the pack


@every_model
def test_works_in_every_way_and_the_readme_says_so(name: str) -> None:
    found = support.check(name)
    assert found.trains(), found.losses
    assert {what: error for what, error in found.errors.items() if not error <= support.LIMITS[what]} == {}
    if HOST in README:
        assert README[HOST][tiny_models.TITLES[name]] == found.cell()


def test_the_readme_names_every_model_once() -> None:
    assert [*tiny_models.TITLES] == [*tiny_models.NAMES]
    for column in README.values():
        assert [*column] == [*tiny_models.TITLES.values()]


@pytest.mark.skipif(HOST not in README, reason=f"the README says nothing of ComfyUI {HOST}")
def test_the_readme_names_the_models_that_this_host_lacks() -> None:
    absent = {title for title, cell in README[HOST].items() if cell == support.ABSENT}
    assert absent == {tiny_models.TITLES[name] for name in tiny_models.NAMES if tiny_models.lacking(name)}
