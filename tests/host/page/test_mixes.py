"""Mixes and recipes by a real server: what is there, what is likely meant, and what a picture tells of its mix."""

from __future__ import annotations

import hashlib
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from comfyui_qr_lora.nodes.host.mix.errors import TEXTS
from devtools.server import Server

pytestmark = pytest.mark.server

TOLD = {"activation text": "w4rm light", "sd version": "SDXL", "preferred weight": 0.7, "notes": "Best at dusk"}


def lora(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"a.lora_down.weight": torch.full((4, 8), seed), "a.lora_up.weight": torch.zeros(8, 4)}
    save_file(tensors, path)
    when = time.time() - 3600
    os.utime(path, (when, when))
    return path


@pytest.fixture(scope="module", autouse=True)
def files(server: Server) -> dict[str, Path]:
    loras = server.models_dir / "loras" / "mixes"
    made = {name: lora(loras / f"{name}.safetensors", seed) for seed, name in enumerate(("warm", "deep/warm", "moved"))}
    made["warm"].with_name("warm.json").write_text(json.dumps(TOLD), encoding="utf-8")
    (server.base / "secret.safetensors").write_bytes(made["moved"].read_bytes())
    return made


def ask(server: Server, path: str, body: Any = None, **query: str) -> tuple[int, Any]:
    """Status and answer; a body that is not bytes is sent as JSON."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    options = f"?{urllib.parse.urlencode(query, errors='surrogatepass')}" if query else ""
    request = urllib.request.Request(f"{server.url}/qr_lora/{path}{options}", data=data)
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def mix_of(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"version": 1, "rows": list(rows)}


def require_refused(answer: tuple[int, Any], key: str, status: int = 400) -> None:
    """With the sentence that the page can say in its own language."""
    assert answer[0] == status
    assert answer[1]["key"] == key
    assert answer[1]["error"] == TEXTS[key].format(**answer[1]["values"])


def test_each_row_is_told(server: Server, files: dict[str, Path]) -> None:
    content = files["moved"].read_bytes()
    known = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    status, told = ask(
        server,
        "mix",
        mix_of(
            {"file": "loras/mixes/warm.safetensors"},
            {"file": "loras/gone/other.safetensors", "on": False, **known},
            {"file": "qr_loras/Warm.safetensors"},
            {"file": "loras/nothing like any.safetensors"},
        ),
    )
    assert status == 200
    there, moved, renamed, lost = told["rows"]
    assert there == {"found": True, "likely": []}
    assert (moved["found"], moved["likely"][0]) == (False, {"name": "loras/mixes/moved.safetensors", "same": True})
    warm = [f"loras/mixes/{name}.safetensors" for name in ("deep/warm", "warm")]
    assert renamed == {"found": False, "likely": [{"name": name, "same": False} for name in warm]}
    assert lost["found"] is False
    assert ask(server, "mix", b"") == (200, {"rows": []})


@pytest.mark.parametrize(
    "name",
    [
        "", "/", "loras", "loras/mixes/warm.json", "loras/mixes", "loras/../../secret.safetensors", "/etc/passwd",
        "loras//etc/passwd", "loras/..\\..\\secret.safetensors", "loras/\0", "loras/\udcff", "a" * 3000,
        "loras/<img src=x>.safetensors", "checkpoints/x.safetensors",
    ],
)  # fmt: skip
def test_no_name_leads_out(server: Server, name: str) -> None:
    require_refused(ask(server, "hash", name=name), "mixer.error_no_file", 404)
    if name and "\udcff" not in name:
        status, told = ask(server, "mix", mix_of({"file": name}))
        assert (status, told["rows"][0]["found"]) == (200, False)


def test_a_link_out_of_the_folders_is_not_likely_more_than_listed(server: Server, files: dict[str, Path]) -> None:
    """Only what the host lists is looked at."""
    content = (server.base / "secret.safetensors").read_bytes()
    row = {"file": "loras/zzz.safetensors", "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    listed = {entry["name"] for entry in ask(server, "adapters")[1]["adapters"]}
    likely = ask(server, "mix", mix_of(row))[1]["rows"][0]["likely"]
    assert [one["name"] for one in likely] == ["loras/mixes/moved.safetensors"]
    assert {one["name"] for one in likely} <= listed


def test_the_hash_of_a_file(server: Server, files: dict[str, Path]) -> None:
    content = files["warm"].read_bytes()
    expected = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    for _ in range(2):
        assert ask(server, "hash", name="loras/mixes/warm.safetensors") == (200, expected)


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b"{", "mixer.error_json"), (b"\xff", "mixer.error_bytes"), ([], "mixer.error_object"),
        (mix_of({"file": 3}), "mixer.error_file"), ({"version": 2}, "mixer.error_version"),
        (mix_of(*[{"file": "x"}] * 65), "mixer.error_rows"), (b"[" * 100_000, "mixer.error_json"),
        (b" " * (4 * 2**20 + 1), "mixer.error_body"), (b'{"a": 1, "a": 2}', "mixer.error_twice"),
    ],
)  # fmt: skip
def test_a_wrong_mix_is_refused(server: Server, body: Any, key: str) -> None:
    require_refused(ask(server, "mix", body), key)


def test_a_recipe_is_checked(server: Server) -> None:
    recipe = {"qr_lora_recipe": 1, "name": "warm", "family": "SDXL", "mix": mix_of({"file": "loras/x.safetensors"})}
    assert ask(server, "recipe", recipe) == (200, {"recipe": recipe})
    require_refused(ask(server, "recipe", {**recipe, "name": "../warm"}), "mixer.error_recipe_name")
    require_refused(ask(server, "recipe", b"GIF89a\xff"), "mixer.error_recipe_bytes")
    require_refused(ask(server, "recipe", b""), "mixer.error_json")


@pytest.mark.parametrize("node", ["SaveImage", "SaveAnimatedPNG", "SaveAnimatedWEBP"])
def test_a_picture_that_the_host_saved(server: Server, node: str) -> None:
    mix = mix_of({"file": "loras/mixes/warm.safetensors", "scale": 0.5, "blocks": "a.*: 0.5"})
    more = {"SaveAnimatedPNG": {"fps": 6.0, "compress_level": 4},
            "SaveAnimatedWEBP": {"fps": 6.0, "lossless": True, "quality": 80, "method": "default"}}  # fmt: skip
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 2, "color": 0}},
        "2": {"class_type": node, "inputs": {"images": ["1", 0], "filename_prefix": "mixed", **more.get(node, {})}},
        "3": {"class_type": "QRLoRA_Mixer", "inputs": {"mix": json.dumps(mix), "mode": "ties"}},
    }
    saved = server.queue(prompt)["outputs"]["2"]["images"][0]
    body = (server.output_dir / saved["subfolder"] / saved["filename"]).read_bytes()
    expected = {"qr_lora_recipe": 1, "name": "mixed", "mode": "ties", "mix": mix}
    assert ask(server, "recipe", body, name="mixed") == (200, {"recipe": expected})
    del prompt["3"]
    prompt["2"]["inputs"]["filename_prefix"] = "plain"
    saved = server.queue(prompt)["outputs"]["2"]["images"][0]
    body = (server.output_dir / saved["subfolder"] / saved["filename"]).read_bytes()
    require_refused(ask(server, "recipe", body), "mixer.error_picture_mix")


def test_facts_and_cards_have_what_lies_beside(server: Server) -> None:
    facts = ask(server, "adapter", name="loras/mixes/warm.safetensors")[1]
    expected = {
        "base": "SDXL",
        "triggers": "w4rm light",
        "notes": "Best at dusk",
        "strength": 0.7,
        "strength_range": [],
    }
    assert {name: facts[name] for name in expected} == expected
    assert facts["beside"] == dict.fromkeys(("triggers", "base", "notes", "strength"), "warm.json")
    cards = {entry["name"]: entry for entry in ask(server, "adapters", cards="1")[1]["adapters"]}
    assert cards["loras/mixes/warm.safetensors"]["triggers"] == "w4rm light"
    plain = ask(server, "adapter", name="loras/mixes/moved.safetensors")[1]
    assert (plain["notes"], plain["strength"], plain["beside"]) == ("", None, {})
