"""musubi-tuner, and what its convert_lora.py makes of its files.

It has networks of its own, mostly as the original checkpoints name their layers, and writes their names with
underscores. The conversion turns them back into dots by a list of words and folds alpha into the factors: where the
list has no word for a name, the dots end up in other places.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .layout import Layout

_NOTHING: Mapping[str, str] = MappingProxyType({})

_SOURCE = "kohya-ss/musubi-tuner: src/musubi_tuner/"
_CONVERTER = f"{_SOURCE}convert_lora.py"
_QKV = "{0,1,2}/3"
_QWEN = ("qwen_image", "qwen_image_edit", "qwen_image_layered")
_WAN = ("wan", "wan22_i2v")


def _own(models: tuple[str, ...], layers: tuple[str, ...], network: str, host: Mapping[str, str] = _NOTHING) -> Layout:
    return Layout(
        "musubi-tuner", models, layers, _SOURCE + network, "lora_unet_", True, ".lora_down.weight", ".lora_up.weight",
        ".alpha", host,
    )  # fmt: skip


def _converted(models: tuple[str, ...], layers: tuple[str, ...], host: Mapping[str, str] = _NOTHING) -> Layout:
    return Layout("musubi-tuner, converted", models, layers, _CONVERTER, "diffusion_model.", host=host)


def _both(
    models: tuple[str, ...], layers: tuple[str, ...], network: str, host: Mapping[str, str] = _NOTHING
) -> tuple[Layout, Layout]:
    return _own(models, layers, network, host), _converted(models, layers, host)


_KREA2_BLOCK = ("attn.{wq,wk,wv,gate,wo}", "mlp.{gate,up,down}")
_KREA2 = (
    "first",
    "tmlp.{0,2}",
    "tproj.1",
    "txtmlp.{1,3}",
    "txtfusion.projector",
    "last.linear",
    *(f"blocks.{{0..1}}.{leaf}" for leaf in _KREA2_BLOCK),
)
_KREA2_FUSION = tuple(f"txtfusion.{{layerwise_blocks,refiner_blocks}}.{{0..1}}.{leaf}" for leaf in _KREA2_BLOCK)
_KREA2_UNDONE = {name.replace("_", "."): name for name in _KREA2_FUSION}

_QWEN_IMAGE = (
    "transformer_blocks.{0..1}.{img_mod,txt_mod}.1",
    "transformer_blocks.{0..1}.attn.{to_q,to_k,to_v,to_out.0,add_q_proj,add_k_proj,add_v_proj,to_add_out}",
    "transformer_blocks.{0..1}.{img_mlp,txt_mlp}.{net.0.proj,net.2}",
)
_WAN_BLOCK = ("blocks.{0..1}.{self_attn,cross_attn}.{q,k,v,o}", "blocks.{0..1}.ffn.{0,2}")

_Z_IMAGE_QKV = {"layers.{0..1}.attention.{to_q,to_k,to_v}": f"layers.{{0..1}}.attention.qkv[{_QKV}]"}
_Z_IMAGE_OUT = {"layers.{0..1}.attention.to_out.0": "layers.{0..1}.attention.out"}
_Z_IMAGE = (*_Z_IMAGE_QKV, *_Z_IMAGE_OUT, "layers.{0..1}.feed_forward.{w1,w2,w3}")

_FLUX_ATTENTION = "double_blocks.{0..1}.{img_attn,txt_attn}.{qkv,proj}"
_FLUX_REST = ("double_blocks.{0..1}.{img_mlp,txt_mlp}.{0,2}", "single_blocks.{0..1}.{linear1,linear2}")
_FLUX = (_FLUX_ATTENTION, *_FLUX_REST)
_FLUX_UNDONE = {"double_blocks.{0..1}.{img,txt}_attn_{qkv,proj}": _FLUX_ATTENTION}

_HUNYUAN_ATTENTION = {"double_blocks.{0..1}.{img,txt}_attn_{qkv,proj}": _FLUX_ATTENTION}
_HUNYUAN_MLP = {"double_blocks.{0..1}.{img_mlp,txt_mlp}.{fc1,fc2}": "double_blocks.{0..1}.{img_mlp,txt_mlp}.{0,2}"}
_HUNYUAN = (*_HUNYUAN_ATTENTION, *_HUNYUAN_MLP, "single_blocks.{0..1}.{linear1,linear2}")
_HUNYUAN15 = {
    "double_blocks.{0..1}.{img_mod,txt_mod}.linear": "double_blocks.{0..1}.{img_mod,txt_mod}.lin",
    "double_blocks.{0..1}.{img,txt}_attn_{q,k,v}": f"double_blocks.{{0..1}}.{{img,txt}}_attn.qkv[{_QKV}]",
    "double_blocks.{0..1}.{img,txt}_attn_proj": "double_blocks.{0..1}.{img,txt}_attn.proj",
    **_HUNYUAN_MLP,
}

_KANDINSKY = (
    "text_transformer_blocks.{0..1}.self_attention.{to_query,to_key,to_value,out_layer}",
    "text_transformer_blocks.{0..1}.feed_forward.{in_layer,out_layer}",
    "visual_transformer_blocks.{0..1}.{self,cross}_attention.{to_query,to_key,to_value,out_layer}",
    "visual_transformer_blocks.{0..1}.feed_forward.{in_layer,out_layer}",
)
_KANDINSKY_UNDONE = {  # "feed.forward" is in its list, for Z-Image
    "text.transformer.blocks.{0..1}.self.attention.{to_query,to_key,to_value,out.layer}": _KANDINSKY[0],
    "text.transformer.blocks.{0..1}.feed_forward.{in.layer,out.layer}": _KANDINSKY[1],
    "visual.transformer.blocks.{0..1}.{self,cross}.attention.{to_query,to_key,to_value,out.layer}": _KANDINSKY[2],
    "visual.transformer.blocks.{0..1}.feed_forward.{in.layer,out.layer}": _KANDINSKY[3],
}
_HIDREAM_O1 = {
    "model.language_model.layers.{0..1}.self_attn.{q_proj,k_proj,v_proj,o_proj}":
        "language_model.layers.{0..1}.self_attn.{q_proj,k_proj,v_proj,o_proj}",
    "model.language_model.layers.{0..1}.mlp.{gate_proj,up_proj,down_proj}":
        "language_model.layers.{0..1}.mlp.{gate_proj,up_proj,down_proj}",
    "model.x_embedder.{proj1,proj2}": "x_embedder.{proj1,proj2}",
    "model.final_layer2.linear": "final_layer2.linear",
    "model.visual.blocks.{0..1}.{attn.qkv,attn.proj,mlp.linear_fc1,mlp.linear_fc2}":
        "visual.blocks.{0..1}.{attn.qkv,attn.proj,mlp.linear_fc1,mlp.linear_fc2}",
    "model.visual.merger.{linear_fc1,linear_fc2}": "visual.merger.{linear_fc1,linear_fc2}",
}  # fmt: skip

LAYOUTS = (
    _own(("krea2",), _KREA2 + _KREA2_FUSION, "networks/lora_krea2.py, krea2/krea2_mmdit.py"),
    _converted(("krea2",), (*_KREA2, *_KREA2_UNDONE), host=_KREA2_UNDONE),
    *_both(_QWEN, _QWEN_IMAGE, "networks/lora_qwen_image.py, qwen_image/qwen_image_model.py"),
    _own(("flux",), _FLUX, "networks/lora_flux.py, flux/flux_models.py"),
    _converted(("flux",), (*_FLUX_UNDONE, *_FLUX_REST), host=_FLUX_UNDONE),
    _own(("flux2", "flux2_klein"), _FLUX, "networks/lora_flux_2.py, flux_2/flux2_models.py"),
    _converted(("flux2", "flux2_klein"), (*_FLUX_UNDONE, *_FLUX_REST), host=_FLUX_UNDONE),
    *_both(("z_image",), _Z_IMAGE, "networks/lora_zimage.py, zimage/zimage_model.py", host=_Z_IMAGE_QKV | _Z_IMAGE_OUT),
    *_both(_WAN, _WAN_BLOCK, "networks/lora_wan.py, wan/modules/model.py"),
    *_both(
        ("wan_i2v",),
        (*_WAN_BLOCK, "blocks.{0..1}.cross_attn.{k_img,v_img}"),
        "networks/lora_wan.py, wan/modules/model.py (WanI2VCrossAttention)",
    ),
    *_both(
        ("hunyuan_video",),
        _HUNYUAN,
        "networks/lora.py, hunyuan_model/models.py",
        host=_HUNYUAN_ATTENTION | _HUNYUAN_MLP,
    ),
    *_both(
        ("hunyuan_video15",),
        tuple(_HUNYUAN15),
        "networks/lora_hv_1_5.py, hunyuan_video_1_5/hunyuan_video_1_5_modules.py",
        host=_HUNYUAN15,
    ),
    *_both(
        ("ideogram4",),
        ("layers.{0..1}.attention.{qkv,o}", "layers.{0..1}.feed_forward.{w1,w2,w3}"),
        "networks/lora_ideogram4.py, ideogram4/ideogram4_model.py",
    ),
    _own(("kandinsky5", "kandinsky5_image"), _KANDINSKY, "networks/lora_kandinsky.py, kandinsky5/models/dit.py"),
    _converted(("kandinsky5", "kandinsky5_image"), tuple(_KANDINSKY_UNDONE), host=_KANDINSKY_UNDONE),
    _own(
        ("hidream_o1",),
        tuple(_HIDREAM_O1),
        "networks/lora_hidream_o1.py (task i2i), hidream_o1/qwen3_vl_transformers.py",
        host=_HIDREAM_O1,
    ),
)
