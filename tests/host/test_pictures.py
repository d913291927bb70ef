"""The labelled grid keeps every pixel."""

from pathlib import Path

import folder_paths
import pytest
import torch

from comfyui_qr_lora.nodes.grid import Grid
from comfyui_qr_lora.nodes.pictures import labelled_grid, shrunk
from comfyui_qr_lora.nodes.sweep import Sweep, SweepGrid
from comfyui_qr_lora.qrlora_core import QRLoRAError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures for the page go into a folder of this test's own."""
    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path))


def images(count: int, height: int = 48, width: int = 64) -> list[torch.Tensor]:
    return list(torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(0)))


def test_cells_stand_row_by_row_and_keep_their_values() -> None:
    cells = images(6)
    grid = SweepGrid("content", "style", (0.0, 0.5, 1.0), (0.0, 1.0))
    picture = Grid.execute([cell[None] for cell in cells], [grid]).args[0]
    height, width = picture.shape[1:3]
    top, left = height - 2 * 48, width - 3 * 64
    for index, cell in enumerate(cells):
        y, x = top + 48 * (index // 3), left + 64 * (index % 3)
        assert torch.equal(picture[0, y : y + 48, x : x + 64], cell)
    assert (picture[0, :top] < 0.5).any()  # labels were drawn
    assert (picture[0, top:, :left] < 0.5).any()


def test_the_page_learns_where_which_scales_are() -> None:
    cells = images(6)
    grid = SweepGrid("content", "style", (0.0, 0.5, 1.0), (0.0, 2.0))
    result = Grid.execute([cell[None] for cell in cells], [grid])
    picture, (told,) = result.args[0][0], result.ui["qr_lora_grid"]
    assert (told["height"], told["width"]) == tuple(picture.shape[:2])
    assert (told["name_x"], told["name_y"], told["type"]) == ("content", "style", "temp")
    scales = [(cell["scale_x"], cell["scale_y"]) for cell in told["cells"]]
    assert scales == [(0.0, 0.0), (0.5, 0.0), (1.0, 0.0), (0.0, 2.0), (0.5, 2.0), (1.0, 2.0)]
    for cell, image in zip(told["cells"], cells, strict=True):
        shares = zip(cell["at"], 2 * (told["width"], told["height"]), strict=True)
        x, y, width, height = (round(share * whole) for share, whole in shares)
        assert torch.equal(picture[y : y + height, x : x + width], image)
    single = Grid.execute([cell[None] for cell in cells], [SweepGrid("a", "", (1, 2, 3, 4, 5, 6), ())])
    assert [cell["scale_y"] for cell in single.ui["qr_lora_grid"][0]["cells"]] == [None] * 6


def test_the_page_gets_no_huge_picture() -> None:
    assert shrunk(torch.rand(1, 300, 100, 3), 150).shape == (1, 150, 50, 3)
    small = torch.rand(1, 30, 10, 3)
    assert shrunk(small, 150) is small


def test_a_single_row_has_no_row_labels() -> None:
    made = labelled_grid(images(2), columns=["0", "1"], rows=[], column_title="content", row_title="")
    assert made.picture.shape[2] == 2 * 64


def test_wrong_number_or_sizes_of_images() -> None:
    with pytest.raises(QRLoRAError, match="expected 2, one per cell of the sweep, found 3"):
        labelled_grid(images(3), columns=["0", "1"], rows=[], column_title="", row_title="")
    with pytest.raises(QRLoRAError, match="all of one size"):
        labelled_grid([*images(1), *images(1, 32)], columns=["0", "1"], rows=[], column_title="", row_title="")


@pytest.mark.parametrize(
    ("text", "message"), [("0, half", "expected numbers"), (" , ", "at least one number"), ("nan", "finite")]
)
def test_scales_that_do_not_read(text: str, message: str) -> None:
    from comfyui_qr_lora.qrlora_core import QRLoRA

    with pytest.raises(QRLoRAError, match=message):
        Sweep.execute(None, QRLoRA({}), text)
