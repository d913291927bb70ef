"""Make the example workflows that the editor opens from their API form: `python -m devtools.workflows`.

The API form is what is written by hand, in `example_workflows/api`. Its nodes carry `_meta.title`, and `_meta.pos`
and `_meta.size` say where the editor shows them. The editor's form beside it is generated, so that the two
never differ.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from devtools.environment import ROOT

FOLDER = ROOT / "example_workflows"
_WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
_SIZE = (300, 120)


def to_editor(prompt: dict[str, Any], node_types: dict[str, Any]) -> dict[str, Any]:
    """The editor's workflow for a prompt in API form.

    Args:
        prompt: node id to class_type, inputs and _meta.
        node_types: the server's `/object_info`.
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
    return {
        "last_node_id": max(map(int, prompt)),
        "last_link_id": len(links),
        "nodes": list(nodes.values()),
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def _node(order: int, name: str, node: dict[str, Any], node_types: dict[str, Any]) -> dict[str, Any]:
    kind, meta = node_types[node["class_type"]], node.get("_meta", {})
    outputs = zip(kind["output_name"], kind["output"], strict=True)
    made = {
        "id": int(name),
        "type": node["class_type"],
        "pos": meta.get("pos", [0, 0]),
        "size": meta.get("size", _SIZE),
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": [{"name": key, "type": spec[0], "link": None} for key, spec in _inputs(kind) if not _is_widget(spec)],
        "outputs": [{"name": title, "type": type_name, "links": []} for title, type_name in outputs],
        "properties": {"Node name for S&R": node["class_type"]},
        "widgets_values": _widget_values(node["inputs"], kind),
    }
    return made | ({"title": meta["title"]} if "title" in meta else {})


def _inputs(kind: dict[str, Any]) -> list[tuple[str, Any]]:
    return [*kind["input"].get("required", {}).items(), *kind["input"].get("optional", {}).items()]


def _is_widget(spec: Any) -> bool:
    return isinstance(spec[0], list) or spec[0] in _WIDGETS


def _widget_values(values: dict[str, Any], kind: dict[str, Any]) -> list[Any]:
    """In the order in which the editor makes widgets, with those that it adds by itself."""
    listed: list[Any] = []
    for key, spec in _inputs(kind):
        if not _is_widget(spec):
            continue
        options = spec[1] if len(spec) > 1 else {}
        listed.append(values.get(key, options.get("default")))
        seeded = key in ("seed", "noise_seed") and spec[0] == "INT" and "control_after_generate" not in options
        if options.get("control_after_generate") or seeded:
            listed.append("fixed")
        if options.get("image_upload"):
            listed.append("image")
    return listed


def main() -> None:
    """Write the editor form of every API form, asking a real server what the nodes look like."""
    from devtools.server import Server

    argparse.ArgumentParser(description=__doc__).parse_args()
    with Server() as server:
        node_types = server.get("/object_info")
    for source in sorted((FOLDER / "api").glob("*.json")):
        workflow = to_editor(json.loads(source.read_text(encoding="utf-8")), node_types)
        text = json.dumps(workflow, indent=1) + "\n"
        (FOLDER / source.name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
