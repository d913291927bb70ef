"""What the page is told about adapter files, by a real server: facts, pictures, and nothing from anywhere else."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from comfyui_qr_lora.nodes.host.files.header import facts_of
from comfyui_qr_lora.nodes.host.files.load import load
from comfyui_qr_lora.nodes.host.files.previews import LARGEST, pictures_beside, with_preview
from comfyui_qr_lora.qrlora_core import AdapterFileError, Layer, QRLoRA, Term, load_adapter, save_adapter
from comfyui_qr_lora.qrlora_core.files.basis_store import BasisStore
from devtools.server import Server

pytestmark = pytest.mark.server

TRAINING = {"learning_rate": 1e-4, "steps_done": 1000, "first_loss": 0.53412345, "nested": [1], "optimizer": "adamw"}
OURS = {"qr_lora.base_model": "SD3", "qr_lora.triggers": "xyz style", "qr_lora.training": json.dumps(TRAINING)}
KOHYA = {
    "ss_base_model_version": "sdxl_base_v1-0", "ss_network_dim": "4", "ss_learning_rate": "0.0001",
    "ss_tag_frequency": json.dumps({"10_a": {"a cat": 10, "grass": 2}, "5_b": {"grass": 3, "odd": "x"}, "c": 1}),
}  # fmt: skip


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def lora(path: Path, metadata: dict[str, str] | None = None, rank: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        "a.lora_down.weight": torch.zeros(rank, 8), "a.lora_up.weight": torch.zeros(8, rank),
        "b.lora_down.weight": torch.zeros(2, 8), "b.lora_up.weight": torch.zeros(8, 2), "c.diff_b": torch.zeros(8),
    }  # fmt: skip
    save_file(tensors, path, metadata)
    return path


def picture(path: Path) -> Path:
    Image.new("RGB", (8, 8), "red").save(path)
    return path


@pytest.fixture(scope="module")
def known(server: Server) -> set[str]:
    """What was there before `files`."""
    return {entry["name"] for entry in ask(server, "adapters").json["adapters"]}


@pytest.fixture(scope="module", autouse=True)
def files(server: Server, known: set[str]) -> None:
    loras = server.models_dir / "loras"
    lora(loras / "cat.safetensors", KOHYA)
    lora(loras / "sub" / "cat.safetensors", OURS)
    lora(loras / "plain.safetensors")
    lora(loras / "huge.safetensors", dict.fromkeys((*OURS, "modelspec.title", "ss_sd_model_name"), "<b>" * 400000))
    (loras / "broken.safetensors").write_bytes(b"nothing at all")
    for name in ("cat.png", "cat_1.webp", "sub/cat.preview.JPG"):
        picture(loras / name)
    for name in ("plain.svg", "plain.html", "plain.gif", "plain.safetensors.png.txt"):
        (loras / name).write_text("<svg onload=alert(1)>")
    (loras / "plain_page.png").write_text("<script>alert(1)</script>")
    secret = picture(server.base / "secret.png")
    (loras / "plain_out.png").symlink_to(secret)


def ask(server: Server, path: str, **query: str) -> Answer:
    address = f"{server.url}/qr_lora/{path}?{urllib.parse.urlencode(query, errors='surrogatepass')}"
    try:
        with urllib.request.urlopen(address, timeout=600) as answer:
            return Answer(answer.status, dict(answer.headers), answer.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, dict(error.headers), error.read())


def test_all_are_listed_with_whether_they_have_a_preview(server: Server, known: set[str]) -> None:
    listed = {entry["name"]: entry["picture"] for entry in ask(server, "adapters").json["adapters"]}
    assert {name: shown for name, shown in listed.items() if name not in known} == {
        "loras/broken.safetensors": False, "loras/cat.safetensors": True, "loras/huge.safetensors": False,
        "loras/plain.safetensors": False, "loras/sub/cat.safetensors": True,
    }  # fmt: skip
    combo = server.get("/object_info/QRLoRA_Load")["QRLoRA_Load"]["input"]["required"]["adapter_name"]
    assert set(listed) == set(combo[1]["options"] if combo[0] == "COMBO" else combo[0])


def test_with_cards_each_says_what_one_looks_for(server: Server, known: set[str]) -> None:
    def cards() -> dict[str, Any]:
        return {entry.pop("name"): entry for entry in ask(server, "adapters", cards="1").json["adapters"]}

    told = cards()
    assert told["loras/sub/cat.safetensors"] == {
        "picture": True, "kind": "lora", "base": "SD3", "triggers": "xyz style",
    }  # fmt: skip
    assert told["loras/broken.safetensors"] == {"picture": False}
    for name in set(told) - known - {"loras/broken.safetensors"}:
        facts = ask(server, "adapter", name=name).json
        assert {key: told[name][key] for key in ("kind", "base", "triggers")} == {
            key: facts[key] for key in ("kind", "base", "triggers")
        }
    added = lora(server.models_dir / "loras" / "added" / "later.safetensors", OURS)
    assert cards()["loras/added/later.safetensors"]["base"] == "SD3"
    lora(added, {"qr_lora.base_model": "Flux"})
    assert cards()["loras/added/later.safetensors"]["base"] == "Flux"
    added.unlink()
    assert cards() == told


def test_a_file_tells_base_triggers_and_training(server: Server) -> None:
    told = ask(server, "adapter", name="loras/sub/cat.safetensors").json
    assert (told["base"], told["triggers"], told["kind"]) == ("SD3", "xyz style", "lora")
    assert (told["layers"], told["ranks"]) == (3, [2, 4])
    assert told["training"][:3] == [["steps_done", "1000"], ["learning_rate", "0.0001"], ["optimizer", "adamw"]]
    assert ["first_loss", "0.5341"] in told["training"]
    assert [picture["name"] for picture in told["pictures"]] == ["cat.preview.JPG"]


def test_what_kohya_writes_is_read_and_its_tags_are_no_triggers(server: Server) -> None:
    told = ask(server, "adapter", name="loras/cat.safetensors").json
    assert (told["base"], told["triggers"], told["tags"]) == ("sdxl_base_v1-0", "", ["a cat", "grass"])
    assert told["training"] == [["rank", "4"], ["learning_rate", "0.0001"]]


def test_whatever_a_file_says_is_cut(server: Server) -> None:
    answer = ask(server, "adapter", name="loras/huge.safetensors")
    assert answer.status == 200
    assert len(answer.body) < 5000
    assert answer.json["base"].endswith("…")


def test_a_damaged_file_is_told_with_our_message(server: Server) -> None:
    answer = ask(server, "adapter", name="loras/broken.safetensors")
    assert answer.status == 400
    assert "not a readable safetensors file" in answer.json["error"]


def test_pictures_come_as_pictures_and_as_nothing_else(server: Server) -> None:
    for name, index, kind in (("cat", "0", "image/png"), ("cat", "1", "image/webp"), ("sub/cat", "0", "image/jpeg")):
        answer = ask(server, "picture", name=f"loras/{name}.safetensors", index=index)
        assert (answer.status, answer.headers["Content-Type"]) == (200, kind)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    page = ask(server, "picture", name="loras/plain.safetensors", index="0")
    assert page.headers["Content-Type"] == "image/png"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    pictures = ask(server, "adapter", name="loras/plain.safetensors").json["pictures"]
    assert [picture["name"] for picture in pictures] == ["plain_page.png"]  # no SVG, and no link that leads out


@pytest.mark.parametrize("index", ["1", "99999999999999999999", "9" * 5000, "-1", "x", "", "٠", "0x0", "1.0"])
def test_an_index_that_is_none_is_refused(server: Server, index: str) -> None:
    answer = ask(server, "picture", name="loras/plain.safetensors", index=index)
    assert answer.status in (400, 404)
    assert "index" in answer.json["error"]


@pytest.mark.parametrize("route", ["adapter", "picture"])
@pytest.mark.parametrize(
    "name",
    [
        "", "loras", "loras/", "cat.safetensors", "/etc/passwd", "loras/../../secret", "loras/../secret.png",
        "loras//etc/passwd", "loras/..\\..\\secret", "loras/C:\\x.safetensors", "\\\\server\\x", "loras/cat.png",
        "loras/con.safetensors", "loras/\0", "loras/\udcff", "loras/cat.safetensors\n", "loras/%2e%2e/secret",
        "checkpoints/x.safetensors", "loras/<img src=x>.safetensors", "loras/" + "a" * 3000,
    ],
)  # fmt: skip
def test_no_name_leads_out(server: Server, route: str, name: str) -> None:
    answer = ask(server, route, name=name)
    assert answer.status in (400, 404)
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.json["error"]


def test_the_node_tells_the_api_what_it_loaded(server: Server) -> None:
    prompt = {
        "1": {"class_type": "QRLoRA_Load", "inputs": {"adapter_name": "loras/sub/cat.safetensors"}},
        "2": {"class_type": "QRLoRA_Save", "inputs": {"adapter": ["1", 0], "filename_prefix": "copy"}},
    }
    assert server.queue(prompt)["outputs"]["1"]["text"][0].startswith("cat.safetensors: ordinary LoRA, 3 layers")


# Files, without a server


def layer(rank: int, kind: str) -> Layer:
    first = Term(torch.eye(8, rank), torch.ones(rank, 6), base_r=torch.ones(rank, 6))
    further = {
        "one term": (), "two terms": (first,), "variant qr": (Term(torch.ones(8, rank), 2 * torch.ones(rank, 6)),),
    }  # fmt: skip
    return Layer((first, *further[kind]))


@pytest.mark.parametrize(
    ("format", "kind"),
    [
        ("full", "one term"),
        ("full", "two terms"),
        ("full", "variant qr"),
        ("lora", "one term"),
        ("compact", "one term"),
    ],
)
def test_the_header_tells_what_loading_tells(tmp_path: Path, format: str, kind: str) -> None:
    layers = {f"transformer.{rank}": layer(rank, kind) for rank in (2, 3)}
    store = BasisStore(tmp_path / "bases")
    path = save_adapter(QRLoRA(layers), tmp_path / "x.safetensors", format=format, bases=store)
    loaded, told = load_adapter(path, bases=store), facts_of(path)
    assert (told["kind"], told["layers"]) == (format, len(loaded.layers))
    assert told["ranks"] == [min(loaded.ranks), max(loaded.ranks)]


@pytest.mark.parametrize("key", ["a.ia3_l", "model.weight", "a.oft_r"])
def test_what_is_no_adapter_is_refused_as_loading_does(tmp_path: Path, key: str) -> None:
    path = tmp_path / "x.safetensors"
    save_file({key: torch.zeros(2)}, path)
    with pytest.raises(AdapterFileError) as loading:
        load(path)
    with pytest.raises(AdapterFileError) as reading:
        facts_of(path)
    assert str(reading.value) == str(loading.value)


@pytest.mark.parametrize(
    "said", ["[1]", "{", "[" * 100_000, '{"a": {"b": {}}}', '{"\\ud800": "\\ud800"}', '{"a": ' + "9" * 5000 + "}"]
)
def test_metadata_may_say_anything(tmp_path: Path, said: str) -> None:
    path = lora(tmp_path / "x.safetensors", {"qr_lora.training": said, "ss_tag_frequency": said, "qr_lora.rank": said})
    assert len(json.dumps(facts_of(path))) < 5000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:

    from comfyui_qr_lora.nodes.host.files import folders

    known = {"qr_loras": [], "loras": [str(tmp_path)]}
    monkeypatch.setattr(folders.folder_paths, "get_folder_paths", known.__getitem__)
    return tmp_path


def test_a_picture_belongs_to_the_file_whose_name_it_goes_on_from(folder: Path) -> None:
    for name in ("cat", "cat_sample", "cat2"):
        lora(folder / f"{name}.safetensors")
    for name in ("cat.png", "cat_1.png", "cat_sample_1.png", "cat2.png", "cats.png", "dog.png", "cat.preview.png"):
        picture(folder / name)
    found = {name: [path.name for path in pictures_beside(folder / f"{name}.safetensors")] for name in ("cat", "cat2")}
    assert found == {"cat": ["cat.png", "cat.preview.png", "cat_1.png"], "cat2": ["cat2.png"]}
    assert with_preview(f"loras/{name}.safetensors" for name in ("cat", "cat2", "cat_sample")) == {
        "loras/cat.safetensors", "loras/cat2.safetensors",
    }  # fmt: skip


def test_a_picture_that_is_too_large_or_no_file_is_left_out(folder: Path) -> None:
    path = lora(folder / "cat.safetensors")
    with (folder / "cat.png").open("wb") as file:
        file.truncate(LARGEST + 1)
    (folder / "cat_folder.png").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "cat_pipe.png")
    assert pictures_beside(path) == []
