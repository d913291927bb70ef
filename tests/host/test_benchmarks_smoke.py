"""The benchmarks run and print their claims. Times decide nothing here: with --quick they are information."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ci, pytest.mark.process, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
CLAIM = re.compile(r": ratio: \S+ \(bar \S+\)$", re.MULTILINE)


def run_quick(name: str) -> str:
    """What a benchmark prints with --quick; it must not fail."""
    ended = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--quick"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize(
    ("name", "claims"),
    [
        ("tweak", 1),
        ("memory", 5),
        ("precision", 5),
        ("schedule", 1),
        ("train_quality", 5),
        ("files", 12),
        ("libraries", 5),
        ("library", 1),
        ("kinds", 1),
        ("train_start", 1),
        ("train_role", 2),
    ],
)
def test_quick_run_prints_claims_that_hold(name: str, claims: int) -> None:
    printed = run_quick(name)
    assert len(CLAIM.findall(printed)) == claims, printed


def test_quick_overhead_decides_nothing() -> None:
    assert run_quick("overhead").count("not decided with --quick") == 2


def test_quick_times_of_kinds_are_a_table() -> None:
    rows = [line for line in run_quick("kinds_time").splitlines() if line.startswith("| ")]
    assert len(rows) > 10
