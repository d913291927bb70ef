"""Cards of many files: right after every change, read once, and never more trusted than the files themselves."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from comfyui_qr_lora.nodes.host.files import cards as cards_module
from comfyui_qr_lora.nodes.host.files.cards import Cards, remembered_file
from comfyui_qr_lora.nodes.host.files.header import could_be_in_short, facts_of, in_short

HOUR = 3600


def lora(path: Path, base: str = "sdxl", triggers: str = "xyz", age: float = HOUR) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"a.lora_down.weight": torch.zeros(4, 8), "a.lora_up.weight": torch.zeros(8, 4)}
    save_file(tensors, path, {"ss_base_model_version": base, "modelspec.trigger_phrase": triggers})
    return aged(path, age)


def aged(path: Path, age: float) -> Path:
    when = time.time() - age
    os.utime(path, (when, when))
    return path


def files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.safetensors"))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(6):
        lora(tmp_path / "loras" / f"sub_{number % 2}" / f"{number}.safetensors", base=f"base {number}")
    (tmp_path / "loras" / "broken.safetensors").write_bytes(b"nothing")
    aged(tmp_path / "loras" / "broken.safetensors", HOUR)
    return tmp_path / "loras"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "user" / "library.json"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files whose headers were read."""
    names: list[str] = []

    def noted(path: Path) -> Any:
        names.append(path.name)
        return in_short(path)

    monkeypatch.setattr(cards_module, "in_short", noted)
    return names


def fresh(folder: Path) -> dict[str, Any]:
    """By a reader that remembers nothing."""
    return Cards(folder / "none" / "of" / "it.json").of(files(folder))


def test_a_card_says_what_the_facts_say(folder: Path) -> None:
    told = fresh(folder)
    assert told.pop("broken.safetensors") is None
    for name, path in files(folder).items():
        if name in told:
            assert told[name] == {key: facts_of(path)[key] for key in ("kind", "base", "triggers")}
    assert told["sub_1/3.safetensors"]["base"] == "base 3"


def test_a_header_is_read_once_by_all_starts(folder: Path, kept: Path, read: list[str]) -> None:
    expected = fresh(folder)
    read.clear()
    first = Cards(kept)
    assert first.of(files(folder)) == expected
    assert len(read) == 7
    assert first.of(files(folder)) == expected
    assert Cards(kept).of(files(folder)) == expected
    assert len(read) == 7


def grown(path: Path) -> None:
    lora(path, base="another and longer")


def of_the_same_size(path: Path) -> None:
    lora(path, base="esab 3", age=HOUR / 2)


def in_its_place(path: Path) -> None:
    lora(path.with_name("new.tmp"), base="new").replace(path)


def touched(path: Path) -> None:
    aged(path, HOUR / 3)


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def removed(path: Path) -> None:
    path.unlink()


def moved(path: Path) -> None:
    path.rename(path.with_name("moved.safetensors"))


CHANGES = [grown, of_the_same_size, in_its_place, touched, damaged, removed, moved]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("restarted", [True, False])
def test_what_changed_is_read_anew_and_nothing_else(
    change: Callable[[Path], None], restarted: bool, folder: Path, kept: Path, read: list[str]
) -> None:
    cards = Cards(kept)
    cards.of(files(folder))
    change(folder / "sub_1" / "3.safetensors")
    lora(folder / "added" / "7.safetensors", base="added")
    expected = fresh(folder)
    read.clear()
    found = (Cards(kept) if restarted else cards).of(files(folder))
    assert found == expected
    assert set(read) <= {"3.safetensors", "moved.safetensors", "7.safetensors"}
    told = json.loads(kept.read_text())["files"]
    assert set(told) <= {str(path) for path in files(folder).values()}  # what is gone is dropped


@pytest.mark.parametrize("age", [0, -HOUR])
def test_a_file_that_may_change_within_its_time_is_not_remembered(age: float, folder: Path, kept: Path) -> None:
    path, cards = lora(folder / "now.safetensors", base="abc", age=age), Cards(kept)
    time_ns = path.stat().st_mtime_ns
    assert cards.of(files(folder))["now.safetensors"]["base"] == "abc"
    lora(path, base="cba")
    os.utime(path, ns=(time_ns, time_ns))
    assert cards.of(files(folder))["now.safetensors"]["base"] == "cba"


def test_a_file_that_could_not_be_read_is_tried_again(
    folder: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards, opened = Cards(kept), Path.open

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == "3.safetensors":
            raise PermissionError(13, "locked")
        return opened(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        assert cards.of(files(folder))["sub_1/3.safetensors"] is None
    assert cards.of(files(folder)) == fresh(folder)


RUBBISH = [
    b"", b"{", b"null", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"version": 1}', b'{"version": 1, "files": 3}',
    b'{"version": 1, "files": {"x": 1}}', b'{"version": 1, "files": {"x": []}}', b'{"version": 99, "files": {}}',
    b'{"version": 1, "files": {"x": [1, 2, {"kind": "lora"}]}}', b'{"version": 1, "files": [[1]]}',
    b'{"version": 1, "files": {"\\u0000": [1, 2, null]}}',
]  # fmt: skip


@pytest.mark.parametrize("said", RUBBISH)
def test_what_is_remembered_may_be_damaged(said: bytes, folder: Path, kept: Path, read: list[str]) -> None:
    kept.parent.mkdir()
    kept.write_bytes(said)
    assert Cards(kept).of(files(folder)) == fresh(folder)
    read.clear()
    Cards(kept).of(files(folder))
    assert read == []  # mended


@pytest.mark.parametrize("length", [1, 30, 60, 100, 200, 300])
def test_or_cut_short(length: int, folder: Path, kept: Path) -> None:
    Cards(kept).of(files(folder))
    kept.write_bytes(kept.read_bytes()[:-length])
    assert Cards(kept).of(files(folder)) == fresh(folder)


@pytest.mark.parametrize(
    "card",
    [
        {"kind": "evil", "base": "", "triggers": ""}, {"kind": "lora", "base": "x" * 5000, "triggers": ""},
        {"kind": "lora", "base": 3, "triggers": ""}, {"kind": "lora", "base": "a\nb", "triggers": ""},
        {"kind": "lora", "base": "", "triggers": ["x"]}, {"kind": [], "base": "", "triggers": ""},
        {"kind": "lora", "base": "", "triggers": "", "name": "loras/other.safetensors"}, {"kind": "lora"}, "lora", 1,
        True, [], {},
    ],
)  # fmt: skip
def test_nothing_is_believed_that_a_header_could_not_say(card: Any, folder: Path, kept: Path) -> None:
    Cards(kept).of(files(folder))
    told = json.loads(kept.read_text())
    for entry in told["files"].values():
        entry[2] = card
    kept.write_text(json.dumps(told))
    assert not could_be_in_short(card)
    assert Cards(kept).of(files(folder)) == fresh(folder)


@pytest.mark.parametrize(
    "said", ["x" * 100_000, "a\n\tb  c", " ", "<b>", "é" * 300, "x" * 200 + " " + "y" * 100, "\u2028"]
)
def test_all_that_a_header_says_is_believed_again(said: str, folder: Path, kept: Path, read: list[str]) -> None:
    lora(folder / "said.safetensors", said, said)
    expected = Cards(kept).of(files(folder))
    assert could_be_in_short(expected["said.safetensors"])
    read.clear()
    assert Cards(kept).of(files(folder)) == expected
    assert read == []


def test_a_place_that_cannot_be_written_costs_time_alone(folder: Path, kept: Path) -> None:
    kept.parent.write_text("a file in its place")
    cards = Cards(kept)
    assert cards.of(files(folder)) == cards.of(files(folder)) == fresh(folder)
    assert kept.parent.read_text() == "a file in its place"


def test_two_servers_keep_what_the_other_knows(folder: Path, kept: Path, read: list[str]) -> None:
    every = files(folder)
    some, rest = dict(list(every.items())[:3]), dict(list(every.items())[3:])
    one, other = Cards(kept), Cards(kept)
    one.of({})
    other.of(rest)
    one.of(some)
    read.clear()
    assert Cards(kept).of(every) == fresh(folder)
    assert [name for name in read if read.count(name) > 1] == []  # each once, by `fresh` alone
    assert list(kept.parent.iterdir()) == [kept]  # nothing temporary is left


def test_it_lies_where_the_host_lists_no_model_and_serves_no_user() -> None:
    place = remembered_file()
    assert place.is_relative_to(folder_paths.get_user_directory())
    assert folder_paths.get_public_user_directory(place.parent.name) is None
    models = [path for paths, _ in folder_paths.folder_names_and_paths.values() for path in paths]
    assert not any(place.is_relative_to(path) for path in models)
