"""What is trained of each layer: beside the factors of its base, of a checkpoint, or of a dry step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import comfy.utils
import torch

from ....qrlora_core import Factors, Trainable, TrainableDelta, TrainableLoRA, TrainingState
from ..model.bases import KeptBases
from ..model.host_types import Patcher
from ..model.key_map import Target
from .settings import DTYPES, TrainingSettings

# Of one layer, by its module path.
FactorsOf = Callable[[str, Target], Factors]


def trainables(
    patcher: Patcher, targets: Mapping[str, Target], settings: TrainingSettings, factors_of: FactorsOf
) -> dict[str, Trainable]:
    """What is trained, on the device; Q and R stay on the CPU, for the adapter, but for what the products need."""
    if settings.variant == TrainableLoRA.variant:
        return _loras(patcher, targets, settings)
    device, dtype = patcher.load_device, DTYPES[settings.training_dtype]
    progress = comfy.utils.ProgressBar(len(targets))
    deltas: dict[str, Trainable] = {}
    for path, target in targets.items():
        factors = factors_of(path, target)
        deltas[path] = TrainableDelta(factors, variant=settings.variant, compute_dtype=dtype, device=device)
        progress.update(1)
    return deltas


def kept_factors(
    patcher: Patcher,
    settings: TrainingSettings,
    resumed: TrainingState | None,
    bases: KeptBases,
    path: str,
    target: Target,
) -> Factors:
    """Those of the base weight, or where a training goes on, of its checkpoint."""
    if resumed is None:
        return bases.factors(patcher, path, target, *_rank_and_alpha(target, settings))
    term = resumed.adapter.layers[path].terms[0]
    assert term.base_r is not None  # every checkpoint has it
    return Factors(term.q, term.base_r, term.rank, term.alpha, math.nan)


def stand_in(settings: TrainingSettings, _path: str, target: Target) -> Factors:
    """Zeros in the shapes of the factors."""
    (rank, alpha), (out, inputs) = _rank_and_alpha(target, settings), target.shape
    return Factors(torch.zeros(out, rank), torch.zeros(rank, inputs), rank, alpha, math.nan)


def _loras(patcher: Patcher, targets: Mapping[str, Target], settings: TrainingSettings) -> dict[str, Trainable]:
    """Both factors of every layer, the same ones for the same seed, also where a training goes on from a checkpoint."""
    generator = torch.Generator().manual_seed(settings.seed)
    return {
        path: TrainableLoRA(
            target.shape, *_rank_and_alpha(target, settings), generator=generator,
            compute_dtype=DTYPES[settings.training_dtype], device=patcher.load_device,
        )
        for path, target in targets.items()
    }  # fmt: skip


def _rank_and_alpha(target: Target, settings: TrainingSettings) -> tuple[int, float]:
    """A layer narrower than the rank keeps the scaling at its full rank."""
    rank = min(settings.rank, *target.shape)
    return rank, (settings.alpha or settings.rank) / settings.rank * rank
