"""One server for all tests of a worker, put in order before each file of tests that uses it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from devtools.server import Server
from playground import assemble

BROKEN = "broken.py"
_FOLDERS = ("models", "input", "output", "temp", "user/default/workflows", "user/default/qr_lora")


_BLANK = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}


class SharedServer(Server):
    """With the playground's files, and a custom node that cannot be loaded."""

    def __init__(self) -> None:
        super().__init__(args=["--cache-classic"])
        assemble.furnish(self.base)
        broken = self.base / "custom_nodes" / BROKEN
        broken.parent.mkdir()
        broken.write_text("raise RuntimeError('on purpose')", encoding="utf-8")
        self._furnished = set(self._files())
        self._forgot = ""

    def tidy(self) -> None:
        """Forget what others did: what they left running, their files, what is kept of runs, and loaded models."""
        self.post("/queue", {"clear": True})
        self.post("/interrupt", {})
        self.settle()
        for path in self._files():
            if path not in self._furnished:
                path.unlink()
        self.post("/history", {"clear": True})
        self.forget()

    def settle(self) -> None:
        """Wait until nothing runs and nothing waits. A page cannot: `wait_for_function` takes a promise for a yes."""
        while any(self.get("/queue").values()):
            time.sleep(0.05)

    def await_runs(self, count: int) -> None:
        """Wait until so many runs have ended."""
        while len(self.get("/history")) < count:
            time.sleep(0.05)

    def forget(self) -> None:
        """Forget what is kept of runs, and loaded models; nothing to do where nothing has run since.

        The host looks at this wish before or after the next prompt: only behind one that has ended it is granted.
        """
        if self._forgot in self.get("/history?max_items=1") and not any(self.get("/queue").values()):
            return
        self.post("/free", {"unload_models": True, "free_memory": True})
        self._forgot = self.queue(_BLANK)["prompt"][1]

    def adapter_files(self) -> list[str]:
        """Which files a page that is opened now knows of."""
        return sorted(str(path) for path in self._files() if path.suffix == ".safetensors")

    def _files(self) -> Iterator[Path]:
        found = (path for name in _FOLDERS for path in (self.base / name).rglob("*"))
        return (path for path in found if path.is_symlink() or not path.is_dir())
