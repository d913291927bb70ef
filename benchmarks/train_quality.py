"""What is learned with how many trained numbers: QR-LoRA, ordinary LoRA and OLoRA on one picture.

    python -m benchmarks.train_quality            200 updates, three seeds, 11 to 15 minutes on one core
    python -m benchmarks.train_quality --quick    a few updates: only what holds by construction is looked at

Every method trains the same layers of the embedded playground model (a tiny SD3) on the content picture of the example,
in the project's own loop, with the same AdamW and, seed by seed, the same batches, noise levels and noise. It takes the
best of the same learning rates, chosen by the last loss with a seed and with noise that are not reported. The loss is
that of the trained picture under fixed noise that no training draws; beside it stands that of pictures that the base
knows, which tells how much was forgotten. Which method wins is no claim.

OLoRA (Büyükakyüz 2024, arXiv 2406.01775) trains Q and R of the plain QR of W: our variant qr without the SVD core.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.ratios import claim, finish
from benchmarks.setting import DEVICE, machine, parameters

# isort: split
import comfy.model_management
import comfy.sampler_helpers
from torch import Tensor

from comfyui_qr_lora.nodes.host.files.checkpoints import Run
from comfyui_qr_lora.nodes.host.model.key_map import KeyMap
from comfyui_qr_lora.nodes.host.model.weights import base_weight
from comfyui_qr_lora.nodes.host.train.dataset import Example, collect
from comfyui_qr_lora.nodes.host.train.guided import run_loop
from comfyui_qr_lora.nodes.host.train.loop import Loop
from comfyui_qr_lora.nodes.host.train.monitor import Monitor
from comfyui_qr_lora.nodes.host.train.objective import encode_conditioning, objective_loss
from comfyui_qr_lora.nodes.host.train.samples import SampleSettings
from comfyui_qr_lora.nodes.host.train.status import TrainingStatus
from comfyui_qr_lora.qrlora_core import (
    Factors,
    ObjectiveSettings,
    OptimizerSettings,
    TrainableDelta,
    TrainableLoRA,
    Trainer,
    decompose,
    select,
)
from playground import assemble
from playground.draw import COLOURS, SHAPES, Scene, draw, example_pictures
from playground.generate import Playground

RANK, BATCH, CHOOSING_SEED = 16, 2, 100
LEARNED = (example_pictures()["content.png"], "an orange house on a dark background")
KNOWN = [(draw(scene), scene.caption) for scene in map(Scene, COLOURS, SHAPES)]
TRIU, FULL, EQUAL_RANK = "QR-LoRA triu", "QR-LoRA full", f"LoRA, rank {RANK}"


@dataclass(frozen=True)
class Plan:
    """Updates at which the loss is measured, the last being the end; noise levels of a measurement."""

    marks: tuple[int, ...] = (25, 50, 100, 200)
    rates: tuple[float, ...] = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)
    seeds: tuple[int, ...] = (0, 1, 2)
    levels: int = 64


QUICK = Plan(marks=(2, 4), rates=(2e-4, 4e-4), seeds=(0,), levels=8)


# Module path to what is trained there; what makes this from a seed.
Deltas = dict[str, torch.nn.Module]
Method = Callable[[int], Deltas]


class Probe:
    """The mean loss of pictures over noise levels, one at random in each of ``count`` equal parts of 0 to 1."""

    def __init__(self, model: Any, examples: Sequence[Example], count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        latents = torch.cat([model.process_latent_in(example.latent.to(DEVICE)) for example in examples])
        entries = comfy.sampler_helpers.convert_cond([example.captions[0] for example in examples])
        conds = [encode_conditioning(model, entry, latents[:1], 0) for entry in entries]
        which = [index % len(examples) for index in range(count)]
        self._model, self._latents, self._conds = model, latents[which], [conds[index] for index in which]
        levels = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        self._sigma = levels.clamp(min=1e-3).to(DEVICE)
        self._noise = torch.randn(self._latents.shape, generator=generator).to(DEVICE)

    @torch.no_grad()
    def loss(self) -> float:
        """With whatever is attached to the model now."""
        parts = [slice(start, start + 8) for start in range(0, len(self._conds), 8)]
        return statistics.mean(float(self._part(part)) for part in parts)

    def _part(self, part: slice) -> Tensor:
        latents, conds, sigma, noise = (x[part] for x in (self._latents, self._conds, self._sigma, self._noise))
        return objective_loss(self._model, latents, conds, sigma, noise, {})


class Bench:
    """The model, its layers, the picture to learn, and the probes."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        assemble.assemble(folder)
        self.plan, self._playground = plan, Playground(folder / "checkpoints" / assemble.NAME)
        self.patcher = self._playground.model
        available = KeyMap(self.patcher.model).linear(self.patcher.model)
        self.targets = {path: available[path] for path in select(available, "paper")}
        self.data = self._encode([LEARNED])
        learned, known, model = self.data.examples, self._encode(KNOWN).examples, self.patcher.model
        comfy.model_management.load_model_gpu(self.patcher)
        self.choosing, self.test = (Probe(model, learned, plan.levels, seed) for seed in (1001, 1002))
        self.known = Probe(model, known, plan.levels, 1003)

    def _encode(self, pairs: Sequence[tuple[Any, str]]) -> Any:
        """Pictures and captions as VAE Encode and CLIP Text Encode give them."""
        pixels = [torch.from_numpy(picture)[None].float() / 255 for picture, _ in pairs]
        with torch.no_grad():
            latents = [{"samples": self._playground.vae.encode(picture)} for picture in pixels]
            return collect(latents, [self._playground.encode(caption) for _, caption in pairs])


class Watch(Monitor):
    """Measures after the given updates, while the branches are attached."""

    def __init__(self, status: TrainingStatus, marks: Sequence[int], measure: Callable[[], Any]) -> None:
        super().__init__(status, show=lambda text: None, send=lambda status: None, draw=None, device=DEVICE, logs=None)
        self._marks, self._measure = marks, measure
        self.measured: list[Any] = []

    def step(self, step: int, loss: float, rate: float, seconds: float) -> None:
        """See `Monitor`."""
        super().step(step, loss, rate, seconds)
        if step in self._marks:
            self.measured.append(self._measure())


def train(bench: Bench, deltas: Deltas, rate: float, seed: int, marks: Sequence[int], measure: Any) -> Watch:
    """Train these layers in the project's loop, and measure at the marks."""
    steps = marks[-1]
    trainer = Trainer(deltas, OptimizerSettings(learning_rate=rate), steps=steps)
    status = TrainingStatus("benchmark", steps=steps)
    watch = Watch(status, marks, measure)
    loop = Loop(
        trainer=trainer, targets=bench.targets, data=bench.data, objective=ObjectiveSettings(),
        samples=SampleSettings(), steps=steps, batch_size=BATCH, seed=seed, gradient_checkpointing=False,
        checkpoint_every=0, lower=(), run=Run(Path(), keep=0), monitor=watch, status=status, resumed=None,
        snapshot=None,
    )  # fmt: skip
    computing = bench.patcher.clone()
    computing.set_model_compute_dtype(torch.float32)
    run_loop(computing, loop)
    return watch


@dataclass(frozen=True)
class Study:
    """What came out for one method.

    Attributes:
        numbers: how many are trained. by_rate: the last loss with the seed for choosing. rate: the one taken.
        learned, known: by mark and seed, the loss of the trained picture and that of pictures that the base knows.
        training: by seed, the loss of every update.
    """

    numbers: int
    by_rate: dict[float, float]
    rate: float
    learned: list[tuple[float, ...]]
    known: list[tuple[float, ...]]
    training: list[list[float]]


def study(bench: Bench, make: Method) -> Study:
    """Choose a rate, then train once per seed."""
    marks, by_rate = bench.plan.marks, {}
    for rate in bench.plan.rates:
        watch = train(bench, make(CHOOSING_SEED), rate, CHOOSING_SEED, marks[-1:], bench.choosing.loss)
        (by_rate[rate],) = watch.measured
    best = min(by_rate, key=lambda rate: by_rate[rate])
    both = lambda: (bench.test.loss(), bench.known.loss())  # noqa: E731
    runs = [train(bench, make(seed), best, seed, marks, both) for seed in bench.plan.seeds]
    at_marks = list(zip(*(run.measured for run in runs), strict=True))
    learned, known = ([tuple(pair[place] for pair in mark) for mark in at_marks] for place in (0, 1))
    return Study(sum(trained(make(0)).values()), by_rate, best, learned, known, [run.losses for run in runs])


def methods(bench: Bench) -> dict[str, Method]:
    """By name."""
    weights = {path: base_weight(bench.patcher, target).to(DEVICE) for path, target in bench.targets.items()}
    core = {path: decompose(weight, RANK, layer=path) for path, weight in weights.items()}
    plain = {path: plain_qr(weight) for path, weight in weights.items()}
    shapes = [weight.shape for weight in weights.values()]
    share = sum(width for _, width in shapes) / sum(map(sum, shapes))

    def qr_lora(factors: Mapping[str, Factors], variant: str) -> Method:
        return lambda seed: {path: TrainableDelta(part, variant=variant) for path, part in factors.items()}

    def lora(rank: int) -> Method:
        def make(seed: int) -> Deltas:
            generator = torch.Generator().manual_seed(seed)
            return {
                path: TrainableLoRA(tuple(weight.shape), rank, float(rank), generator=generator, device=DEVICE)
                for path, weight in weights.items()
            }

        return make

    equal = max(1, round(RANK * share))  # as many trained numbers as QR-LoRA full, or nearly
    return {
        TRIU: qr_lora(core, "triu"), FULL: qr_lora(core, "full"), f"LoRA, rank {equal}": lora(equal),
        EQUAL_RANK: lora(RANK), "QR-LoRA qr": qr_lora(core, "qr"), "OLoRA": qr_lora(plain, "qr"),
    }  # fmt: skip


def plain_qr(weight: Tensor) -> Factors:
    """The leading part of the QR of a weight itself."""
    q, r = torch.linalg.qr(weight)
    return Factors(q[:, :RANK].contiguous(), r[:RANK].contiguous(), RANK, float(RANK), math.nan)


def trained(deltas: Deltas) -> dict[str, int]:
    """Module path to how many numbers an update reaches where every one of the parameters has a gradient."""
    counts = {}
    for path, delta in deltas.items():
        values = list(delta.parameters())
        torch.stack([value.sum() for value in values]).sum().backward()
        counts[path] = sum(int(value.grad.count_nonzero()) for value in values)
        delta.zero_grad()
    return counts


def spread(values: Sequence[float], digits: int = 3) -> str:
    """``mean (least..most)``."""
    mean, least, most = (f"{value:.{digits}f}" for value in (statistics.mean(values), min(values), max(values)))
    return f"{mean} ({least}..{most})"


def table(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
    """In Markdown, a method in every row."""
    print(f"\n{title}\n\n| method | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def show(studies: Mapping[str, Study], bench: Bench, base: float) -> None:
    """All tables."""
    marks, steps, choosing, known = bench.plan.marks, bench.plan.marks[-1], bench.choosing.loss(), bench.known.loss()
    rates, learned, kept, summary = {}, {}, {}, {}
    for name, each in studies.items():
        rates[name] = [*(f"{loss / choosing:.3f}" for loss in each.by_rate.values()), f"{each.rate:g}"]
        training = [statistics.mean(losses[-(steps // 4) :]) for losses in each.training]
        learned[name] = [spread(losses, 4) for losses in (*each.learned, training)]
        kept[name] = [spread([loss / known for loss in losses], 2) for losses in each.known]
        against_triu = [loss / of for loss, of in zip(each.learned[-1], studies[TRIU].learned[-1], strict=True)]
        against_base = [loss / base for loss in each.learned[-1]]
        last = [spread(against_base), spread(against_triu), kept[name][-1]]
        summary[name] = [f"{each.numbers:,}", f"{each.rate:g}", *last]
    title = f"Loss after {steps} updates over the base's by learning rate, seed {CHOOSING_SEED} and noise of its own"
    table(title, [*(f"{rate:g}" for rate in bench.plan.rates), "taken"], rates)
    title = f"Loss of the trained picture by updates, mean (least..most) of seeds {bench.plan.seeds}; the base's is"
    table(f"{title} {base:.4f}", [*map(str, marks), f"training, last {steps // 4}"], learned)
    table(f"Loss of {len(KNOWN)} pictures that the base knows, over the base's, by updates", [*map(str, marks)], kept)
    columns = ["trained numbers", "rate", "trained picture, over the base", f"over {TRIU}, same seed", "known pictures"]
    table(f"After {steps} updates", columns, summary)


def claim_counts(bench: Bench, makers: Mapping[str, Method]) -> None:
    """How many numbers are trained, layer by layer."""
    triu, full, lora = (trained(makers[name](0)) for name in (TRIU, FULL, EQUAL_RANK))
    triangle = RANK * (RANK - 1) // 2
    off = max(abs(full[path] - triu[path] - triangle) for path in full)
    claim("numbers that triu trains less than full, off rank (rank - 1) / 2, worst layer", off, 0, at_least=False)
    shares = {path: target.shape[1] / sum(target.shape) for path, target in bench.targets.items()}
    off = max(abs(full[path] / lora[path] - share) for path, share in shares.items())
    claim("numbers of full over LoRA of equal rank, off in / (in + out), worst layer", off, 1e-12, at_least=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="QR-LoRA, LoRA and OLoRA trained on one picture.")
    parser.add_argument("--quick", action="store_true", help="a few updates; no figure means anything")
    plan = QUICK if parser.parse_args().quick else Plan()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), plan)
    print(
        f"playground SD3, {parameters(bench.patcher) / 1e6:.1f} million parameters, {len(bench.targets)} layers, "
        f"rank {RANK} (but where it is named), batch {BATCH}, AdamW at a constant rate, float32"
    )
    makers, base = methods(bench), bench.test.loss()
    studies = {name: study(bench, make) for name, make in makers.items()}
    show(studies, bench, base)
    print()
    claim_counts(bench, makers)
    first = [[losses[0] for losses in each] for each in zip(*(each.training for each in studies.values()), strict=True)]
    off = max(max(losses) / min(losses) - 1 for losses in first)
    claim("first training loss, most over least of all methods, off 1, worst seed", off, 1e-6, at_least=False)
    worst = max(loss for each in studies.values() for loss in each.learned[-1])
    claim("loss after the last update over the base's, worst method and seed", worst / base, 1, at_least=False)
    claim("loss of the base after all trainings, off that before", abs(bench.test.loss() / base - 1), 0, at_least=False)
    finish()


if __name__ == "__main__":
    main()
