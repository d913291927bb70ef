"""The command line: `python dev.py bench evidence --checkpoint NAME --contents DIR --styles DIR`.

Trains an adapter of each picture with each method, merges every content with every style, draws the pairs, and counts
in how many pictures judges find both. What is done is not done again, so it may be stopped and started at any time.

Beside a picture whale.png lie its words in whale.txt: the caption that it is learned with, and in a second line what
stands for it in the prompt of a pair ("a bird in moss style" is learned, "in moss style" is asked for). Judges see with
weights in the folder models/clip_vision: clip, or one for contents and one for styles, as dino+csd. The judge stand-in
needs no weights and is no evidence.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.evidence.real.errors import InputError
from benchmarks.evidence.real.options import build_parser, files_of, plan_of
from benchmarks.evidence.real.plan import keep, require_same
from devtools.environment import PATIENT
from devtools.host import boot, import_pack


def main(arguments: Sequence[str]) -> int:
    """Run it; returns the exit status."""
    options = build_parser(__doc__).parse_args(arguments)
    os.environ.update({**PATIENT, **os.environ})  # before torch is imported
    boot(base=options.base.resolve(), gpu=has_gpu() and not options.cpu)
    import_pack()
    prepare_host(options.base)
    from comfyui_qr_lora.qrlora_core import QRLoRAError

    try:
        measure(options)
    except (InputError, QRLoRAError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def measure(options: argparse.Namespace) -> None:
    """With a host that was booted: train, draw, judge, and write the tables, which are printed as well.

    Raises:
        InputError: anything that cannot serve, before the work begins.
    """
    import torch

    from benchmarks.evidence.real.judges import judges_named
    from benchmarks.evidence.real.models import device, load
    from benchmarks.evidence.real.pictures import digest, read_folder
    from benchmarks.evidence.real.report import Report
    from benchmarks.evidence.real.run import Run

    plan, files = plan_of(options, on_gpu=device() != "cpu"), files_of(options)
    contents, styles = (read_folder(folder, plan.drawing.size) for folder in (options.contents, options.styles))
    judges = judges_named(options.judge, dict(options.judge_file), say)
    out = options.out or Path(".run/evidence/real") / Path(files.checkpoint or files.diffusion_model).stem
    settings, kept = plan.settings(str(files), digest(contents), digest(styles)), out / "settings.json"
    require_same(kept, settings)
    with torch.inference_mode():
        run = Run(plan, contents, styles, out)
        say(run.cost())
        if any(run.left()):
            model = load(files)
            keep(kept, settings)
            run.train(model, say)
            run.draw(model, say)
        run.judge(judges, say)
    text = Report(run, judges, str(files), f"{device()}, torch {torch.__version__}").text()
    (out / "evidence.md").write_text(text, "utf-8")
    say(text)
    say(f"written: {out / 'evidence.md'}, with the pictures and the raw results beside it")


def say(line: str) -> None:
    """Tell at once."""
    print(line, flush=True)


def prepare_host(base: Path) -> None:
    """Take the folders of models that a ComfyUI was told of beside its own; no bar for every picture."""
    from comfy.utils import set_progress_bar_enabled
    from utils.extra_config import load_extra_path_config

    set_progress_bar_enabled(False)
    file = base / "extra_model_paths.yaml"
    if file.is_file():
        load_extra_path_config(str(file))


def has_gpu() -> bool:
    """Whether torch has one."""
    import torch

    return torch.cuda.is_available()
