"""Run the trainings of a workflow without a page, in one process or in several that train one adapter together.

    python -m cli.train workflow.json
    torchrun --nproc-per-node 2 -m cli.train workflow.json
    accelerate launch --num_processes 2 -m cli.train workflow.json

The workflow is in API form. Every process runs its Train QR-LoRA nodes and what they need: each on its share of the
data, with the gradients of dR averaged. So two processes train what one does with twice the batch size. The first
process then runs everything else, and is the only one that writes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from devtools.environment import PATIENT, ROOT
from devtools.host import boot
from devtools.server import node_label
from devtools.workspace import Home, own_host

_TRAIN = "QRLoRA_Train"


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Run the trainings of a workflow, in one process or in several.")
    parser.add_argument("workflow", type=Path, help="a workflow in API form")
    base = own_host() or Home.from_environment().base
    parser.add_argument(
        "--base", type=Path, default=base, help="folder with models, input, output (default: %(default)s)"
    )
    parser.add_argument("--cpu", action="store_true", help="use the CPU even where there is a GPU")
    options = parser.parse_args()
    os.environ.update({**PATIENT, **os.environ})  # before torch is imported
    prompt = json.loads(options.workflow.read_text(encoding="utf-8"))
    trainings = sorted(node_id for node_id, node in prompt.items() if node.get("class_type") == _TRAIN)
    if not trainings:
        parser.error(f"{options.workflow}: no {_TRAIN} node in it. Is it in API form (Workflow > Export (API))?")
    gpu = _take_gpu(options.cpu)
    boot(server=True, nodes=True, base=options.base.resolve(), gpu=gpu)
    first = _join(gpu)
    logging.getLogger().setLevel(logging.INFO if first else logging.WARNING)
    return _run(prompt, trainings, first)


def _take_gpu(cpu: bool) -> bool:
    """Leave each process its own GPU alone; returns whether there is one."""
    import torch

    if cpu or not torch.cuda.is_available():
        return False
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("LOCAL_RANK", "0")
    return True


def _join(gpu: bool) -> bool:
    """Join the processes that a launcher started; returns whether this is the first."""
    import torch.distributed

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        torch.distributed.init_process_group("nccl" if gpu else "gloo")
    return int(os.environ.get("RANK", "0")) == 0


def _run(prompt: dict[str, Any], trainings: list[str], first: bool) -> int:
    import execution
    from server import PromptServer

    import nodes

    asyncio.run(nodes.load_custom_node(str(ROOT)))
    valid, error, outputs, node_errors = asyncio.run(execution.validate_prompt("train", prompt, None))
    if not valid:
        print(f"error: {error['message']} {error['details']} {json.dumps(node_errors)}", file=sys.stderr)
        return 1
    no_limits: dict[str, int] = defaultdict(int)  # each host asks for limits of its own
    executor = execution.PromptExecutor(PromptServer.instance, execution.CacheType.CLASSIC, no_limits)
    # One training after the other, in the same order everywhere; then, from what is cached, the rest.
    parts = [[node_id] for node_id in trainings] + ([outputs] if first else [])
    for part in parts:
        executor.execute(prompt, "train", {}, part)
        if not executor.success:
            print(f"error: {_failure(prompt, executor)}", file=sys.stderr)
            return 1
    return 0


def _failure(prompt: dict[str, Any], executor: Any) -> str:
    told = dict(executor.status_messages)
    failure = told.get("execution_error") or told.get("execution_interrupted") or {}
    return (
        f"{node_label(prompt, failure.get('node_id', ''))}: {failure.get('exception_message', 'interrupted').strip()}"
    )


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.exit(status)
