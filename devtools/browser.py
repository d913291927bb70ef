"""A Chromium for tests and screenshots: the system's, else Playwright's own. `python -m devtools.browser` gets one.

What can be installed is: the system's package as root where there is apt-get (with CI set also through a sudo that
asks nothing), else the build that Playwright fetches into its own cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from devtools.environment import say

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# As root it has no sandbox; it looks for nothing on the network.
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
NONE = f"no browser: none of {', '.join(NAMES)} runs here, nor one of Playwright's; `python dev.py test` gets one"


def find() -> str | None:
    """The executable of a Chromium that starts, None where there is none."""
    return next((found for found in _candidates() if _starts(found)), None)


def _candidates() -> Iterator[str]:
    yield from filter(None, map(shutil.which, NAMES))
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return
    with sync_playwright() as playwright:
        yield playwright.chromium.executable_path


def _starts(executable: str) -> bool:
    """Some systems have only a stub of that name, or lack a library that it needs."""
    return Path(executable).is_file() and _call([executable, "--version"])


def ensure() -> str | None:
    """The executable of a Chromium, installed first where that is needed and possible."""
    found = find()
    if found:
        return found
    for install in (_install_package, _install_playwrights):
        install()
        found = find()
        if found:
            return found
    return None


def _install_package() -> None:
    root = _root_prefix()
    if root is None or not shutil.which("apt-get"):
        return
    say("installing chromium with apt-get")
    _call([*root, "apt-get", "update", "-qq"])
    quiet = ["env", "DEBIAN_FRONTEND=noninteractive"]
    _call([*root, *quiet, "apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"])


def _install_playwrights() -> None:
    say("fetching Playwright's chromium")
    _call([sys.executable, "-m", "playwright", "install", "chromium"])


def _root_prefix() -> list[str] | None:
    """What a command that needs to be root starts with; None where this process may not be. Nobody is ever asked."""
    if not hasattr(os, "geteuid"):
        return None
    if os.geteuid() == 0:
        return []
    return ["sudo", "-n"] if os.environ.get("CI") and _call(["sudo", "-n", "true"]) else None


def _call(command: Sequence[str]) -> bool:
    """Whether a command ended well; what it says is left out."""
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    except OSError:
        return False


def main() -> int:
    """Say in one line which browser there is, or that there is none; the exit status is 1 then."""
    found = ensure()
    say(f"browser: {found}" if found else NONE)
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
