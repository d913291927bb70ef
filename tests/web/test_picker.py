"""The dialog to choose adapter files: one or several, favourites, and what was used last."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from playwright.sync_api import BrowserContext, Locator, Page, Route, expect
from safetensors.torch import save_file

from devtools.server import Server

from ..support.desk import READY
from ..support.faults import faults
from ..support.pages import in_one_renderer

pytestmark = [pytest.mark.web, pytest.mark.server]

MARKUP = "<img data-hostile src=x onerror=window.pwned=1>"
MANY = 300  # more than are shown
SHOWN = 240
STYLE, CAT = "loras/a/style.safetensors", "loras/a/deep/cat.safetensors"
GONE = "loras/a/gone.safetensors"
NUMBERED = [f"loras/many/{number:03}.safetensors" for number in range(MANY)]
LIST = "**/qr_lora/adapters"
KEPT = "**/userdata/qr_lora*picker.json*"

# As a panel does, which knows no file before the server's list comes.
OPEN = """async ([several, chosen]) => {
  const style = document.querySelector('link[href*="qr-lora"][href$="/style.css"]').href
  const { pickAdapter, pickAdapters } = await import(style.replace('style.css', 'picker/picker.js'))
  const { listAdapters } = await import(style.replace('style.css', 'lib/library.js'))
  const fresh = listAdapters(), later = [fresh, fresh.then(() => listAdapters({ cards: true }))]
  window.picked = undefined
  const asked = several ? pickAdapters([], later, { chosen }) : pickAdapter([], chosen[0], later)
  asked.then((picked) => { window.picked = picked })
}"""
STAR_AT = """([time, names]) => { setTimeout(() => {
  for (const name of names) document.querySelector(`[data-name="${name}"] .qr-lora-picker-star`).click()
}, time - Date.now()) }"""
HARM = "() => [window.pwned ?? null, document.querySelectorAll('[data-hostile], [onerror]').length]"


@pytest.fixture(scope="module", autouse=True)
def files(web_server: Server) -> Iterator[None]:
    tensors = {"a.lora_down.weight": torch.zeros(4, 8), "a.lora_up.weight": torch.zeros(8, 4)}
    paths = [web_server.models_dir / name for name in (STYLE, CAT, *NUMBERED)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)
    picture = (web_server.models_dir / STYLE).with_suffix(".png")
    Image.new("RGB", (16, 16)).save(picture)
    yield
    for path in [*paths, picture]:
        path.unlink()


@pytest.fixture
def kept(web_server: Server) -> Iterator[Path]:
    """Where the host keeps what belongs to the picker; nothing at first."""
    path = web_server.base / "user" / "default" / "qr_lora" / "picker.json"
    path.unlink(missing_ok=True)
    yield path
    path.unlink(missing_ok=True)


class Picker:
    """The dialog on a page."""

    def __init__(self, page: Page) -> None:
        self.page, self.root = page, page.locator("dialog.qr-lora-picker")
        self.cards, self.folders = self.root.get_by_role("option"), self.root.locator(".qr-lora-picker-folder")
        self.search = self.root.get_by_label("Search")
        self.stars = self.root.locator(".qr-lora-picker-starred")

    def open(self, *chosen: str, several: bool = False) -> None:
        """Open it, and wait until it has all files."""
        self.page.evaluate(OPEN, [several, chosen])
        expect(self.count("All folders")).not_to_have_text("0")

    def count(self, folder: str) -> Locator:
        """The number beside a folder."""
        return self.folder(folder).locator(".qr-lora-quiet")

    def folder(self, label: str) -> Locator:
        return self.folders.filter(has_text=label)

    def card(self, name: str) -> Locator:
        return self.root.locator(f"[data-name={json.dumps(name)}]")

    def star(self, name: str) -> Locator:
        return self.card(name).locator(".qr-lora-picker-star")

    def names(self) -> list[str]:
        """The files that are shown, in order."""
        return [str(card.get_attribute("data-name")) for card in self.cards.all()]

    def places(self) -> dict[str, str]:
        """The numbers on the cards that have one, in the order of the cards."""
        chosen = self.root.locator("[aria-selected=true]").all()
        return {
            str(card.get_attribute("data-name")): card.locator(".qr-lora-picker-place").inner_text() for card in chosen
        }

    def picked(self) -> Any:
        """What it ended with."""
        self.page.wait_for_function("() => window.picked !== undefined")
        expect(self.root).to_have_count(0)
        return self.page.evaluate("() => window.picked")


@pytest.fixture
def picker(page: Page, kept: Path) -> Picker:
    return Picker(page)


def await_kept(page: Page, kept: Path, **expected: list[str]) -> None:
    """Wait until that is what is kept. A page writes it after it has shown it."""
    told: dict[str, Any] = {}
    while told != {"version": 1, "favourites": [], "used": []} | expected:
        page.wait_for_timeout(50)
        told = json.loads(kept.read_text("utf-8") or "{}") if kept.exists() else {}


def test_one_file_is_chosen_without_a_mouse(picker: Picker) -> None:
    page = picker.page
    seen = faults(page)
    picker.open(STYLE)
    expect(picker.root.get_by_role("listbox")).not_to_have_attribute("aria-multiselectable", "true")
    expect(picker.root).to_contain_text(f"The first {SHOWN} files are shown")
    expect(picker.cards).to_have_count(SHOWN)
    expect(picker.cards.first).to_have_attribute("data-name", STYLE)
    expect(picker.cards.first).to_have_attribute("aria-selected", "true")
    expect(picker.cards.first.locator("img")).to_have_js_property("naturalWidth", 16)
    page.keyboard.press("Escape")
    assert picker.picked() is None

    for key in ("Enter", " "):
        picker.open(STYLE)
        expect(picker.search).to_be_focused()
        page.keyboard.type("many 29")
        expect(picker.cards).to_have_count(13)  # 029, 129, 229, and 290 to 299
        for move in ("Down", "Right", "Down", "Up"):
            page.keyboard.press(f"Arrow{move}")
        expect(picker.cards.nth(1)).to_be_focused()
        page.keyboard.type("2")  # goes on with the search
        expect(picker.search).to_have_value("many 292")
        page.keyboard.press("ArrowDown")
        page.keyboard.press(key)
        assert picker.picked() == NUMBERED[292]

    picker.open(STYLE)
    picker.folder("deep").click()
    expect(picker.cards).to_have_count(1)
    picker.cards.first.click()
    assert picker.picked() == CAT
    assert seen == []


def test_several_are_chosen_in_their_order(picker: Picker) -> None:
    page = picker.page
    seen = faults(page)
    picker.open(several=True)
    expect(picker.root.get_by_role("listbox")).to_have_attribute("aria-multiselectable", "true")
    add = picker.root.get_by_role("button", name="Add 0")
    expect(add).to_be_disabled()
    picker.card(NUMBERED[5]).click()
    picker.card(CAT).click()
    picker.card(NUMBERED[3]).click()
    assert picker.places() == {CAT: "✓ 2", NUMBERED[3]: "✓ 3", NUMBERED[5]: "✓ 1"}
    expect(picker.root.get_by_text("3 chosen: 005, cat, 003")).to_be_visible()
    picker.card(NUMBERED[5]).click()
    assert picker.places() == {CAT: "✓ 1", NUMBERED[3]: "✓ 2"}
    expect(picker.card(NUMBERED[5])).to_have_attribute("aria-selected", "false")

    picker.search.fill("many 29")  # what is not in sight stays chosen
    expect(picker.cards).to_have_count(13)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.down(" ")
    page.keyboard.down(" ")  # held
    page.keyboard.up(" ")
    expect(picker.card(NUMBERED[129])).to_contain_text("✓ 3")
    page.keyboard.press("Enter")
    assert picker.picked() == [CAT, NUMBERED[3], NUMBERED[129]]
    assert seen == []


@in_one_renderer
def test_several_end_by_button_double_click_enter_or_escape(picker: Picker) -> None:
    page = picker.page
    picker.open(several=True)
    picker.card(CAT).click()
    picker.root.get_by_role("button", name="Add 1").click()
    assert picker.picked() == [CAT]

    picker.open(several=True)
    picker.card(STYLE).click()
    picker.card(CAT).dblclick()
    assert picker.picked() == [STYLE, CAT]

    picker.open(several=True)
    page.keyboard.type("cat")
    expect(picker.cards).to_have_count(1)
    page.keyboard.press("Enter")  # nothing is chosen: the first one
    assert picker.picked() == [CAT]

    picker.open(several=True)
    picker.card(CAT).click()
    page.keyboard.press("Escape")
    assert picker.picked() == []

    picker.open(NUMBERED[299], GONE, several=True)  # chosen before, as far as it is there
    assert picker.places() == {NUMBERED[299]: "✓ 1"}
    assert picker.names()[0] == NUMBERED[299]
    picker.card(CAT).click()
    picker.root.get_by_role("button", name="Add 2").click()
    assert picker.picked() == [NUMBERED[299], CAT]


@pytest.mark.own_page
@in_one_renderer
def test_a_list_that_comes_late_takes_nothing_from_the_keyboard(picker: Picker) -> None:
    """The dialog opens with what the page knows; the server's list comes when it comes."""
    page = picker.page
    waiting: list[Route] = []

    def hold(route: Route) -> None:
        waiting.append(route)

    def answer(without: str) -> None:
        """The same list once more, in which one file is missing, and what is shown of it."""
        count = int(picker.count("All folders").inner_text())
        route = waiting.pop()
        told = route.fetch().json()
        route.fulfill(json={"adapters": [file for file in told["adapters"] if file["name"] != without]})
        expect(picker.count("All folders")).to_have_text(str(count - 1))

    page.route(f"{LIST}?cards=1", hold)
    picker.open(STYLE)
    page.keyboard.type("many 29")
    expect(picker.cards).to_have_count(13)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    second = picker.cards.nth(1)
    expect(second).to_be_focused()
    second.evaluate("card => { card.dataset.mark = 'the same' }")
    answer(without=NUMBERED[1])
    expect(second).to_be_focused()
    expect(second).to_have_attribute("data-mark", "the same")
    expect(second).to_have_attribute("tabindex", "0")
    page.keyboard.press("Escape")

    picker.open(STYLE)
    picker.folder("deep").focus()
    answer(without=NUMBERED[2])
    expect(picker.folder("deep")).to_be_focused()
    page.keyboard.press("Escape")

    picker.open()
    picker.card(NUMBERED[5]).focus()
    page.keyboard.press("Tab")
    star = picker.root.get_by_role("button", name="Favourite: 005")
    expect(star).to_be_focused()
    answer(without=NUMBERED[6])
    expect(star).to_be_focused()  # it acts on the file that was left, not on the first one
    page.keyboard.press("Escape")

    picker.open(STYLE)
    page.keyboard.type("style")
    page.keyboard.press("ArrowDown")
    expect(picker.cards.first).to_be_focused()
    answer(without=STYLE)
    expect(picker.search).to_be_focused()


def test_favourites_are_kept_over_a_reload(picker: Picker, kept: Path) -> None:
    page = picker.page
    seen = faults(page)
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(json.dumps({"version": 1, "favourites": [GONE], "used": [GONE]}), encoding="utf-8")
    picker.open()
    expect(picker.count("Favourites")).to_have_text("0")  # the file is not there
    picker.star(CAT).click()
    expect(picker.stars).to_have_count(1)
    expect(picker.count("Favourites")).to_have_text("1")
    picker.card(NUMBERED[2]).focus()
    page.keyboard.press("Control+b")
    expect(picker.card(NUMBERED[2])).to_have_accessible_name("favourite 002 loras/many")
    page.keyboard.press("ArrowRight")
    button = picker.root.get_by_role("button", name="Favourite: 003")
    expect(button).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("Tab")  # from the cards
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-pressed", "true")
    await_kept(page, kept, favourites=[NUMBERED[3], NUMBERED[2], CAT, GONE], used=[GONE])

    page.reload()
    page.wait_for_function(READY)
    picker.open()
    expect(picker.count("Favourites")).to_have_text("3")
    picker.folder("Favourites").click()
    assert picker.names() == [CAT, NUMBERED[2], NUMBERED[3]]
    picker.star(NUMBERED[2]).click()
    expect(picker.count("Favourites")).to_have_text("2")
    expect(picker.card(NUMBERED[2])).to_have_attribute("tabindex", "0")  # it stays, until another folder is entered
    await_kept(page, kept, favourites=[NUMBERED[3], CAT, GONE], used=[GONE])
    picker.search.fill("many")
    assert picker.names() == [NUMBERED[3]]
    picker.search.fill("")
    picker.cards.first.click()
    assert picker.picked() == CAT
    await_kept(page, kept, favourites=[NUMBERED[3], CAT, GONE], used=[CAT, GONE])
    assert seen == []


@in_one_renderer
def test_what_was_used_last_stands_first_and_is_bounded(picker: Picker, kept: Path) -> None:
    page = picker.page
    kept.parent.mkdir(exist_ok=True)
    before = [GONE, *NUMBERED[:150]]
    kept.write_text(json.dumps({"version": 1, "favourites": [], "used": before}), encoding="utf-8")
    picker.open()
    picker.folder("Last used").click()
    expect(picker.cards).to_have_count(24)
    assert picker.names() == NUMBERED[:24]
    page.keyboard.press("Escape")
    assert picker.picked() is None

    picker.open(several=True)
    picker.card(STYLE).click()
    picker.card(NUMBERED[7]).click()
    picker.root.get_by_role("button", name="Add 2").click()
    assert picker.picked() == [STYLE, NUMBERED[7]]
    picker.open()  # reads what was written before
    picker.folder("Last used").click()
    expect(picker.cards.first).to_have_attribute("data-name", NUMBERED[7])
    assert picker.names() == [NUMBERED[7], STYLE, *NUMBERED[:7], *NUMBERED[8:23]]
    used = json.loads(kept.read_text("utf-8"))["used"]
    assert used == [NUMBERED[7], STYLE, GONE, *NUMBERED[:7], *NUMBERED[8:98]]


HOSTILE = {
    "empty": "",
    "cut short": '{"version": 1, "favourites": ["lo',
    "not an object": "[1, 2]",
    "null": "null",
    "deep": "[" * 100_000,
    "another version": json.dumps({"version": 2, "favourites": [CAT], "used": [CAT]}),
    "other types": json.dumps({"version": 1, "favourites": {"0": CAT}, "used": 7}),
    "huge": json.dumps({"version": 1, "favourites": [CAT], "used": ["x" * 999] * 6000}),
    "names": json.dumps(
        {"version": 1, "favourites": [None, [CAT], {}, "", MARKUP, "__proto__", "x" * 5000], "used": [MARKUP]}
    ),
}  # fmt: skip


@in_one_renderer
def test_a_hostile_file_costs_the_favourites_alone(picker: Picker, kept: Path) -> None:
    page = picker.page
    seen = faults(page)
    kept.parent.mkdir(exist_ok=True)
    for content in HOSTILE.values():
        kept.write_text(content, encoding="utf-8")
        with page.expect_response(KEPT):
            picker.open()
        expect(picker.count("Favourites")).to_have_text("0")
        picker.folder("Favourites").click()
        expect(picker.root).to_contain_text("No favourites yet")
        picker.folder("Last used").click()
        expect(picker.root).to_contain_text("No file was chosen here yet.")
        assert page.evaluate(HARM) == [None, 0]
        page.keyboard.press("Escape")
        assert picker.picked() is None
        assert kept.read_text("utf-8") == content
    picker.open()
    picker.star(STYLE).click()
    picker.card(CAT).click()
    assert picker.picked() == CAT
    await_kept(page, kept, favourites=[STYLE, "", MARKUP, "__proto__"], used=[CAT, MARKUP])
    assert seen == []


@in_one_renderer
def test_what_is_damaged_later_is_written_again(picker: Picker, kept: Path) -> None:
    """As after a host that was stopped while it wrote."""
    picker.open()
    picker.star(STYLE).click()
    await_kept(picker.page, kept, favourites=[STYLE])
    kept.write_text('{"version": 1, "fav', encoding="utf-8")
    picker.star(CAT).click()
    await_kept(picker.page, kept, favourites=[CAT, STYLE])


@in_one_renderer
def test_two_pages_leave_each_other_their_favourites(
    picker: Picker, kept: Path, context: BrowserContext, web_server: Server
) -> None:
    page = context.new_page()
    page.goto(web_server.url)
    page.wait_for_function(READY)
    other = Picker(page)
    pickers = [picker, other]
    for each in pickers:
        each.open()
    soon = page.evaluate("() => Date.now() + 1000")
    for each, names in zip(pickers, (NUMBERED[:8], NUMBERED[100:108]), strict=True):
        each.page.evaluate(STAR_AT, [soon, names])
    starred = {*NUMBERED[:8], *NUMBERED[100:108]}
    while not kept.exists() or set(json.loads(kept.read_text("utf-8") or "{}").get("favourites", [])) != starred:
        page.wait_for_timeout(50)
    other.star(NUMBERED[0]).click()  # shows what the other page did since
    expect(other.count("Favourites")).to_have_text("15")
    page.close()


@pytest.mark.own_page
@in_one_renderer
def test_a_server_that_keeps_nothing_is_told_and_the_choice_stands(picker: Picker, kept: Path) -> None:
    page = picker.page
    refused = {"status": 507, "body": MARKUP}
    page.route(KEPT, lambda route: route.fulfill(**refused) if route.request.method == "POST" else route.continue_())
    picker.open()
    picker.star(CAT).click()
    expect(picker.root.get_by_text("are not kept: Error storing user data file")).to_be_visible()
    expect(picker.stars).to_have_count(1)  # as long as the page
    picker.card(CAT).click()
    assert picker.picked() == CAT
    assert not kept.exists()

    page.unroute(KEPT)
    page.route(KEPT, lambda route: route.abort())
    picker.open()
    expect(picker.root.get_by_text("are not kept:")).to_be_visible()
    picker.card(STYLE).click()
    assert picker.picked() == STYLE
    assert page.evaluate(HARM) == [None, 0]


@pytest.mark.own_page
@in_one_renderer
def test_what_files_are_called_and_say_is_text(picker: Picker) -> None:
    page = picker.page
    name, told = f"loras/{MARKUP}\u202e/{MARKUP}.safetensors", MARKUP + "long " * 10_000
    listed = [{"name": name, "picture": True, "kind": "lora", "base": told, "triggers": told}]
    page.route(f"{LIST}*", lambda route: route.fulfill(json={"adapters": listed}))
    page.route("**/qr_lora/picture?*", lambda route: route.fulfill(status=404))
    picker.open(several=True)
    picker.cards.first.click()
    page.keyboard.press("Control+b")
    picker.folder("Favourites").click()
    expect(picker.root.get_by_text(f"1 chosen: {MARKUP}")).to_be_visible()
    expect(picker.root.get_by_role("button", name=f"Favourite: {MARKUP}")).to_be_visible()
    assert "\u202e" not in picker.root.inner_text()
    assert page.evaluate(HARM) == [None, 0]
    page.keyboard.press("Escape")
    assert picker.picked() == []


@pytest.mark.own_page
@in_one_renderer
def test_of_many_thousand_files_a_part_is_made(picker: Picker) -> None:
    page = picker.page
    names = [f"loras/{number % 70}/{number:04}.safetensors" for number in range(5000)]
    page.route(
        f"{LIST}*", lambda route: route.fulfill(json={"adapters": [{"name": name, "picture": False} for name in names]})
    )
    picker.open(several=True)
    expect(picker.root).to_contain_text(f"The first {SHOWN} files are shown, {5000 - SHOWN} more match")
    assert picker.cards.count() == SHOWN
    picker.search.fill("4321")
    assert picker.names() == ["loras/51/4321.safetensors"]
    page.keyboard.press("Enter")
    assert picker.picked() == ["loras/51/4321.safetensors"]


@pytest.mark.own_page
@in_one_renderer
def test_what_is_pressed_is_large_enough_for_a_finger(picker: Picker) -> None:
    page = picker.page
    page.set_viewport_size({"width": 420, "height": 800})
    picker.open(several=True)
    pressed = picker.root.locator("button, .qr-lora-picker-star, input").all()[:40]
    boxes = [box for box in (target.bounding_box() for target in pressed) if box]
    assert len(boxes) == 40
    assert min(min(box["width"], box["height"]) for box in boxes) >= 24
    widths = "dialog => [dialog.scrollWidth - dialog.clientWidth, dialog.getBoundingClientRect().right - innerWidth]"
    assert max(picker.root.evaluate(widths)) <= 0
