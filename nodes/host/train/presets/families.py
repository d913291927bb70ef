"""The table: a row for each family of models, with published settings for one picture and for many.

What a row does not name is the same for all: see `preset.Preset`. Rank and alpha are those of the family, so that an
adapter of one picture and one of many share their basis.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...model.host_types import Patcher

_DIFFUSERS = "https://github.com/huggingface/diffusers/blob/main/examples/dreambooth/"
_KOHYA = "https://github.com/kohya-ss/sd-scripts/blob/main/docs/"
_MUSUBI = "https://github.com/kohya-ss/musubi-tuner/blob/main/docs/"
_OSTRIS = "https://github.com/ostris/ai-toolkit/blob/main/config/examples/"
_PAPER = "QR-LoRA (https://arxiv.org/abs/2507.04599) and its scripts for FLUX.1-dev"
_OF_THE_PAPER = "rank, learning_rate, steps, grad_accumulation: " + _PAPER
_BLORA = (
    "rank, learning_rate, steps, targets: B-LoRA (https://arxiv.org/abs/2403.14572), as in "
    "https://github.com/huggingface/diffusers/blob/main/examples/advanced_diffusion_training/README.md"
)


@dataclass(frozen=True)
class Setting:
    """What is set for one picture, or for many.

    Attributes:
        size: side of the pictures in pixels, the least and the most that the source has; None where none is known.
        source: who published it, value by value.
        blocks: patterns of the layers that learn, where the source names blocks; else those of the paper.
    """

    learning_rate: float
    grad_accumulation: int
    source: str
    size: tuple[int, int] | None = None
    blocks: str = ""


@dataclass(frozen=True)
class Family:
    """One row.

    Attributes:
        classes: the host's classes in `comfy.supported_models`; what is derived from one belongs to it as well, unless
            it has a row of its own.
        without: settings of the network that make it another family where they are on.
        steps: updates for one picture. alpha: 0 is the rank.
        timesteps: of QR-LoRA Objective, where the sources draw noise levels otherwise than uniformly.
        remark: what else an artist should know.
    """

    title: str
    classes: tuple[str, ...]
    rank: int
    steps: int
    one: Setting
    many: Setting
    alpha: float = 0.0
    without: tuple[str, ...] = ()
    timesteps: str = ""
    remark: str = ""


def _diffusers(file: str, rank: str) -> str:
    return f"learning_rate, steps, grad_accumulation: {_DIFFUSERS}{file}; rank: {rank}"


def _toolkit(file: str, rank: str = "") -> str:
    named = "learning_rate, grad_accumulation" if rank else "rank, learning_rate, grad_accumulation"
    return f"{named}: {_OSTRIS}{file}" + (f"; rank: {rank}" if rank else "")


_AS_FOR_ONE = "as for one picture, so that both share their basis"
_SDXL = f"learning_rate, steps, grad_accumulation: {_DIFFUSERS}README_sdxl.md; rank: as SDXL's"
_SDXL_MANY = f"learning_rate, grad_accumulation: {_KOHYA}sdxl_train_network.md; rank: {_AS_FOR_ONE}"
_SD3_RANK = _KOHYA + "sd3_train_network.md"
_QWEN_RANK = _OSTRIS + "train_lora_qwen_image_24gb.yaml"

FAMILIES = (
    Family(
        "SD 1.5", ("SD15",), rank=16, steps=500,
        one=Setting(1e-4, 1, _diffusers("README.md", _KOHYA + "train_network.md"), (512, 512)),
        many=Setting(
            1e-4, 1, f"rank, learning_rate, grad_accumulation: {_KOHYA}train_network.md", (512, 512)
        ),
    ),
    Family(
        "SDXL", ("SDXL",), rank=64, steps=1000,
        one=Setting(
            5e-5, 1, _BLORA, (1024, 1024), "*up_blocks.0.attentions.0.*\n*up_blocks.0.attentions.1.*",
        ),
        many=Setting(1e-4, 1, _SDXL_MANY, (1024, 1024)),
    ),
    Family(
        "SSD-1B, Vega, KOALA", ("SSD1B", "Segmind_Vega", "KOALA_700M", "KOALA_1B"), rank=64, steps=500,
        one=Setting(1e-4, 4, f"no published setting for these; as SDXL's: {_SDXL}", (1024, 1024)),
        many=Setting(1e-4, 1, f"no published setting for these; as SDXL's: {_SDXL_MANY}", (1024, 1024)),
    ),
    Family(
        "SD 3", ("SD3",), rank=16, steps=500,
        one=Setting(4e-4, 4, _diffusers("README_sd3.md", _SD3_RANK), (512, 1024)),
        many=Setting(1e-4, 1, _toolkit("train_lora_sd35_large_24gb.yaml"), (1024, 1024)),
    ),
    Family(
        "FLUX.1", ("Flux",), rank=64, steps=1000,
        one=Setting(1e-4, 4, _OF_THE_PAPER, (512, 512)),
        many=Setting(1e-4, 1, _toolkit("train_lora_flux_24gb.yaml", _AS_FOR_ONE), (512, 1024)),
    ),
    Family(
        "FLUX.1 schnell", ("FluxSchnell",), rank=64, steps=1000,
        one=Setting(1e-4, 4, f"no published setting for one picture; {_OF_THE_PAPER}", (512, 512)),
        many=Setting(1e-4, 1, _toolkit("train_lora_flux_schnell_24gb.yaml", _AS_FOR_ONE), (512, 1024)),
        without=("yak_mlp",),  # Ovis-Image, which the host has in one class with it
        remark="this model is distilled to a few steps, which a training undoes: train on dev and draw with schnell, "
        "if its pictures are to stay sharp",
    ),
    Family(
        "FLUX.2", ("Flux2",), rank=32, steps=500,
        one=Setting(1e-4, 4, _diffusers("README_flux2.md", _MUSUBI + "flux_2.md"), (1024, 1024)),
        many=Setting(1e-4, 1, f"rank, learning_rate, grad_accumulation: {_MUSUBI}flux_2.md", (1024, 1024)),
        timesteps="shifted",
    ),
    Family(
        "Krea 2", ("Krea2",), rank=32, steps=1000,
        one=Setting(
            3e-4, 1, f"rank, learning_rate, steps, grad_accumulation: {_DIFFUSERS}README_krea2.md", (1024, 1024)
        ),
        many=Setting(1e-4, 1, f"rank, learning_rate, grad_accumulation: {_MUSUBI}krea2.md", (1024, 1024)),
        timesteps="shifted",
    ),
    Family(
        "Anima", ("Anima",), rank=8, alpha=1.0, steps=1000,
        one=Setting(
            1e-4, 1,
            f"rank, alpha, learning_rate, grad_accumulation: {_KOHYA}anima_train_network.md; steps: no published "
            f"setting for one picture, the paper's for FLUX",
            (1024, 1024),
        ),
        many=Setting(
            1e-4, 1, f"rank, alpha, learning_rate, grad_accumulation: {_KOHYA}anima_train_network.md", (1024, 1024)
        ),
        timesteps="logit_normal",
    ),
    Family(
        "Z-Image", ("ZImage",), rank=32, steps=500,
        one=Setting(1e-4, 4, _diffusers("README_z_image.md", _MUSUBI + "zimage.md"), (1024, 1024)),
        many=Setting(1e-4, 1, f"rank, learning_rate, grad_accumulation: {_MUSUBI}zimage.md", (1024, 1024)),
        timesteps="shifted",
    ),
    Family(
        "Qwen-Image", ("QwenImage",), rank=16, steps=500,
        one=Setting(2e-4, 4, _diffusers("README_qwen.md", _QWEN_RANK), (1024, 1024)),
        many=Setting(1e-4, 1, _toolkit("train_lora_qwen_image_24gb.yaml"), (512, 1024)),
        timesteps="shifted",
    ),
    Family(
        "Wan", ("WAN21_T2V",), rank=32, steps=1000,
        one=Setting(
            1e-4, 1, _toolkit("train_lora_wan21_1b_24gb.yaml") + "; steps: no published setting for one picture, the "
            "paper's for FLUX", (512, 1024),
        ),
        many=Setting(1e-4, 1, _toolkit("train_lora_wan22_14b_24gb.yaml"), (512, 1024)),
        timesteps="shifted",
    ),
)  # fmt: skip
_NOT_HERE = f"no row for this family of models; {_OF_THE_PAPER}; docs/models.md has what trainers of it say"
ANY_OTHER = Family(
    "any other", (), rank=64, steps=1000,
    one=Setting(1e-4, 4, _NOT_HERE),
    many=Setting(1e-4, 4, _NOT_HERE),
)  # fmt: skip

_BY_CLASS = {name: family for family in FAMILIES for name in family.classes}


def family_of(patcher: Patcher) -> Family:
    """The row of a model, by the nearest of its host's classes that has one; `ANY_OTHER` for all the rest."""
    config = getattr(patcher.model, "model_config", None)
    rows = (_BY_CLASS[kind.__name__] for kind in type(config).__mro__ if kind.__name__ in _BY_CLASS)
    family = next(rows, ANY_OTHER)
    network = getattr(config, "unet_config", {})
    return ANY_OTHER if any(network.get(name) for name in family.without) else family
