"""Put the pack and its tools in order for every test.

The root must not be on sys.path: its folder `nodes` would shadow ComfyUI's module `nodes`. So the tools are
registered by path, and the pack under the alias `comfyui_qr_lora`.
"""

import os
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

for name in ("devtools", "generators", "cli", "playground", "benchmarks"):
    if name not in sys.modules:
        package = types.ModuleType(name)
        package.__path__ = [str(ROOT / name)]
        sys.modules[name] = package

from devtools.environment import PATIENT  # noqa: E402
from devtools.host import import_pack  # noqa: E402
from devtools.hosts import circumstances  # noqa: E402

os.environ.update({**PATIENT, **os.environ})  # before torch is imported
import_pack()


@pytest.fixture(scope="session", autouse=True)
def run_tells_what_it_ran_with(
    pytestconfig: pytest.Config, record_testsuite_property: Callable[[str, object], None]
) -> None:
    """In its JUnit file, where it writes one: `devtools.hosts` keeps it."""
    if not pytestconfig.option.xmlpath:
        return
    options = pytestconfig.option
    chosen = [
        options.keyword,
        options.markexpr,
        *(options.deselect or ()),
        *(a for a in pytestconfig.args if "::" in a),
    ]
    for name, value in circumstances(" ".join(filter(None, chosen))).items():
        record_testsuite_property(name, value)
