"""ai-toolkit: all linear layers of a network's blocks, the names of which begin as ComfyUI's do in most models.

Which blocks stands in each model's ``get_transformer_block_names``, what is renamed in its
``convert_lora_weights_before_save``; the rest is ``toolkit/lora_special.py``. With PEFT's endings there is no alpha.
"""

from __future__ import annotations

from typing import Any

from .layout import Layout
from .unet import UNet

_SOURCE = "ostris/ai-toolkit"
_MODELS = f"{_SOURCE}: extensions_built_in/diffusion_models"
_SPECIAL = f"{_SOURCE}: toolkit/lora_special.py"
_COMFYUI = "diffusion_model."
_OUT = "{to_q,to_k,to_v,to_out.0}"
_TEXT = "{add_q_proj,add_k_proj,add_v_proj,to_add_out}"
_FEED_FORWARD = "{net.0.proj,net.2}"
_FLAT: dict[str, Any] = {"flat": True, "down": ".lora_down.weight", "up": ".lora_up.weight", "alpha": ".alpha"}

_FLUX_BLOCKS = (
    "double_blocks.{0..1}.{img_attn,txt_attn}.{qkv,proj}",
    "double_blocks.{0..1}.{img_mlp,txt_mlp}.{0,2}",
    "single_blocks.{0..1}.{linear1,linear2}",
)
_AURAFLOW_ATTENTION = "{joint_transformer_blocks,single_transformer_blocks}.{0..1}.attn.{to_q,to_k,to_v,to_out.0}"
_LUMINA2 = "{noise_refiner,context_refiner,layers}.{0..1}"


def _unet(name: str) -> Layout:
    """All layers of a UNet's transformers, under kohya's names."""
    layers = tuple(UNet.small(name).transformers())
    return Layout("ai-toolkit", (name,), layers, _SPECIAL, prefix="lora_unet_", **_FLAT)


def _native(models: tuple[str, ...], file: str, *layers: str) -> Layout:
    """A network that has ComfyUI's names."""
    return Layout("ai-toolkit", models, layers, f"{_MODELS}/{file}", prefix=_COMFYUI)


LAYOUTS = (
    _native(
        ("krea2",), "krea2/krea2.py",  # "blocks" is in the names of the text's blocks too
        "{blocks,txtfusion.layerwise_blocks,txtfusion.refiner_blocks}.{0..1}."
        "{attn.wq,attn.wk,attn.wv,attn.gate,attn.wo,mlp.gate,mlp.up,mlp.down}",
    ),
    _native(
        ("anima",), "anima/anima.py",
        "blocks.{0..1}.{self_attn,cross_attn}.{q_proj,k_proj,v_proj,output_proj}",
        "blocks.{0..1}.mlp.{layer1,layer2}",
        "blocks.{0..1}.adaln_modulation_{self_attn,cross_attn,mlp}.{1,2}",
    ),
    _native(
        ("qwen_image",), "qwen_image/qwen_image.py",
        f"transformer_blocks.{{0..1}}.attn.{_OUT}", f"transformer_blocks.{{0..1}}.attn.{_TEXT}",
        f"transformer_blocks.{{0..1}}.{{img_mlp,txt_mlp}}.{_FEED_FORWARD}",
        "transformer_blocks.{0..1}.{img_mod,txt_mod}.1",
    ),
    _native(("flux2", "flux2_klein"), "flux2/flux2_model.py", *_FLUX_BLOCKS),
    _native(("chroma", "radiance"), "chroma/chroma_model.py, chroma/chroma_radiance_model.py", *_FLUX_BLOCKS),
    Layout(
        "ai-toolkit",
        ("flux",),
        (
            f"transformer_blocks.{{0..1}}.attn.{_OUT}", f"transformer_blocks.{{0..1}}.attn.{_TEXT}",
            f"transformer_blocks.{{0..1}}.{{ff,ff_context}}.{_FEED_FORWARD}",
            "transformer_blocks.{0..1}.{norm1,norm1_context}.linear",
            "single_transformer_blocks.{0..1}.{norm.linear,proj_mlp,proj_out,attn.to_q,attn.to_k,attn.to_v}",
        ),
        _SPECIAL,
        prefix="transformer.",
    ),
    Layout(
        "ai-toolkit",
        ("z_image",),
        (
            f"layers.{{0..1}}.attention.{_OUT}",
            "layers.{0..1}.{feed_forward.w1,feed_forward.w2,feed_forward.w3,adaLN_modulation.0}",
        ),
        f"{_MODELS}/z_image/z_image.py",
        prefix=_COMFYUI,
        host={
            **{f"layers.{{0..1}}.attention.to_{part}": f"layers.{{0..1}}.attention.qkv[{i}/3]"
               for i, part in enumerate("qkv")},
            "layers.{0..1}.attention.to_out.0": "layers.{0..1}.attention.out",
        },
    ),
    _native(
        ("wan", "wan22_5b"), "wan22/wan22_14b_model.py, toolkit/models/wan21/wan_lora_convert.py",
        "blocks.{0..1}.{self_attn,cross_attn}.{q,k,v,o}", "blocks.{0..1}.ffn.{0,2}",
    ),
    _native(
        ("wan_i2v",), "toolkit/models/wan21/wan_lora_convert.py",
        "blocks.{0..1}.{self_attn,cross_attn}.{q,k,v,o}", "blocks.{0..1}.cross_attn.{k_img,v_img}",
        "blocks.{0..1}.ffn.{0,2}",
    ),
    *map(_unet, ("sdxl", "sd15", "sd2")),
    Layout(
        "ai-toolkit",
        ("sd3", "sd35"),
        (
            f"transformer_blocks.{{0..1}}.attn.{_OUT}",
            "transformer_blocks.{0..1}.attn.{add_q_proj,add_k_proj,add_v_proj}",
            "transformer_blocks.{0..1}.{norm1,norm1_context}.linear",
            f"transformer_blocks.{{0..1}}.ff.{_FEED_FORWARD}",
            "transformer_blocks.0.{attn.to_add_out,ff_context.net.0.proj,ff_context.net.2}",
        ),
        _SPECIAL,
        prefix="transformer.",
    ),
    _native(
        ("ltxav",), "ltx2/ltx2.py",
        "transformer_blocks.{0..1}.{attn1,attn2,audio_attn1,audio_attn2,audio_to_video_attn,video_to_audio_attn}."
        f"{_OUT}",
        f"transformer_blocks.{{0..1}}.{{ff,audio_ff}}.{_FEED_FORWARD}",
    ),
    _native(
        ("hidream",), "hidream/hidream_model.py",
        "{double_stream_blocks,single_stream_blocks}.{0..1}.block.{adaLN_modulation.1,attn1.to_q,attn1.to_k,"
        "attn1.to_v,attn1.to_out}",
        "{double_stream_blocks,single_stream_blocks}.{0..1}.block.ff_i."
        "{shared_experts,experts.0,experts.1,experts.2,experts.3}.{w1,w2,w3}",
        "double_stream_blocks.{0..1}.block.{attn1.to_q_t,attn1.to_k_t,attn1.to_v_t,attn1.to_out_t}",
        "double_stream_blocks.{0..1}.block.ff_t.{w1,w2,w3}",
    ),
    _native(
        ("hidream_o1",), "hidream/hidream_o1_model.py",
        "language_model.layers.{0..1}.{self_attn.q_proj,self_attn.k_proj,self_attn.v_proj,self_attn.o_proj,"
        "mlp.gate_proj,mlp.up_proj,mlp.down_proj}",
    ),
    Layout(
        "ai-toolkit",
        ("lumina2",),
        (
            f"{_LUMINA2}.attn.{_OUT}", f"{_LUMINA2}.feed_forward.{{linear_1,linear_2,linear_3}}",
            "{noise_refiner,layers}.{0..1}.norm1.linear",
        ),
        _SPECIAL,
        prefix="transformer.",
        host={
            f"{_LUMINA2}.attn.to_q": f"{_LUMINA2}.attention.qkv[0:3/5]",
            f"{_LUMINA2}.attn.to_k": f"{_LUMINA2}.attention.qkv[3/5]",
            f"{_LUMINA2}.attn.to_v": f"{_LUMINA2}.attention.qkv[4/5]",
            f"{_LUMINA2}.attn.to_out.0": f"{_LUMINA2}.attention.out",
            f"{_LUMINA2}.feed_forward.{{linear_1,linear_2,linear_3}}": f"{_LUMINA2}.feed_forward.{{w1,w2,w3}}",
            "{noise_refiner,layers}.{0..1}.norm1.linear": "{noise_refiner,layers}.{0..1}.adaLN_modulation.1",
        },
    ),
    _native(
        ("omnigen2",), "omnigen2/__init__.py",
        f"{{noise_refiner,context_refiner,layers}}.{{0..1}}.attn.{_OUT}",
        "{noise_refiner,context_refiner,layers}.{0..1}.feed_forward.{linear_1,linear_2,linear_3}",
        "{noise_refiner,layers}.{0..1}.norm1.linear",
    ),
    _native(
        ("ideogram4",), "ideogram4/ideogram4.py",
        "layers.{0..1}.{attention.qkv,attention.o,feed_forward.w1,feed_forward.w2,feed_forward.w3,adaln_modulation}",
    ),
    _native(
        ("ernie",), "ernie_image/ernie_image.py",
        f"layers.{{0..1}}.self_attention.{_OUT}", "layers.{0..1}.mlp.{gate_proj,up_proj,linear_fc2}",
    ),
    _native(
        ("boogu",), "boogu_image/boogu_image.py",
        "double_stream_layers.{0..1}.img_instruct_attn.{to_out.0,processor.img_to_q,processor.img_to_k,"
        "processor.img_to_v,processor.instruct_to_q,processor.instruct_to_k,processor.instruct_to_v,"
        "processor.instruct_out,processor.img_out}",
        f"double_stream_layers.{{0..1}}.img_self_attn.{_OUT}",
        "double_stream_layers.{0..1}.{img_feed_forward,instruct_feed_forward}.{linear_1,linear_2,linear_3}",
        "double_stream_layers.{0..1}.{img_norm1,img_norm2,img_norm3,instruct_norm1,instruct_norm2}.linear",
        f"single_stream_layers.{{0..1}}.attn.{_OUT}",
        "single_stream_layers.{0..1}.{feed_forward.linear_1,feed_forward.linear_2,feed_forward.linear_3,norm1.linear}",
    ),
    _native(
        ("mage_flow",), "mageflow/mageflow.py",
        f"transformer_blocks.{{0..1}}.attn.{_OUT}", f"transformer_blocks.{{0..1}}.attn.{_TEXT}",
        f"transformer_blocks.{{0..1}}.{{img_mlp,txt_mlp}}.{_FEED_FORWARD}",
        "transformer_blocks.{0..1}.{img_mod,txt_mod}.1",
    ),
    Layout(
        "ai-toolkit",
        ("pixart",),
        (f"transformer_blocks.{{0..1}}.{{attn1,attn2}}.{_OUT}", f"transformer_blocks.{{0..1}}.ff.{_FEED_FORWARD}"),
        _SPECIAL,
        prefix="lora_transformer_",
        alike="transformer.{name}",
        **_FLAT,
    ),
    Layout(
        "ai-toolkit",
        ("auraflow",),
        (
            "pos_embed.proj", "context_embedder", "time_step_proj.{linear_1,linear_2}", _AURAFLOW_ATTENTION,
            f"joint_transformer_blocks.{{0..1}}.attn.{_TEXT}",
            "joint_transformer_blocks.{0..1}.{ff,ff_context}.{linear_1,linear_2,out_projection}",
            "joint_transformer_blocks.{0..1}.{norm1,norm1_context}.linear",
            "single_transformer_blocks.{0..1}.{ff.linear_1,ff.linear_2,ff.out_projection,norm1.linear}",
            "norm_out.linear", "proj_out",
        ),
        _SPECIAL,
        prefix="lora_transformer_",
        alike="transformer.{name}",
        **_FLAT,
    ),
)  # fmt: skip
