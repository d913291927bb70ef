"""diffusers' example scripts, and PEFT's own saves of diffusers' networks.

Names of layers are those of the network's class. For a UNet diffusers renames PEFT's endings, for a transformer it
leaves them. PEFT's own ``save_pretrained`` puts ``base_model.model.`` before every name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .layout import Layout
from .unet import UNet

_SCRIPTS = "huggingface/diffusers: examples"
_UNET: dict[str, Any] = {
    "prefix": "unet.",
    "down": ".lora.down.weight",
    "up": ".lora.up.weight",
    "alike": "lora_unet_{flat}",
}
_ATTENTION = "{to_q,to_k,to_v,to_out.0}"


def unet_attention(name: str) -> tuple[str, ...]:
    """The attention of all transformers of a UNet."""
    return tuple(pattern for pattern in UNet.small(name).transformers() if "{attn1,attn2}" in pattern)


# What our own names of fused layers are to diffusers' split ones.
LUMINA2_HOST = {
    "{noise_refiner,context_refiner,layers}.{0..1}.attn.to_q":
        "{noise_refiner,context_refiner,layers}.{0..1}.attention.qkv[0:3/5]",
    "{noise_refiner,context_refiner,layers}.{0..1}.attn.to_k":
        "{noise_refiner,context_refiner,layers}.{0..1}.attention.qkv[3/5]",
    "{noise_refiner,context_refiner,layers}.{0..1}.attn.to_v":
        "{noise_refiner,context_refiner,layers}.{0..1}.attention.qkv[4/5]",
    "{noise_refiner,context_refiner,layers}.{0..1}.attn.to_out.0":
        "{noise_refiner,context_refiner,layers}.{0..1}.attention.out",
}  # fmt: skip
_QKV = {f"layers.{{0..1}}.attention.to_{part}": f"layers.{{0..1}}.attention.qkv[{i}/3]" for i, part in enumerate("qkv")}
IDEOGRAM4_HOST = _QKV | {"layers.{0..1}.attention.to_out.0": "layers.{0..1}.attention.o"}
# Which hosts before 0.3.76 lack.
FLUX2_HOST = {
    "single_transformer_blocks.{0..1}.attn.{to_qkv_mlp_proj,to_out}": "single_blocks.{0..1}.{linear1,linear2}",
    "transformer_blocks.{0..1}.{ff,ff_context}.{linear_in,linear_out}": "double_blocks.{0..1}.{img_mlp,txt_mlp}.{0,2}",
}
Z_IMAGE_LAYERS = (f"{{noise_refiner,context_refiner,layers}}.{{0..1}}.attention.{_ATTENTION}",)
Z_IMAGE_HOST = {
    "{noise_refiner,context_refiner,layers}.{0..1}.attention.to_out.0":
        "{noise_refiner,context_refiner,layers}.{0..1}.attention.out",
    **{f"{{noise_refiner,context_refiner,layers}}.{{0..1}}.attention.to_{part}":
        f"{{noise_refiner,context_refiner,layers}}.{{0..1}}.attention.qkv[{i}/3]" for i, part in enumerate("qkv")},
}  # fmt: skip
COGVIDEOX_HOST = {
    "transformer_blocks.{0..1}.attn1.{to_q,to_k,to_v,to_out.0}": "blocks.{0..1}.{q,k,v,attn_out}",
}

_NETWORKS = (
    Layout(
        "diffusers",
        ("krea2",),
        (
            "img_in",
            "final_layer.linear",
            "text_fusion.projector",
            "txt_in.{linear_1,linear_2}",
            "time_embed.{linear_1,linear_2}",
            "time_mod_proj",
            "{transformer_blocks,text_fusion.layerwise_blocks,text_fusion.refiner_blocks}.{0..1}."
            "{attn.to_q,attn.to_k,attn.to_v,attn.to_out.0,attn.to_gate,ff.up,ff.down}",
        ),
        f"{_SCRIPTS}/dreambooth/train_dreambooth_lora_krea2.py",
        prefix="transformer.",
    ),
    Layout(
        "diffusers",
        ("qwen_image",),
        (f"transformer_blocks.{{0..1}}.attn.{_ATTENTION}",),
        f"{_SCRIPTS}/dreambooth/train_dreambooth_lora_qwen_image.py",
        prefix="transformer.",
    ),
    Layout(
        "diffusers",
        ("flux2", "flux2_klein"),
        (
            f"transformer_blocks.{{0..1}}.attn.{_ATTENTION}",
            "single_transformer_blocks.{0..1}.attn.{to_qkv_mlp_proj,to_out}",
        ),
        f"{_SCRIPTS}/dreambooth/train_dreambooth_lora_flux2.py, train_dreambooth_lora_flux2_klein.py",
        prefix="transformer.",
        host=FLUX2_HOST,
    ),
    Layout(
        "diffusers",
        ("flux",),
        (
            f"transformer_blocks.{{0..1}}.attn.{_ATTENTION}",
            "transformer_blocks.{0..1}.attn.{add_q_proj,add_k_proj,add_v_proj,to_add_out}",
            "transformer_blocks.{0..1}.{ff,ff_context}.{net.0.proj,net.2}",
            "single_transformer_blocks.{0..1}.attn.{to_q,to_k,to_v}",
        ),
        f"{_SCRIPTS}/dreambooth/train_dreambooth_lora_flux.py",
        prefix="transformer.",
    ),
    Layout(
        "diffusers",
        ("z_image",),
        Z_IMAGE_LAYERS,
        f"{_SCRIPTS}/dreambooth/train_dreambooth_lora_z_image.py",
        prefix="transformer.",
        host=Z_IMAGE_HOST,
    ),
    Layout(
        "diffusers",
        ("sdxl",),
        unet_attention("sdxl"),
        f"{_SCRIPTS}/dreambooth/train_dreambooth_lora_sdxl.py",
        **_UNET,
    ),
    *(
        Layout(
            "diffusers",
            (name,),
            unet_attention(name),
            f"{_SCRIPTS}/dreambooth/train_dreambooth_lora.py",
            **_UNET,
        )
        for name in ("sd15", "sd2")
    ),
    Layout(
        "diffusers",
        ("sd3", "sd35"),
        (
            f"transformer_blocks.{{0..1}}.attn.{_ATTENTION}",
            "transformer_blocks.{0..1}.attn.{add_q_proj,add_k_proj,add_v_proj}",
            "transformer_blocks.0.attn.to_add_out",  # the last block keeps no text
        ),
        f"{_SCRIPTS}/dreambooth/train_dreambooth_lora_sd3.py",
        prefix="transformer.",
    ),
    Layout(
        "diffusers",
        ("hidream",),
        ("{double_stream_blocks,single_stream_blocks}.{0..1}.block.attn1.{to_q,to_k,to_v,to_out}",),
        f"{_SCRIPTS}/dreambooth/train_dreambooth_lora_hidream.py",
        prefix="transformer.",
    ),
    Layout(
        "diffusers",
        ("lumina2",),
        (f"{{noise_refiner,context_refiner,layers}}.{{0..1}}.attn.{_ATTENTION}",),
        f"{_SCRIPTS}/dreambooth/train_dreambooth_lora_lumina2.py",
        prefix="transformer.",
        host=LUMINA2_HOST,
    ),
    Layout(
        "diffusers",
        ("ideogram4",),
        (f"layers.{{0..1}}.attention.{_ATTENTION}", "layers.{0..1}.feed_forward.{w1,w2,w3}"),
        f"{_SCRIPTS}/dreambooth/train_dreambooth_lora_ideogram4.py",
        prefix="transformer.",
        host=IDEOGRAM4_HOST | {"layers.{0..1}.feed_forward.{w1,w2,w3}": "layers.{0..1}.feed_forward.{w1,w2,w3}"},
    ),
    Layout(
        "diffusers",
        ("cogvideox",),
        (f"transformer_blocks.{{0..1}}.attn1.{_ATTENTION}",),
        f"{_SCRIPTS}/cogvideo/train_cogvideox_lora.py",
        prefix="transformer.",
        host=COGVIDEOX_HOST,
    ),
)


def _as_peft(layout: Layout) -> Layout:
    """The same layers as PEFT itself saves them."""
    return replace(
        layout, trainer="PEFT", source="huggingface/peft: src/peft/utils/save_and_load.py", prefix="base_model.model.",
        down=".lora_A.weight", up=".lora_B.weight", alike=layout.alike or "transformer.{name}",
    )  # fmt: skip


LAYOUTS = (*_NETWORKS, *map(_as_peft, _NETWORKS))
