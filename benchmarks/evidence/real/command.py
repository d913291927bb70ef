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
from typing import TYPE_CHECKING

from benchmarks.evidence.real.errors import InputError
from benchmarks.evidence.real.plan import MERGES, METHODS, NONE, Drawing, Plan, Scales, Training, keep, require_same
from devtools.environment import PATIENT
from devtools.host import boot, import_pack
from devtools.workspace import Home, own_host

if TYPE_CHECKING:
    from benchmarks.evidence.real.models import Files


def main(arguments: Sequence[str]) -> int:
    """Run it; returns the exit status."""
    options = build_parser().parse_args(arguments)
    os.environ.update({**PATIENT, **os.environ})  # before torch is imported
    boot(base=options.base.resolve(), gpu=has_gpu() and not options.cpu)
    import_pack()
    prepare_host(options.base)
    try:
        measure(options)
    except InputError as error:
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
    judges = judges_named(options.judge, dict(options.judge_file))
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


def plan_of(options: argparse.Namespace, *, on_gpu: bool) -> Plan:
    """What the options ask for; precision and memory as the device wants them where nobody says."""
    rates = dict(Training().rates)
    for rate in sorted(options.rate, key=len, reverse=True):  # that for all methods first
        rates |= rate
    training = Training(
        rates=rates, steps=options.steps, rank=options.rank, batch=options.batch,
        targets=options.targets, dtype=options.dtype or ("bf16" if on_gpu else "fp32"), checkpointing=on_gpu,
    )  # fmt: skip
    drawing = Drawing(
        options.size, options.sampling_steps, options.cfg, options.sampler, options.scheduler, options.prompt
    )
    methods, merges = (tuple(dict.fromkeys(names)) for names in (options.methods, options.merges))
    scales = tuple(dict.fromkeys(options.scales))
    return Plan(methods, merges, scales, options.seeds, options.pictures, training, drawing)


def files_of(options: argparse.Namespace) -> Files:
    """The model that the options name."""
    from benchmarks.evidence.real.models import Files

    encoders = tuple(options.text_encoder)
    return Files(options.checkpoint, options.diffusion_model, encoders, options.clip_type, options.vae)


def rate_of(text: str) -> dict[str, float]:
    """Method to rate, of ``1e-4`` for all or ``lora=5e-5`` for one."""
    method, _, number = text.rpartition("=")
    if method and method not in METHODS:
        raise argparse.ArgumentTypeError(f"{text}: expected one of {', '.join(METHODS)} before the =")
    return dict.fromkeys([method] if method else METHODS, float(number))


def scales_of(text: str) -> Scales:
    """``1`` for both, or ``1,0.8`` for content and style."""
    numbers = [float(number) for number in text.split(",")]
    if len(numbers) > 2:
        raise argparse.ArgumentTypeError(f"{text}: expected one number, or two for content and style as in 1,0.8")
    return numbers[0], numbers[-1]


def file_of(text: str) -> tuple[str, str]:
    """``dino=FILE``."""
    kind, _, file = text.partition("=")
    if not file:
        raise argparse.ArgumentTypeError(f"{text}: expected a kind of weights and a file, as in dino=FILE")
    return kind, file


def prompt_of(text: str) -> str:
    """With places for both."""
    if "{content}" not in text or "{style}" not in text:
        raise argparse.ArgumentTypeError(f"{text}: expected {{content}} and {{style}} in it")
    return text


def count_of(text: str) -> int:
    """One or more."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected at least 1")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    """All options."""
    parser = argparse.ArgumentParser(
        prog="dev.py bench evidence", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    add_inputs(parser)
    add_amounts(parser)
    add_settings(parser)
    return parser


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """The model, the pictures, the judges."""
    base = own_host() or Home.from_environment().base
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--checkpoint", default="", metavar="NAME", help="in the host's folder, or a path")
    model.add_argument("--diffusion-model", default="", metavar="NAME", help="likewise, with --text-encoder and --vae")
    parser.add_argument("--text-encoder", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--clip-type", default="stable_diffusion", metavar="TYPE", help="as in the host's Load CLIP")
    parser.add_argument("--vae", default="", metavar="NAME")
    parser.add_argument("--contents", type=Path, required=True, metavar="DIR", help="pictures and their words")
    parser.add_argument("--styles", type=Path, required=True, metavar="DIR", help="likewise")
    parser.add_argument("--judge", nargs="+", default=[], metavar="NAME", help="default: those that are installed")
    parser.add_argument("--judge-file", nargs="+", type=file_of, default=[], metavar="KIND=FILE", help="its weights")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: .run/evidence/real/MODEL")
    parser.add_argument("--base", type=Path, default=base, help="the ComfyUI with the models (default: %(default)s)")
    parser.add_argument("--cpu", action="store_true", help="use the CPU even where there is a GPU")


def add_amounts(parser: argparse.ArgumentParser) -> None:
    """What is compared, and how much of it."""
    plan = Plan()
    parser.add_argument("--methods", nargs="+", choices=[NONE, *METHODS], default=plan.methods)
    parser.add_argument("--merges", nargs="+", choices=list(MERGES), default=plan.merges)
    parser.add_argument("--scales", nargs="+", type=scales_of, default=plan.scales, metavar="CONTENT[,STYLE]")
    parser.add_argument("--seeds", type=count_of, default=plan.seeds, help="trainings of each adapter")
    parser.add_argument("--pictures", type=count_of, default=plan.pictures, help="of each pair, point and training")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """How adapters learn and pictures are drawn."""
    training, drawing = Training(), Drawing()
    parser.add_argument("--steps", type=count_of, default=training.steps, help="updates of a training")
    text = "learning rate, of all methods or of one (default: 1e-4)"
    parser.add_argument("--rate", nargs="+", type=rate_of, default=[], metavar="[METHOD=]RATE", help=text)
    parser.add_argument("--rank", type=count_of, default=training.rank)
    parser.add_argument("--batch", type=count_of, default=training.batch)
    parser.add_argument("--targets", default=training.targets, help="which layers, as in Train QR-LoRA")
    parser.add_argument("--dtype", choices=["bf16", "fp32"], help="of a training (default: bf16 on a GPU)")
    parser.add_argument("--size", type=count_of, default=drawing.size, help="side of all pictures in pixels")
    parser.add_argument("--sampling-steps", type=count_of, default=drawing.steps)
    parser.add_argument("--cfg", type=float, default=drawing.cfg, help="1 for FLUX, about 4 for SD3 and 7 for SDXL")
    parser.add_argument("--sampler", default=drawing.sampler)
    parser.add_argument("--scheduler", default=drawing.scheduler)
    parser.add_argument("--prompt", type=prompt_of, default=drawing.prompt, help='of a pair (default: "%(default)s")')
