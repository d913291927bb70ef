"""The experiment on the embedded model, as `benchmarks.evidence.plan` has it."""

from __future__ import annotations

import argparse
import multiprocessing as mp
import sys
import time
from functools import partial
from pathlib import Path

from benchmarks.evidence.bench import Bench
from benchmarks.evidence.plan import FULL, QUICK
from benchmarks.evidence.report import direction
from benchmarks.evidence.results import RESULTS, Evidence
from benchmarks.evidence.run import Run, call, phases
from benchmarks.setting import ON_GPU, machine

WORKERS = 8 if ON_GPU else 2


def main(text: str | None) -> None:
    """Command line.

    Args:
        text: what it tells of itself.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tuning", action="store_true")
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--work", type=Path, default=Path(".run/evidence"), help="what can be made again")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start nothing after so long")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    results = options.work.resolve() / "quick" if options.quick else RESULTS
    work = options.work.resolve() / ("quick" if options.quick else "full")
    run = Run(plan, results, work)
    print(machine())
    Bench(plan, work).words  # noqa: B018  # once, and not by every worker
    began = time.monotonic()
    timed = partial(call, began + 60 * options.minutes)
    with mp.get_context("spawn").Pool(options.workers) as pool:
        for number, tasks in enumerate(phases(run, only_tuning=options.tuning), 1):
            done = 0
            for ran in pool.imap_unordered(timed, tasks):
                done += ran == "done"
                print(f"phase {number}: {done} of {len(tasks)}, {(time.monotonic() - began) / 60:.1f} min", flush=True)
                if ran not in ("done", "left"):
                    print(ran, flush=True)
            if done < len(tasks):
                sys.exit("not all was done; the same command goes on")
    if options.quick:
        print(direction(Evidence(results, plan)))
