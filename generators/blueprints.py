"""Make the subgraph blueprints that the editor lists beside its nodes: `python -m generators.blueprints`.

A blueprint is an editor's workflow that holds nothing but one subgraph node. What is inside is written here in API
form; sizes and places come from `generators.workflows`.
"""

from __future__ import annotations

import argparse
import uuid
from dataclasses import dataclass, field
from typing import Any

from devtools.environment import ROOT
from devtools.server import Server
from generators.workflows import Prompt, dump, to_editor, widget_sockets

FOLDER = ROOT / "subgraphs"
_FROM_OUTSIDE, _TO_OUTSIDE = -10, -20  # the editor's ids of the two ends of a subgraph
_SPACE = uuid.UUID("6f1b3a9e-6d0c-4b7e-9f55-0c1f5d4f3b21")  # so that the same blueprint has the same ids
_MARGIN, _ROW = 160, 20


@dataclass(frozen=True)
class Blueprint:
    """A subgraph: nodes inside, what goes in and out, and the widgets that its node shows.

    Args:
        name: file name, and name in the editor.
        description: shown beside the preview.
        prompt: the nodes inside, in API form, without the links from outside.
        inputs: name to the sockets inside that it feeds, as (node id, input).
        outputs: name to where it comes from, as (node id, output).
        widgets: (node id, widget) in the order shown.
    """

    name: str
    description: str
    prompt: Prompt
    inputs: dict[str, list[tuple[str, str]]]
    outputs: dict[str, tuple[str, int]]
    widgets: list[tuple[str, str]] = field(default_factory=list)


TRAIN = Blueprint(
    name="QR-LoRA train one image",
    description="Trains an adapter on one image. Give it the model, its VAE, the image and a caption; the adapter goes "
    "into Save QR-LoRA and QR-LoRA Merge.",
    prompt={
        "1": {"class_type": "VAEEncode", "inputs": {}, "_meta": {"title": "Encode the image"}},
        "2": {"class_type": "QRLoRA_Train", "inputs": {"latents": ["1", 0]}, "_meta": {"title": "Train"}},
    },
    inputs={
        "model": [("2", "model")],
        "vae": [("1", "vae"), ("2", "vae")],
        "image": [("1", "pixels")],
        "positive": [("2", "positive")],
    },
    outputs={"adapter": ("2", 0)},
    widgets=[
        ("2", name)
        for name in (
            "steps", "learning_rate", "rank", "batch_size", "grad_accumulation", "training_dtype",
            "gradient_checkpointing", "sample_every", "run_name",
        )
    ],
)  # fmt: skip

COMPOSE = Blueprint(
    name="QR-LoRA compose content and style",
    description="Applies a content adapter and a style adapter to a model, with a scale each.",
    prompt={"1": {"class_type": "QRLoRA_Merge", "inputs": {}, "_meta": {"title": "Mix content and style"}}},
    inputs={"model": [("1", "model")], "content": [("1", "adapter_1")], "style": [("1", "adapter_2")]},
    outputs={"model": ("1", 0)},
    widgets=[("1", "scale_1"), ("1", "scale_2")],
)

BLUEPRINTS = (TRAIN, COMPOSE)


def to_workflow(blueprint: Blueprint, node_types: dict[str, Any]) -> dict[str, Any]:
    """The editor's file of a blueprint.

    Args:
        node_types: the server's `/object_info`.
    """
    inner = _Inner(blueprint, node_types)
    definition = inner.definition()
    node = {
        "id": 1,
        "type": definition["id"],
        "pos": [0, 0],
        "size": [400, 300],
        "flags": {},
        "order": 0,
        "mode": 0,
        "title": blueprint.name,
        "inputs": inner.outer_inputs(),
        "outputs": [{"name": slot["name"], "type": slot["type"], "links": []} for slot in definition["outputs"]],
        "properties": {},
        "widgets_values": [],
    }
    return {
        "revision": 0,
        "last_node_id": 1,
        "last_link_id": 0,
        "nodes": [node],
        "links": [],
        "version": 0.4,
        "definitions": {"subgraphs": [definition]},
        "extra": {"BlueprintDescription": blueprint.description},
    }


class _Inner:
    """The definition of one subgraph, with links of its own numbering."""

    def __init__(self, blueprint: Blueprint, node_types: dict[str, Any]) -> None:
        self.blueprint = blueprint
        made = to_editor(blueprint.prompt, node_types)
        self.nodes = {str(node["id"]): node for node in made["nodes"]}
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        self.links = [dict(zip(keys, link, strict=True)) for link in made["links"]]
        for node in self.nodes.values():
            there = {socket["name"] for socket in node["inputs"]}
            node["inputs"] += [one for one in widget_sockets(node_types[node["type"]]) if one["name"] not in there]
        self.fed = {**blueprint.inputs, **{name: [(number, name)] for number, name in blueprint.widgets}}

    def definition(self) -> dict[str, Any]:
        inputs = [self._input(slot, *item) for slot, item in enumerate(self.fed.items())]
        outputs = [self._output(slot, *item) for slot, item in enumerate(self.blueprint.outputs.items())]
        last = max(int(number) for number in self.nodes)
        return {
            "id": self._id("definition"),
            "version": 1,
            "state": {"lastGroupId": 0, "lastNodeId": last, "lastLinkId": len(self.links), "lastRerouteId": 0},
            "revision": 0,
            "config": {},
            "name": self.blueprint.name,
            "inputNode": {"id": _FROM_OUTSIDE, "bounding": self._end(left=True, slots=len(inputs))},
            "outputNode": {"id": _TO_OUTSIDE, "bounding": self._end(left=False, slots=len(outputs))},
            "inputs": inputs,
            "outputs": outputs,
            "widgets": [],
            "nodes": list(self.nodes.values()),
            "groups": [],
            "links": self.links,
            "extra": {},
        }

    def outer_inputs(self) -> list[dict[str, Any]]:
        """The sockets of the node that stands for the subgraph; those of its widgets come last."""
        shown = {name for _, name in self.blueprint.widgets}
        return [
            {"name": name, "type": self._socket(*fed[0])[1]["type"], "link": None}
            | ({"widget": {"name": name}} if name in shown else {})
            for name, fed in self.fed.items()
        ]

    def _socket(self, number: str, name: str) -> tuple[int, dict[str, Any]]:
        return next((i, socket) for i, socket in enumerate(self.nodes[number]["inputs"]) if socket["name"] == name)

    def _input(self, slot: int, name: str, fed: list[tuple[str, str]]) -> dict[str, Any]:
        made = []
        for number, socket_name in fed:
            target, socket = self._socket(number, socket_name)
            socket["link"] = self._link(_FROM_OUTSIDE, slot, int(number), target, socket["type"])
            made.append(socket)
        links = [socket["link"] for socket in made]
        return {"id": self._id(f"input {name}"), "name": name, "type": made[0]["type"], "linkIds": links}

    def _output(self, slot: int, name: str, source: tuple[str, int]) -> dict[str, Any]:
        number, index = source
        socket = self.nodes[number]["outputs"][index]
        link = self._link(int(number), index, _TO_OUTSIDE, slot, socket["type"])
        socket["links"].append(link)
        return {"id": self._id(f"output {name}"), "name": name, "type": socket["type"], "linkIds": [link]}

    def _link(self, origin: int, origin_slot: int, target: int, target_slot: int, kind: str) -> int:
        number = len(self.links) + 1
        self.links.append(
            {
                "id": number,
                "origin_id": origin,
                "origin_slot": origin_slot,
                "target_id": target,
                "target_slot": target_slot,
                "type": kind,
            }
        )
        return number

    def _end(self, *, left: bool, slots: int) -> list[float]:
        """Where the editor draws what comes from outside, or goes there."""
        corners = [(node["pos"][0], node["pos"][0] + node["size"][0]) for node in self.nodes.values()]
        x = min(start for start, _ in corners) - 2 * _MARGIN if left else max(end for _, end in corners) + _MARGIN
        return [x, 0, _MARGIN, _ROW * (slots + 2)]

    def _id(self, of: str) -> str:
        return str(uuid.uuid5(_SPACE, f"{self.blueprint.name} {of}"))


def main() -> None:
    """Write every blueprint, asking a real server what the nodes look like."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with Server() as server:
        node_types = server.get("/object_info")
    FOLDER.mkdir(exist_ok=True)
    for blueprint in BLUEPRINTS:
        dump(to_workflow(blueprint, node_types), FOLDER / f"{blueprint.name}.json")


if __name__ == "__main__":
    main()
