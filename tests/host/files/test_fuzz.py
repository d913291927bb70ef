"""Thousands of broken adapter files through the Load node: each loads, or says in our own words what is wrong.

One that loads in part names what is left out.

No crash, no hang, no memory beyond the file and a little; and a server that is given such files goes on serving.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pickle
import random
import resource
import shutil
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from comfyui_qr_lora.nodes.host.files.folders import output_folder, register_folders
from comfyui_qr_lora.nodes.host.model.bases import basis_store
from comfyui_qr_lora.nodes.load import Load
from comfyui_qr_lora.qrlora_core import (
    BasisStore,
    Layer,
    QRLoRA,
    QRLoRAError,
    Term,
    TrainingState,
    load_adapter,
    merge,
    save_adapter,
    save_training,
)
from comfyui_qr_lora.qrlora_core.files.compact import BASIS_IDS
from comfyui_qr_lora.qrlora_core.files.peft_settings import PEFT_SETTINGS
from devtools.server import PromptError, Server

FEWEST, LONGEST_SECONDS, ROOM = 2000, 2.0, 64 * 2**20
SEED = 20250704
OUT, RANK, WIDTH = 12, 4, 10
PATHS = ("transformer.blocks.0.attn.to_q", "transformer.blocks.1.attn.to_k")
# In part: refused, or loaded with a note that names what is left out of it.
REFUSED, EITHER, LOADED, IN_PART = "refused", "either", "loaded", "in part"


# The good files -------------------------------------------------------------------------------------------------------


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def term(seed: int) -> Term:
    """On one basis, with R."""
    q = torch.linalg.qr(normal(OUT, RANK, seed=1)).Q
    return Term(q, normal(RANK, WIDTH, seed=seed), 2.0, normal(RANK, WIDTH, seed=9))


def good_files(folder: Path, bases: BasisStore) -> dict[str, Path]:
    """A small file of every kind, whose layers have sides that all differ."""
    folder.mkdir(parents=True)
    full = QRLoRA({path: Layer((term(seed),)) for seed, path in enumerate(PATHS)}, {"qr_lora.training": '{"steps": 3}'})
    variant = {}
    for path, layer in full.layers.items():
        (first,) = layer.terms
        assert first.base_r is not None
        moved = Term(normal(OUT, RANK, seed=5), first.base_r + first.delta_r, first.alpha)
        variant[path] = Layer((first, moved))
    other = Layer((Term(torch.linalg.qr(normal(OUT, 3, seed=2)).Q, normal(3, WIDTH, seed=3)),))
    merged = merge([(full, 0.5), (QRLoRA({PATHS[0]: other}), 1.0)])
    state = {"optimizer.a": torch.arange(5.0), "random": torch.arange(16, dtype=torch.uint8)}
    up, down, alpha = normal(OUT, RANK, seed=1), normal(RANK, WIDTH, seed=2), torch.tensor(2.0)
    loras = {
        "kohya": {"lora_unet_a.lora_up.weight": up, "lora_unet_a.lora_down.weight": down, "lora_unet_a.alpha": alpha},
        "diffusers": {"unet.a.processor.to_q_lora.up.weight": up, "unet.a.processor.to_q_lora.down.weight": down},
        "peft": {f"{PATHS[0]}.lora_B.default.weight": up, f"{PATHS[0]}.lora_A.default.weight": down},
        "tucker": {
            "lora_unet_conv.lora_up.weight": up.reshape(OUT, RANK, 1, 1),
            "lora_unet_conv.lora_mid.weight": normal(RANK, RANK, 3, 3, seed=3),
            "lora_unet_conv.lora_down.weight": down.reshape(RANK, WIDTH, 1, 1),
        },
    }
    loras |= {kind: {f"lora_unet_a.{part}": tensor for part, tensor in own.items()} for kind, own in kinds().items()}
    files = {kind: folder / f"{kind}.safetensors" for kind in ("full", "qr", "merged", "compact", "training", *loras)}
    save_adapter(full, files["full"])
    save_adapter(QRLoRA(variant), files["qr"])
    save_adapter(merged, files["merged"])
    save_adapter(full, files["compact"], format="compact", dtype=torch.float32, bases=bases)
    for kind in [*kinds()]:
        save_file({name: tensor.clone() for name, tensor in loras[kind].items()}, files[kind])
        files[f"full {kind}"] = folder / f"full {kind}.safetensors"
        save_adapter(load_adapter(files[kind]), files[f"full {kind}"])
    save_training(TrainingState(full, state, {"updates": 3}), files["training"])
    for kind, tensors in loras.items():
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, files[kind], metadata={"note": "x"})
    return files


def kinds() -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of a layer of every other kind, by how their keys end."""
    left, right = normal(3, 2, seed=1), normal(4, 5, seed=2)
    tucker = {
        "lokr_w2_a": normal(2, 4, seed=3),
        "lokr_w2_b": normal(2, 5, seed=4),
        "lokr_t2": normal(2, 2, 3, 3, seed=5),
    }
    lokr = {
        "lokr_w1": left,
        "lokr_w2_a": normal(4, 2, seed=3),
        "lokr_w2_b": normal(2, 5, seed=4),
        "alpha": torch.ones(()),
    }
    up, down = normal(OUT, RANK, seed=1), normal(RANK, WIDTH, seed=2)
    lora = {"lora_up.weight": up, "lora_down.weight": down}
    glora = {f"{name}.weight": factor for name, factor in zip(("b1", "b2"), (up, down), strict=True)}
    glora |= {"a1.weight": normal(WIDTH, RANK, seed=3), "a2.weight": normal(RANK, WIDTH, seed=4)}
    halves = {f"hada_w{side}_{part}": factor for side in (1, 2) for part, factor in (("a", up), ("b", down))}
    return {
        "lokr": lokr, "whole lokr": {"lokr_w1": left, "lokr_w2": right}, "loha": halves, "glora": glora,
        "tucker lokr": {"lokr_w1": left, **tucker}, "dora": {**lora, "dora_scale": normal(1, WIDTH, seed=3)},
        "dora lokr": {**lokr, "dora_scale": normal(OUT, 1, seed=3)},
        "peft dora": {**lora, "lora_magnitude_vector": normal(OUT, seed=3)},
        "oft": {"oft_blocks": normal(3, 4, 4, seed=1), "rescale": normal(OUT, 1, seed=2)},
        "ia3": {"weight": normal(OUT, seed=1), "on_input": torch.ones(())},
        "boft": {"oft_blocks": normal(1, 3, 4, 4, seed=1), "rescale": normal(OUT, 1, seed=2)},
        "replaced": {"set_weight": normal(OUT, WIDTH, seed=1), "diff_b": normal(OUT, seed=2)},
    }  # fmt: skip


@dataclass
class Parsed:
    """A good file, taken apart."""

    kind: str
    raw: bytes
    header: dict[str, Any] = field(init=False)
    data: bytes = field(init=False)

    def __post_init__(self) -> None:
        length = int.from_bytes(self.raw[:8], "little")
        self.header = json.loads(self.raw[8 : 8 + length])
        self.data = self.raw[8 + length :]

    def names(self) -> list[str]:
        """The tensors of the adapter."""
        return [name for name in self.header if name != "__metadata__" and not name.startswith("training_state.")]

    def matrices(self) -> list[str]:
        """Those that are no single number or name, whose dtype and shape are free."""
        return [name for name in self.names() if not name.endswith(("alpha", ".scale", ".kind", ".on_input"))]

    def changed(self, name: str, **entries: Any) -> bytes:
        """The file with another entry for one tensor."""
        header = {**self.header, name: {**self.header[name], **entries}}
        return packed(header, self.data)


def packed(header: Any, data: bytes = b"") -> bytes:
    """A safetensors file; the header as JSON, or as text."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


# What is done to them -------------------------------------------------------------------------------------------------

Mutation = Callable[[random.Random, Parsed], bytes]
MUTATIONS: dict[str, tuple[Mutation, str, int]] = {}


def mutation(expected: str, count: int) -> Callable[[Mutation], Mutation]:
    """Register one: what must come of it, and how many files per good one."""

    def register(function: Mutation) -> Mutation:
        MUTATIONS[function.__name__] = (function, expected, count)
        return function

    return register


@mutation(LOADED, 1)
def untouched(rng: random.Random, good: Parsed) -> bytes:
    """So the rest can fail: what is mutated would load."""
    return good.raw


@mutation(REFUSED, 16)
def truncated(rng: random.Random, good: Parsed) -> bytes:
    return good.raw[: rng.randrange(len(good.raw))]


@mutation(REFUSED, 3)
def lengthened(rng: random.Random, good: Parsed) -> bytes:
    return good.raw + rng.randbytes(rng.choice([1, 8, 1000]))


@mutation(REFUSED, 10)
def header_length(rng: random.Random, good: Parsed) -> bytes:
    size = len(good.raw)
    right = int.from_bytes(good.raw[:8], "little")
    wrong = [
        0,
        1,
        2**64 - 1,
        2**63,
        2**32,
        size - 7,
        size,
        10**8,
        33 * 2**20,
        right - 1,
        right + 8,
        rng.randrange(2**64),
    ]
    return rng.choice([value for value in wrong if value != right]).to_bytes(8, "little") + good.raw[8:]


@mutation(IN_PART, 12)
def dtype(rng: random.Random, good: Parsed) -> bytes:
    names = [
        "I32",
        "U32",
        "F64",
        "F16",
        "BF16",
        "I64",
        "U8",
        "BOOL",
        "F8_E4M3",
        "F8_E8M0",
        "F4",
        "C64",
        "",
        "f32",
        "F33",
    ]
    wrong: list[Any] = [*names, None, 5, ["F32"], {"F32": 1}, "F" * 10**5]
    return good.changed(rng.choice(good.matrices()), dtype=rng.choice(wrong))


@mutation(REFUSED, 14)
def offsets(rng: random.Random, good: Parsed) -> bytes:
    """Negative, overlapping, reversed, beyond the end, and what is no pair of numbers."""
    name = rng.choice(good.matrices())
    start, end = good.header[name]["data_offsets"]
    other = rng.choice(
        [entry["data_offsets"] for key, entry in good.header.items() if key not in (name, "__metadata__")]
    )
    wrong: list[Any] = [
        *(
            [-4, end - start - 4],
            [-(2**63), 0],
            [end, start],
            [start + 1, end + 1],
            [start - 4, end - 4],
            [start, start],
        ),
        *(
            [start, end + 4],
            [start + 4, end],
            other,
            [2**63, 2**63 + end - start],
            [2**64 - 4, 2**64],
            [10**30, 10**30],
        ),
        *([start], [start, end, end], [], None, "0", 0.5, [float(start) + 0.5, end], [[start], end], {"start": start}),
    ]
    return good.changed(name, data_offsets=rng.choice([value for value in wrong if value != [start, end]]))


@mutation(REFUSED, 5)
def holes(rng: random.Random, good: Parsed) -> bytes:
    """A gap in the data that no tensor covers, in which anything might be hidden."""
    cut = rng.choice([entry["data_offsets"][0] for name, entry in good.header.items() if name != "__metadata__"])
    gap = rng.choice([4, 64, 4096])
    header: dict[str, Any] = {}
    for name, entry in good.header.items():
        shift = gap if name != "__metadata__" and entry["data_offsets"][0] >= cut else 0
        moved = {"data_offsets": [place + shift for place in entry["data_offsets"]]} if shift else {}
        header[name] = {**entry, **moved}
    return packed(header, good.data[:cut] + bytes(gap) + good.data[cut:])


@mutation(REFUSED, 6)
def duplicates(rng: random.Random, good: Parsed) -> bytes:
    """One name twice, also spelt otherwise; JSON readers take the last."""
    name = rng.choice(good.matrices())
    again = rng.choice([json.dumps(name), '"' + "".join(f"\\u{ord(letter):04x}" for letter in name) + '"'])
    entry = json.dumps(good.header[rng.choice([name, rng.choice(good.matrices())])])
    text = json.dumps(good.header)
    parts = [f"{{{again}: {entry}, {text[1:]}", f"{text[:-1]}, {again}: {entry}}}"]
    return packed(rng.choice(parts).encode(), good.data)


def renamed(good: Parsed, change: Callable[[str], str]) -> bytes:
    """All tensors of the adapter under other names, and in the metadata too."""
    text = dict(good.header.get("__metadata__", {}))
    if BASIS_IDS in text:
        text[BASIS_IDS] = json.dumps({change(path): name for path, name in json.loads(text[BASIS_IDS]).items()})
    names = {name: change(name) if name in good.names() else name for name in good.header}
    header = {names[name]: entry for name, entry in good.header.items() if name != "__metadata__"}
    return packed({**({"__metadata__": text} if text else {}), **header}, good.data)


@mutation(LOADED, 5)
def names_like_paths(rng: random.Random, good: Parsed) -> bytes:
    """They are names of layers and lead nowhere."""
    prefix = rng.choice(
        ["../../../", "/etc/", "C:\\", "\\\\server\\", "~/", "%2e%2e/", "CON.", "<img src=x onerror=y>", "猫."]
    )
    return renamed(good, lambda name: prefix + name)


@mutation(REFUSED, 8)
def names_to_mislead(rng: random.Random, good: Parsed) -> bytes:
    """NUL, control and bidirectional characters, and a megabyte."""
    prefix = rng.choice(
        ["\0", "a\0b", "\x1b[31m", "\n", "\r\n", "\u202e", "\u2066", "\u200b\u2028", "x" * 10**6, "\ufeff"]
    )
    return renamed(good, lambda name: prefix + name)


@mutation(IN_PART, 5)
def names_of_no_layer(rng: random.Random, good: Parsed) -> bytes:
    """One tensor under a name that says nothing."""
    name = rng.choice(good.matrices())
    new = rng.choice(["", ".", "..", "/", "a", "lora", ".lora", "__metadata_", name + " ", name + ".", name.upper()])
    header = {new if key == name else key: entry for key, entry in good.header.items()}
    return packed(header, good.data)


@mutation(IN_PART, 10)
def not_finite(rng: random.Random, good: Parsed) -> bytes:
    name = rng.choice([name for name in good.names() if good.header[name]["dtype"] in ("F32", "F64")])
    start, end = good.header[name]["data_offsets"]
    code = {"F32": "<f", "F64": "<d"}[good.header[name]["dtype"]]
    value = struct.pack(code, rng.choice([float("nan"), float("inf"), float("-inf")]))
    place = start + len(value) * rng.randrange((end - start) // len(value))
    return packed(good.header, good.data[:place] + value + good.data[place + len(value) :])


@mutation(IN_PART, 12)
def gigantic_shapes(rng: random.Random, good: Parsed) -> bytes:
    name = rng.choice(good.matrices())
    start, end = good.header[name]["data_offsets"]
    count = (end - start) // 4
    shapes: list[Any] = [
        *([2**40, 2**40], [2**62], [2**63], [2**64], [10**30], [2**31, 2**33], [-1, -count], [-1], [count + 1], [0]),
        *(
            [1] * 5000 + [count],
            [count, 1, 0.5],
            [str(count)],
            None,
            count,
            {"0": count},
            [[count]],
            [count] + [1] * 70,
        ),
        *([2**32, 2**32, count], [10**9, 10**9], []),
    ]
    return good.changed(name, shape=rng.choice(shapes))


@mutation(IN_PART, 4)
def gigantic_and_empty(rng: random.Random, good: Parsed) -> bytes:
    """No numbers, of enormous sides."""
    name = rng.choice(good.matrices())
    shape = rng.choice([[0, 2**40], [2**62, 0], [0], [2**31, 0, 2**31], [0] * 2000])
    header = {key: entry for key, entry in good.header.items() if key != "__metadata__"}
    at, size = header[name]["data_offsets"][0], header[name]["data_offsets"][1] - header[name]["data_offsets"][0]
    for key, entry in header.items():
        moved = [place - size if place > at else place for place in entry["data_offsets"]]
        header[key] = {**entry, "data_offsets": moved}
    header[name] = {**header[name], "shape": shape, "data_offsets": [at, at]}
    kept = {"__metadata__": good.header["__metadata__"]} if "__metadata__" in good.header else {}
    return packed({**kept, **header}, good.data[:at] + good.data[at + size :])


@mutation(EITHER, 40)
def flips_in_the_header(rng: random.Random, good: Parsed) -> bytes:
    content = bytearray(good.raw)
    for _ in range(rng.choice([1, 1, 1, 2, 5, 20])):
        content[rng.randrange(len(content) - len(good.data))] ^= 1 << rng.randrange(8)
    return bytes(content)


@mutation(EITHER, 20)
def flips_in_the_data(rng: random.Random, good: Parsed) -> bytes:
    content = bytearray(good.raw)
    for _ in range(rng.choice([1, 1, 5, 50])):
        content[len(content) - 1 - rng.randrange(len(good.data))] ^= 1 << rng.randrange(8)
    return bytes(content)


@mutation(EITHER, 10)
def bytes_moved(rng: random.Random, good: Parsed) -> bytes:
    """Removed, put in, or copied from elsewhere."""
    content = bytearray(good.raw)
    place, length = rng.randrange(len(content)), rng.randrange(1, 30)
    source = rng.randrange(len(content))
    content[place : place + rng.choice([0, length])] = rng.choice(
        [b"", rng.randbytes(length), content[source : source + length]]
    )
    return bytes(content)


@mutation(REFUSED, 5)
def deep_nesting(rng: random.Random, good: Parsed) -> bytes:
    depth = rng.choice([200, 10**4, 10**6])
    nested = rng.choice(["[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth, "[" * depth])
    text = json.dumps(good.header)
    name = json.dumps(rng.choice(good.matrices()))
    places = [
        f'{{"x": {nested}, {text[1:]}',
        nested,
        f'{{"__metadata__": {nested}}}',
        text.replace(f"{name}: {{", f"{name}: {{{nested}"),
    ]
    return packed(rng.choice(places).encode(), good.data)


@mutation(REFUSED, 6)
def metadata_of_other_types(rng: random.Random, good: Parsed) -> bytes:
    wrong: list[Any] = [5, "x", [], [1], {"a": 1}, {"a": None}, {"a": {"b": "c"}}, {"a": ["x"]}, True, {"a": 1.5}]
    return packed({**good.header, "__metadata__": rng.choice(wrong)}, good.data)


def with_metadata(good: Parsed, **more: str) -> bytes:
    return packed({**good.header, "__metadata__": {**good.header.get("__metadata__", {}), **more}}, good.data)


NONSENSE = [
    "",
    "5",
    "null",
    "true",
    "[1]",
    '"x"',
    "{",
    "[" * 10**5,
    "9" * 10**4,
    '{"a": NaN}',
    "\0",
    "\u202e",
    "x" * 10**6,
]


@mutation(LOADED, 12)
def nonsense_in_metadata(rng: random.Random, good: Parsed) -> bytes:
    """What other programs wrote, or anybody: shown, or left out, but never a reason not to load."""
    keys = [
        *["qr_lora.training"] * 5,
        "qr_lora.base_fingerprint",
        "qr_lora.merge",
        "qr_lora.rank",
        "qr_lora.base_model",
        "name",
    ]
    keys += [
        PEFT_SETTINGS,
        "format",
        "ss_tag_frequency",
        "modelspec.title",
        "qr_lora.training_state",
        "\u202e",
        "x" * 10**5,
    ]
    return with_metadata(good, **{rng.choice(keys): rng.choice(NONSENSE)})


@mutation(LOADED, 5)
def nonsense_in_settings(rng: random.Random, good: Parsed) -> bytes:
    """JSON of the right form, with values of wrong types."""
    wrong = rng.choice([None, True, [], {}, "x", -1, 1e308, 10**300, "\u202e", ["x"] * 1000, {"a": {"b": [1]}}])
    names = [
        "variant",
        "learning_rate",
        "steps",
        "steps_done",
        "first_loss",
        "last_loss",
        "images",
        "optimizer",
        "timesteps",
    ]
    return with_metadata(good, **{"qr_lora.training": json.dumps(dict.fromkeys(names, wrong))})


@mutation(REFUSED, 2)
def newer_versions(rng: random.Random, good: Parsed) -> bytes:
    return with_metadata(good, **{"qr_lora.format_version": rng.choice([*NONSENSE, "2", "01", "1 ", "1.0"])})


@mutation(IN_PART, 5)
def swapped_keys(rng: random.Random, good: Parsed) -> bytes:
    """Two parts of one layer under each other's name; their sides differ."""
    pairs = [
        (one, two)
        for one in good.matrices()
        for two in good.matrices()
        if good.header[one]["shape"] != good.header[two]["shape"] and one.split(".lora")[0] == two.split(".lora")[0]
    ]
    pairs = pairs or [tuple(good.names()[:2])]  # type: ignore[list-item]
    one, two = rng.choice(pairs)
    swap = {one: two, two: one}
    return packed({swap.get(name, name): entry for name, entry in good.header.items()}, good.data)


@mutation(EITHER, 4)
def without_a_tensor(rng: random.Random, good: Parsed) -> bytes:
    """Some are optional."""
    gone = rng.choice(good.names())
    start, end = good.header[gone]["data_offsets"]
    header = {name: dict(entry) for name, entry in good.header.items() if name != gone}
    for name, entry in header.items():
        if name != "__metadata__":
            entry["data_offsets"] = [place - (end - start) * (place >= end) for place in entry["data_offsets"]]
    return packed(header, good.data[:start] + good.data[end:])


@mutation(IN_PART, 4)
def with_a_tensor_more(rng: random.Random, good: Parsed) -> bytes:
    endings = [
        ".dora_scale",
        ".hada_w1_a",
        ".lokr_w1",
        ".weight",
        ".lora.0.q.weight",
        ".lora.q",
        ".reshape_weight",
        ".lora_up.bias",
    ]
    size = len(good.data)
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [size, size + 4]}
    return packed({**good.header, f"{PATHS[0]}{rng.choice(endings)}": entry}, good.data + bytes(4))


@mutation(REFUSED, 2)
def many_empty_tensors(rng: random.Random, good: Parsed) -> bytes:
    count = rng.choice([30_000, 100_000])
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [len(good.data)] * 2}
    ending = rng.choice([".lora_up.weight", ".x", ".lora.q.weight", ".lora_compact.sketch"])
    names = (f"layer{number}{ending}" for number in range(count))
    return packed({**good.header, **dict.fromkeys(names, entry)}, good.data)


@mutation(REFUSED, 3)
def pickles(rng: random.Random, good: Parsed) -> bytes:
    """Under the name of a safetensors file. Unpickling one would end the process."""

    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[int]]:
            return os._exit, (66,)

    if rng.random() < 0.5:
        return pickle.dumps({"a": Bomb()}, protocol=rng.randrange(6))
    buffer = io.BytesIO()
    torch.save({"a": Bomb()}, buffer, _use_new_zipfile_serialization=rng.random() < 0.5)
    return buffer.getvalue()


@mutation(REFUSED, 3)
def other_content(rng: random.Random, good: Parsed) -> bytes:
    kinds = [b"", b"\0", b"{}", bytes(100), b"GGUF" + bytes(60), b"\x89PNG\r\n\x1a\n" + bytes(60), b"<html></html>" * 9]
    return rng.choice(
        [*kinds, rng.randbytes(rng.randrange(1, 3000)), b"PK\x03\x04" + rng.randbytes(50), packed({}), packed([])]
    )


@mutation(REFUSED, 3)
def tucker_bombs(rng: random.Random, good: Parsed) -> bytes:
    """A few kilobytes that multiply out to gigabytes, in one layer or in many."""
    layers, side, width, dtype_name, item = rng.choice(
        [
            (1, 512, 2**14, "F32", 4),
            (200, 32, 2**11, "F16", 2),
            (60, 64, 2**10, "F8_E4M3", 1),
            (1, 2**10, 2**20, "F8_E4M3", 1),
        ]
    )
    header: dict[str, Any] = {}
    place = 0
    for number in range(layers):
        for part, shape in (("up", [3, 1, 1, 1]), ("mid", [1, 1, side, side]), ("down", [1, width, 1, 1])):
            size = item * max(shape) * (side if part == "mid" else 1)
            name = f"lora_unet_{number}.lora_{part}.weight"
            header[name] = {"dtype": dtype_name, "shape": shape, "data_offsets": [place, place + size]}
            place += size
    return packed(header, bytes(place))


# Through the node -----------------------------------------------------------------------------------------------------


def mutated(goods: list[Parsed], *, share: float = 1.0) -> Iterator[tuple[str, str, bytes]]:
    """(mutation and kind, what must come of it, content), the same every time."""
    for name, (function, expected, count) in MUTATIONS.items():
        for good in goods:
            rng = random.Random(f"{SEED} {name} {good.kind}")
            own_share = share * (0.2 if good.kind.removeprefix("full ") in kinds() else 1.0)  # there are many of them
            for _ in range(max(1, round(count * own_share))):
                # The two sides of a Kronecker product are any, and as well each other's.
                told = EITHER if "lokr" in good.kind and function is swapped_keys else expected
                yield f"{name} {good.kind}", told, function(rng, good)


class Memory:
    """The most memory that a piece of code took beyond what there was; where not Linux, beyond all before."""

    _STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def __init__(self) -> None:
        self._exact = os.access(self._RESET, os.W_OK)

    def start(self) -> None:
        if self._exact:
            self._RESET.write_text("5")
        self._before = self._peak()

    def taken(self) -> int:
        return self._peak() - self._before

    def _peak(self) -> int:
        if not self._exact:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        line = next(line for line in self._STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024


@dataclass
class Outcome:
    """What became of one file."""

    loaded: bool
    seconds: float
    memory: int
    message: str
    note: str = ""


def load(path: Path, memory: Memory) -> Outcome:
    """Through the node, once more where it seemed slow; anything but our own error is let through.

    A busy machine makes one load slow; a file that hangs the node does so every time.
    """
    found = load_once(path, memory)
    for _ in range(3):
        if found.seconds > LONGEST_SECONDS:
            found = dataclasses.replace(found, seconds=load_once(path, memory).seconds)
    return found


def load_once(path: Path, memory: Memory) -> Outcome:
    memory.start()
    start = time.thread_time()
    try:
        adapter = Load.execute(f"output/qr_loras/{path.parent.name}/{path.name}").args[0]
        message, loaded, note = "", True, adapter.origin.not_loaded
    except QRLoRAError as error:
        message, loaded, note = str(error), False, ""
    seconds, taken = time.thread_time() - start, memory.taken()
    if loaded:
        assert adapter.layers
        for layer_path, part in adapter.terms():
            assert part.is_finite(), layer_path
            assert part.delta_weight().ndim >= 2, layer_path
    return Outcome(loaded, seconds, taken, message, note)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    register_folders()
    path = output_folder() / "fuzz"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def goods(tmp_path_factory: pytest.TempPathFactory) -> list[Parsed]:
    with basis_store() as bases:
        paths = good_files(tmp_path_factory.mktemp("good") / "files", bases)
    return [Parsed(kind, path.read_bytes()) for kind, path in paths.items()]


def faults(name: str, expected: str, path: Path, size: int, found: Outcome) -> list[str]:
    """What is wrong with an outcome, in words."""
    said = found.message or found.note
    wrong = {
        f"took {found.seconds:.1f} s": found.seconds > LONGEST_SECONDS,
        f"took {found.memory / 2**20:.0f} MB for {size} bytes": found.memory > size + ROOM,
        f"was loaded, expected {expected}": found.loaded and expected == REFUSED,
        f"was refused, expected {expected}: {said[:300]}": not found.loaded and expected == LOADED,
        "was loaded in part without a word": found.loaded and expected == IN_PART and not found.note,
        f"left out, expected all: {said[:300]}": found.loaded and expected == LOADED and bool(found.note),
        f"does not name the file: {said[:300]}": not found.loaded and path.name not in said,
        f"says too much ({len(said)})": len(said) > 2000,
        f"says what cannot be shown: {said[:300]!r}": not said.isprintable(),
    }
    return [f"{name} ({path.name}): {fault}" for fault, is_so in wrong.items() if is_so]


def test_thousands_of_broken_files_load_or_say_what_is_wrong(goods: list[Parsed], folder: Path) -> None:
    memory, wrong, counts = Memory(), [], Counter[str]()
    by_mutation: dict[str, set[bool]] = {}
    for number, (name, expected, content) in enumerate(mutated(goods)):
        path = folder / f"{number}.safetensors"
        path.write_bytes(content)
        try:
            found = load(path, memory)
        except Exception as error:
            wrong.append(f"{name} ({path.name}): {type(error).__name__}: {str(error)[:300]}")
            continue
        finally:
            path.unlink()
        counts["loaded" if found.loaded else "refused"] += 1
        by_mutation.setdefault(name.split()[0], set()).add(found.loaded)
        wrong += faults(name, expected, path, len(content), found)
    assert not wrong, f"{len(wrong)} faults, such as:\n" + "\n".join(wrong[:20])
    assert counts.total() >= FEWEST
    assert min(counts["loaded"], counts["refused"]) > 200, counts
    # Those that may go either way do go both.
    open_ones = {name for name, (_, expected, _) in MUTATIONS.items() if expected in (EITHER, IN_PART)}
    assert {name: by_mutation[name] for name in open_ones if by_mutation[name] != {True, False}} == {}
    assert not [path for path in folder.iterdir() if path.name != "x"]


def test_what_is_no_file(folder: Path, goods: list[Parsed]) -> None:
    """Folders, links in circles and to elsewhere, pipes, names that no system has."""
    (folder / "folder.safetensors").mkdir()
    with contextlib.suppress(OSError, NotImplementedError):
        (folder / "circle.safetensors").symlink_to(folder / "circle.safetensors")
        (folder / "away.safetensors").symlink_to("/etc/passwd")
        (folder / "gone.safetensors").symlink_to(folder / "nothing")
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.safetensors")
    names = [f"{kind}.safetensors" for kind in ("folder", "circle", "away", "gone", "pipe", "never was")]
    names += [
        "..",
        "../../x.safetensors",
        "a\0b.safetensors",
        "x" * 300,
        "x" * 10**6,
        "\u202e.safetensors",
        "C:\\x",
        "",
    ]
    for name in names:
        start = time.thread_time()
        with pytest.raises(QRLoRAError) as caught:
            Load.execute(f"output/qr_loras/fuzz/{name}")
        assert time.thread_time() - start < LONGEST_SECONDS
        assert len(name) > 255 or Path(name).name in str(caught.value) or repr(name)[1:-1] in str(caught.value), name
    (folder / "good.safetensors").write_bytes(goods[0].raw)
    assert load(folder / "good.safetensors", Memory()).loaded


# Through a server -----------------------------------------------------------------------------------------------------


def loading(name: str) -> dict[str, Any]:
    """A prompt that loads one file."""
    return {
        "1": {"class_type": "QRLoRA_Load", "inputs": {"adapter_name": f"output/qr_loras/{name}"}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }


@pytest.mark.server
@pytest.mark.slow
def test_a_server_goes_on_serving(server: Server) -> None:
    folder = server.output_dir / "qr_loras"
    files = good_files(folder / "good", BasisStore(server.models_dir / "qr_lora_bases"))
    refused = [(name, expected) for name, (_, expected, _) in MUTATIONS.items() if expected == REFUSED]
    chosen = ["full", "compact", "kohya"]
    parsed = {kind: Parsed(kind, files[kind].read_bytes()) for kind in chosen}
    tried = 0
    for number, (name, _) in enumerate(refused):
        for kind in chosen:
            rng = random.Random(f"{SEED} server {name} {kind}")
            path = folder / f"{name}_{kind}.safetensors"
            path.write_bytes(MUTATIONS[name][0](rng, parsed[kind]))
            with pytest.raises(PromptError) as caught:
                server.queue(loading(path.name))
            assert "AdapterFileError" in str(caught.value) or "AdapterError" in str(caught.value), (name, kind)
            assert path.name in str(caught.value)
            tried += 1
        if number % 4 == 0:
            good = list(files.values())[number // 4 % len(files)]
            assert server.queue(loading(f"good/{good.name}"))["outputs"]["2"]["text"], good
    assert tried >= 40
    for good in files.values():
        again = folder / f"again_{good.name}"  # what was served before is cached
        shutil.copy(good, again)
        assert server.queue(loading(again.name))["outputs"]["2"]["text"]
