"""Recipes: what is written is read, what is wrong is named with its place, and a picture gives the mix that drew it."""

from __future__ import annotations

import io
import json
import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from comfyui_qr_lora.nodes.host.mix.document import Mix, Row
from comfyui_qr_lora.nodes.host.mix.errors import MixError
from comfyui_qr_lora.nodes.host.mix.recipes import Recipe, read_recipe, recipe_as_json, recipe_in

from ...support.opened import opened

FILE = "loras/cat.safetensors"
MIX = {"version": 1, "rows": [{"file": FILE, "scale": 0.5}]}
LEAST = {"qr_lora_recipe": 1, "name": "warm light", "mix": MIX}
WHOLE = {**LEAST, "family": "FLUX.1", "apply": "patch", "mode": "null_space", "settings": {"mu": 0.5, "protect": 2}}


def body(told: Any) -> bytes:
    return json.dumps(told).encode()


def test_what_is_written_is_read() -> None:
    for told in (LEAST, WHOLE, {**LEAST, "name": "光 é", "family": "a b"}):
        assert recipe_as_json(recipe_in(body(told))) == told
        assert read_recipe(recipe_as_json(recipe_in(body(told)))) == recipe_in(body(told))
    assert recipe_in(body(LEAST)) == Recipe("warm light", Mix((Row(FILE, scale=0.5),)))
    assert recipe_in(b"\xef\xbb\xbf" + body(LEAST)) == recipe_in(body(LEAST))


def test_it_is_written_short() -> None:
    told = {**LEAST, "family": " FLUX\n.1\u202e ", "mode": "", "settings": {},
            "mix": {"version": 1, "on": True, "rows": [{"file": FILE, "scale": 0.5, "on": True}]}}  # fmt: skip
    assert recipe_as_json(recipe_in(body(told))) == {**LEAST, "family": "FLUX .1"}


WRONG: list[tuple[Any, str, str]] = [
    (None, "mixer.error_recipe", "found None"),
    ([], "mixer.error_recipe", "found []"),
    (MIX, "mixer.error_recipe", "qr_lora_recipe, name and mix"),
    ({**LEAST, "qr_lora_recipe": 2}, "mixer.error_recipe_version", "expected 1, found 2"),
    ({**LEAST, "qr_lora_recipe": True}, "mixer.error_recipe_version", "found True"),
    ({**LEAST, "names": 1}, "mixer.error_recipe_field", "'names' is not known"),
    ({**LEAST, "mix": None}, "mixer.error_object", "found None"),
    ({**LEAST, "mix": {"version": 1, "rows": [{"file": ""}]}}, "mixer.error_file", "row 1, file"),
    ({**LEAST, "mix": {"version": 1, "rows": [{"file": FILE, "scale": 1e9}]}}, "mixer.error_number", "row 1, scale"),
    ({**LEAST, "family": 3}, "mixer.error_recipe_text", "family"),
    ({**LEAST, "family": "x" * 101}, "mixer.error_recipe_text", "at most 100"),
    ({**LEAST, "apply": "now"}, "mixer.error_recipe_choice", "live, patch"),
    ({**LEAST, "apply": ["live"]}, "mixer.error_recipe_choice", "apply"),
    ({**LEAST, "mode": "evil"}, "mixer.error_recipe_choice", "add, null_space, ties"),
    ({**LEAST, "settings": []}, "mixer.error_recipe_settings", "found []"),
    ({**LEAST, "settings": {"mu": 1}}, "mixer.error_recipe_setting", "'mu' is not known"),
    ({**LEAST, "mode": "ties", "settings": {"mu": 1}}, "mixer.error_recipe_setting", "mode ties has"),
    ({**WHOLE, "settings": {"mu": "1"}}, "mixer.error_recipe_number", "mu"),
    ({**WHOLE, "settings": {"mu": True}}, "mixer.error_recipe_number", "mu"),
    ({**WHOLE, "settings": {"mu": 10**400}}, "mixer.error_recipe_number", "mu"),
    ({**WHOLE, "settings": {"protect": 1.5}}, "mixer.error_recipe_number", "protect"),
    ({**WHOLE, "settings": {"protect": 65}}, "mixer.error_recipe_number", "from 1 to 64"),
    ({**WHOLE, "settings": {"mu": -1}}, "mixer.error_recipe_number", "mu"),
    ({**WHOLE, "settings": {"mu": float("nan")}}, "mixer.error_recipe_number", "mu"),
]  # fmt: skip
NAMES = [
    "", " ", ".", "..", "a/b", "a\\b", "../x", "/x", "C:x", "con", "nul.x", "a:b", "<b>", "a\0", "a\nb", "x" * 252,
    "\ud800", "\u202ex", None, 3, ["x"], "a/", "./a", "日" * 100,
]  # fmt: skip


@pytest.mark.parametrize(("told", "key", "place"), [
    *WRONG, *(({**LEAST, "name": name}, "mixer.error_recipe_name", "recipe, name") for name in NAMES)
])  # fmt: skip
def test_what_is_wrong_is_named(told: Any, key: str, place: str) -> None:
    with pytest.raises(MixError) as error:
        recipe_in(body(told))
    assert error.value.key == key
    assert place in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    "told",
    [
        b"", b"\0", b"{", b"[" * 100_000, b"[" * 900 + b"]" * 900, b'{"a":' * 900 + b"1" + b"}" * 900, b"9" * 5000,
        b"\xff\xfe\x00", b"\x80\x04K\x01.", b"GIF89a", b"<svg>", b"NaN",
        b'{"qr_lora_recipe": 1, "qr_lora_recipe": 1}', b"x" * 2_000_000, b"RIFF\0\0\0\0WAVE", b"PK\x03\x04",
    ],
)  # fmt: skip
def test_what_is_no_recipe_is_refused(told: bytes) -> None:
    with pytest.raises(MixError) as error:
        recipe_in(told)
    assert len(str(error.value)) < 500


# Pictures

MIXER = {"class_type": "QRLoRA_Mixer", "inputs": {"model": ["1", 0], "mix": json.dumps(MIX), "apply": "live"}}
PROMPT = {"1": {"class_type": "UNETLoader", "inputs": {"unet_name": "x"}}, "2": MIXER}


def png(prompt: str, **more: Any) -> bytes:
    told = PngImagePlugin.PngInfo()
    told.add_text("parameters", "a cat")
    told.add_text("prompt", prompt, **more)
    told.add_text("workflow", "{}")
    return drawn("PNG", pnginfo=told)


def drawn(format: str, **more: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, format, **more)
    return file.getvalue()


def with_exif(format: str, tag: int, text: str) -> bytes:
    exif = Image.Exif()
    exif[0x0100] = 8
    exif[tag] = text
    exif[0x9000] = "long enough to lie elsewhere"
    return drawn(format, exif=exif)


def by_the_host(save: str) -> Callable[[str], bytes]:
    """By the host's own helper, which its nodes use."""

    def saved(prompt: str) -> bytes:
        import folder_paths
        import torch
        from comfy_api.latest import _ui

        hidden = type("Hidden", (), {"prompt": json.loads(prompt), "extra_pnginfo": {"workflow": {"nodes": []}}})
        node: Any = type("Node", (), {"hidden": hidden})
        temp = _ui.FolderType.temp
        images, more = torch.zeros(2, 8, 8, 3), {"cls": node, "folder_type": temp, "fps": 6.0}
        options: dict[str, dict[str, Any]] = {
            "save_images": {"cls": node, "folder_type": temp},
            "save_animated_png": {**more, "compress_level": 4},
            "save_animated_webp": {**more, "lossless": True, "quality": 80, "method": 4},
        }  # fmt: skip
        found = getattr(_ui.ImageSaveHelper, save)(images, filename_prefix="recipe", **options[save])
        first = found[0] if isinstance(found, list) else found
        return (Path(folder_paths.get_temp_directory()) / first["subfolder"] / first["filename"]).read_bytes()

    return saved


SAVERS: dict[str, Callable[[str], bytes]] = {
    "png": png,
    "png, compressed": lambda prompt: png(prompt, zip=True),
    "png, international": lambda prompt: drawn("PNG", pnginfo=international(prompt, zip=False)),
    "png, international, compressed": lambda prompt: drawn("PNG", pnginfo=international(prompt, zip=True)),
    "webp": lambda prompt: with_exif("WEBP", 0x0110, f"prompt:{prompt}"),
    "jpeg": lambda prompt: with_exif("JPEG", 0x0110, f"prompt:{prompt}"),
    "jpeg, as others": lambda prompt: with_exif("JPEG", 0x010E, f"Prompt:{prompt}"),
    "webp, as others": lambda prompt: with_exif("WEBP", 0x010F, f"Prompt:{prompt}"),
    "host's png": by_the_host("save_images"),
    "host's png with frames": by_the_host("save_animated_png"),
    "host's webp": by_the_host("save_animated_webp"),
}


def international(prompt: str, *, zip: bool) -> PngImagePlugin.PngInfo:
    told = PngImagePlugin.PngInfo()
    told.add_itxt("prompt", prompt, lang="en", tkey="prompt", zip=zip)
    return told


@pytest.mark.parametrize("saver", SAVERS)
def test_a_picture_gives_the_mix_that_drew_it(saver: str) -> None:
    recipe = recipe_in(SAVERS[saver](json.dumps(PROMPT)), "warm")
    assert recipe_as_json(recipe) == {"qr_lora_recipe": 1, "name": "warm", "apply": "live", "mix": MIX}


def test_with_what_the_node_has_beside() -> None:
    inputs = {**MIXER["inputs"], "mode": "null_space", "mu": 0.5, "protect": ["7", 0], "lambda": 9}
    told = recipe_as_json(recipe_in(png(json.dumps({"2": {**MIXER, "inputs": inputs}}))))
    assert told == {"qr_lora_recipe": 1, "name": "picture", "apply": "live", "mode": "null_space",
                    "settings": {"mu": 0.5}, "mix": MIX}  # fmt: skip


def with_mode(mode: str, **more: Any) -> dict[str, Any]:
    return {"2": {**MIXER, "inputs": {"mix": json.dumps(MIX), "mode": mode, **more}}}


def linked(kind: str, value: Any) -> dict[str, Any]:
    return {"2": {**MIXER, "inputs": {"mix": ["3", 0]}}, "3": {"class_type": kind, "inputs": {"value": value}}}


@pytest.mark.parametrize("kind", ["PrimitiveString", "PrimitiveStringMultiline"])
def test_a_mix_from_a_node_of_text(kind: str) -> None:
    assert recipe_in(png(json.dumps(linked(kind, json.dumps(MIX))))).mix == recipe_in(body(LEAST)).mix


def test_the_first_that_has_a_mix() -> None:
    empty = {"class_type": "QRLoRA_Mixer", "inputs": {}}
    other = {**MIXER, "inputs": {"mix": json.dumps({"version": 1, "rows": []})}}
    prompt = {"9": empty, "8": linked("X", "x")["2"], "5": MIXER, "2": other}
    assert recipe_in(png(json.dumps(prompt))).mix == recipe_in(body(LEAST)).mix


@pytest.mark.parametrize(
    ("prompt", "key"),
    [
        (with_mode("evil"), "mixer.error_recipe_choice"),
        (with_mode("null_space", mu=1e9), "mixer.error_recipe_number"),
        ({}, "mixer.error_picture_mix"),
        ({"1": PROMPT["1"]}, "mixer.error_picture_mix"),
        ({"1": {"class_type": "QRLoRA_Mixer", "inputs": {}}}, "mixer.error_picture_mix"),
        ([], "mixer.error_picture_mix"),
        ("x", "mixer.error_picture_mix"),
        ({"1": None, "2": 3, "3": [], "4": {"class_type": ["QRLoRA_Mixer"]}, "5": {}}, "mixer.error_picture_mix"),
        ({"2": {"class_type": "QRLoRA_Mixer", "inputs": [1]}}, "mixer.error_picture_mix"),
        (linked("Concatenate", json.dumps(MIX)), "mixer.error_picture_linked"),
        (linked("PrimitiveString", ["9", 0]), "mixer.error_picture_linked"),
        (linked("PrimitiveString", 3), "mixer.error_picture_linked"),
        ({"2": {**MIXER, "inputs": {"mix": ["2", 0]}}}, "mixer.error_picture_linked"),
        ({"2": {**MIXER, "inputs": {"mix": [["2"], {}]}}}, "mixer.error_picture_linked"),
        ({"2": {**MIXER, "inputs": {"mix": "{"}}}, "mixer.error_json"),
    ],
)  # fmt: skip
def test_a_picture_without_a_mix_says_so(prompt: Any, key: str) -> None:
    with pytest.raises(MixError) as error:
        recipe_in(png(json.dumps(prompt)))
    assert error.value.key == key


@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG"])
def test_a_picture_that_tells_nothing(format: str) -> None:
    for picture in (drawn(format), b"" if format == "PNG" else with_exif(format, 0x0110, "A camera")):
        if picture:
            with pytest.raises(MixError) as error:
                recipe_in(picture)
            assert error.value.key == "mixer.error_picture_without"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


HEAD = b"\x89PNG\r\n\x1a\n"
BOMB = zlib.compress(b" " * 200_000_000)
EXIF = b"II*\0"
HOSTILE = [
    HEAD, HEAD + b"\0", HEAD + b"\xff" * 8, HEAD + b"\0\0\0\0tEXt" * 200_000, HEAD + chunk(b"tEXt", b"prompt"),
    HEAD + chunk(b"tEXt", b"prompt\0"), HEAD + chunk(b"zTXt", b"prompt\0\0"), HEAD + chunk(b"zTXt", b"prompt\0\0xyz"),
    HEAD + chunk(b"zTXt", b"prompt\0\0" + BOMB), HEAD + chunk(b"iTXt", b"prompt\0\1\0\0\0" + BOMB),
    HEAD + chunk(b"iTXt", b"prompt\0"), HEAD + chunk(b"iTXt", b"prompt\0\1\0"),
    HEAD + chunk(b"tEXt", b"prompt\0" + b"[" * 100_000),
    HEAD + chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 16, 6, 0, 0, 0)),
    HEAD + struct.pack(">I4s", 2**32 - 1, b"tEXt") + b"prompt\0{}",
    b"\xff\xd8\xff", b"\xff\xd8\xff\xe1", b"\xff\xd8\xff\xe1\0\0", b"\xff\xd8\xff\xe1\xff\xffExif\0\0" + EXIF,
    b"\xff\xd8" + b"\xff\xe0\0\2" * 200_000, b"\xff\xd8\xff\xe1\0\x10Exif\0\0" + EXIF + b"\xff\xff\xff\xff",
    b"RIFF\0\0\0\0WEBP", b"RIFF\0\0\0\0WEBP" + b"EXIF\xff\xff\xff\xff", b"RIFF\0\0\0\0WEBPEXIF\x08\0\0\0II*\0\0\0\0\0",
    b"RIFF\0\0\0\0WEBP" + b"ABCD\0\0\0\0" * 200_000, b"RIFF\0\0\0\0WEBPEXIF\x0c\0\0\0" + EXIF + b"\x08\0\0\0\xff\xff",
]  # fmt: skip


@pytest.mark.parametrize("picture", HOSTILE)
def test_no_picture_harms(picture: bytes) -> None:
    """Refused, with little memory, and nothing else read."""
    tracemalloc.start()
    try:
        with opened() as files, pytest.raises(MixError):
            recipe_in(picture)
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()
    assert files == []


@pytest.mark.parametrize("saver", SAVERS)
def test_torn_pictures(saver: str) -> None:
    """Read or refused."""
    whole, chance = SAVERS[saver](json.dumps(PROMPT)), random.Random(3)
    for _ in range(300):
        torn = bytearray(whole[: chance.randrange(len(whole))] if chance.random() < 0.3 else whole)
        for _ in range(chance.randrange(6)):
            if torn:
                torn[chance.randrange(len(torn))] = chance.randrange(256)
        try:
            recipe = recipe_in(bytes(torn))
        except MixError:
            continue
        assert read_recipe(recipe_as_json(recipe)) == recipe


def test_text_in_latin_1() -> None:
    """As some savers write names that are not in ASCII."""
    prompt = json.dumps({"1": {"class_type": "X", "inputs": {"text": "café"}}, "2": MIXER}, ensure_ascii=False)
    assert recipe_in(png(prompt)).mix == recipe_in(body(LEAST)).mix
