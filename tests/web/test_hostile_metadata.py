"""What a file says of itself is shown as text: it never becomes a part of the page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from playwright.sync_api import Page, Request
from safetensors.torch import save_file

from devtools.server import Server
from playground import assemble

pytestmark = [pytest.mark.web, pytest.mark.server]

Load = Callable[[dict[str, Any]], None]

# All that is hostile carries the attribute data-hostile or leads to evil.example.
PICTURE = '<img data-hostile src=x onerror="window.pwned=1">'
SCRIPT = "<script data-hostile>window.pwned=1</script>"
SVG = "<svg data-hostile onload=window.pwned=1>"
SPOOF = "\u202egnp.exe\u2066x\u2069\u200f"
LINKS = (
    "[[label|https://evil.example/a]] [b](https://evil.example/b) ![c](https://evil.example/c.png) [d][e] "
    "https://evil.example/f www.evil.example user@evil.example __LNK0__ __LNK7__ &lt;b data-hostile&gt; &#8238;\n"
    "[e]: https://evil.example/e\n"
)
HOSTILE = f"{PICTURE}{SCRIPT}{SVG}{SPOOF}{LINKS}\x07\x1b[31m\0"
# A file name has no slash; one with angle brackets is refused, see below.
FILE = "cat [[x|www.evil.example]] [y](www.evil.example) &lt;img data-hostile src=x&gt; __LNK3__"
LAYER = f"transformer.{PICTURE}{SCRIPT}{LINKS.splitlines()[0]}"
SIZE = 8

FIND = """() => {
  const found = document.querySelectorAll(
    '[data-hostile], [href*="evil.example"], [src*="evil.example"], [onerror], [srcdoc]')
  return { pwned: window.pwned ?? null, elements: [...found].map(element => element.outerHTML) }
}"""
NOTHING: dict[str, Any] = {"pwned": None, "elements": []}
DIALOG, OVERLAY = ".comfy-error-report", '[data-testid="error-overlay"]'  # how frontends show an error
TEXTS = "() => [...document.querySelectorAll('.dom-widget, .lg-node-widget')].map(e => e.innerText).join('\\n')"


def adapter(layers: list[str], metadata: dict[str, str]) -> dict[str, Any]:
    tensors = {}
    for layer in layers:
        tensors[f"{layer}.lora.q.weight"] = torch.eye(SIZE, 2)
        tensors[f"{layer}.lora.delta_r.weight"] = torch.ones(2, SIZE)
    return {"tensors": tensors, "metadata": metadata}


TRAINING = {"steps_done": PICTURE, "variant": SCRIPT, "optimizer": LINKS, "images": SVG}
FILES = {
    f"{FILE}.safetensors": adapter(
        ["transformer.a", LAYER],
        {
            "qr_lora.base_model": HOSTILE,
            "qr_lora.training": json.dumps(TRAINING),
            "modelspec.title": PICTURE,
            "modelspec.thumbnail": "https://evil.example/thumbnail.png",
            "name": PICTURE,
            PICTURE: PICTURE,
        },
    ),
    "huge.safetensors": adapter(["a"], {"qr_lora.base_model": "<b data-hostile>" * 65536}),
    f"{PICTURE}.safetensors": adapter(["a"], {}),
    "layers.safetensors": adapter([f"{LAYER}{number}" for number in range(5)], {"qr_lora.base_model": HOSTILE}),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def hostile(web_server: Server) -> Iterator[None]:
    folder = web_server.models_dir / "qr_loras"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in FILES.items():
        save_file(content["tensors"], folder / name, content["metadata"])
    yield
    for name in FILES:
        (folder / name).unlink()


def loading(name: str) -> dict[str, Any]:
    """Load an adapter and save it: something must come out."""
    return {
        "1": {"class_type": "QRLoRA_Load", "inputs": {"adapter_name": f"qr_loras/{name}"}},
        "2": {"class_type": "QRLoRA_Save", "inputs": {"adapter": ["1", 0], "filename_prefix": "copy"}},
    }


def merging(name: str) -> dict[str, Any]:
    return {
        "1": {"class_type": "QRLoRA_Load", "inputs": {"adapter_name": f"qr_loras/{name}"}},
        "3": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": assemble.NAME}},
        "4": {"class_type": "QRLoRA_Merge", "inputs": {"model": ["3", 0], "adapter_1": ["1", 0]}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["4", 2]}},
    }


def watch(page: Page) -> list[str]:
    """What goes wrong on the page, and every request to where nothing may be asked for."""
    seen: list[str] = []
    page.on("pageerror", lambda error: seen.append(str(error)))

    def note(request: Request) -> None:
        if "evil.example" in request.url.partition("?")[0]:  # the panel asks the server for a file by its name
            seen.append(request.url)

    page.on("request", note)
    return seen


def run(page: Page, text: str) -> str:
    """Queue what is on the page; the text of all nodes once it holds this text."""
    page.evaluate("() => window.app.queuePrompt(0)")
    page.wait_for_function(f"text => ({TEXTS})().includes(text)", arg=text)
    page.wait_for_timeout(300)  # for a picture that fails to load
    return str(page.evaluate(TEXTS))


def test_metadata_layers_and_file_name_are_text(page: Page, load: Load) -> None:
    seen = watch(page)
    load(loading(f"{FILE}.safetensors"))
    shown = run(page, "made for")
    assert page.evaluate(FIND) == NOTHING
    assert seen == []
    visible = shown.replace("\u2060", "")
    for part in (
        "‹img data-hostile src=x onerror=\"window.pwned=1\"›", "‹script data-hostile›window.pwned=1‹/script›",
        "‹svg data-hostile onload=window.pwned=1›", "[[label|https://evil.example/a]]", "[b](https://evil.example/b)",
        "LNK7", "&lt;b data-hostile&gt;", "&#8238;", "2 layers, rank 2",
    ):  # fmt: skip
        assert part in visible, part
    assert not set(shown) & set("\u202e\u2066\u2069\u200f\x07\x1b\0")


def test_a_megabyte_of_metadata_is_cut(page: Page, load: Load) -> None:
    load(loading("huge.safetensors"))
    shown = run(page, "…")
    assert page.evaluate(FIND) == NOTHING
    assert len(shown) < 25_000


def test_a_file_name_that_is_markup_is_not_listed_and_refused_as_text(page: Page, load: Load) -> None:
    seen = watch(page)
    load(loading(f"{PICTURE}.safetensors"))
    values = page.evaluate("() => window.app.graph.getNodeById(1).widgets[0].options.values")
    assert f"qr_loras/{FILE}.safetensors" in values
    assert not any("<" in value for value in values)
    page.evaluate("values => { new LiteGraph.ContextMenu(values, {}) }", values)  # how the canvas lists them: as HTML
    assert page.evaluate(FIND) == NOTHING
    page.evaluate("() => window.app.queuePrompt(0)")
    page.wait_for_function("() => document.body.innerText.includes('the name has the character <')")
    assert PICTURE in page.inner_text("body")
    assert page.evaluate(FIND) == NOTHING
    assert seen == []


def test_layer_names_are_text_in_an_error(page: Page, load: Load) -> None:
    seen = watch(page)
    load(merging("layers.safetensors"))
    page.evaluate("() => window.app.queuePrompt(0)")
    page.wait_for_selector(f"{DIALOG}, {OVERLAY}")
    if page.locator(OVERLAY).count():
        page.get_by_test_id("error-overlay-see-errors").click()  # into the side panel
    page.wait_for_timeout(600)
    assert 'onerror="window.pwned=1"' in page.inner_text("body")
    assert page.evaluate(FIND) == NOTHING
    assert seen == []
