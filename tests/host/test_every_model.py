"""Every architecture: train, save in all formats, load, live and patch; the table in the README is the result."""

from pathlib import Path

import pytest

from comfyui_qr_lora.nodes.host.files import register_folders
from devtools import support, tiny_models

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
ROWS = {row[0]: row for row in support.rows_in(README)}
register_folders()  # as the host does when it loads the pack


@pytest.mark.parametrize("name", tiny_models.NAMES)
def test_works_in_every_way_and_the_readme_says_so(name: str) -> None:
    found = support.check(name)
    assert found.trains(), found.losses
    assert {what: error for what, error in found.errors.items() if not error <= support.LIMITS[what]} == {}
    assert ROWS[support.TITLES[name]] == found.row()


def test_the_readme_names_every_model_once() -> None:
    listed = [row[0] for row in support.rows_in(README)]
    assert listed == [support.TITLES[name] for name in tiny_models.NAMES]
