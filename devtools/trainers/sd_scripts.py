"""sd-scripts, and what its own converters make of its files.

Its networks are those of the original checkpoints, but for SD 1.5 and 2, which have diffusers' names. Names of layers
are written with underscores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from .layout import Layout
from .unet import UNet

_SOURCE = "kohya-ss/sd-scripts: "
_NOTHING: Mapping[str, str] = MappingProxyType({})


def _own(models: tuple[str, ...], layers: tuple[str, ...], source: str, host: Mapping[str, str] = _NOTHING) -> Layout:
    return Layout(
        "sd-scripts", models, layers, _SOURCE + source, "lora_unet_", True, ".lora_down.weight", ".lora_up.weight",
        ".alpha", host,
    )  # fmt: skip


_FLUX_ATTENTION = "double_blocks.{0..1}.{img_attn,txt_attn}.{qkv,proj}"
_FLUX_BLOCKS = (
    _FLUX_ATTENTION,
    "double_blocks.{0..1}.{img_mlp,txt_mlp}.{0,2}",
    "single_blocks.{0..1}.{linear1,linear2}",
)
_FLUX_MODULATION = ("double_blocks.{0..1}.{img_mod,txt_mod}.lin", "single_blocks.{0..1}.modulation.lin")
_FLUX_DIFFUSERS = (
    "transformer_blocks.{0..1}.attn.{to_q,to_k,to_v,to_out.0,add_q_proj,add_k_proj,add_v_proj,to_add_out}",
    "transformer_blocks.{0..1}.{ff,ff_context}.{net.0.proj,net.2}",
    "transformer_blocks.{0..1}.{norm1,norm1_context}.linear",
    "single_transformer_blocks.{0..1}.{attn.to_q,attn.to_k,attn.to_v,proj_mlp,proj_out,norm.linear}",
)

_SD3_BLOCK = "{attn.qkv,attn.proj,mlp.fc1,mlp.fc2,adaLN_modulation.1}"
_SD3 = (
    f"joint_blocks.{{0..1}}.x_block.{_SD3_BLOCK}",
    f"joint_blocks.0.context_block.{_SD3_BLOCK}",
    "joint_blocks.1.context_block.{attn.qkv,adaLN_modulation.1}",  # the last block drops the text behind its attention
)

_LUMINA2 = (
    "{noise_refiner,context_refiner,layers}.{0..1}.{attention.qkv,attention.out}",
    "{noise_refiner,context_refiner,layers}.{0..1}.feed_forward.{w1,w2,w3}",
    "{noise_refiner,layers}.{0..1}.adaLN_modulation.1",
    "final_layer.{linear,adaLN_modulation.1}",
)

_ANIMA = (
    "blocks.{0..1}.{self_attn,cross_attn}.{q_proj,k_proj,v_proj,output_proj}",
    "blocks.{0..1}.mlp.{layer1,layer2}",
)
_ANIMA_TEXT = (
    "llm_adapter.blocks.{0..1}.{self_attn,cross_attn}.{q_proj,k_proj,v_proj,o_proj}",
    "llm_adapter.blocks.{0..1}.mlp.{0,2}",
)

_HUNYUAN_MEANT = {
    "double_blocks.{0..1}.{img,txt}_attn_{qkv,proj}": _FLUX_ATTENTION,
    "double_blocks.{0..1}.{img_mlp,txt_mlp}.{fc1,fc2}": "double_blocks.{0..1}.{img_mlp,txt_mlp}.{0,2}",
    "double_blocks.{0..1}.{img_mod,txt_mod}.linear": "double_blocks.{0..1}.{img_mod,txt_mod}.lin",
    "single_blocks.{0..1}.modulation.linear": "single_blocks.{0..1}.modulation.lin",
}

LAYOUTS = (
    _own(("anima",), _ANIMA, "networks/lora_anima.py, library/anima_models.py"),
    replace(
        _own(("anima",), _ANIMA + _ANIMA_TEXT, "networks/lora_anima.py (train_llm_adapter), library/anima_models.py"),
        trainer="sd-scripts, with the text adapter",
    ),
    Layout(
        "sd-scripts, converted", ("anima",), _ANIMA, f"{_SOURCE}networks/convert_anima_lora_to_comfy.py",
        "diffusion_model.", alpha=".alpha",
    ),
    _own(("flux",), _FLUX_BLOCKS + _FLUX_MODULATION, "networks/lora_flux.py, library/flux_models.py"),
    Layout(
        "sd-scripts, converted", ("flux",), _FLUX_DIFFUSERS, f"{_SOURCE}networks/convert_flux_lora.py", "transformer.",
    ),
    _own(("chroma",), _FLUX_BLOCKS, "networks/lora_flux.py, library/chroma_models.py"),
    _own(("lumina2",), _LUMINA2, "networks/lora_lumina.py, library/lumina_models.py"),
    _own(
        ("sdxl",),
        tuple(UNet.small("sdxl").transformers().values()),
        "networks/lora.py, library/sdxl_original_unet.py",
    ),
    *(
        _own((name,), tuple(UNet.small(name).transformers()), "networks/lora.py, library/original_unet.py")
        for name in ("sd15", "sd2")
    ),
    _own(("sd3",), _SD3, "networks/lora_sd3.py, library/sd3_models.py"),
    _own(
        ("sd35",),
        (*_SD3, "joint_blocks.0.x_block.attn2.{qkv,proj}"),
        "networks/lora_sd3.py, library/sd3_models.py",
    ),
    _own(
        ("hunyuan_image",),
        (*_HUNYUAN_MEANT, "single_blocks.{0..1}.{linear1,linear2}"),
        "networks/lora_hunyuan_image.py, library/hunyuan_image_models.py",
        host=_HUNYUAN_MEANT,
    ),
    replace(
        _own(
            ("hunyuan_image",),
            _FLUX_BLOCKS + _FLUX_MODULATION,
            "networks/convert_hunyuan_image_lora_to_comfy.py",
        ),
        trainer="sd-scripts, converted",
    ),
)  # fmt: skip
