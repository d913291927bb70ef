"""Take the pictures of the help pages and the documents in a real browser: `python -m generators.screenshots`.

Nodes of small real workflows run on the playground's model and are then photographed on the host's page, so that a
picture shows what a user sees. `--check DIR` writes every picture in both renderers and both themes into a folder to
look at, and leaves those of the documents alone; `--only PART` takes the pictures of some nodes alone.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, FloatRect, Page, ViewportSize, sync_playwright

from devtools.browser import ARGUMENTS, NONE, find
from devtools.environment import ROOT
from devtools.server import Server
from generators.workflows import Prompt, prompt_of, to_editor
from playground.assemble import ASSETS, furnish

HELP, DOCUMENTS = ROOT / "web" / "docs", ROOT / "docs" / "images"
LARGEST = 45_000  # bytes of a picture in a help page
SHARPNESS = 1.5  # pixels of a picture per pixel of the page
_VIEW: ViewportSize = {"width": 2300, "height": 1800}
_DIALOG_VIEW: ViewportSize = {"width": 1000, "height": 600}
_MARGIN = 14  # around a node
_LEAST = 40  # the height of a node that is to be as high as it must be
_READY = "() => !!(window.app?.extensionManager && window.LiteGraph?.registered_node_types['QRLoRA_Load'])"
_LOOK = """([id, scale]) => {
  const { ds, graph } = app.canvas, [x, y] = graph.getNodeById(id).pos;
  ds.scale = scale; ds.offset = [260 / scale - x, 300 / scale - y];
  app.canvas.deselectAll(); app.canvas.setDirty(true, true);
}"""
# In the Vue renderer a node is as large as its element, in the canvas as the graph says.
_BOXES = """ids => {
  const { ds, graph, canvas } = app.canvas, { left, top } = canvas.getBoundingClientRect();
  return ids.map((id) => {
    const { pos: [x, y], size: [width, height] } = graph.getNodeById(id);
    const shown = document.querySelector(`.lg-node[data-node-id="${id}"]`)?.getBoundingClientRect();
    return shown
      ? [shown.left, shown.top, shown.right, shown.bottom]
      : [(x + ds.offset[0]) * ds.scale + left, (y - 30 + ds.offset[1]) * ds.scale + top,
         (x + width + ds.offset[0]) * ds.scale + left, (y + height + ds.offset[1]) * ds.scale + top];
  });
}"""
Keep = Callable[[bytes, Path], None]


@dataclass(frozen=True)
class Look:
    """How the page shows nodes."""

    renderer: str = "canvas"
    theme: str = "dark"


def composing() -> Prompt:
    """Two adapters, mixed, swept, compared and made smaller."""
    prompt = prompt_of("live_tweak")
    swept = prompt_of("sweep_grid")
    sampling = {**swept["8"]["inputs"], "model": ["20", 0], "positive": ["5", 0], "negative": ["6", 0]}
    return {
        **prompt,
        "20": swept["4"],
        "21": {"class_type": "KSampler", "inputs": sampling},
        "22": {"class_type": "VAEDecode", "inputs": {"samples": ["21", 0], "vae": ["1", 2]}},
        "23": {"class_type": "QRLoRA_Grid", "inputs": {"images": ["22", 0], "grid": ["20", 1]}},
        "24": {"class_type": "PreviewImage", "inputs": {"images": ["23", 0]}},
        "30": {"class_type": "QRLoRA_Schedule", "inputs": {"curve": "late"}},
        "31": {"class_type": "QRLoRA_Blocks", "inputs": {"adapter": ["2", 0], "rules": "*: 0\nattn: 1"}},
        "32": {
            "class_type": "QRLoRA_Compare",
            "inputs": {"adapter_1": ["2", 0], "adapter_2": ["3", 0], "model": ["1", 0]},
        },
        "33": {"class_type": "PreviewAny", "inputs": {"source": ["32", 1]}},
        "34": {"class_type": "QRLoRA_Load", "inputs": {"adapter_name": "loras/playground_neon.safetensors"}},
        "35": {"class_type": "QRLoRA_Rebase", "inputs": {"adapter": ["34", 0], "rank": 4}},
        "36": {"class_type": "QRLoRA_Save", "inputs": {"adapter": ["35", 0], "filename_prefix": "neon_small"}},
    }


def training() -> Prompt:
    """A training with all that may be connected to it; long, as it is photographed while it runs."""
    example = prompt_of("train_content")
    prompt = {number: example[number] for number in "123456"}
    prompt["5"]["inputs"] |= {
        "steps": 3000, "sample_every": 60, "sample_steps": 12, "vae": ["1", 2],
        "data": ["7", 0], "objective": ["8", 0], "optimizer": ["9", 0],
        "role": "content", "role_settings": ["10", 0], "pixels": ["2", 0],
    }  # fmt: skip
    prompt["3"]["inputs"]["text"] = ["10", 1]
    return {
        **prompt,
        "7": {"class_type": "QRLoRA_TrainingData", "inputs": {}},
        "8": {"class_type": "QRLoRA_Objective", "inputs": {"timesteps": "content"}},
        "9": {"class_type": "QRLoRA_Optimizer", "inputs": {"max_grad_norm": 1.0}},
        "10": {"class_type": "QRLoRA_Role", "inputs": {"caption": "an orange house on a dark background"}},
    }


def untitled(prompt: Prompt) -> Prompt:
    """Under the names that the nodes have by themselves, as in the help pages."""
    return {name: {key: part for key, part in node.items() if key != "_meta"} for name, node in prompt.items()}


def apart(prompt: Prompt, **sizes: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Places so far from each other that no picture shows two nodes."""
    return {name: (900 * i, 1700 * i, *sizes.get(f"node_{name}", (0, 0))) for i, name in enumerate(prompt)}


class Studio:
    """A page on which workflows are run and photographed."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page, self.server = page, server

    def load(self, prompt: Prompt, places: dict[str, tuple[int, ...]]) -> None:
        """Put a prompt on the page, nodes at their places: x, y, width, height, where 0 is as the node is."""
        workflow = to_editor(prompt, self.server.get("/object_info"))
        for node in workflow["nodes"]:
            x, y, width, height, *_ = (*places[str(node["id"])], 0, 0)
            node["pos"], node["size"] = [x, y], [width or node["size"][0], height or _LEAST]
        self.page.evaluate("workflow => window.app.loadGraphData(workflow)", workflow)
        self.page.wait_for_function("count => window.app.graph.nodes.length === count", arg=len(prompt))

    def run(self) -> None:
        """Queue what is on the page and wait for its end."""
        self.server.post("/free", {"free_memory": True})  # a node whose output is kept says nothing again
        self.start()
        self.wait(lambda: not any(self.server.get("/queue").values()))
        (last,) = self.server.get("/history?max_items=1").values()
        if last["status"]["status_str"] != "success":
            raise RuntimeError(f"a workflow failed: {last['status']['messages'][-1]}")

    def start(self) -> None:
        """Queue what is on the page."""
        self.page.evaluate("() => window.app.queuePrompt(0)")

    def wait(self, done: Callable[[], bool], seconds: float = 600) -> None:
        """Until something holds, while the page goes on."""
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                raise TimeoutError(f"a workflow did not get so far within {seconds:.0f} s")
            self.page.wait_for_timeout(200)

    def shoot(self, *nodes: str, scale: float = 1) -> bytes:
        """A picture of nodes, the first of which stands at the upper left."""
        self.page.mouse.move(0, 0)
        for _ in range(2):  # a panel that comes into sight may change the size of its node
            self.page.evaluate(_LOOK, [nodes[0], scale])
            self.page.wait_for_timeout(500)
        boxes = self.page.evaluate(_BOXES, list(nodes))
        left, top = (min(box[i] for box in boxes) - _MARGIN for i in (0, 1))
        right, bottom = (max(box[i] for box in boxes) + _MARGIN for i in (2, 3))
        clip: FloatRect = {"x": left, "y": top, "width": right - left, "height": bottom - top}
        return self.page.screenshot(clip=clip)

    @contextmanager
    def dialog(self, opener: str) -> Iterator[None]:
        """The dialog that a button of a panel opens, in a window of its size."""
        self.page.set_viewport_size(_DIALOG_VIEW)
        self.page.get_by_text(opener, exact=True).first.click()
        self.page.wait_for_timeout(800)
        yield
        self.page.keyboard.press("Escape")
        self.page.set_viewport_size(_VIEW)

    def help_pictures(self, prompt: Prompt, keep: Keep, *, without: str = "") -> None:
        """One of every node of ours, the first of each kind."""
        ours: dict[str, str] = {}
        for name, node in prompt.items():
            if node["class_type"].startswith("QRLoRA_"):
                ours.setdefault(node["class_type"], name)
        for kind, name in ours.items():
            if kind != without:
                keep(self.shoot(name), HELP / f"{kind}.jpg")


def _photograph_composing(studio: Studio, keep: Keep) -> None:
    prompt = untitled(composing())
    studio.load(prompt, apart(prompt, node_32=(430, 300), node_35=(380, 190), node_36=(400, 170)))
    studio.run()
    studio.page.evaluate("() => document.querySelectorAll('.qr-lora-grid-cell')[5].click()")
    studio.help_pictures(prompt, keep)
    studio.shoot("4")
    studio.page.locator(".qr-lora-merge-switch").first.click()
    keep(studio.shoot("4"), DOCUMENTS / "pad.jpg")
    studio.shoot("2")
    with studio.dialog("Choose…"):
        studio.page.locator(".qr-lora-picker-star").first.click()
        keep(studio.page.locator("dialog[open]").screenshot(), DOCUMENTS / "picker.jpg")


def _photograph_desk(studio: Studio, keep: Keep) -> None:
    prompt = prompt_of("live_tweak")
    larger = {"image": ["9", 0], "upscale_method": "lanczos", "scale_by": 3.0}
    prompt["11"] = {"class_type": "ImageScaleBy", "inputs": larger, "_meta": {"title": "Enlarge"}}
    prompt["10"]["inputs"]["images"] = ["11", 0]
    places = {
        "1": (0, 0, 360), "2": (0, 165, 360), "3": (0, 550, 360), "4": (420, 0, 420), "5": (420, 470, 420, 120),
        "6": (420, 650, 420, 60), "7": (420, 790, 420), "8": (900, 0, 300), "9": (900, 330, 300),
        "11": (900, 430, 300), "10": (1260, 0, 420, 460),
    }  # fmt: skip
    studio.load(prompt, places)
    studio.run()
    keep(studio.shoot(*places), DOCUMENTS / "desk.jpg")


def _photograph_mixer(studio: Studio, keep: Keep) -> None:
    prompt = untitled(prompt_of("mixer"))
    others = {name: (2000, 400 * i) for i, name in enumerate(prompt)}
    studio.load(prompt, {**others, "2": (0, 0), "8": (520, 0, 420, 460)})
    panel = studio.page.locator(".qr-lora:has(.qr-lora-mixer-tools)")
    studio.shoot("2")
    for style, neon in ((0.8, False), (0.4, True), (0.8, True)):
        scale = panel.locator(".qr-lora-merge-number").nth(1)
        scale.fill(str(style))
        scale.press("Enter")
        switch = panel.locator(".qr-lora-mixer-row .qr-lora-switch").nth(2)
        if (switch.get_attribute("aria-checked") == "true") != neon:
            switch.click()
        studio.run()
        studio.page.wait_for_timeout(1500)  # the host tells of a run's end before it notes it
    scale.blur()
    keep(studio.shoot("2", "8"), DOCUMENTS / "history.jpg")
    panel.locator(".qr-lora-mixer-row [aria-expanded]").nth(2).click()
    keep(studio.shoot("2"), HELP / "QRLoRA_Mixer.jpg")
    with studio.dialog("+ Add"):
        for card in ("neon", "content"):
            studio.page.locator(f".qr-lora-picker-card[data-name*=playground_{card}]").click()
        keep(studio.page.locator("dialog[open]").screenshot(), DOCUMENTS / "several_files.jpg")
    with studio.dialog("Recipes"):
        for name in ("house at night", "house in neon"):
            studio.page.get_by_label("Save this mix as…").fill(name)
            studio.page.keyboard.press("Enter")
            studio.page.get_by_text(f"{name} was saved.").wait_for()
        keep(studio.page.locator("dialog[open]").screenshot(), DOCUMENTS / "recipes.jpg")


def _photograph_training(studio: Studio, keep: Keep) -> None:
    prompt = untitled(training())
    studio.load(prompt, apart(prompt, node_5=(400, 0), node_10=(440, 660)))
    studio.shoot("5")
    studio.start()
    studio.wait(lambda: any(report["step"] > 310 for report in studio.server.get("/qr_lora/training")["running"]))
    keep(studio.shoot("5"), HELP / "QRLoRA_Train.jpg")
    panel = studio.page.locator(".qr-lora:has(.qr-lora-train-curve)").first
    keep(panel.screenshot(), DOCUMENTS / "training.jpg")
    studio.server.post("/qr_lora/training/stop", {})
    studio.wait(lambda: not any(studio.server.get("/queue").values()))
    del prompt["6"]  # a picture of Save QR-LoRA was taken before
    studio.help_pictures(prompt, keep, without="QRLoRA_Train")


PARTS: dict[str, Callable[[Studio, Keep], None]] = {
    "composing": _photograph_composing,
    "desk": _photograph_desk,
    "mixer": _photograph_mixer,
    "training": _photograph_training,
}


def photograph(studio: Studio, keep: Keep, parts: Iterable[str] = PARTS) -> None:
    """The pictures of some parts, in one look."""
    for part in parts:
        PARTS[part](studio, keep)


def small(picture: Image.Image, limit: int) -> bytes:
    """A JPEG of at most so many bytes, as large and as good as that allows."""
    for share, quality in product((1, 0.85, 0.7, 0.5), (86, 78, 70, 62)):
        made = io.BytesIO()
        size = (round(picture.width * share), round(picture.height * share))
        picture.resize(size, Image.Resampling.LANCZOS).save(made, "JPEG", quality=quality, optimize=True)
        if made.tell() <= limit:
            break
    return made.getvalue()


def keep_for_documents(picture: bytes, path: Path) -> None:
    """Write a picture where the documents show it."""
    path.parent.mkdir(exist_ok=True)
    shown = Image.open(io.BytesIO(picture)).convert("RGB")
    path.write_bytes(small(shown, LARGEST if path.parent == HELP else 4 * LARGEST))
    print(f"took {path.relative_to(ROOT)}, {path.stat().st_size // 1000} kB", flush=True)


def keeper(folder: Path, look: Look) -> Keep:
    """Write pictures into a folder to look at."""
    folder.mkdir(parents=True, exist_ok=True)
    return lambda picture, path: _write(folder / f"{path.stem}_{look.renderer}_{look.theme}.png", picture)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


@contextmanager
def studio_of(browser: Browser, server: Server, look: Look) -> Iterator[Studio]:
    """The host's page in an empty profile."""
    shutil.rmtree(server.base / "user" / "default" / "qr_lora", ignore_errors=True)  # favourites, recipes
    server.post(
        "/api/settings",
        {
            "Comfy.TutorialCompleted": True,
            "Comfy.OnboardingCoachmarks.Seen": ["firstRun"],
            "Comfy.Minimap.Visible": False,
            "Comfy.NodeBadge.NodeSourceBadgeMode": "None",
            "Comfy.VueNodes.Enabled": look.renderer == "vue",
            "Comfy.ColorPalette": look.theme,
        },
    )
    context = browser.new_context(viewport=_VIEW, device_scale_factor=SHARPNESS)
    page = context.new_page()
    page.goto(server.url)
    page.wait_for_function(_READY, timeout=120_000)
    yield Studio(page, server)
    context.close()


def add_previews(models: Path) -> None:
    """Pictures and notes beside the adapters, as users keep them."""
    for name in ("content", "style"):
        shutil.copyfile(ASSETS / f"{name}.png", models / "qr_loras" / f"playground_{name}.png")
    told = {"activation text": "neon style", "preferred weight": 0.6}
    (models / "loras" / "playground_neon.json").write_text(json.dumps(told))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", type=Path, metavar="DIR", help="both renderers and themes, into a folder")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    options = parser.parse_args()
    folder = options.check
    found = find()
    if found is None:
        raise SystemExit(NONE)
    every = [Look(renderer, theme) for renderer in ("canvas", "vue") for theme in ("dark", "light")]
    server = Server(args=["--cache-classic"])
    furnish(server.base)
    add_previews(server.models_dir)
    with sync_playwright() as playwright, server:
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        for look in every if folder else [Look()]:
            with studio_of(browser, server, look) as studio:
                photograph(studio, keeper(folder, look) if folder else keep_for_documents, options.only)
        browser.close()


if __name__ == "__main__":
    main()
