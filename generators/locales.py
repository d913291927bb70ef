"""Write the English locale from the node schemas: `python -m generators.locales`.

The host merges `locales/<language>/nodeDefs.json` into its interface, so the English file is what a translator
starts from. The schemas say everything once; this file is never edited by hand.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from devtools.environment import ROOT, say, write_atomically
from devtools.host import boot, import_pack

ENGLISH = ROOT / "locales" / "en" / "nodeDefs.json"


def schemas() -> list[Any]:
    """The `io.Schema` of every node of the pack, in the order of the menu; boots the host."""
    boot(nodes=True)
    import_pack()
    from comfyui_qr_lora.nodes import comfy_entrypoint

    async def load() -> list[Any]:
        return await (await comfy_entrypoint()).get_node_list()

    return [node.GET_SCHEMA() for node in asyncio.run(load())]


def node_definitions() -> dict[str, Any]:
    """The content of `nodeDefs.json`: node id to display name, description, inputs and outputs."""
    return {
        schema.node_id: {
            "display_name": _literal(schema.display_name),
            "description": _literal(schema.description),
            "inputs": {entry.id: _entry(entry) for entry in schema.inputs},
            "outputs": {str(index): _entry(entry) for index, entry in enumerate(schema.outputs)},
        }
        for schema in schemas()
    }


def _entry(socket: Any) -> dict[str, str]:
    return {"name": _literal(socket.display_name or socket.id), "tooltip": _literal(socket.tooltip)}


def _literal(text: str) -> str:
    """Text as vue-i18n reads it: `@`, `|` and braces would be its own syntax."""
    return re.sub(r"[{}@|]", lambda sign: f"{{'{sign[0]}'}}", text)


def as_text(content: dict[str, Any]) -> str:
    """The file's text."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Command line of this module."""
    ENGLISH.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(ENGLISH, as_text(node_definitions()))
    say(f"wrote {ENGLISH.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
