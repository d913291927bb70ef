"""Recipes of the Mixer: kept in the user's folder of the host, taken again, and carried as files and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from devtools.server import Server

from ..support.desk import in_page, look_at, undo
from ..support.pages import in_one_renderer

pytestmark = [pytest.mark.web, pytest.mark.server]

Load = Callable[[dict[str, Any]], None]

NEON, STYLE = "loras/playground_neon.safetensors", "qr_loras/playground_style.safetensors"
MIX = {
    "version": 1,
    "rows": [
        {"file": NEON, "scale": 0.8125, "clip_scale": 0.25, "blocks": "*: 0.5", "schedule": "0:1, 0.5:0.3"},
        {"file": STYLE, "on": False, "scale": -1.5},
    ],
}
OTHER = {"version": 1, "rows": [{"file": STYLE, "scale": 0.3}]}
MARKUP = "ünï 100% #1 & 'x' <img src=x onerror=window.pwned=1>"
ODD = "ünï 100% #1 & 'x' ; ../ no"


@pytest.fixture(autouse=True)
def folder(web_server: Server) -> Iterator[Path]:
    """Where the host keeps them."""
    made = web_server.base / "user" / "default" / "qr_lora" / "recipes"
    yield made
    for path in made.glob("*"):
        path.unlink()


def mixed(mix: Any, **more: Any) -> dict[str, Any]:
    inputs = {"model": ["1", 0], "mix": json.dumps(mix), **more}
    checkpoint = {"ckpt_name": "qrlora_playground.safetensors"}
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": checkpoint},
        "2": {"class_type": "QRLoRA_Mixer", "inputs": inputs, "_meta": {"pos": [500, 0]}},
    }


def sent(page: Page) -> dict[str, Any]:
    """The inputs of the Mixer, its rows without what is known of their content."""
    inputs = page.evaluate("async () => (await app.graphToPrompt()).output['2'].inputs")
    mix = json.loads(inputs["mix"])
    for row in mix["rows"]:
        row.pop("size", None)
        row.pop("sha256", None)
    return {**inputs, "mix": mix}


class Dialog:
    """The dialog, opened."""

    def __init__(self, page: Page) -> None:
        self.page = page
        page.get_by_role("button", name="Save this mix under a name").click()
        self.root = page.locator("dialog.qr-lora-recipes")
        self.status = self.root.locator("[role=status]")

    def save(self, name: str) -> None:
        """Keep the present mix under a name."""
        self.root.get_by_label("Save this mix as").fill(name)
        self.root.get_by_role("button", name="Save", exact=True).click()

    def names(self) -> list[str]:
        """What is listed."""
        return self.root.locator(".qr-lora-recipes-name").all_inner_texts()

    def button(self, label: str, name: str) -> Locator:
        """A button in the line of a recipe."""
        line = self.root.locator("li", has=self.page.get_by_text(name, exact=True))
        return line.get_by_text(label, exact=True)

    def close(self) -> None:
        """Leave it."""
        self.root.get_by_role("button", name="Close").click()
        expect(self.root).to_have_count(0)


def open_dialog(page: Page, load: Load, mix: Any = MIX, **more: Any) -> Dialog:
    load(mixed(mix, **more))
    look_at(page, "2")
    return Dialog(page)


def set_mix(page: Page, mix: Any) -> None:
    script = "mix => { app.graph.getNodeById(2).qrLoRAMixer.setMix({ on: true, rows: mix.rows }, { mode: 'add' }) }"
    in_page(page, script, {"rows": [{"on": True, **row} for row in mix["rows"]]})


def test_a_mix_is_kept_and_taken_again(page: Page, load: Load, folder: Path) -> None:
    """With its settings, and with what tells its files by content; taking it is one step for undo."""
    dialog = open_dialog(page, load, apply="patch", mode="null_space")
    before = sent(page)
    dialog.save("warm light")
    expect(dialog.status).to_contain_text("warm light was saved.")
    expect(dialog.button("Apply", "warm light")).to_be_focused()
    kept = json.loads((folder / "warm light.json").read_text("utf-8"))
    assert (kept["qr_lora_recipe"], kept["name"]) == (1, "warm light")
    assert (kept["apply"], kept["mode"]) == ("patch", "null_space")
    assert all(len(row["sha256"]) == 64 for row in kept["mix"]["rows"])
    dialog.close()
    expect(page.get_by_role("button", name="Save this mix under a name")).to_be_focused()

    set_mix(page, OTHER)
    between = sent(page)
    assert between["mix"]["rows"][0]["file"] == STYLE
    dialog = Dialog(page)
    dialog.button("Apply", "warm light").click()
    expect(dialog.root).to_have_count(0)
    assert sent(page) == before
    undo(page)
    assert sent(page) == between


def test_it_tells_for_which_models_it_is(page: Page, load: Load, folder: Path) -> None:
    """Those of the last run; on others it asks before it changes anything."""
    run_on = "told => app.graph.getNodeById(2).qrLoRAMixer.hear({ slots: [], adapters: [], neighbours: [], ...told })"
    dialog = open_dialog(page, load)
    dialog.save("unknown")
    expect(dialog.status).to_contain_text("was saved")
    in_page(page, run_on, {"family": "SD3"})
    dialog.save("known")
    expect(dialog.status).to_contain_text("known was saved")
    told = [json.loads((folder / f"{name}.json").read_text("utf-8")) for name in ("unknown", "known")]
    assert [recipe.get("family") for recipe in told] == [None, "SD3"]
    set_mix(page, OTHER)
    in_page(page, run_on, {"family": "Flux"})
    between = sent(page)
    dialog.button("Apply", "known").click()
    expect(dialog.status).to_contain_text("known is for SD3; the model of the last run is Flux.")
    assert sent(page) == between
    dialog.root.get_by_role("button", name="Apply all the same").click()
    expect(dialog.root).to_have_count(0)
    assert sent(page)["mix"] == MIX


@in_one_renderer
def test_of_one_name_it_asks(page: Page, load: Load, folder: Path) -> None:
    dialog = open_dialog(page, load)
    dialog.save("a")
    expect(dialog.status).to_contain_text("was saved")
    first = (folder / "a.json").read_bytes()
    dialog.save("a")
    expect(dialog.status).to_contain_text("There is a recipe a already.")
    expect(dialog.root.get_by_role("button", name="Replace")).to_be_focused()
    dialog.root.get_by_role("button", name="Keep both").click()
    expect(dialog.status).to_contain_text("a 2 was saved")
    assert (folder / "a.json").read_bytes() == first
    dialog.close()
    set_mix(page, OTHER)
    dialog = Dialog(page)
    dialog.save("a")
    dialog.root.get_by_role("button", name="Replace").click()
    expect(dialog.status).to_contain_text("a was saved")
    assert dialog.names() == ["a", "a 2"]
    assert len(json.loads((folder / "a.json").read_text("utf-8"))["mix"]["rows"]) == 1


@in_one_renderer
def test_odd_names_are_text(page: Page, load: Load, folder: Path) -> None:
    """Encoded on the way, inert on the page, and refused where no file can be called so."""
    dialog = open_dialog(page, load)
    odd = "ünï 100% #1 & 'x' ; =é%2F"
    dialog.save(odd)
    expect(dialog.status).to_contain_text("was saved")
    assert [path.name for path in folder.iterdir()] == [f"{odd}.json"]
    for name in (MARKUP, ODD, "a/b", ".."):
        dialog.save(name)
        expect(dialog.status).to_have_class("qr-lora-recipes-status qr-lora-bad")
    assert dialog.names() == [odd]
    dialog.button("Delete", odd).click()
    expect(dialog.status).to_contain_text("was deleted")
    assert list(folder.iterdir()) == []
    dialog.root.get_by_role("button", name="Bring back").click()
    expect(dialog.button("Apply", odd)).to_be_visible()
    hostile = {"qr_lora_recipe": 1, "name": "x", "mix": {"version": 1, "rows": [{"file": MARKUP, "scale": 1e9}]}}
    (folder / "hostile.json").write_text(json.dumps(hostile), encoding="utf-8")
    (folder / "none.json").write_text("<script>window.pwned=1</script>", encoding="utf-8")
    dialog.close()
    before = sent(page)
    dialog = Dialog(page)
    for name, told in (("hostile", "row 1, scale"), ("none", "not JSON")):
        dialog.button("Apply", name).click()
        expect(dialog.status).to_contain_text(told)
    assert sent(page) == before
    assert page.evaluate("() => [window.pwned ?? null, document.querySelectorAll('[onerror]').length]") == [None, 0]


@in_one_renderer
def test_files_come_and_go(page: Page, load: Load, tmp_path: Path, web_server: Server) -> None:
    """Exported and imported again; a picture that a Mixer drew; by the file chooser and by dropping."""
    dialog = open_dialog(page, load)
    dialog.save("a")
    with page.expect_download() as downloading:
        dialog.button("Export", "a").click()
    exported = tmp_path / downloading.value.suggested_filename
    downloading.value.save_as(exported)
    assert exported.name == "a.json"
    dialog.button("Delete", "a").click()
    expect(dialog.status).to_contain_text("was deleted")
    dialog.root.locator("input[type=file]").set_input_files(exported)
    expect(dialog.status).to_contain_text("a was saved")

    prompt = {
        **mixed(OTHER, apply="patch"),
        "3": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "mixed"}},
    }
    web_server.queue(prompt)
    picture = max(web_server.output_dir.glob("mixed_*.png"))
    drop = """([bytes, name]) => {
      const data = new DataTransfer(); data.items.add(new File([new Uint8Array(bytes)], name));
      const event = new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true });
      document.querySelector('dialog.qr-lora-recipes').dispatchEvent(event);
    }"""
    in_page(page, drop, [list(picture.read_bytes()), "my picture.png"])
    expect(dialog.status).to_contain_text("my picture was saved")
    assert page.evaluate("() => app.graph.nodes.length") == 2, "the host did not open the picture"
    dialog.button("Apply", "my picture").click()
    expect(dialog.root).to_have_count(0)
    told = sent(page)
    assert (told["mix"]["rows"], told["apply"]) == (OTHER["rows"], "patch")

    dialog = Dialog(page)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    dialog.root.locator("input[type=file]").set_input_files(broken)
    expect(dialog.status).to_have_class("qr-lora-recipes-status qr-lora-bad")
    assert len(dialog.names()) == 2


@in_one_renderer
def test_it_is_used_without_a_mouse(page: Page, load: Load) -> None:
    dialog = open_dialog(page, load)
    expect(dialog.root.get_by_label("Save this mix as")).to_be_focused()
    for name in ("alpha", "beta", "gamma"):
        page.keyboard.type(name)
        page.keyboard.press("Enter")
        expect(dialog.button("Apply", name)).to_be_focused()
        dialog.root.get_by_label("Save this mix as").focus()
    dialog.button("Apply", "alpha").focus()
    page.keyboard.press("ArrowDown")
    expect(dialog.button("Apply", "beta")).to_be_focused()
    dialog.root.get_by_label("Search recipes").focus()
    page.keyboard.type("mm")
    assert dialog.names() == ["gamma"]
    page.keyboard.press("Escape")  # empties the search
    page.keyboard.press("Escape")
    expect(dialog.root).to_have_count(0)
    assert page.evaluate("() => app.graph.nodes.length") == 2
