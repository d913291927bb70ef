"""Adapters of other kinds on the page: what the card and the desk call them, and what a run does with them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Page, expect
from safetensors import safe_open
from safetensors.torch import save_file

from devtools.server import Server

from ..support.desk import Desk, compose, look_at

pytestmark = [pytest.mark.web, pytest.mark.server]

Load = Callable[[dict[str, Any]], None]
LOKR, ROTATED, LEFT_OUT = (f"loras/kinds/{name}.safetensors" for name in ("lokr", "rotated", "vera"))


@pytest.fixture
def kinds(web_server: Server, adapters: tuple[str, str]) -> Iterator[None]:
    """A LoKr and an OFT for a layer of the playground's model, and a file that is not read."""
    trained = web_server.output_dir / adapters[0].removeprefix("output/")
    with safe_open(trained, "pt") as file:
        key = next(key for key in file.keys() if key.endswith("to_q.lora.q.weight"))  # noqa: SIM118
        path, out = key.removesuffix(".lora.q.weight"), file.get_slice(key).get_shape()[0]
        width = file.get_slice(f"{path}.lora.delta_r.weight").get_shape()[1]
    torch.manual_seed(0)
    files = {
        LOKR: {"lokr_w1": torch.randn(2, 2), "lokr_w2": torch.randn(out // 2, width // 2)},
        ROTATED: {"oft_blocks": torch.randn(out // 4, 4, 4)},
        LEFT_OUT: {"vera_lambda_b": torch.randn(4)},
    }
    for name, tensors in files.items():
        target = web_server.models_dir / name
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file({f"{path}.{part}": tensor for part, tensor in tensors.items()}, target)
    yield
    for name in files:
        (web_server.models_dir / name).unlink()


def run(page: Page) -> None:
    """Until the picture is there."""
    page.evaluate("async () => { await app.queuePrompt(0) }")
    page.wait_for_function("() => Object.keys(app.nodeOutputs ?? {}).includes('16')")


def test_card_desk_and_report_name_the_kind(page: Page, load: Load, kinds: None) -> None:
    load(compose((LOKR, ROTATED), scales=(0.9, 0.5)))
    cards = page.locator(".qr-lora-load")
    expect(cards.nth(0)).to_contain_text("LoKr · 1 layers")
    expect(cards.nth(1)).to_contain_text("OFT · 1 layers")
    run(page)
    look_at(page)
    desk = Desk(page)
    expect(desk.root).to_contain_text("LoKr, rank")
    expect(desk.root).to_contain_text("OFT, beside the others")
    expect(desk.root).not_to_contain_text("interference")  # which is another one on every base weight
    if folder := os.environ.get("QRLORA_PICTURES"):
        page.screenshot(path=Path(folder) / "kinds.png")


def test_a_file_that_is_not_read_says_so_on_its_card(page: Page, load: Load, kinds: None) -> None:
    load({"1": {"class_type": "QRLoRA_Load", "inputs": {"adapter_name": LEFT_OUT}}})
    expect(page.locator(".qr-lora-load")).to_contain_text("VeRA")
