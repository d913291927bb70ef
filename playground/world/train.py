"""Train a tiny SD3 and its decoder on the world: `python -m playground.world.train`.

Two processes share each step, every step is seeded, and a run that was stopped goes on by itself. What it learns from
are the known shapes and styles of `splits.json` alone, less the pairs that are held out.
"""

from __future__ import annotations

import argparse
import logging
import time
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from devtools.host import boot
from playground import autoencoder
from playground import draw as plain
from playground.assemble import DECODER, DIFFUSION
from playground.train import (
    COUNTS,
    KEPT,
    SHIFT,
    attention,
    build_model,
    cached,
    encode_captions,
    fit,
    fit_decoder,
    generator,
    save_half,
    to_tensor,
)
from playground.world import scene
from playground.world.scene import Look, Place, bare_caption
from playground.world.splits import held_out, splits

log = logging.getLogger("playground")

WORKERS = 2
STYLED, PLAIN = 0.64, 0.26  # of the pictures; the rest have a caption that names the shape alone
PLAIN_LOOKS = 12  # of a shape
FULL_TEXT = 0.1  # of the steps, the last, see all of the text's padding

Example = tuple[str, Look, str]  # shape, look, caption


def example(rng: np.random.Generator) -> Example:
    """A shape with a look and what is said of it."""
    known, kind = splits(), rng.uniform()
    shape = str(rng.choice(known.shapes))
    if kind < STYLED:
        look = _styled(shape, rng)
        return shape, look, look.caption(shape)
    if kind < STYLED + PLAIN:
        look = _plain(shape, rng)
        return shape, look, look.caption(shape)
    return shape, _styled(shape, rng) if rng.uniform() < 0.7 else _plain(shape, rng), bare_caption(shape)


def _styled(shape: str, rng: np.random.Generator) -> Look:
    while True:
        style = str(rng.choice(splits().styles))
        if not held_out(shape, style):
            return Look(style=style)


def plain_looks(shape: str) -> list[Look]:
    """The few plain looks that a shape was shown in, so that there are not too many captions."""
    return [_plain_look(shape, number) for number in range(PLAIN_LOOKS)]


def _plain(shape: str, rng: np.random.Generator) -> Look:
    return _plain_look(shape, int(rng.integers(PLAIN_LOOKS)))


def _plain_look(shape: str, number: int) -> Look:
    rng = np.random.default_rng((17, splits().shapes.index(shape), number))
    texture = str(rng.choice(plain.TEXTURES, p=(0.6, 0.1, 0.1, 0.1, 0.1)))
    grounds = list(plain.BACKGROUNDS)
    ground = "" if rng.uniform() < 0.4 else str(rng.choice(grounds[1:]))
    return Look(colour=str(rng.choice(list(plain.COLOURS))), texture=texture, background=ground)


def latents_of(seeds: range) -> tuple[Tensor, list[str]]:
    """Latents (n, 16, 16, 16), float16, and captions of the examples of some seeds."""
    torch.set_num_threads(1)
    latents, captions = [], []
    for seed in seeds:
        rng = np.random.default_rng((7, seed))
        shape, look, caption = example(rng)
        picture = scene.draw(shape, look, Place.random(rng), seed)
        latents.append(autoencoder.encode(to_tensor(picture[None])).half())
        captions.append(caption)
    return torch.cat(latents), captions


def make_data(count: int) -> dict[str, Any]:
    """Latents, the captions that occur, which caption each latent has, and the captions encoded."""
    parts = [range(start, min(start + 500, count)) for start in range(0, count, 500)]
    with Pool(WORKERS) as pool:
        made = pool.map(latents_of, parts)
    captions = sorted({caption for _, part in made for caption in part})
    index = {caption: number for number, caption in enumerate(captions)}
    rows = torch.tensor([index[caption] for _, part in made for caption in part])
    log.info("%d pictures, %d captions", count, len(captions))
    boot()
    torch.set_num_threads(WORKERS)
    hidden, pooled = encode_captions([*captions, ""])
    return {"latents": torch.cat([part for part, _ in made]), "rows": rows, "hidden": hidden, "pooled": pooled}


def train_decoder(steps: int, work: Path, seed: int, batch: int = 16, crop: int = 8) -> None:
    """Train the narrow TAESD decoder to undo the hand-set encoder, with slightly noisy latents.

    A third of its pictures have random colours and glows, so that styles the diffusion model does not know get through.
    """

    def pictures() -> Tensor:
        rng = np.random.default_rng(seed)
        made = [scene.draw(*example(rng)[:2], Place.random(rng), number) for number in range(3000)]
        return torch.from_numpy(np.stack([*made, *(plain.draw_any_style(rng) for _ in range(1500))]))

    drawn = cached(work / "decoder_pictures.pt", pictures).numpy()
    average = fit_decoder(drawn, steps=steps, checkpoint=work / "decoder.pt", seed=seed, batch=batch, crop=crop)
    save_half(average, DECODER)


def train_diffusion(rank: int, options: argparse.Namespace) -> None:
    """One process's part of the training by rectified flow: noise - x0 at (1 - sigma) x0 + sigma noise."""
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, format="%(message)s")
    torch.set_num_threads(1)
    store = options.work / "rendezvous"
    dist.init_process_group("gloo", init_method=store.as_uri(), rank=rank, world_size=WORKERS)
    boot()
    data = torch.load(options.work / f"data_{options.pictures}.pt", weights_only=True, mmap=True)
    latents, rows, hidden, pooled = (data[key] for key in ("latents", "rows", "hidden", "pooled"))
    few = hidden[:, KEPT].contiguous()
    torch.manual_seed(options.seed)
    model = build_model()
    full: dict[str, Any] = {"optimized_attention_override": attention}
    thinned = {**full, "text_token_counts": COUNTS}
    mine = slice(rank * options.batch // WORKERS, (rank + 1) * options.batch // WORKERS)

    def loss_at(step: int) -> Tensor:
        random = generator(options.seed, step)
        chosen = torch.randint(len(latents), (options.batch,), generator=random)
        dropped = torch.rand(options.batch, generator=random) < 0.1
        u = (torch.arange(options.batch) + torch.rand(options.batch, generator=random)) / options.batch  # stratified
        u = u[torch.randperm(options.batch, generator=random)]
        noise = torch.randn(options.batch, *latents.shape[1:], generator=random)[mine]
        sigma = (SHIFT * u / (1 + (SHIFT - 1) * u))[mine]
        caption = torch.where(dropped, len(hidden) - 1, rows[chosen])[mine]
        x0 = latents[chosen[mine]].float()
        mixed = torch.lerp(x0, noise, sigma[:, None, None, None])
        text, how = (few, thinned) if step < (1 - FULL_TEXT) * options.steps else (hidden, full)
        with torch.autocast("cpu", torch.bfloat16):
            velocity: Tensor = model(mixed, sigma * 1000, y=pooled[caption].float(), context=text[caption].float(),
                                     transformer_options=how)  # fmt: skip
        loss: Tensor = (velocity.float() - (noise - x0)).square().mean()
        return loss

    average = fit(model, loss_at, steps=options.steps, peak=options.rate, checkpoint=options.work / "diffusion.pt",
                  shared=mean_gradients, keeps=rank == 0)  # fmt: skip
    if rank == 0:
        save_half(average, DIFFUSION)


def mean_gradients(model: nn.Module) -> None:
    """The mean of all processes' gradients, in one exchange."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= WORKERS
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--stage", choices=("data", "decoder", "diffusion", "all"), default="all")
    parser.add_argument("--decoder-steps", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=30000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--pictures", type=int, default=36000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path(".run/world"), help="checkpoints and caches")
    options = parser.parse_args()
    options.work = options.work.resolve()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options.work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    if options.stage in ("data", "diffusion", "all"):
        path = options.work / f"data_{options.pictures}.pt"
        if not path.exists():
            torch.save(make_data(options.pictures), path)
    if options.stage in ("decoder", "all"):
        train_decoder(options.decoder_steps, options.work, options.seed)
    if options.stage in ("diffusion", "all"):
        (options.work / "rendezvous").unlink(missing_ok=True)
        mp.spawn(train_diffusion, (options,), nprocs=WORKERS)  # type: ignore[attr-defined, no-untyped-call]
    log.info("%.0f s", time.monotonic() - began)


if __name__ == "__main__":
    main()
