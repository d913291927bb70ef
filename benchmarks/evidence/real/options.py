"""What the command is asked for, as `argparse` reads it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.evidence.real.plan import MERGES, METHODS, NONE, Drawing, Plan, Scales, Training
from devtools.workspace import Home, own_host

if TYPE_CHECKING:
    from benchmarks.evidence.real.models import Files

BY = " (default: %(default)s)"


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


def build_parser(text: str | None) -> argparse.ArgumentParser:
    """All options.

    Args:
        text: what the command tells of itself.
    """
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("dev.py bench evidence", description=text, formatter_class=formatter)
    add_inputs(parser)
    add_amounts(parser)
    add_settings(parser)
    return parser


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """The model, the pictures, the judges."""
    add, base = parser.add_argument, own_host() or Home.from_environment().base
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--checkpoint", default="", metavar="NAME", help="in the folder checkpoints, or a path")
    model.add_argument("--diffusion-model", default="", metavar="NAME", help="in diffusion_models, or a path")
    add("--text-encoder", nargs="+", default=[], metavar="NAME", help="in text_encoders, where none is in the model")
    add("--clip-type", default="stable_diffusion", metavar="TYPE", help="of text encoders, as in Load CLIP" + BY)
    add("--vae", default="", metavar="NAME", help="in vae, where none is in the model")
    add("--contents", type=Path, required=True, metavar="DIR", help="pictures with their words")
    add("--styles", type=Path, required=True, metavar="DIR", help="likewise")
    add("--judge", nargs="+", default=[], metavar="NAME", help="default: clip and dino+csd, where they are installed")
    add("--judge-file", nargs="+", type=file_of, default=[], metavar="KIND=FILE", help="weights of dino, clip or csd")
    add("--out", type=Path, metavar="DIR", help="of results (default: .run/evidence/real/MODEL)")
    add("--base", type=Path, default=base, metavar="DIR", help="the ComfyUI that has the models" + BY)
    add("--cpu", action="store_true", help="use the CPU even where there is a GPU")


def add_amounts(parser: argparse.ArgumentParser) -> None:
    """What is compared, and how much of it."""
    add, plan = parser.add_argument, Plan()
    for name, known, usual in (("method", [*METHODS, NONE], plan.methods), ("merge", list(MERGES), plan.merges)):
        text = f"of {', '.join(known)} (default: {' '.join(usual)})"
        add(f"--{name}s", nargs="+", choices=known, default=usual, metavar=name.upper(), help=text)
    text = "points of each cell (default: 1)"
    add("--scales", nargs="+", type=scales_of, default=plan.scales, metavar="CONTENT[,STYLE]", help=text)
    add("--seeds", type=count_of, default=plan.seeds, metavar="N", help="trainings of each adapter" + BY)
    add("--pictures", type=count_of, default=plan.pictures, metavar="N", help="of each pair, point and training" + BY)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """How adapters learn and pictures are drawn."""
    add, training, drawing = parser.add_argument, Training(), Drawing()
    add("--steps", type=count_of, default=training.steps, metavar="N", help="updates of a training" + BY)
    add("--rate", nargs="+", type=rate_of, default=[], metavar="[METHOD=]RATE", help="learning rate (default: 1e-4)")
    add("--rank", type=count_of, default=training.rank, metavar="N", help="of every adapter, but of lora_half" + BY)
    add("--batch", type=count_of, default=training.batch, metavar="N", help="items of an update" + BY)
    add("--targets", default=training.targets, help="which layers learn, as in Train QR-LoRA" + BY)
    add("--dtype", choices=["bf16", "fp32"], help="of a training (default: bf16 on a GPU, fp32 on a CPU)")
    add("--size", type=count_of, default=drawing.size, metavar="PIXELS", help="side of all pictures" + BY)
    add("--sampling-steps", type=count_of, default=drawing.steps, metavar="N", help="of a picture" + BY)
    add("--cfg", type=float, default=drawing.cfg, help="guidance: 1 for FLUX, about 4 for SD3 and 7 for SDXL" + BY)
    add("--sampler", default=drawing.sampler, help="as in KSampler" + BY)
    add("--scheduler", default=drawing.scheduler, help="as in KSampler" + BY)
    add("--prompt", type=prompt_of, default=drawing.prompt, help="of a pair" + BY)
