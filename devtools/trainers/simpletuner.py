"""SimpleTuner: LoRAs by PEFT as it saves them by default, the same with ``--lora_format comfyui``, and by LyCORIS.

Names of layers are those of its own copies of diffusers' networks; which of them are adapted stands in each model's
``DEFAULT_LORA_TARGET``, and for LyCORIS in the classes that ``lycoris_defaults.py`` names: Attention and FeedForward.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .diffusers import (
    FLUX2_HOST,
    LUMINA2_HOST,
    Z_IMAGE_HOST,
    Z_IMAGE_LAYERS,
    unet_attention,
)
from .layout import Layout
from .unet import UNet

_SOURCE = "bghira/SimpleTuner: simpletuner/helpers/models"
_OUT = "{to_q,to_k,to_v,to_out.0}"
_TEXT = "{add_q_proj,add_k_proj,add_v_proj,to_add_out}"
_LYCORIS: dict[str, Any] = {
    "prefix": "lycoris_",
    "flat": True,
    "down": ".lora_down.weight",
    "up": ".lora_up.weight",
    "alpha": ".alpha",
}
_COMFYUI: dict[str, Any] = {"prefix": "diffusion_model.", "alpha": ".alpha"}


def _standard(models: tuple[str, ...], folder: str, *layers: str, prefix: str = "transformer.", **more: Any) -> Layout:
    source = f"{_SOURCE}/{folder}/model.py"
    return Layout("SimpleTuner", models, layers, source, prefix=prefix, **more)


def _lycoris(models: tuple[str, ...], folder: str, *layers: str, **more: Any) -> Layout:
    source = f"{_SOURCE}/{folder}/transformer.py, simpletuner/lycoris_defaults.py"
    return Layout("SimpleTuner, LyCORIS", models, layers, source, **_LYCORIS, **more)


def _unet_blocks(name: str) -> tuple[str, ...]:
    """The layers of the blocks of all transformers of a UNet."""
    return tuple(pattern for pattern in UNet.small(name).transformers() if ".transformer_blocks." in pattern)


COSMOS_HOST = {
    f"transformer_blocks.{{0..1}}.{attention}.{_OUT}":
        f"blocks.{{0..1}}.{host}.{{q_proj,k_proj,v_proj,output_proj}}"
    for attention, host in (("attn1", "self_attn"), ("attn2", "cross_attn"))
} | {"transformer_blocks.{0..1}.ff.{net.0.proj,net.2}": "blocks.{0..1}.mlp.{layer1,layer2}"}  # fmt: skip
ANIMA_HOST = {f"core.{own}": host for own, host in COSMOS_HOST.items()}
WAN_HOST = {
    "blocks.{0..1}.{attn1,attn2}.{to_q,to_k,to_v,to_out.0}": "blocks.{0..1}.{self_attn,cross_attn}.{q,k,v,o}",
    "blocks.{0..1}.ffn.{net.0.proj,net.2}": "blocks.{0..1}.ffn.{0,2}",
}
_REFINER = "context_embedder.token_refiner.refiner_blocks.{0..1}"
_REFINER_HOST = "txt_in.individual_token_refiner.blocks.{0..1}"
HUNYUAN_HOST = {
    **{f"transformer_blocks.{{0..1}}.attn.to_{part}": f"double_blocks.{{0..1}}.img_attn.qkv[{i}/3]"
       for i, part in enumerate("qkv")},
    **{f"transformer_blocks.{{0..1}}.attn.add_{part}_proj": f"double_blocks.{{0..1}}.txt_attn.qkv[{i}/3]"
       for i, part in enumerate("qkv")},
    "transformer_blocks.{0..1}.attn.{to_out.0,to_add_out}": "double_blocks.{0..1}.{img_attn,txt_attn}.proj",
    "transformer_blocks.{0..1}.{ff,ff_context}.{net.0.proj,net.2}": "double_blocks.{0..1}.{img_mlp,txt_mlp}.{0,2}",
    **{f"{_REFINER}.attn.to_{part}": f"{_REFINER_HOST}.self_attn.qkv[{i}/3]" for i, part in enumerate("qkv")},
    f"{_REFINER}.attn.to_out.0": f"{_REFINER_HOST}.self_attn.proj",
    f"{_REFINER}.ff.{{net.0.proj,net.2}}": f"{_REFINER_HOST}.mlp.{{0,2}}",
}  # fmt: skip
_Z_IMAGE_BLOCKS = "{noise_refiner,context_refiner,layers}.{0..1}"
_Z_IMAGE_FEED_FORWARD = f"{_Z_IMAGE_BLOCKS}.feed_forward.{{w1,w2,w3}}"
_HIDREAM_EXPERTS = (
    "{double_stream_blocks,single_stream_blocks}.{0..1}.block.ff_i."
    "{shared_experts,experts.0,experts.1,experts.2,experts.3}.{w1,w2,w3}"
)
_SAME = "diffusion_model.{name}"  # ComfyUI's network has diffusers' names
_UNETS = {"sdxl": "sdxl", "sd15": "sd1x", "sd2": "sd1x"}
_UNET: dict[str, Any] = {
    "prefix": "unet.",
    "down": ".lora.down.weight",
    "up": ".lora.up.weight",
    "alike": "lora_unet_{flat}",
}
_KOHYA: dict[str, Any] = {
    "prefix": "lora_unet_",
    "flat": True,
    "down": ".lora_down.weight",
    "up": ".lora_up.weight",
    "alpha": ".alpha",
}
_BLOCK_ATTENTION = f"transformer_blocks.{{0..1}}.attn.{_OUT}"
_SINGLE_ATTENTION = "single_transformer_blocks.{0..1}.attn.{to_q,to_k,to_v}"

_STANDARD = (
    _standard(
        ("krea2",), "krea2",
        f"{{text_fusion.layerwise_blocks,text_fusion.refiner_blocks,transformer_blocks}}.{{0..1}}.attn.{_OUT}",
    ),
    _standard(("anima",), "anima", f"core.transformer_blocks.{{0..1}}.{{attn1,attn2}}.{_OUT}", host=ANIMA_HOST),
    _standard(("qwen_image",), "qwen_image", _BLOCK_ATTENTION),
    _standard(
        ("flux2", "flux2_klein"), "flux2", _BLOCK_ATTENTION, "single_transformer_blocks.{0..1}.attn.to_qkv_mlp_proj",
        host=FLUX2_HOST,
    ),
    _standard(("flux",), "flux", _BLOCK_ATTENTION, f"transformer_blocks.{{0..1}}.attn.{_TEXT}", _SINGLE_ATTENTION),
    _standard(("z_image",), "z_image", *Z_IMAGE_LAYERS, host=Z_IMAGE_HOST),
    _standard(
        ("wan", "wan_i2v", "wan22_5b"), "wan", f"blocks.{{0..1}}.{{attn1,attn2}}.{_OUT}", host=WAN_HOST,
    ),
    *(_standard((name,), family, *unet_attention(name), **_UNET) for name, family in _UNETS.items()),
    _standard(("sd3",), "sd3", _BLOCK_ATTENTION),
    _standard(("sd35",), "sd3", _BLOCK_ATTENTION, f"transformer_blocks.0.attn2.{_OUT}"),
    _standard(("ltxv",), "ltxvideo", f"transformer_blocks.{{0..1}}.{{attn1,attn2}}.{_OUT}", alike=_SAME),
    _standard(
        ("ltxav",), "ltxvideo2",
        "transformer_blocks.{0..1}.{attn1,attn2,audio_attn1,audio_attn2,audio_to_video_attn,video_to_audio_attn}."
        f"{_OUT}",
        alike=_SAME,
    ),
    _standard(
        ("hunyuan_video15",), "hunyuanvideo", f"{_REFINER}.attn.{_OUT}", _BLOCK_ATTENTION,
        f"transformer_blocks.{{0..1}}.attn.{_TEXT}", prefix="unet.", host=HUNYUAN_HOST,
    ),
    _standard(
        ("hidream",), "hidream",
        "{double_stream_blocks,single_stream_blocks}.{0..1}.block.attn1.{to_q,to_k,to_v}",
    ),
    _standard(("chroma",), "chroma", _BLOCK_ATTENTION, _SINGLE_ATTENTION),
    _standard(
        ("lumina2",), "lumina2", f"{{noise_refiner,context_refiner,layers}}.{{0..1}}.attn.{_OUT}", host=LUMINA2_HOST,
    ),
    _standard(
        ("ideogram4",), "ideogram", "layers.{0..1}.attention.{qkv,o}", "layers.{0..1}.feed_forward.{w1,w2,w3}",
        alike=_SAME,
    ),
    _standard(("ernie",), "ernie", f"layers.{{0..1}}.self_attention.{_OUT}"),
    _standard(
        ("kandinsky5", "kandinsky5_image"), "kandinsky5_image, kandinsky5_video",
        "{text_transformer_blocks,visual_transformer_blocks}.{0..1}.self_attention.{to_query,to_key,to_value}",
        "visual_transformer_blocks.{0..1}.cross_attention.{to_query,to_key,to_value}",
    ),
    _standard(("longcat",), "longcat_image", _BLOCK_ATTENTION, _SINGLE_ATTENTION),
    _standard(("pixart",), "pixart", f"transformer_blocks.{{0..1}}.{{attn1,attn2}}.{_OUT}"),
    _standard(
        ("auraflow",), "auraflow", f"{{joint_transformer_blocks,single_transformer_blocks}}.{{0..1}}.attn.{_OUT}",
        f"joint_transformer_blocks.{{0..1}}.attn.{_TEXT}",
    ),
    _standard(
        ("cosmos_predict2",), "cosmos", f"transformer_blocks.{{0..1}}.{{attn1,attn2}}.{_OUT}", host=COSMOS_HOST,
    ),
)  # fmt: skip


def _for_comfyui(layout: Layout) -> Layout:
    """The same with ``--lora_format comfyui``; some models keep the prefix of diffusers, a UNet takes kohya's names."""
    ways: dict[str, Any] = _COMFYUI | ({"prefix": layout.prefix} if {*_KEPT} & {*layout.models} else {})
    if layout.down == _UNET["down"]:
        ways = _KOHYA
    if "flux2" in layout.models:  # of this one it says that ComfyUI reads diffusers' form, and leaves it
        ways = {}
    source = "bghira/SimpleTuner: simpletuner/helpers/training/lora_format.py"
    alike = layout.alike or "transformer.{name}"
    return replace(layout, trainer="SimpleTuner, for ComfyUI", source=source, alike=alike, **ways)


# COMFYUI_LORA_PRESERVE_COMPONENT_PREFIXES in each one's model.py
_KEPT = ("flux", "sd3", "sd35", "hidream", "lumina2", "pixart", "auraflow")

_FEED_FORWARD = "{net.0.proj,net.2}"
_WITH_LYCORIS = (
    _lycoris(
        ("anima",), "anima", f"core.transformer_blocks.{{0..1}}.{{attn1,attn2}}.{_OUT}",
        f"core.transformer_blocks.{{0..1}}.ff.{_FEED_FORWARD}", host=ANIMA_HOST,
    ),
    _lycoris(
        ("qwen_image",), "qwen_image", _BLOCK_ATTENTION, f"transformer_blocks.{{0..1}}.attn.{_TEXT}",
        f"transformer_blocks.{{0..1}}.{{img_mlp,txt_mlp}}.{_FEED_FORWARD}",
    ),
    _lycoris(
        ("flux",), "flux", _BLOCK_ATTENTION, f"transformer_blocks.{{0..1}}.attn.{_TEXT}",
        f"transformer_blocks.{{0..1}}.{{ff,ff_context}}.{_FEED_FORWARD}", _SINGLE_ATTENTION,
    ),
    # Its own DEFAULT_LYCORIS_TARGET: whole blocks.
    _lycoris(
        ("flux2", "flux2_klein"), "flux2", _BLOCK_ATTENTION, f"transformer_blocks.{{0..1}}.attn.{_TEXT}",
        "transformer_blocks.{0..1}.{ff,ff_context}.{linear_in,linear_out}",
        "single_transformer_blocks.{0..1}.attn.{to_qkv_mlp_proj,to_out}", alike="transformer.{name}",
        host=FLUX2_HOST,
    ),
    _lycoris(
        ("z_image",), "z_image", *Z_IMAGE_LAYERS, _Z_IMAGE_FEED_FORWARD,
        host=Z_IMAGE_HOST | {_Z_IMAGE_FEED_FORWARD: _Z_IMAGE_FEED_FORWARD},
    ),
    _lycoris(
        ("wan", "wan_i2v", "wan22_5b"), "wan", f"blocks.{{0..1}}.{{attn1,attn2}}.{_OUT}",
        f"blocks.{{0..1}}.ffn.{_FEED_FORWARD}", host=WAN_HOST,
    ),
    *(
        _lycoris(
            (name,), family, *unet_attention(name),
            *(f"{block}.ff.{_FEED_FORWARD}" for block in UNet.small(name).blocks()),
        )
        for name, family in _UNETS.items()
    ),
    _lycoris(
        ("sd3",), "sd3", _BLOCK_ATTENTION, "transformer_blocks.{0..1}.attn.{add_q_proj,add_k_proj,add_v_proj}",
        "transformer_blocks.0.attn.to_add_out", f"transformer_blocks.{{0..1}}.ff.{_FEED_FORWARD}",
        f"transformer_blocks.0.ff_context.{_FEED_FORWARD}",
    ),
    _lycoris(
        ("sd35",), "sd3", _BLOCK_ATTENTION, "transformer_blocks.{0..1}.attn.{add_q_proj,add_k_proj,add_v_proj}",
        f"transformer_blocks.0.attn2.{_OUT}",
        "transformer_blocks.0.attn.to_add_out", f"transformer_blocks.{{0..1}}.ff.{_FEED_FORWARD}",
        f"transformer_blocks.0.ff_context.{_FEED_FORWARD}",
    ),
    _lycoris(("ltxv",), "ltxvideo", f"transformer_blocks.{{0..1}}.ff.{_FEED_FORWARD}", alike=_SAME),
    _lycoris(
        ("ltxav",), "ltxvideo2", f"transformer_blocks.{{0..1}}.{{ff,audio_ff}}.{_FEED_FORWARD}",
        alike=_SAME,
    ),
    _lycoris(
        ("hunyuan_video15",), "hunyuanvideo", f"{_REFINER}.attn.{_OUT}", f"{_REFINER}.ff.{_FEED_FORWARD}",
        _BLOCK_ATTENTION, f"transformer_blocks.{{0..1}}.attn.{_TEXT}",
        f"transformer_blocks.{{0..1}}.{{ff,ff_context}}.{_FEED_FORWARD}", host=HUNYUAN_HOST,
    ),
    _lycoris(
        ("hidream",), "hidream",
        "{double_stream_blocks,single_stream_blocks}.{0..1}.block.attn1.{to_q,to_k,to_v,to_out}",
        "double_stream_blocks.{0..1}.block.attn1.{to_q_t,to_k_t,to_v_t,to_out_t}", _HIDREAM_EXPERTS,
        "double_stream_blocks.{0..1}.block.ff_t.{w1,w2,w3}",
    ),
    _lycoris(
        ("chroma",), "chroma", f"transformer_blocks.{{0..1}}.{{ff,ff_context}}.{_FEED_FORWARD}",
    ),
    _lycoris(
        ("lumina2",), "lumina2", f"{{noise_refiner,context_refiner,layers}}.{{0..1}}.attn.{_OUT}", host=LUMINA2_HOST,
    ),
    _lycoris(
        ("ideogram4",), "ideogram", "layers.{0..1}.attention.{qkv,o}", "layers.{0..1}.feed_forward.{w1,w2,w3}",
        alike=_SAME,
    ),
    _lycoris(("longcat",), "longcat_image", f"transformer_blocks.{{0..1}}.{{ff,ff_context}}.{_FEED_FORWARD}"),
    _lycoris(
        ("pixart",), "pixart", f"transformer_blocks.{{0..1}}.{{attn1,attn2}}.{_OUT}",
        f"transformer_blocks.{{0..1}}.ff.{_FEED_FORWARD}", alike="transformer.{name}",
    ),
    _lycoris(
        ("auraflow",), "auraflow", f"{{joint_transformer_blocks,single_transformer_blocks}}.{{0..1}}.attn.{_OUT}",
        f"joint_transformer_blocks.{{0..1}}.attn.{_TEXT}", alike="transformer.{name}",
    ),
    _lycoris(
        ("cosmos_predict2",), "cosmos", f"transformer_blocks.{{0..1}}.{{attn1,attn2}}.{_OUT}",
        f"transformer_blocks.{{0..1}}.ff.{_FEED_FORWARD}", host=COSMOS_HOST,
    ),
)  # fmt: skip

LAYOUTS = (*_STANDARD, *map(_for_comfyui, _STANDARD), *_WITH_LYCORIS)
