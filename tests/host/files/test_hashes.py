"""SHA-256 of whole files, read once, and which files are likely one that is missing."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from comfyui_qr_lora.nodes.host.files import folders, hashes
from comfyui_qr_lora.nodes.host.files.hashes import Hashes, Likely, Search

from ...support.opened import below, opened


@pytest.fixture
def loras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "loras"
    folder.mkdir()
    known = {"qr_loras": [], "loras": [str(folder)]}
    monkeypatch.setattr(folders.folder_paths, "get_folder_paths", known.__getitem__)
    monkeypatch.setattr(folders.folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    return folder


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "user" / "hashes.json"


def put(path: Path, content: bytes, age: float = 3600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    when = time.time() - age
    os.utime(path, (when, when))
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("length", [0, 1, 2**20, 2**20 + 1, 3 * 2**20])
def test_is_of_the_whole_file(length: int, loras: Path, kept: Path) -> None:
    content = os.urandom(length)
    assert Hashes(kept).of(put(loras / "a.safetensors", content)) == (length, sha256(content))


def test_a_file_is_read_once_by_all_starts(loras: Path, kept: Path) -> None:
    paths = [put(loras / f"{number}.safetensors", bytes([number]) * 9) for number in range(3)]
    first = Hashes(kept)
    assert first.already(paths[0]) is None
    with opened() as files:
        for path in (*paths, *paths):
            first.of(path)
    assert sorted(below(files, loras)) == ["0.safetensors", "1.safetensors", "2.safetensors"]
    again = Hashes(kept)
    with opened() as files:
        assert [again.of(path) for path in paths] == [(9, sha256(bytes([number]) * 9)) for number in range(3)]
        assert again.already(paths[2]) == sha256(b"\2" * 9)
    assert below(files, loras) == []
    put(paths[0], b"x" * 9, age=1800)
    assert again.already(paths[0]) is None
    assert again.of(paths[0]) == (9, sha256(b"x" * 9))
    assert Hashes(kept).already(paths[1]) == sha256(b"\1" * 9)


def test_a_file_just_written_is_not_remembered(loras: Path, kept: Path) -> None:
    path, known = put(loras / "a.safetensors", b"abc", age=0), Hashes(kept)
    known.of(path)
    at = path.stat().st_mtime_ns
    path.write_bytes(b"cba")
    os.utime(path, ns=(at, at))
    assert known.of(path) == (3, sha256(b"cba"))


def test_a_file_that_changes_while_it_is_read(loras: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, known = put(loras / "a.safetensors", b"abc"), Hashes(kept)
    digest = hashlib.sha256

    def changed_meanwhile() -> Any:
        put(path, b"other", age=1800)
        return digest()

    with monkeypatch.context() as patch:
        patch.setattr(hashes.hashlib, "sha256", changed_meanwhile)
        known.of(path)
    assert known.already(path) is None
    assert known.of(path) == (5, sha256(b"other"))


RUBBISH = [
    b"", b"{", b"null", b"[]", b"\xff", b"[" * 100_000, b'{"version": 1}', b'{"version": 1, "files": 3}',
    b'{"version": 1, "files": {"x": [1, 2]}}', b'{"version": 1, "files": {"\\u0000": [1, 2, "x"]}}',
]  # fmt: skip


@pytest.mark.parametrize("said", RUBBISH)
def test_what_is_remembered_may_be_damaged(said: bytes, loras: Path, kept: Path) -> None:
    path = put(loras / "a.safetensors", b"abc")
    kept.parent.mkdir()
    kept.write_bytes(said)
    assert Hashes(kept).of(path) == (3, sha256(b"abc"))
    assert Hashes(kept).already(path) == sha256(b"abc")  # mended


@pytest.mark.parametrize("told", ["", "x" * 64, "ab" * 31, "AB" * 32, 3, None, ["ab" * 32], {}])
def test_nothing_is_believed_that_is_no_hash(told: Any, loras: Path, kept: Path) -> None:
    path = put(loras / "a.safetensors", b"abc")
    Hashes(kept).of(path)
    remembered = json.loads(kept.read_text())
    for entry in remembered["files"].values():
        entry[2] = told
    kept.write_text(json.dumps(remembered))
    assert Hashes(kept).of(path) == (3, sha256(b"abc"))


def test_what_cannot_be_read_has_none(loras: Path, kept: Path) -> None:
    assert Hashes(kept).of(loras / "gone.safetensors") is None
    assert Hashes(kept).of(loras) is None
    assert Hashes(kept).already(loras / "gone.safetensors") is None


# Which is likely the missing one


def names(found: list[Likely]) -> list[str]:
    return [likely.name for likely in found]


def test_same_content_then_same_stem_then_similar(loras: Path, kept: Path) -> None:
    content = b"the file"
    for name in ("moved/renamed", "other", "sub/Warm_Light", "deep/er/warm-light", "warm_light_v2", "unlike"):
        put(loras / f"{name}.safetensors", content if name == "moved/renamed" else name.encode() * 9)
    found = Search(Hashes(kept)).likely("loras/warm_light.safetensors", len(content), sha256(content))
    assert found == [
        Likely("loras/moved/renamed.safetensors", same=True),
        Likely("loras/deep/er/warm-light.safetensors", same=False),
        Likely("loras/sub/Warm_Light.safetensors", same=False),
        Likely("loras/warm_light_v2.safetensors", same=False),
    ]
    assert Search(Hashes(kept)).likely("loras\\warm_light.safetensors") == found[1:]
    assert Search(Hashes(kept)).likely("loras/nothing like it.safetensors") == []


def test_only_files_of_the_same_size_are_read(loras: Path, kept: Path) -> None:
    for name, content in (("a", b"1234"), ("b", b"12345"), ("c", b"4321"), ("warm", b"123")):
        put(loras / f"{name}.safetensors", content)
    with opened() as files:
        found = Search(Hashes(kept)).likely("loras/warm.safetensors", 4, sha256(b"4321"))
        assert below(files, loras) == ["a.safetensors", "c.safetensors"]
    assert names(found) == ["loras/c.safetensors", "loras/warm.safetensors"]
    for size, content in ((0, sha256(b"123")), (4, ""), (77, sha256(b"123"))):
        with opened() as files:
            assert [one.same for one in Search(Hashes(kept)).likely("loras/zzz.safetensors", size, content)] == []
        assert below(files, loras) == []


def test_one_of_the_same_content_is_enough(loras: Path, kept: Path) -> None:
    """The one of the same name first; none is read after it."""
    for number in range(9):
        put(loras / f"a{number}.safetensors", b"same")
    put(loras / "z" / "warm.safetensors", b"same")
    with opened() as files:
        found = Search(Hashes(kept)).likely("loras/warm.safetensors", 4, sha256(b"same"))
    assert names(found)[0] == "loras/z/warm.safetensors"
    assert below(files, loras) == [os.path.join("z", "warm.safetensors")]


def test_no_more_is_read_than_it_may(loras: Path, kept: Path) -> None:
    for number in range(9):
        put(loras / f"a{number}.safetensors", bytes([number]) * 4)
    wanted, search = sha256(b"\x08" * 4), Search(Hashes(kept), most_read=10)
    with opened() as files:
        for _ in range(3):
            assert not any(one.same for one in search.likely("loras/x.safetensors", 4, wanted))
    assert len(below(files, loras)) == 2
    for _ in range(4):  # what was read before is remembered, so that it is found in the end
        found = Search(Hashes(kept), most_read=10).likely("loras/x.safetensors", 4, wanted)
    assert found[0] == Likely("loras/a8.safetensors", same=True)


def test_at_most_five_in_one_order(loras: Path, kept: Path) -> None:
    for number in range(9):
        put(loras / f"sub{number}" / "cat.safetensors", bytes([number]))
        put(loras / f"cat{number}.safetensors", bytes([number]))
    expected = [f"loras/sub{number}/cat.safetensors" for number in range(5)]
    for _ in range(2):
        assert names(Search(Hashes(kept)).likely("qr_loras/cat.sft")) == expected


@pytest.mark.parametrize(
    "file",
    [
        "",
        "/",
        "loras/",
        "---",
        "loras/..",
        "../../etc/passwd",
        "\0",
        "\ud800",
        "a" * 4000,
        "a/" * 2000,
        "%s{0}",
        "日本",
    ],
)
def test_any_name_may_be_missing(file: str, loras: Path, kept: Path, tmp_path: Path) -> None:
    put(tmp_path / "secret.safetensors", b"1234")
    for number in range(50):
        put(loras / f"cat {number}.safetensors", b"1234")
    with opened() as files:
        found = Search(Hashes(kept)).likely(file, 4, sha256(b"nothing"))
    assert len(found) <= 5
    assert not any(one.same for one in found)
    assert "secret.safetensors" not in below(files, tmp_path)


def test_files_that_go_away_meanwhile(loras: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(loras / "there.safetensors", b"1234")
    listed = {
        "loras/gone.safetensors": loras / "gone.safetensors",
        "loras/there.safetensors": loras / "there.safetensors",
    }
    monkeypatch.setattr(hashes, "adapter_files", lambda: listed)
    found = Search(Hashes(kept)).likely("loras/x.safetensors", 4, sha256(b"1234"))
    assert found == [Likely("loras/there.safetensors", same=True)]
