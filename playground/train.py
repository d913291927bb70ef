"""What the trainings of the tiny SD3, its decoder and its judges share; `python -m playground.world.train` runs them.

Runs are resumable (checkpoints in the work folder) and deterministic under a seed: step n draws its batch from a
generator seeded with n.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from playground import autoencoder, text_encoder

T = TypeVar("T")

log = logging.getLogger("playground")

DEPTH = 3
HIDDEN = 64 * DEPTH  # the host detects the depth from this
TEXT_WIDTH = 768  # CLIP-L's; SD3 pads it with zeros to 4096 and 2048, assemble.py adds those columns
GRID = 16  # positions per side: pictures up to 256 pixels
SHIFT = 3.0  # the host's timestep shift for SD3


def generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def fit(model: nn.Module, loss_at: Callable[[int], Tensor], *, steps: int, peak: float, checkpoint: Path,
        decay: float = 0.999, shared: Callable[[nn.Module], None] = lambda model: None,
        keeps: bool = True) -> dict[str, Tensor]:  # fmt: skip
    """Minimise a loss by AdamW with warm-up and cosine decay, and return the averaged weights.

    Of several processes each calls `shared` on its gradients, and one keeps the checkpoint.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=0.01)
    average = {key: value.detach().clone() for key, value in model.state_dict().items()}
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average, start = state["average"], state["step"]
    recent: list[float] = []
    began = time.monotonic()
    for step in range(start, steps):
        warmup = min(1.0, (step + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = peak * warmup * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)
        loss = loss_at(step)
        optimizer.zero_grad()
        loss.backward()
        shared(model)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate = min(decay, (1 + step) / (10 + step))
        for key, value in model.state_dict().items():
            average[key].lerp_(value, 1 - rate)
        recent.append(loss.item())
        if (step + 1) % 100 == 0 or step + 1 == steps:
            mean, recent = sum(recent) / len(recent), []
            log.info("step %d of %d: loss %.5f, %.0f s", step + 1, steps, mean, time.monotonic() - began)
        if keeps and ((step + 1) % 100 == 0 or step + 1 == steps):
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average}
            torch.save({**state, "step": step + 1}, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
    return average


def to_tensor(pictures: np.ndarray) -> Tensor:
    """Bytes (n, h, w, 3) as float32 (n, 3, h, w) from 0 to 1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def fit_decoder(
    drawn: np.ndarray, *, steps: int, checkpoint: Path, seed: int, batch: int, crop: int
) -> dict[str, Tensor]:
    """Train a narrow decoder on pictures (n, 128, 128, 3) of bytes, by crops of so many latent places a side."""
    pictures = to_tensor(drawn)
    latents = autoencoder.encode(pictures)
    torch.manual_seed(seed)
    model = autoencoder.narrow_decoder()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # an overload that torch does not name
    side = crop * autoencoder.BLOCK

    def loss_at(step: int) -> Tensor:
        random = generator(seed, step)
        rows = torch.randint(len(pictures), (batch,), generator=random).tolist()
        corners = torch.randint(latents.shape[-1] - crop + 1, (batch, 2), generator=random).tolist()
        x = torch.stack([latents[i, :, y : y + crop, x : x + crop]
                         for i, (y, x) in zip(rows, corners, strict=True)])  # fmt: skip
        target = torch.stack([pictures[i, :, y * 8 : y * 8 + side, x * 8 : x * 8 + side]
                              for i, (y, x) in zip(rows, corners, strict=True)])  # fmt: skip
        level = 0.08 * torch.rand(batch, 1, 1, 1, generator=random)
        x = x + level * torch.randn(x.shape, generator=random)
        with torch.autocast("cpu", torch.bfloat16):
            out: Tensor = model(x.to(memory_format=torch.channels_last)).float()
        return (out - target).abs().mean() + 2 * (out - target).square().mean()

    return fit(model, loss_at, steps=steps, peak=2e-3, checkpoint=checkpoint, decay=0.995)


def build_model() -> nn.Module:
    """A tiny SD3 of the host's own classes, initialised as diffusion transformers are."""
    import comfy.supported_models
    from comfy.ldm.modules.diffusionmodules.mmdit import get_2d_sincos_pos_embed

    text = {"target": "torch.nn.Linear", "params": {"in_features": TEXT_WIDTH, "out_features": HIDDEN}}
    config = comfy.supported_models.SD3(
        {
            "in_channels": 16,
            "out_channels": 16,
            "patch_size": 2,
            "depth": DEPTH,
            "input_size": None,
            "adm_in_channels": TEXT_WIDTH,
            "context_embedder_config": text,
            "num_patches": GRID**2,
            "pos_embed_max_size": GRID,
            "pos_embed_scaling_factor": None,
            "qk_norm": "rms",
            "x_block_self_attn_layers": [],
        }
    )
    config.set_inference_dtype(torch.float32, None)
    model: nn.Module = config.get_model({}, "").diffusion_model
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            nn.init.constant_(weight, 1.0 if "ln_" in name else 0.0)
        elif "adaLN_modulation" in name or name.startswith("final_layer.linear"):
            nn.init.zeros_(weight)
        elif "embedder.mlp" in name:
            nn.init.normal_(weight, std=0.02)
        else:
            nn.init.xavier_uniform_(weight.flatten(1))
    positions = torch.from_numpy(get_2d_sincos_pos_embed(HIDDEN, GRID)).float()
    model.get_buffer("pos_embed").copy_(positions[None])
    return model.train().requires_grad_(True)


@torch.no_grad()
def encode_captions(captions: list[str], batch: int = 64) -> tuple[Tensor, Tensor]:
    """Hidden states (n, 77, 768) and pooled states (n, 768) of the seeded CLIP-L, by the host, in bfloat16."""
    import comfy.sd

    clip = comfy.sd.load_text_encoder_state_dicts([text_encoder.weights()], clip_type=comfy.sd.CLIPType.SD3)
    encoder = clip.cond_stage_model.clip_l.cpu()
    tokens = [[token for token, _ in clip.tokenize(caption)["l"][0]] for caption in captions]
    hidden, pooled = [], []
    for i in range(0, len(tokens), batch):
        with torch.autocast("cpu", torch.bfloat16):
            states, last = encoder.encode(tokens[i : i + batch])
        hidden.append(states.bfloat16())
        pooled.append(last.bfloat16())
    return torch.cat(hidden), torch.cat(pooled)


def cached(path: Path, make: Callable[[], T]) -> T:
    """What `make` returns, kept in a file."""
    if not path.exists():
        temporary = path.with_suffix(f".{os.getpid()}.tmp")  # others may look for it meanwhile
        torch.save(make(), temporary)
        temporary.replace(path)
    made: T = torch.load(path, weights_only=True)
    return made


# Padding makes up most of the 77 text tokens, and its states are much alike. Nine tenths of the training sees one in
# eight of them, each counted eight times by attention, which halves its cost; the last tenth sees all.
WORDS, EVERY = 16, 8
KEPT = [*range(WORDS), *range(WORDS + EVERY // 2, 77, EVERY)]
COUNTS = torch.tensor([1.0] * WORDS + [(77 - WORDS) / (len(KEPT) - WORDS)] * (len(KEPT) - WORDS))


def attention(_host: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, **options: Any) -> Tensor:
    """Plain attention for the host to call: on so few tokens its backward is several times faster on a CPU."""
    q, k, v = (x.flatten(2).unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    counts = options["transformer_options"].get("text_token_counts")
    if counts is not None:
        scores = scores + nn.functional.pad(counts.log(), (0, scores.shape[-1] - len(counts)))
    return (torch.softmax(scores, dim=-1).to(v.dtype) @ v).transpose(1, 2).flatten(2)


def save_half(weights: dict[str, Tensor], path: Path) -> None:
    """Write weights as float16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(save({key: value.half().contiguous() for key, value in weights.items()}))
    log.info("wrote %s, %.2f MB", path.name, path.stat().st_size / 1e6)
