"""The labelled grid keeps every pixel."""

import pytest
import torch

from comfyui_qr_lora.nodes.grid import Grid
from comfyui_qr_lora.nodes.pictures import labelled_grid
from comfyui_qr_lora.nodes.sweep import Sweep, SweepGrid
from comfyui_qr_lora.qrlora_core import QRLoRAError


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


def test_a_single_row_has_no_row_labels() -> None:
    picture = labelled_grid(images(2), columns=["0", "1"], rows=[], column_title="content", row_title="")
    assert picture.shape[2] == 2 * 64


def test_wrong_number_or_sizes_of_images() -> None:
    with pytest.raises(QRLoRAError, match="expected 2, one per cell of the sweep, found 3"):
        labelled_grid(images(3), columns=["0", "1"], rows=[], column_title="", row_title="")
    with pytest.raises(QRLoRAError, match="all of one size"):
        labelled_grid([*images(1), *images(1, 32)], columns=["0", "1"], rows=[], column_title="", row_title="")


@pytest.mark.parametrize(("text", "message"), [("0, half", "expected numbers"), (" , ", "at least one number")])
def test_scales_that_do_not_read(text: str, message: str) -> None:
    from comfyui_qr_lora.qrlora_core import QRLoRA

    with pytest.raises(QRLoRAError, match=message):
        Sweep.execute(None, QRLoRA({}), text)
