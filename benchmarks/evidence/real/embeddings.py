"""What judges see a picture with: an embedding of it, by weights of the host's folder `clip_vision` or by hand.

DINOv2, CLIP and CSD are read by the host's own loader, `comfy.clip_vision`. CSD (arXiv 2404.01292) is OpenAI's ViT-L/14
with another projection, so that its published weights are renamed to the names of OpenAI's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.utils
import folder_paths
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.evidence.real.errors import InputError

Embedding = Callable[[Tensor], Tensor]  # pictures (n, height, width, 3) of 0 to 1 to (n, features)
FOLDER = "clip_vision"
AT_ONCE = 8  # pictures


@dataclass(frozen=True)
class Kind:
    """Weights that may be installed.

    Attributes:
        sees: "content", "style" or both.
        weights: which file it is, for people.
        apart: what else may stand in a name that has the kind's in it, and is another network.
    """

    name: str
    sees: tuple[str, ...]
    weights: str
    apart: tuple[str, ...] = ()

    def is_named(self, file: str) -> bool:
        """Whether a file's name says that it is of this kind."""
        return self.name in file.lower() and not any(other in file.lower() for other in self.apart)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("dino", ("content",), "DINOv2 large or giant as transformers has it (facebook/dinov2-large)"),
        Kind("clip", ("content", "style"), "a CLIP vision model, ViT-L/14, ViT-H/14 or ViT-bigG/14",
             apart=("dino", "csd", "siglip", "sigclip")),
        Kind("csd", ("style",), "CSD (yuxi-liu-wired/CSD, or keys such as module.backbone.conv1.weight)"),
    )
}  # fmt: skip


def weights_of(kind: Kind, file: str = "") -> Path:
    """Where the weights of a kind lie.

    Args:
        file: a path, or a name in the host's folder; empty for the one that has the kind in its name.

    Raises:
        InputError: there is no such file, or more than one that may be meant.
    """
    if file:
        path = folder_paths.get_full_path(FOLDER, file)
        found = [Path(file)] if Path(file).is_file() else [Path(path)] if path else []
    else:
        names = [name for name in folder_paths.get_filename_list(FOLDER) if kind.is_named(name)]
        found = [Path(folder_paths.get_full_path(FOLDER, name)) for name in names]
    if len(found) == 1:
        return found[0]
    wanted = f"a file {file}" if file else f"one file with {kind.name} in its name"
    there = ", ".join(path.name for path in found) or "none"
    raise InputError(
        f"judge {kind.name}: expected {wanted} in {' or '.join(folder_paths.get_folder_paths(FOLDER))}, found {there}. "
        f"Put {kind.weights} there as a safetensors file, or name a file with --judge-file {kind.name}=FILE."
    )


def encoder(kind: Kind, path: Path) -> Embedding:
    """The embedding by a file of weights.

    Raises:
        InputError: the host knows no such network, or a part of it is not in the file.
    """
    if path.suffix.lower() not in (".safetensors", ".sft"):
        raise InputError(f"{path}: expected a safetensors file, found {path.suffix or 'no ending'}. Convert it first.")
    weights = comfy.utils.load_torch_file(str(path), safe_load=True)
    if kind.name == "csd":
        weights = with_names_of_clip(weights, path)
    weights = comfy.clip_vision.convert_to_transformers(dict(weights), "visual.")
    there = set(weights)
    network = comfy.clip_vision.load_clipvision_from_sd(weights)
    if network is None:
        raise InputError(f"{path}: this ComfyUI knows no image encoder with these layers. Expected {kind.weights}.")
    if lacking := sorted(set(network.get_sd()) - there):
        raise InputError(f"{path}: expected all weights of {kind.weights}; {len(lacking)} lack, such as {lacking[0]}.")
    return partial(_encode, network, path)


def _encode(network: Any, path: Path, pictures: Tensor) -> Tensor:
    with torch.inference_mode():
        parts = [network.encode_image(part)["image_embeds"].float().cpu() for part in pictures.split(AT_ONCE)]
    if parts[0].ndim != 2:
        raise InputError(f"{path}: expected one embedding of a picture, found {tuple(parts[0].shape[1:])}.")
    return torch.cat(parts)


def with_names_of_clip(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The published names of CSD as OpenAI's: the style's projection (features, 768) stands for that of CLIP.

    Raises:
        InputError: not the keys of CSD.
    """
    plain = {key.removeprefix("module."): value for key, value in weights.items()}
    if "last_layer_style" not in plain or "backbone.conv1.weight" not in plain:
        raise InputError(f"{path}: expected the keys of CSD, backbone.conv1.weight and last_layer_style, found others.")
    visual = {f"visual.{key.removeprefix('backbone.')}": value
              for key, value in plain.items() if key.startswith("backbone.")}  # fmt: skip
    return {**visual, "visual.proj": plain["last_layer_style"]}


def edges(pictures: Tensor) -> Tensor:
    """The stand-in for content, (n, 256): where a grey picture has edges, on a grid of 16 x 16, less their mean."""
    grey = _small(pictures).mean(1, keepdim=True)
    across, down = _steps(grey)
    cells = F.adaptive_avg_pool2d((across.square() + down.square()).sqrt(), 16).flatten(1)
    return cells - cells.mean(1, keepdim=True)


def colours_and_edges(pictures: Tensor) -> Tensor:
    """The stand-in for style, (n, 72): a histogram of 4 x 4 x 4 colours, and one of how steep edges are in 8 steps.

    Both as square roots, so that their product is the affinity of the distributions.
    """
    small = _small(pictures)
    colours = (small * 3.999).long()
    across, down = _steps(small.mean(1, keepdim=True))
    steep = ((across.square() + down.square()).sqrt() * 32).clamp(max=7).long()
    codes = colours[:, 0] * 16 + colours[:, 1] * 4 + colours[:, 2]
    shares = [F.one_hot(code.flatten(1), count).float().mean(1) for code, count in ((codes, 64), (steep, 8))]
    return torch.cat([share.sqrt() for share in shares], dim=1)


def _small(pictures: Tensor) -> Tensor:
    """(n, 3, 64, 64)."""
    return F.adaptive_avg_pool2d(pictures.float().movedim(-1, 1), 64)


def _steps(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbours across and down, both (n, 1, 63, 63)."""
    return grey[..., :-1, 1:] - grey[..., :-1, :-1], grey[..., 1:, :-1] - grey[..., :-1, :-1]
