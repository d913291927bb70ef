"""What other programs write beside adapter files: read as they write it, and inert whatever it holds."""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from comfyui_qr_lora.nodes.host.files import cards as cards_module
from comfyui_qr_lora.nodes.host.files import folders
from comfyui_qr_lora.nodes.host.files.cards import Cards
from comfyui_qr_lora.nodes.host.files.header import facts_of
from comfyui_qr_lora.nodes.host.files.previews import pictures_beside, with_preview
from comfyui_qr_lora.nodes.host.files.sidecars import NOTHING, told_by, triggers_of, with_sidecars

from ...support.opened import below, opened

WEB_UI = {
    "description": "A warm light", "sd version": "SDXL", "activation text": "w4rm light, golden hour",
    "preferred weight": 0.7, "negative text": "cold", "notes": "Best at dusk",
}  # fmt: skip
LORA_MANAGER = {
    "file_name": "cat", "model_name": "Warm", "file_path": "/home/someone/loras/cat.safetensors", "size": 123,
    "modified": 1730000000.5, "sha256": "ab" * 32, "base_model": "Flux.1 D", "preview_nsfw_level": 1,
    "preview_url": "/home/someone/loras/cat.webp", "notes": "Mine", "from_civitai": True, "tags": ["style"],
    "civitai": {"id": 1, "baseModel": "Flux.1 D", "trainedWords": ["w4rm, ", "golden hour", "w4rm"], "files": []},
    "modelDescription": "<p>Use at <b>0.8</b> &amp; dusk</p>", "favorite": False, "trainedWords": [],
    "usage_tips": '{"strength_min":0.6,"strength_max":1.1,"strength":0.8,"clip_skip":2}',
}  # fmt: skip
RGTHREE = {
    "file": "cat.safetensors", "path": "/home/someone/cat.safetensors", "name": "Warm - v1", "type": "LORA",
    "images": [{"url": "/rgthree/api/loras/img?file=cat.safetensors"}], "baseModel": "SDXL 1.0", "raw": {},
    "trainedWords": [{"word": "1girl", "count": 90, "metadata": True}, {"word": "w4rm", "civitai": True},
                     {"word": "dusk", "user": True}],
    "strengthMin": 0.5, "strengthMax": "0.9", "userNote": "Mine too", "sha256": "ab" * 32,
}  # fmt: skip
CIVITAI = {
    "id": 12, "modelId": 3, "name": "v1.0", "baseModel": "Pony", "trainedWords": ["w4rm light", "golden hour"],
    "description": "<p>First<br>version</p>", "model": {"name": "Warm", "type": "LORA", "nsfw": False},
    "files": [{"name": "cat.safetensors", "sizeKB": 1.5}], "images": [{"url": "https://example.org/x.jpeg"}],
}  # fmt: skip
# Ending of the name, what is written, and what it says.
FORMATS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    ".json": (
        WEB_UI,
        {"triggers": "w4rm light, golden hour", "base": "SDXL", "notes": "Best at dusk", "strength": 0.7},
    ),
    ".metadata.json": (
        LORA_MANAGER,
        {"triggers": "w4rm, golden hour", "base": "Flux.1 D", "notes": "Mine", "strength": 0.8,
         "strength_range": [0.6, 1.1]},
    ),
    ".safetensors.rgthree-info.json": (
        RGTHREE,
        {"triggers": "w4rm, dusk", "base": "SDXL 1.0", "notes": "Mine too", "strength_range": [0.5, 0.9]},
    ),
    ".civitai.info": (
        CIVITAI, {"triggers": "w4rm light, golden hour", "base": "Pony", "notes": "First version"},
    ),
}  # fmt: skip


def lora(path: Path, metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"a.lora_down.weight": torch.zeros(4, 8), "a.lora_up.weight": torch.zeros(8, 4)}
    save_file(tensors, path, metadata)
    return aged(path)


def aged(path: Path) -> Path:
    when = time.time() - 3600
    os.utime(path, (when, when))
    return path


def put(path: Path, told: Any) -> Path:
    path.write_bytes(told if isinstance(told, bytes) else json.dumps(told, ensure_ascii=False).encode())
    return aged(path)


@pytest.fixture
def loras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder, other = tmp_path / "loras", tmp_path / "more"
    folder.mkdir()
    other.mkdir()
    known = {"qr_loras": [], "loras": [str(folder), str(other)]}
    monkeypatch.setattr(folders.folder_paths, "get_folder_paths", known.__getitem__)
    return folder


@pytest.fixture
def cat(loras: Path) -> Path:
    return lora(loras / "cat.safetensors")


def said(path: Path) -> dict[str, Any]:
    """What is told of a file whose own header tells nothing."""
    return with_sidecars(path, {"triggers": "", "base": ""})


@pytest.mark.parametrize("ending", FORMATS)
def test_each_is_read_as_it_is_written(ending: str, cat: Path) -> None:
    written, expected = FORMATS[ending]
    sidecar = put(cat.with_name(f"cat{ending}"), written)
    told = said(cat)
    assert told.pop("beside") == dict.fromkeys(expected, sidecar.name)
    assert told == {**NOTHING, **expected}
    assert triggers_of(cat) == expected["triggers"]


def test_what_a_person_wrote_comes_before_what_was_fetched(cat: Path) -> None:
    for ending, (written, _) in FORMATS.items():
        put(cat.with_name(f"cat{ending}"), written)
    told = said(cat)
    assert (told["base"], told["notes"], told["strength"]) == ("SDXL", "Best at dusk", 0.7)
    assert told["beside"]["strength_range"] == "cat.metadata.json"
    cat.with_name("cat.json").unlink()
    assert said(cat)["notes"] == "Mine"


def test_the_file_itself_comes_first(loras: Path) -> None:
    path = lora(loras / "own.safetensors", {"qr_lora.triggers": "own words"})
    put(path.with_name("own.json"), WEB_UI)
    told = with_sidecars(path, facts_of(path))
    assert (told["triggers"], told["base"]) == ("own words", "SDXL")
    assert told["beside"] == dict.fromkeys(("base", "notes", "strength"), "own.json")
    assert triggers_of(path) == "own words"


@pytest.mark.parametrize(
    ("ending", "change", "expected"),
    [
        (".json", {"notes": "", "activation text": " , "}, {"notes": "A warm light", "triggers": ""}),
        (".json", {"preferred weight": 0.0, "sd version": "Unknown"}, {"strength": None, "base": ""}),
        (".json", {"preferred weight": "1.25"}, {"strength": 1.25}),
        (".metadata.json", {"notes": ""}, {"notes": "Use at 0.8 & dusk"}),
        (".metadata.json", {"notes": "x <lora:a:1> y"}, {"notes": "x <lora:a:1> y"}),
        (".metadata.json", {"base_model": "Unknown", "civitai": {"baseModel": "Other"}}, {"base": "", "triggers": ""}),
        (".metadata.json", {"civitai": None, "trainedWords": ["one"]}, {"triggers": "one"}),
        (".metadata.json", {"usage_tips": ""}, {"strength": None, "strength_range": []}),
        (".metadata.json", {"usage_tips": '{"strength_min":1,"strength_max":0.5}'}, {"strength_range": []}),
        (".metadata.json", {"usage_tips": "{'strength': 1}"}, {"strength": None}),
        (".safetensors.rgthree-info.json", {"trainedWords": [{"word": "x", "metadata": True}]}, {"triggers": ""}),
        (".safetensors.rgthree-info.json", {"trainedWords": None, "triggerWords": ["old"]}, {"triggers": "old"}),
        (".safetensors.rgthree-info.json", {"strengthMax": None}, {"strength_range": []}),
        (".civitai.info", {"description": None, "trainedWords": "one text"}, {"notes": "", "triggers": "one text"}),
    ],
)  # fmt: skip
def test_what_a_file_leaves_out(ending: str, change: dict[str, Any], expected: dict[str, Any], cat: Path) -> None:
    put(cat.with_name(f"cat{ending}"), {**FORMATS[ending][0], **change})
    told = said(cat)
    assert {name: told[name] for name in expected} == expected


def test_pictures_that_they_write_are_found_and_videos_are_not(loras: Path) -> None:
    endings = [".preview.png", ".preview.jpeg", ".preview.jpg", ".preview.webp", ".webp", ".png", ".jpeg", ".jpg"]
    for number, ending in enumerate(endings):
        path = lora(loras / f"n{number}.safetensors")
        Image.new("RGB", (8, 8)).save(path.with_name(f"n{number}{ending}"))
        assert [picture.name for picture in pictures_beside(path)] == [f"n{number}{ending}"]
    assert len(with_preview(f"loras/n{number}.safetensors" for number in range(len(endings)))) == len(endings)
    path = lora(loras / "video.safetensors")
    for ending in (".preview.mp4", ".mp4", ".webm", ".gif", ".json", ".metadata.json", ".civitai.info"):
        put(path.with_name(f"video{ending}"), b"{}")
    assert pictures_beside(path) == []
    assert with_preview(["loras/video.safetensors"]) == set()


ODD_NAMES = ["a b", "{stem}", "%s", "ca't [1]", "é日本", "a.b.c", "-", "a.metadata", "<b>", "x" * 200]


@pytest.mark.parametrize("stem", ODD_NAMES)
@pytest.mark.parametrize("ending", FORMATS)
def test_names_are_only_names(stem: str, ending: str, loras: Path) -> None:
    path = lora(loras / f"{stem}.safetensors")
    put(path.with_name(f"{stem}{ending}"), {**FORMATS[ending][0], "notes": "", "description": ""})
    assert said(path)["base"] in (FORMATS[ending][1]["base"], "")  # a.metadata.json is of a, too


def test_a_name_too_long_for_a_sidecar(loras: Path) -> None:
    assert said(lora(loras / f"{'x' * 243}.safetensors")) == {**NOTHING, "beside": {}}


# Whatever they hold

DEEP = "[" * 20_000
HUGE = "<b>" * 20_000
MARKUP = '<img src=x onerror="window.pwned=1">'
HOSTILE_VALUES: list[Any] = [
    None, True, False, 0, -1, 1e308, 10**400, "", "x", HUGE, [], {}, [[]], [None], [{}], {"a": 1}, [1, 2, 3],
    MARKUP, "\x00\x1b[31m\u202e\u2066", "\ud800", "../../secret.safetensors", "/etc/passwd", "file:///etc/passwd",
    "9" * 5000, "nan", "inf", "1e400", DEEP, "{" * 5000, ["x" * 1000] * 100, ["x"] * 10_000,
    {"trainedWords": {"a": 1}}, [{"word": {"word": "x"}, "user": True}], [{"word": HUGE, "civitai": 1}],
]  # fmt: skip
HOSTILE_FILES = [
    b"", b"\0", b"{", b"}", b"null", b"[]", b"3", b'"x"', b"\xff\xfe", b"\xef\xbb\xbf{}", b"{}" * 3, b"NaN",
    DEEP.encode(), b'{"a":' * 100_000, b"\x80\x04K\x01.", b"PK\x03\x04", b'{"notes": "x', b"{'notes': 1}",
    b'{"preferred weight": NaN}', b'{"preferred weight": Infinity}', b'{"preferred weight": 1e999}',
    b'{"preferred weight": ' + b"9" * 5000 + b"}", b'{"notes": "\\ud800"}', b'{"notes": "\\u0000"}',
    b"[" * 500 + b"]" * 500, b'{"notes": [' + b"[" * 900 + b"]" * 900 + b"]}", b"<html>", b" " * 10_000,
]  # fmt: skip


def require_inert(told: dict[str, Any]) -> None:
    assert told.keys() == {*NOTHING, "beside"}
    for name in ("triggers", "base", "notes"):
        assert isinstance(told[name], str)
        assert len(told[name]) <= 1001
        assert told[name].isprintable()
        told[name].encode()
    numbers = [*told["strength_range"], *([] if told["strength"] is None else [told["strength"]])]
    assert all(type(number) is float and math.isfinite(number) and abs(number) <= 10 for number in numbers)
    assert len(json.dumps(told)) < 20_000


@pytest.mark.parametrize("ending", FORMATS)
def test_no_file_harms(ending: str, cat: Path) -> None:
    for body in HOSTILE_FILES:
        put(cat.with_name(f"cat{ending}"), body)
        require_inert(said(cat))


@pytest.mark.parametrize("ending", FORMATS)
def test_no_value_harms(ending: str, cat: Path) -> None:
    """Each value in each place of a real file, and one within."""
    written, sidecar = FORMATS[ending][0], cat.with_name(f"cat{ending}")
    for name in (*written, "civitai", "trainedWords", "description", "usage_tips"):
        for value in HOSTILE_VALUES:
            inner = {**LORA_MANAGER["civitai"], "trainedWords": value, "baseModel": value, "description": value}
            for told in ({**written, name: value}, {**written, "notes": "", name: inner}):
                put(sidecar, json.dumps(told).encode())
                require_inert(said(cat))


@pytest.mark.parametrize("ending", FORMATS)
def test_torn_files(ending: str, cat: Path) -> None:
    whole, sidecar, chance = json.dumps(FORMATS[ending][0]).encode(), cat.with_name(f"cat{ending}"), random.Random(7)
    for _ in range(300):
        begin, end = sorted(chance.randrange(len(whole)) for _ in range(2))
        torn = bytearray(whole[:begin] + whole[end:] if chance.random() < 0.5 else whole)
        for _ in range(chance.randrange(4)):
            torn[chance.randrange(len(torn))] = chance.randrange(256)
        put(sidecar, bytes(torn))
        require_inert(said(cat))


def test_a_huge_one_is_not_read(cat: Path) -> None:
    sidecar = put(cat.with_name("cat.json"), {**WEB_UI, "x": "y" * 5_000_000})
    with opened() as files:
        assert said(cat) == {**NOTHING, "beside": {}}
    assert str(sidecar.resolve()) not in files


# Nothing from anywhere else


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    put(folder / "secret.json", WEB_UI)
    Image.new("RGB", (8, 8)).save(folder / "secret.png")
    return folder


@pytest.mark.parametrize("ending", FORMATS)
def test_no_link_leads_out(ending: str, cat: Path, outside: Path) -> None:
    secret = put(outside / f"cat{ending}", FORMATS[ending][0])
    for link, target in ((cat.with_name(f"cat{ending}"), secret), (cat.with_name("cat.json"), outside / "secret.json")):
        link.symlink_to(target)
        with opened() as files:
            assert said(cat) == {**NOTHING, "beside": {}}
            assert triggers_of(cat) == ""
            assert Cards(cat.parent.parent / "kept.json").of({"cat": cat})["cat"] == {
                "kind": "lora", "base": "", "triggers": "",
            }  # fmt: skip
        assert below(files, outside) == []
        link.unlink()


def test_links_between_folders_of_adapters_are_followed(cat: Path) -> None:
    other = put(cat.parent.parent / "more" / "elsewhere.json", WEB_UI)
    cat.with_name("cat.json").symlink_to(other)
    assert said(cat)["base"] == "SDXL"
    linked = cat.parent / "linked"
    linked.symlink_to(cat.parent.parent / "more", target_is_directory=True)
    put(other.with_name("dog.json"), WEB_UI)
    assert said(lora(linked / "dog.safetensors"))["base"] == "SDXL"


def test_no_path_within_is_followed(cat: Path, outside: Path) -> None:
    for path in (str(outside / "secret.png"), "../outside/secret.png", (outside / "secret.png").as_uri()):
        for ending, (written, _) in FORMATS.items():
            told = {**written, **dict.fromkeys(("preview_url", "file_path", "path", "file", "imageLocal"), path)}
            put(cat.with_name(f"cat{ending}"), {**told, "images": [{"url": path}]})
        with opened() as files:
            said(cat)
            assert pictures_beside(cat) == []
        assert below(files, outside) == []


def test_what_is_no_file_or_goes_away(cat: Path) -> None:
    assert told_by(cat.with_name("gone.json")) == NOTHING
    assert told_by(cat.with_name("gone.txt")) == NOTHING
    cat.with_name("cat.json").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(cat.with_name("cat.metadata.json"))
    cat.with_name("cat.civitai.info").symlink_to(cat.with_name("cat.civitai.info"))
    assert said(cat) == {**NOTHING, "beside": {}}


# Cards


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    names: list[str] = []
    told = cards_module.told_in_short_by

    def noted(path: Path) -> dict[str, str]:
        names.append(path.name)
        return told(path)

    monkeypatch.setattr(cards_module, "told_in_short_by", noted)
    return names


def test_cards_have_what_lies_beside(loras: Path, tmp_path: Path, read: list[str]) -> None:
    files = {f"{number}": lora(loras / f"{number}.safetensors") for number in range(4)}
    files["own"] = lora(loras / "own.safetensors", {"qr_lora.triggers": "a", "qr_lora.base_model": "b"})
    for name, ending in zip(files, FORMATS, strict=False):
        put(loras / f"{name}{ending}", FORMATS[ending][0])
    put(loras / "own.json", WEB_UI)
    kept = tmp_path / "user" / "library.json"
    for cards in (Cards(kept), Cards(kept), Cards(kept)):
        for _ in range(2):
            told = cards.of(files)
            for name, path in files.items():
                facts = with_sidecars(path, facts_of(path))
                assert told[name] == {key: facts[key] for key in ("kind", "base", "triggers")}
    assert sorted(read) == ["0.json", "1.metadata.json", "2.safetensors.rgthree-info.json", "3.civitai.info"]
    put(loras / "0.json", {**WEB_UI, "sd version": "SD3"})
    assert (Cards(kept).of(files)["0"] or {})["base"] == "SD3"
    (loras / "0.json").unlink()
    assert (Cards(kept).of(files)["0"] or {})["base"] == ""


@pytest.mark.parametrize(
    "told",
    [{"base": "x" * 5000, "triggers": ""}, {"base": 3, "triggers": ""}, {"base": ""}, [], None, "x",
     {"base": "", "triggers": "", "name": "x"}],
)  # fmt: skip
def test_what_is_remembered_of_them_may_be_damaged(told: Any, cat: Path, tmp_path: Path) -> None:
    put(cat.with_name("cat.json"), WEB_UI)
    kept = tmp_path / "library.json"
    expected = Cards(kept).of({"cat": cat})
    beside = tmp_path / "library_beside.json"
    remembered = json.loads(beside.read_text())
    for entry in remembered["files"].values():
        entry[2] = told
    beside.write_text(json.dumps(remembered))
    assert Cards(kept).of({"cat": cat}) == expected
