"""Make the example workflows that the editor opens, and their pictures: `python -m generators.workflows [--pictures]`.

What is written by hand in `example_workflows` is a prompt in API form (`api/NAME.json`, nodes with `_meta.title`) and a
note for whoever opens it (`notes/NAME.md`). The editor's form, `NAME.json`, is generated: nodes stand in columns from
left to right, each as close to what it feeds as can be, in the order of the prompt. The picture, `NAME.jpg`, is what
the prompt draws with the playground's model.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from devtools.environment import ROOT
from devtools.server import Server

if TYPE_CHECKING:
    from PIL.Image import Image

Prompt = dict[str, Any]
FOLDER = ROOT / "example_workflows"
PLAYGROUND = "qrlora_playground.safetensors"
_WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}

_TITLE, _SLOT, _WIDGET, _TEXT, _MARGIN = 30, 20, 24, 76, 20  # heights of a node's parts
_COLUMN_GAP, _ROW_GAP = 80, 50
_WIDTH, _NOTE_WIDTH = 320, 440
_WIDTHS = {
    "QRLoRA_Merge": 400, "QRLoRA_Mixer": 460, "QRLoRA_Load": 360, "SaveImage": 420, "PreviewImage": 420,
    "PreviewAny": 420,
}  # fmt: skip
# What a node shows besides its widgets.
_EXTRA = {
    "LoadImage": 240, "SaveImage": 400, "PreviewImage": 420, "PreviewAny": 300, "QRLoRA_Load": 260, "QRLoRA_Train": 320,
    "QRLoRA_Save": 60, "QRLoRA_Schedule": 200, "QRLoRA_Grid": 60, "QRLoRA_Compare": 200,
}  # fmt: skip
_FIXED = {"QRLoRA_Merge": 640, "QRLoRA_Mixer": 480}  # their panels stand in for most of their widgets

# Which loaders the playground's checkpoint stands in for: output of theirs to output of its loader.
_LOADERS = {
    "CheckpointLoaderSimple": (0, 1, 2), "UNETLoader": (0,), "CLIPLoader": (1,), "DualCLIPLoader": (1,),
    "TripleCLIPLoader": (1,), "VAELoader": (2,),
}  # fmt: skip
_STAND_INS = {"EmptyHunyuanLatentVideo": ("EmptySD3LatentImage", ("width", "height", "batch_size"))}
_SMALL = {"width": 128, "height": 128}
_PLAYGROUND_SETTINGS: dict[str, dict[str, Any]] = {
    "ImageScale": _SMALL,
    "EmptyLatentImage": _SMALL,
    "EmptySD3LatentImage": _SMALL,
    "QRLoRA_Train": {
        "steps": 300, "learning_rate": 0.003, "rank": 8, "batch_size": 2, "grad_accumulation": 1,
        "training_dtype": "fp32", "gradient_checkpointing": False, "sample_every": 0,
    },
    "KSampler": {"steps": 20, "cfg": 2.5, "sampler_name": "euler", "scheduler": "simple"},
    "KSamplerAdvanced": {"steps": 20, "cfg": 2.5, "sampler_name": "euler", "scheduler": "simple"},
    "ModelSamplingSD3": {"shift": 3.0},
}  # fmt: skip


def names() -> list[str]:
    """The examples."""
    return sorted(path.stem for path in (FOLDER / "api").glob("*.json"))


def prompt_of(name: str) -> Prompt:
    """An example in API form."""
    prompt: Prompt = json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))
    return prompt


def note_of(name: str) -> str:
    """What an example tells whoever opens it."""
    return (FOLDER / "notes" / f"{name}.md").read_text(encoding="utf-8")


def on_playground(prompt: Prompt) -> Prompt:
    """The same graph with the playground's checkpoint in place of its loaders, at the size and settings of that model.

    A prompt that is made for the playground comes back as it is.
    """
    loaders = [name for name, node in prompt.items() if node["class_type"] in _LOADERS]
    if all(prompt[name]["inputs"].get("ckpt_name") == PLAYGROUND for name in loaders):
        return prompt
    first = loaders[0]
    made: Prompt = {first: {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": PLAYGROUND}}}
    for name, node in prompt.items():
        if name not in loaders:
            inputs = {key: _from_playground(value, prompt, first) for key, value in node["inputs"].items()}
            made[name] = _small(node | {"inputs": inputs})
    return made


def without_roles(prompt: Prompt) -> Prompt:
    """An example as it trains without a role: the same settings and seeds, the captions whole."""
    plain: Prompt = {name: copy.deepcopy(node) for name, node in prompt.items() if node["class_type"] != "QRLoRA_Role"}
    for node in plain.values():
        inputs = node["inputs"]
        if node["class_type"] == "QRLoRA_Train":
            for name in ("role", "role_settings", "pixels", "vae"):
                inputs.pop(name, None)
        if node["class_type"] == "CLIPTextEncode" and isinstance(inputs["text"], list):
            inputs["text"] = prompt[inputs["text"][0]]["inputs"]["caption"]
    return plain


def _small(node: dict[str, Any]) -> dict[str, Any]:
    """A node as the playground has it: its size, its settings, its adapters."""
    kind, inputs = node["class_type"], node["inputs"]
    if kind == "QRLoRA_Load":
        subject = "content" if "content" in inputs["adapter_name"] else "style"
        return node | {"inputs": inputs | {"adapter_name": f"qr_loras/playground_{subject}.safetensors"}}
    if kind in _STAND_INS:
        kind, kept = _STAND_INS[kind]
        node, inputs = node | {"class_type": kind}, {name: inputs[name] for name in kept}
    return node | {"inputs": inputs | _PLAYGROUND_SETTINGS.get(kind, {})}


def _from_playground(value: Any, prompt: Prompt, loader: str) -> Any:
    if not isinstance(value, list):
        return value
    outputs = _LOADERS.get(prompt[value[0]]["class_type"])
    return [loader, outputs[value[1]]] if outputs else value


def to_editor(prompt: Prompt, node_types: dict[str, Any], note: str = "") -> dict[str, Any]:
    """The editor's workflow for a prompt in API form.

    Args:
        prompt: node id to class_type, inputs and _meta.
        node_types: the server's `/object_info`.
        note: Markdown for a note at the left; without one there is none.
    """
    links: list[list[Any]] = []
    nodes = {name: _node(index, name, node, node_types) for index, (name, node) in enumerate(prompt.items())}
    for name, node in prompt.items():
        for slot, socket in enumerate(nodes[name]["inputs"]):
            source = node["inputs"].get(socket["name"])
            if isinstance(source, list):
                origin = nodes[source[0]]["outputs"][source[1]]
                links.append([len(links) + 1, int(source[0]), source[1], int(name), slot, origin["type"]])
                socket["link"] = len(links)
                origin["links"].append(len(links))
    place(nodes, columns(prompt))
    last = max(map(int, prompt))
    notes = [_note(last + 1, len(nodes), note)] if note else []
    return {
        "last_node_id": last + len(notes),
        "last_link_id": len(links),
        "nodes": [*nodes.values(), *notes],
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def columns(prompt: Prompt) -> dict[str, int]:
    """The column of every node: right of all that feeds it, and as close as can be to the first that it feeds."""
    sources = {name: [v[0] for v in node["inputs"].values() if isinstance(v, list)] for name, node in prompt.items()}
    order: dict[str, int] = {}

    def earliest(name: str) -> int:
        if name not in order:
            order[name] = 1 + max(map(earliest, sources[name]), default=-1)
        return order[name]

    for name in prompt:
        earliest(name)
    placed = dict(order)
    for name in sorted(prompt, key=order.__getitem__, reverse=True):
        fed = [placed[other] for other in prompt if name in sources[other]]
        placed[name] = min(fed) - 1 if fed else order[name]
    first = min(placed.values())
    return {name: column - first for name, column in placed.items()}


def place(nodes: dict[str, dict[str, Any]], column_of: dict[str, int]) -> None:
    """Put nodes into their columns, one below the other, each column centred on the same line."""
    x = 0
    for column in range(max(column_of.values()) + 1):
        members = [nodes[name] for name in nodes if column_of[name] == column]
        heights = [_TITLE + node["size"][1] for node in members]
        y = -(sum(heights) + _ROW_GAP * (len(members) - 1)) // 2
        for node, height in zip(members, heights, strict=True):
            node["pos"] = [x, y + _TITLE]
            y += height + _ROW_GAP
        x += max((node["size"][0] for node in members), default=0) + _COLUMN_GAP


def _note(number: int, order: int, text: str) -> dict[str, Any]:
    lines = sum(1 + len(line) // 60 for line in text.splitlines())
    height = 60 + 21 * lines
    return {
        "id": number,
        "type": "MarkdownNote",
        "title": "Read me",
        "pos": [-_NOTE_WIDTH - _COLUMN_GAP, _TITLE - height // 2],
        "size": [_NOTE_WIDTH, height],
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "properties": {},
        "widgets_values": [text],
        "color": "#432",
        "bgcolor": "#653",
    }


def _node(order: int, name: str, node: dict[str, Any], node_types: dict[str, Any]) -> dict[str, Any]:
    kind, meta = node_types[node["class_type"]], node.get("_meta", {})
    sockets = [{"name": key, "type": spec[0], "link": None} for key, spec in _inputs(kind) if not _is_widget(spec)]
    linked = [socket for socket in widget_sockets(kind) if isinstance(node["inputs"].get(socket["name"]), list)]
    made = {
        "id": int(name),
        "type": node["class_type"],
        "pos": [0, 0],
        "size": _size(node["class_type"], kind),
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": [*sockets, *linked],
        "outputs": [{"name": title, "type": type_name, "links": []} for title, type_name in _outputs(kind)],
        "properties": {"Node name for S&R": node["class_type"]},
        "widgets_values": _widget_values(node["inputs"], kind),
    }
    return made | ({"title": meta["title"]} if "title" in meta else {})


def widget_sockets(kind: dict[str, Any]) -> list[dict[str, Any]]:
    """The sockets that the editor gives a node for its widgets, after all others; a prompt needs those with a link."""
    return [
        {"name": key, "type": _type_of(spec), "widget": {"name": key}, "link": None}
        for key, spec in _inputs(kind)
        if _is_widget(spec)
    ]


def _type_of(spec: Any) -> str:
    return "COMBO" if isinstance(spec[0], list) else spec[0]


def _size(class_type: str, kind: dict[str, Any]) -> list[int]:
    """At least what the editor will need, as it makes a node larger and never smaller."""
    specs = [spec for _, spec in _inputs(kind)]
    widgets = [spec for spec in specs if _is_widget(spec)]
    texts = sum(_options(spec).get("multiline", False) for spec in widgets)
    slots = max(len(specs) - len(widgets), len(_outputs(kind)))
    height = _MARGIN + _SLOT * slots + _WIDGET * len(widgets) + _TEXT * texts + _EXTRA.get(class_type, 0)
    return [_WIDTHS.get(class_type, _WIDTH), _FIXED.get(class_type, height)]


def _outputs(kind: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and type of each. The nodes by which a workflow ends have some on newer hosts, which no example uses."""
    of_the_host = kind["python_module"].split(".")[0] != "custom_nodes"
    if of_the_host and kind["output_node"]:
        return []
    return list(zip(kind["output_name"], kind["output"], strict=True))


def _inputs(kind: dict[str, Any]) -> list[tuple[str, Any]]:
    return [*kind["input"].get("required", {}).items(), *kind["input"].get("optional", {}).items()]


def _options(spec: Any) -> dict[str, Any]:
    return spec[1] if len(spec) > 1 else {}


def _is_widget(spec: Any) -> bool:
    return isinstance(spec[0], list) or spec[0] in _WIDGETS


def _widget_values(values: dict[str, Any], kind: dict[str, Any]) -> list[Any]:
    """In the order in which the editor makes widgets, with those that it adds by itself."""
    listed: list[Any] = []
    for key, spec in _inputs(kind):
        if not _is_widget(spec):
            continue
        options, value = _options(spec), values.get(key)
        listed.append(options.get("default", _first(spec)) if value is None or isinstance(value, list) else value)
        seeded = key in ("seed", "noise_seed") and spec[0] == "INT" and "control_after_generate" not in options
        if options.get("control_after_generate") or seeded:
            listed.append("fixed")
        if options.get("image_upload"):
            listed.append("image")
    return listed


def _first(spec: Any) -> Any:
    """What a choice without a default shows."""
    choices = spec[0] if isinstance(spec[0], list) else _options(spec).get("options")
    return choices[0] if choices else None


def dump(workflow: dict[str, Any], path: Path) -> None:
    """Write an editor's file."""
    path.write_text(json.dumps(workflow, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def draw(server: Server, name: str) -> Image:
    """The picture that an example shows last, by the playground's model."""
    from PIL import Image

    prompt = on_playground(prompt_of(name))
    outputs = server.queue(prompt, timeout=1800)["outputs"]
    shown = [outputs[node]["images"] for node in prompt if prompt[node]["class_type"] in ("SaveImage", "PreviewImage")]
    content = server.get(f"/view?{urlencode(shown[-1][0])}")
    return Image.open(io.BytesIO(content)).convert("RGB")


def save_picture(picture: Image, path: Path) -> None:
    """At least 512 pixels high, as a small JPEG."""
    from PIL.Image import Resampling

    factor = max(1, 512 // picture.height)
    picture = picture.resize((picture.width * factor, picture.height * factor), Resampling.LANCZOS)
    picture.save(path, quality=80, optimize=True)


def make_pictures(chosen: Iterable[str]) -> None:
    """Run examples on a real server and keep what they draw."""
    from playground.assemble import furnish

    server = Server()
    furnish(server.base)
    with server:
        for name in chosen:
            save_picture(draw(server, name), FOLDER / f"{name}.jpg")
            print(f"drew {name}", flush=True)


def main() -> None:
    """Write the editor form of every API form, asking a real server what the nodes look like."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", nargs="*", metavar="NAME", help="draw the pictures of these, or of all")
    options = parser.parse_args()
    if options.pictures is not None:
        make_pictures(options.pictures or names())
        return
    with Server() as server:
        node_types = server.get("/object_info")
    for name in names():
        dump(to_editor(prompt_of(name), node_types, note_of(name)), FOLDER / f"{name}.json")


if __name__ == "__main__":
    main()
