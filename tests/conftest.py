"""Put the pack and its tools in order for every test.

The root must not be on sys.path: its folder `nodes` would shadow ComfyUI's module `nodes`. So `devtools` is
registered by path, and the pack under the alias `comfyui_qr_lora`.
"""

import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

if "devtools" not in sys.modules:
    devtools = types.ModuleType("devtools")
    devtools.__path__ = [str(ROOT / "devtools")]
    sys.modules["devtools"] = devtools

from devtools.host import import_pack  # noqa: E402

import_pack()
