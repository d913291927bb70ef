"""Train the adapters that the examples load: `python -m playground.adapters`, some minutes on one core.

The content and the style come from the examples that train them; the ordinary LoRA from the host's own Train LoRA.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from devtools.host import boot
from devtools.server import Server
from generators.workflows import prompt_of
from playground import assemble
from playground.draw import draw_neon

WEIGHTS = Path(__file__).parent / "weights"


def train_ours() -> None:
    """Run the examples that train, and keep what they save, in float16."""
    server = Server()
    assemble.assemble(server.models_dir)
    assemble.copy_pictures(server.input_dir)
    with server:
        for kind in ("content", "style"):
            server.queue(_only_training(prompt_of(f"train_{kind}")), timeout=1800)
            (made,) = (server.output_dir / "qr_loras").glob(f"{kind}_*.safetensors")
            shutil.copyfile(made, WEIGHTS / f"playground_{kind}.safetensors")


def _only_training(prompt: dict[str, Any]) -> dict[str, Any]:
    saving = next(name for name, node in prompt.items() if node["class_type"] == "QRLoRA_Save")
    prompt[saving]["inputs"]["dtype"] = "float16"
    kept, found = {saving}, [saving]
    while found:
        sources = {value[0] for value in prompt[found.pop()]["inputs"].values() if isinstance(value, list)}
        found += sources - kept
        kept |= sources
    return {name: node for name, node in prompt.items() if name in kept}


def train_ordinary(models: Path) -> None:
    """An ordinary LoRA of a neon style, by the host's own trainer."""
    boot(nodes=True)
    from comfy_extras.nodes_train import TrainLoraNode

    from playground.generate import Playground

    assemble.assemble(models)
    playground = Playground(models / "checkpoints" / assemble.NAME)
    picture = torch.from_numpy(draw_neon("star")).float()[None] / 255
    with torch.no_grad():
        latent, caption = {"samples": playground.vae.encode(picture)}, playground.encode("a star in neon style")
    made = TrainLoraNode.execute(  # twice the picture: this trainer does not take a single one
        model=[playground.model], latents=[latent, latent], positive=[caption], batch_size=[2], steps=[300],
        grad_accumulation_steps=[1], learning_rate=[2e-3], rank=[4], optimizer=["AdamW"], loss_function=["MSE"],
        seed=[0], training_dtype=["fp32"], lora_dtype=["fp32"], algorithm=["LoRA"], gradient_checkpointing=[False],
        existing_lora=["[None]"],
    ).args[1]  # fmt: skip
    weights = {key: value.detach().half().contiguous() for key, value in made.items()}
    save_file(weights, WEIGHTS / "playground_neon.safetensors")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path(".run/playground"), help="where the checkpoint is put")
    options = parser.parse_args()
    train_ours()
    train_ordinary(options.models)


if __name__ == "__main__":
    main()
