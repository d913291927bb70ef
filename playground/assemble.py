"""Build the playground's model files: `python -m playground.assemble --models DIR --input DIR`.

The committed weights are small because what can be computed is left out: here the seeded text encoder, the hand-set
encoder and the zero columns are put back, so that the host's stock loaders read the result. A file that is already
up to date is left alone, which takes no torch.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import struct
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

HERE = Path(__file__).parent
DIFFUSION = HERE / "weights" / "world_sd3.safetensors"
DECODER = HERE / "weights" / "world_decoder.safetensors"
ASSETS = HERE.parent / "example_workflows" / "assets"
# What the examples load, trained on this model by `playground.adapters`; the folder is that below the host's models.
ADAPTERS = {
    "qr_loras": ("playground_content.safetensors", "playground_style.safetensors"),
    "loras": ("playground_neon.safetensors",),
}
NAME = "qrlora_playground.safetensors"
STAMP = "qrlora_playground"
# SD3 pads CLIP-L's 768 features to these widths; the columns added here only ever meet zeros.
PADDED = {"context_embedder.weight": 4096, "y_embedder.mlp.0.weight": 2048}


def stamp() -> str:
    """Digest of everything that the files are made from."""
    sources = [DIFFUSION, DECODER, HERE / "assemble.py", HERE / "autoencoder.py", HERE / "text_encoder.py"]
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in sources)).hexdigest()


def stamp_of(path: Path) -> str | None:
    """The stamp in a safetensors file, None where there is none."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header: dict[str, dict[str, str]] = json.loads(file.read(min(length, 10_000_000)))
    except (OSError, ValueError, struct.error):
        return None
    return header.get("__metadata__", {}).get(STAMP)


def diffusion_weights() -> dict[str, Tensor]:
    """The tiny SD3's complete state dict, float16."""
    from safetensors.torch import load_file
    from torch.nn.functional import pad

    weights = load_file(DIFFUSION)
    for key, width in PADDED.items():
        weights[key] = pad(weights[key], (0, width - weights[key].shape[1]))
    return weights


def checkpoint_weights() -> dict[str, Tensor]:
    """Diffusion model, autoencoder and text encoder under the names that the stock checkpoint loader reads."""
    import torch
    from safetensors.torch import load_file

    from playground import autoencoder, text_encoder

    vae = {f"taesd_encoder.{key}": value for key, value in autoencoder.encoder_weights().items()}
    vae |= {f"taesd_decoder.{key}": value for key, value in autoencoder.widen(load_file(DECODER)).items()}
    vae |= {"vae_scale": torch.tensor(autoencoder.SCALE), "vae_shift": torch.tensor(autoencoder.SHIFT)}
    parts = {
        "model.diffusion_model.": diffusion_weights(),
        "first_stage_model.": vae,
        "text_encoders.clip_l.transformer.": text_encoder.weights(),
    }
    return {prefix + key: value for prefix, part in parts.items() for key, value in part.items()}


def write(weights: dict[str, Tensor], path: Path) -> None:
    """Write stamped weights under a temporary name, then rename."""
    from safetensors.torch import save

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    contiguous = {key: value.contiguous() for key, value in weights.items()}
    temporary.write_bytes(save(contiguous, metadata={STAMP: stamp()}))
    temporary.replace(path)


def assemble(models: Path) -> list[Path]:
    """Bring the model files below `models` up to date and return those that were written."""
    wanted = {models / "checkpoints" / NAME: checkpoint_weights, models / "diffusion_models" / NAME: diffusion_weights}
    current = stamp()
    stale = [path for path in wanted if stamp_of(path) != current]
    for path in stale:
        write(wanted[path](), path)
    return stale


def copy_adapters(models: Path) -> list[Path]:
    """Copy the adapters that the examples load below the host's models and return those that were written."""
    wanted = {HERE / "weights" / name: models / folder / name for folder, names in ADAPTERS.items() for name in names}
    return [target for source, target in wanted.items() if _copy(source, target)]


def copy_pictures(folder: Path) -> list[Path]:
    """Copy the example pictures into the host's input folder and return those that were written."""
    wanted = {source: folder / source.name for source in sorted(ASSETS.glob("*.png"))}
    return [target for source, target in wanted.items() if _copy(source, target)]


def _copy(source: Path, target: Path) -> bool:
    """Whether the target was not there, or another."""
    if target.exists() and target.read_bytes() == source.read_bytes():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return True


def furnish(base: Path) -> None:
    """Everything that the examples need, in the base directory of a host."""
    assemble(base / "models")
    copy_adapters(base / "models")
    copy_pictures(base / "input")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", type=Path, required=True, help="the host's models folder")
    parser.add_argument("--input", type=Path, help="the host's input folder, for the example pictures")
    options = parser.parse_args()
    written = assemble(options.models) + copy_adapters(options.models)
    for path in written + (copy_pictures(options.input) if options.input else []):
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
