"""Put the pack and its tools in order for every test, and say which tests a run has and who runs them.

The root must not be on sys.path: its folder `nodes` would shadow ComfyUI's module `nodes`. So the tools are
registered by path, and the pack under the alias `comfyui_qr_lora`.
"""

import gc
import os
import sys
import types
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .support.servers import SharedServer

ROOT = Path(__file__).resolve().parents[1]

for name in ("devtools", "generators", "cli", "playground", "benchmarks"):
    if name not in sys.modules:
        package = types.ModuleType(name)
        package.__path__ = [str(ROOT / name)]
        sys.modules[name] = package

from devtools.environment import PATIENT  # noqa: E402
from devtools.host import import_pack  # noqa: E402
from devtools.hosts import circumstances, tell  # noqa: E402

# Before torch is imported. What is computed here is small, and two workers have two cores.
os.environ.update({"OMP_NUM_THREADS": "1", **PATIENT, **os.environ})
import_pack()

# What --quick has: all of the core that starts no process, and of the nodes the identities of three models.
QUICK_MODELS = {"flux", "sdxl", "sd3"}
QUICK_FILES = ("tests/core/", "tests/host/apply/test_equality.py", "tests/host/test_every_model.py")
# The page first: it takes longest, and has one browser and one server. The shortest files last, to fill the ends.
ORDER = ("tests/web/", "tests/host/test_", "tests/host/", "tests/core/", "tests/")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`dev.py test` has them too."""
    parser.addoption("--all", action="store_true", help="run what only CI runs, too (see the marker ci)")
    parser.addoption("--quick", action="store_true", help="the core, and three models; no servers, no processes")


def has_everything(config: pytest.Config) -> bool:
    """Whether tests are run that take long and tell little beside the others."""
    return config.getoption("--all") or bool(os.environ.get("CI"))


def pytest_report_header(config: pytest.Config) -> str | None:
    """Workers say nothing of what they leave out."""
    return None if has_everything(config) else "without the tests that only CI runs (marker ci); --all has them"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --quick, other files are not even read: some boot what is not needed then."""
    path = collection_path.relative_to(ROOT).as_posix() if collection_path.is_relative_to(ROOT) else ""
    left_out = config.getoption("--quick") and path.endswith(".py") and not path.startswith(QUICK_FILES)
    return True if left_out and not path.endswith("conftest.py") else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Look for garbage only among what the tests make, not among the million objects that a whole run has before them.

    All of them stay, and to look through them takes half a second: the host asks for it often, tests that count what is
    left after every step.
    """
    gc.disable()
    result = yield
    gc.collect()
    gc.freeze()
    gc.enable()
    return result


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this run is not to have, and order the rest by how long it takes."""
    chosen, rest = [], []
    for item in items:
        (chosen if _is_chosen(item, config) else rest).append(item)
    config.hook.pytest_deselected(items=rest)
    items[:] = sorted(chosen, key=lambda item: _place(item.nodeid))


def _is_chosen(item: pytest.Item, config: pytest.Config) -> bool:
    marks = {mark.name for mark in item.iter_markers()}
    if "ci" in marks and not has_everything(config):
        return False
    if not config.getoption("--quick"):
        return True
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return not marks & {"slow", "process"} and parameters.get("name", "flux") in QUICK_MODELS


def _place(nodeid: str) -> int:
    return next((place for place, start in enumerate(ORDER) if nodeid.startswith(start)), len(ORDER))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Whole files go to one worker, in the order above; all of the page's to one, which has the browser."""
    if config.getoption("dist") != "load":  # another was asked for
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "tests/web" if nodeid.startswith("tests/web/") else super()._split_scope(nodeid)

    config.option.loadscopereorder = False  # by the number of tests
    return ByFile(config, log)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell in the JUnit file, where one was written, what the tests ran with: `devtools.hosts` keeps it."""
    options, config = session.config.option, session.config
    if not options.xmlpath or hasattr(config, "workerinput"):
        return
    chosen = [
        options.keyword, options.markexpr, *(options.deselect or ()), *(a for a in config.args if "::" in a),
        "--quick" if options.quick else "" if has_everything(config) else "without --all",
    ]  # fmt: skip
    tell(Path(options.xmlpath), circumstances(" ".join(filter(None, chosen))))


@pytest.fixture(scope="session")
def shared_server() -> Iterator["SharedServer"]:
    """One for all tests of a worker. Not to be used as it is: `server` and `web_server` put it in order first."""
    from .support.servers import SharedServer

    with SharedServer() as running:
        yield running
