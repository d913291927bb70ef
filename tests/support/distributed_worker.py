"""What every process of `test_distributed` does: train on its share of the batches, and tell what came out."""

import datetime

import torch
import torch.distributed

from comfyui_qr_lora.qrlora_core import Factors, OptimizerSettings, TrainableDelta, Trainer, TrainingError
from comfyui_qr_lora.qrlora_core.train import distributed

OUT, RANK, WIDTH, BATCH = 6, 3, 5, 8


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def trainer(variant, **settings):
    deltas = {}
    for seed, path in enumerate("ab"):
        q = torch.linalg.qr(normal(OUT, RANK, seed=seed)).Q
        factors = Factors(q, normal(RANK, WIDTH, seed=10 + seed).triu(), RANK, 4.5, 0.9)
        deltas[path] = TrainableDelta(factors, variant=variant)
    return Trainer(deltas, OptimizerSettings(0.05, **settings), steps=6)


def loss(one, x, target, poison=1.0):
    return (sum(delta(x) for delta in one.deltas.values()) - target).square().mean() * poison


def train(variant):
    """Six updates of two halves each, clipped, with an average; this process takes its share of every half."""
    rank, size = distributed.rank(), distributed.world_size()
    one = trainer(variant, grad_accumulation=2, max_grad_norm=0.5, ema_decay=0.9, schedule="cosine")
    losses = []
    for step in range(6):
        halves = [(normal(BATCH, WIDTH, seed=100 * step + i), normal(BATCH, OUT, seed=1000 + i)) for i in range(2)]
        shares = [(x.chunk(size)[rank], target.chunk(size)[rank]) for x, target in halves]
        losses.append(one.step([lambda x=x, target=target: loss(one, x, target) for x, target in shares]))
    trained = {f"{path}.{name}": p for path, delta in one.deltas.items() for name, p in delta.named_parameters()}
    values = {name: value.tolist() for name, value in trained.items()}
    weights = {path: layer.delta_weight().tolist() for path, layer in one.adapter({}).layers.items()}
    return {"losses": losses, "values": values, "weights": weights}


def stumble():
    """A loss that is not finite in the last process alone stops them all: none is left waiting."""
    one = trainer("triu")
    poison = float("nan") if distributed.rank() == distributed.world_size() - 1 else 1.0
    x, target = normal(BATCH, WIDTH, seed=1), normal(BATCH, OUT, seed=2)
    try:
        one.step([lambda: loss(one, x, target, poison)])
    except TrainingError as error:
        return str(error)
    return None


def average():
    """The mean of numbers that depend on the rank, in three layouts."""
    rank = distributed.rank()
    column = torch.full((3, 2), float(rank)).T  # not contiguous
    tensors = [torch.tensor(10.0 * rank), column, torch.arange(4.0) * (rank + 1)]
    distributed.average(tensors)
    return [tensor.tolist() for tensor in tensors]


def average_of_nothing():
    """What no process has is not exchanged."""
    nothing = []
    distributed.average(nothing)
    return nothing


def everything():
    return {
        "rank": distributed.rank(),
        "world_size": distributed.world_size(),
        "average": average(),
        "nothing": average_of_nothing(),
        "trained": {variant: train(variant) for variant in ("triu", "qr")},
        "stumble": stumble(),
    }


def everything_in_a_group(meeting, rank, size):
    """The same, as one of `size` processes that meet at a file."""
    patience = datetime.timedelta(seconds=600)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=size, timeout=patience
    )
    try:
        return everything()
    finally:
        torch.distributed.destroy_process_group()
