"""OneTrainer, in each format that it writes: the names that its own conversions give to layers of diffusers' networks.

By default it adapts all linear layers and convolutions. Its formats are those of diffusers and of kohya, the names of
the original checkpoint bare and under ComfyUI's prefix, and what older versions of it wrote. Formats with the names of
the original fuse queries, keys and values where it does, already in training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from .layout import Layout
from .unet import UNet

_SOURCE = "Nerogar/OneTrainer: modules/model/"
_KOHYA = Layout("", (), (), "", "lora_unet_", True, ".lora_down.weight", ".lora_up.weight", ".alpha")
_AS_DIFFUSERS = ("{to_q,to_k,to_v,to_out.0,add_q_proj,add_k_proj,add_v_proj,to_add_out}", "net.{0.proj,2}")


@dataclass(frozen=True)
class _Family:
    """How OneTrainer calls the layers of one model.

    Args:
        model: file of OneTrainer that tells it.
        models: small models of the registry.
        diffusers: names of the layers as diffusers' network has them.
        original: names after its conversion; diffusers' own where it has none.
        part: what diffusers calls the network in a pipeline.
        legacy: prefix of what older versions wrote; empty where they wrote nothing.
        older: names in it; diffusers' own where they are those.
        kohya: whether kohya's format has diffusers' names too.
        wrapper: what stands before the bare names.
        meant: what names mean that ComfyUI's own tables lack.
        alike: under which names ComfyUI's tables have those of diffusers, where they lack them.
    """

    model: str
    models: tuple[str, ...]
    diffusers: tuple[str, ...]
    original: tuple[str, ...] = ()
    part: str = "transformer"
    legacy: str = ""
    older: tuple[str, ...] = ()
    kohya: bool = False
    wrapper: str = ""
    meant: Mapping[str, str] = field(default_factory=dict)
    alike: str = ""

    def layouts(self) -> Iterator[Layout]:
        source = f"{_SOURCE}{self.model}.py"
        original = self.original or self.diffusers
        of_diffusers = Layout(
            "OneTrainer, Diffusers", self.models, self.diffusers, source, f"{self.part}.", host=self.meant,
            alike=self.alike,
        )  # fmt: skip
        bare = Layout(
            "OneTrainer, original", self.models, original, source, self.wrapper, alpha=".alpha", host=self.meant,
            alike="diffusion_model.{name}",
        )  # fmt: skip
        kohya = replace(_KOHYA, models=self.models, source=source, host=self.meant, alike=self.alike)
        yield of_diffusers
        yield replace(kohya, trainer="OneTrainer, Kohya", layers=self.diffusers if self.kohya else original)
        yield bare
        yield replace(bare, trainer="OneTrainer, ComfyUI", prefix="diffusion_model.", alike=self.alike)
        if self.legacy:
            flat = self.legacy.endswith("_")
            layers = self.older or self.diffusers
            yield replace(kohya, trainer="OneTrainer, legacy", layers=layers, prefix=self.legacy, flat=flat)


def _unet(model: str, name: str, kohya: bool = False) -> _Family:
    pairs = UNet.small(name).everything()
    return _Family(
        model, (name,), tuple(pairs), tuple(pairs.values()), "unet", legacy="lora_unet_", kohya=kohya, meant=pairs,
    )  # fmt: skip


_KREA2_ATTENTION = "attn.{wq,wk,wv,gate,wo}"
_FLUX_BLOCKS = (
    f"transformer_blocks.{{0..1}}.attn.{_AS_DIFFUSERS[0]}",
    f"transformer_blocks.{{0..1}}.{{ff,ff_context}}.{_AS_DIFFUSERS[1]}",
)
_FLUX_SINGLE = "single_transformer_blocks.{0..1}.{attn.to_q,attn.to_k,attn.to_v,proj_mlp,proj_out}"
_FLUX_NORMS = (
    "transformer_blocks.{0..1}.{norm1,norm1_context}.linear",
    "single_transformer_blocks.{0..1}.norm.linear",
)
_ENDS = "{x_embedder,context_embedder,proj_out}"
_FLUX_ORIGINAL = (
    "{img_in,txt_in,final_layer.linear}",
    "double_blocks.{0..1}.{img_attn,txt_attn}.{qkv,proj}",
    "double_blocks.{0..1}.{img_mlp,txt_mlp}.{0,2}",
    "single_blocks.{0..1}.{linear1,linear2}",
)
_FLUX_MODULATION = (
    "double_blocks.{0..1}.{img_mod,txt_mod}.lin",
    "single_blocks.{0..1}.modulation.lin",
    "final_layer.adaLN_modulation.1",
)

_FLUX2_MEANT = {
    "transformer_blocks.{0..1}.{ff,ff_context}.{linear_in,linear_out}": "double_blocks.{0..1}.{img_mlp,txt_mlp}.{0,2}",
    "single_transformer_blocks.{0..1}.attn.{to_qkv_mlp_proj,to_out}": "single_blocks.{0..1}.{linear1,linear2}",
    "time_guidance_embed.timestep_embedder.{linear_1,linear_2}": "time_in.{in_layer,out_layer}",
    "{double_stream_modulation_img,double_stream_modulation_txt,single_stream_modulation}.linear":
        "{double_stream_modulation_img,double_stream_modulation_txt,single_stream_modulation}.lin",
}  # fmt: skip
_FLUX2_GUIDANCE = {"time_guidance_embed.guidance_embedder.{linear_1,linear_2}": "guidance_in.{in_layer,out_layer}"}
_FLUX2 = (
    *_FLUX2_MEANT,
    _ENDS,
    "norm_out.linear",
    _FLUX_BLOCKS[0],
)
_FLUX2_ORIGINAL = (
    *_FLUX_ORIGINAL,
    "final_layer.adaLN_modulation.1",
    "time_in.{in_layer,out_layer}",
    "{double_stream_modulation_img,double_stream_modulation_txt,single_stream_modulation}.lin",
)

_ANIMA_MEANT = {
    "patch_embed.proj": "x_embedder.proj.1",
    "time_embed.t_embedder.{linear_1,linear_2}": "t_embedder.1.{linear_1,linear_2}",
    "norm_out.{linear_1,linear_2}": "final_layer.adaln_modulation.{1,2}",
    "proj_out": "final_layer.linear",
    "transformer_blocks.{0..1}.{norm1,norm2,norm3}.{linear_1,linear_2}":
        "blocks.{0..1}.{adaln_modulation_self_attn,adaln_modulation_cross_attn,adaln_modulation_mlp}.{1,2}",
    "transformer_blocks.{0..1}.{attn1,attn2}.{to_q,to_k,to_v,to_out.0}":
        "blocks.{0..1}.{self_attn,cross_attn}.{q_proj,k_proj,v_proj,output_proj}",
    "transformer_blocks.{0..1}.ff.net.{0.proj,2}": "blocks.{0..1}.mlp.{layer1,layer2}",
}  # fmt: skip

_CHROMA_MEANT = {
    "distilled_guidance_layer.{in_proj,out_proj}": "distilled_guidance_layer.{in_proj,out_proj}",
    "distilled_guidance_layer.layers.{0..1}.{linear_1,linear_2}":
        "distilled_guidance_layer.layers.{0..1}.{in_layer,out_layer}",
}  # fmt: skip

_REFINED = "{noise_refiner,context_refiner,layers}.{0..1}"
_Z_IMAGE_MEANT = {
    "all_x_embedder.2-1": "x_embedder",
    "all_final_layer.2-1.{linear,adaLN_modulation.1}": "final_layer.{linear,adaLN_modulation.1}",
    f"{_REFINED}.attention.{{to_q,to_k,to_v}}": f"{_REFINED}.attention.qkv[{{0,1,2}}/3]",
    f"{_REFINED}.attention.to_out.0": f"{_REFINED}.attention.out",
}
_Z_IMAGE = (
    *_Z_IMAGE_MEANT,
    f"{_REFINED}.feed_forward.{{w1,w2,w3}}",
    "{noise_refiner,layers}.{0..1}.adaLN_modulation.0",
    "t_embedder.mlp.{0,2}",
    "cap_embedder.1",
)

_IDEOGRAM_QKV = "layers.{0..1}.attention.{to_q,to_k,to_v}"
_IDEOGRAM_REST = (
    "layers.{0..1}.{feed_forward.w1,feed_forward.w2,feed_forward.w3,adaln_modulation}",
    "final_layer.{linear,adaln_modulation}",
    "t_embedding.{mlp_in,mlp_out}",
    "{input_proj,llm_cond_proj,adaln_proj}",
)

_REFINER, _REFINER_ORIGINAL = "context_embedder.token_refiner.refiner_blocks", "txt_in.individual_token_refiner.blocks"
_HUNYUAN_MEANT = {
    "context_embedder.time_text_embed.timestep_embedder.{linear_1,linear_2}": "txt_in.t_embedder.{in_layer,out_layer}",
    "context_embedder.time_text_embed.text_embedder.{linear_1,linear_2}": "txt_in.c_embedder.{in_layer,out_layer}",
    "context_embedder.proj_in": "txt_in.input_embedder",
    f"{_REFINER}.{{0..1}}.attn.{{to_q,to_k,to_v}}": f"{_REFINER_ORIGINAL}.{{0..1}}.self_attn.qkv[{{0,1,2}}/3]",
    f"{_REFINER}.{{0..1}}.attn.to_out.0": f"{_REFINER_ORIGINAL}.{{0..1}}.self_attn.proj",
    f"{_REFINER}.{{0..1}}.ff.net.{{0.proj,2}}": f"{_REFINER_ORIGINAL}.{{0..1}}.mlp.{{0,2}}",
    f"{_REFINER}.{{0..1}}.norm_out.linear": f"{_REFINER_ORIGINAL}.{{0..1}}.adaLN_modulation.1",
    "time_text_embed.{timestep_embedder,guidance_embedder,text_embedder}.{linear_1,linear_2}":
        "{time_in,guidance_in,vector_in}.{in_layer,out_layer}",
    "transformer_blocks.{0..1}.attn.{to_q,to_k,to_v}": "double_blocks.{0..1}.img_attn.qkv[{0,1,2}/3]",
    "transformer_blocks.{0..1}.attn.{add_q_proj,add_k_proj,add_v_proj}":
        "double_blocks.{0..1}.txt_attn.qkv[{0,1,2}/3]",
    "transformer_blocks.{0..1}.attn.{to_out.0,to_add_out}": "double_blocks.{0..1}.{img_attn,txt_attn}.proj",
    "transformer_blocks.{0..1}.{ff,ff_context}.net.{0.proj,2}": "double_blocks.{0..1}.{img_mlp,txt_mlp}.{0,2}",
    "transformer_blocks.{0..1}.{norm1,norm1_context}.linear": "double_blocks.{0..1}.{img_mod,txt_mod}.lin",
    "single_transformer_blocks.{0..1}.attn.{to_q,to_k,to_v}": "single_blocks.{0..1}.linear1[{0,1,2}/7]",
    "single_transformer_blocks.{0..1}.proj_mlp": "single_blocks.{0..1}.linear1[3:7/7]",
    "single_transformer_blocks.{0..1}.{proj_out,norm.linear}": "single_blocks.{0..1}.{linear2,modulation.lin}",
    "norm_out.linear": "final_layer.adaLN_modulation.1[swapped]",
    "proj_out": "final_layer.linear",
}  # fmt: skip
_HUNYUAN_ORIGINAL = {
    "txt_in.t_embedder.mlp.{0,2}": "txt_in.t_embedder.{in_layer,out_layer}",
    "txt_in.c_embedder.{linear_1,linear_2}": "txt_in.c_embedder.{in_layer,out_layer}",
    "{time_in,guidance_in}.mlp.{0,2}": "{time_in,guidance_in}.{in_layer,out_layer}",
    f"{_REFINER_ORIGINAL}.{{0..1}}.self_attn_{{qkv,proj}}": f"{_REFINER_ORIGINAL}.{{0..1}}.self_attn.{{qkv,proj}}",
    f"{_REFINER_ORIGINAL}.{{0..1}}.mlp.{{fc1,fc2}}": f"{_REFINER_ORIGINAL}.{{0..1}}.mlp.{{0,2}}",
    "double_blocks.{0..1}.{img,txt}_attn_{qkv,proj}": "double_blocks.{0..1}.{img,txt}_attn.{qkv,proj}",
    "double_blocks.{0..1}.{img,txt}_mlp.{fc1,fc2}": "double_blocks.{0..1}.{img,txt}_mlp.{0,2}",
    "double_blocks.{0..1}.{img_mod,txt_mod}.linear": "double_blocks.{0..1}.{img_mod,txt_mod}.lin",
    "single_blocks.{0..1}.modulation.linear": "single_blocks.{0..1}.modulation.lin",
}
_HUNYUAN_SAME = (
    "txt_in.input_embedder",
    f"{_REFINER_ORIGINAL}.{{0..1}}.adaLN_modulation.1",
    "vector_in.{in_layer,out_layer}",
    "single_blocks.{0..1}.{linear1,linear2}",
    "final_layer.{linear,adaLN_modulation.1}",
)

_SD3_FIRST = f"transformer_blocks.0.attn.{_AS_DIFFUSERS[0]}"
_SD3 = (
    "{pos_embed.proj,context_embedder,norm_out.linear,proj_out}",
    "time_text_embed.{timestep_embedder,text_embedder}.{linear_1,linear_2}",
    _SD3_FIRST,
    f"transformer_blocks.0.{{ff,ff_context}}.{_AS_DIFFUSERS[1]}",
    "transformer_blocks.1.attn.{to_q,to_k,to_v,to_out.0,add_q_proj,add_k_proj,add_v_proj}",
    f"transformer_blocks.1.ff.{_AS_DIFFUSERS[1]}",
    "transformer_blocks.{0..1}.{norm1,norm1_context}.linear",
)
_SD3_BLOCK = "{attn.qkv,attn.proj,mlp.fc1,mlp.fc2,adaLN_modulation.1}"
_SD3_ORIGINAL = (
    "{x_embedder.proj,context_embedder,final_layer.linear,final_layer.adaLN_modulation.1}",
    "{t_embedder,y_embedder}.mlp.{0,2}",
    f"joint_blocks.{{0..1}}.x_block.{_SD3_BLOCK}",
    f"joint_blocks.0.context_block.{_SD3_BLOCK}",
    "joint_blocks.1.context_block.{attn.qkv,adaLN_modulation.1}",
)

_PIXART = (
    "{pos_embed.proj,adaln_single.linear,proj_out}",
    "caption_projection.{linear_1,linear_2}",
    "transformer_blocks.{0..1}.{attn1,attn2}.{to_q,to_k,to_v,to_out.0}",
    f"transformer_blocks.{{0..1}}.ff.{_AS_DIFFUSERS[1]}",
)
_PIXART_TIME = "adaln_single.emb.timestep_embedder.{linear_1,linear_2}"
_PIXART_SIZE = "adaln_single.emb.{resolution_embedder,aspect_ratio_embedder}.{linear_1,linear_2}"
_PIXART_ORIGINAL = (
    "{x_embedder.proj,t_block.1,final_layer.linear}",
    "y_embedder.y_proj.{fc1,fc2}",
    "t_embedder.mlp.{0,2}",
    "blocks.{0..1}.{attn.qkv,attn.proj,cross_attn.q_linear,cross_attn.kv_linear,cross_attn.proj,mlp.fc1,mlp.fc2}",
)
_PIXART_SIZE_ORIGINAL = "{csize_embedder,ar_embedder}.mlp.{0,2}"

_HIDREAM_BLOCK = "{ff_i.shared_experts.w1,ff_i.shared_experts.w2,ff_i.shared_experts.w3,adaLN_modulation.1}"

_CASCADE_ATTENTION = "{down_blocks,up_blocks}.{0..1}.2.attention"
_CASCADE_HOST = f"{_CASCADE_ATTENTION}.attn.{{to_q,to_k,to_v,out_proj}}"
_CASCADE_DIFFUSERS = f"{_CASCADE_ATTENTION}.{{to_q,to_k,to_v,to_out.0}}"
_CASCADE_ORIGINAL = f"{_CASCADE_ATTENTION}.attn.{{in_proj.0,in_proj.1,in_proj.2,out_proj}}"
_CASCADE = (
    "{down_blocks,up_blocks}.{0..1}.0.{channelwise.0,channelwise.4,depthwise}",
    "{down_blocks,up_blocks}.{0..1}.1.{mapper,mapper_sca,mapper_crp}",
    "{down_blocks,up_blocks}.{0..1}.2.kv_mapper.1",
    "{clip_txt_pooled_mapper,clip_txt_mapper,clip_img_mapper,embedding.1,clf.1}",
    "{down_downscalers.1.1.blocks.0,up_upscalers.0.1.blocks.1}",
)

_FAMILIES = (
    _Family(
        "Krea2Model", ("krea2",),
        (
            "{img_in,time_mod_proj,text_fusion.projector,final_layer.linear}",
            "{time_embed,txt_in}.{linear_1,linear_2}",
            "text_fusion.{layerwise_blocks,refiner_blocks}.{0..1}.attn.{to_q,to_k,to_v,to_gate,to_out.0}",
            "text_fusion.{layerwise_blocks,refiner_blocks}.{0..1}.ff.{gate,up,down}",
            "transformer_blocks.{0..1}.attn.{to_q,to_k,to_v,to_gate,to_out.0}",
            "transformer_blocks.{0..1}.ff.{gate,up,down}",
        ),
        (
            "{first,tproj.1,txtfusion.projector,last.linear}",
            "tmlp.{0,2}",
            "txtmlp.{1,3}",
            f"txtfusion.{{layerwise_blocks,refiner_blocks}}.{{0..1}}.{_KREA2_ATTENTION}",
            "txtfusion.{layerwise_blocks,refiner_blocks}.{0..1}.mlp.{gate,up,down}",
            f"blocks.{{0..1}}.{_KREA2_ATTENTION}",
            "blocks.{0..1}.mlp.{gate,up,down}",
        ),
    ),
    _Family(
        "AnimaModel", ("anima",), tuple(_ANIMA_MEANT), tuple(_ANIMA_MEANT.values()), wrapper="net.", meant=_ANIMA_MEANT,
    ),
    _Family(
        "QwenModel", ("qwen_image", "qwen_image_edit"),
        (
            "{img_in,txt_in,norm_out.linear,proj_out}",
            "time_text_embed.timestep_embedder.{linear_1,linear_2}",
            f"transformer_blocks.{{0..1}}.attn.{_AS_DIFFUSERS[0]}",
            "transformer_blocks.{0..1}.{img_mod,txt_mod}.1",
            f"transformer_blocks.{{0..1}}.{{img_mlp,txt_mlp}}.{_AS_DIFFUSERS[1]}",
        ),
        legacy="transformer.",
    ),
    _Family(
        "FluxModel", ("flux", "flux_fill"),
        (
            _ENDS,
            "norm_out.linear",
            "time_text_embed.{timestep_embedder,guidance_embedder,text_embedder}.{linear_1,linear_2}",
            *_FLUX_BLOCKS,
            _FLUX_SINGLE,
            *_FLUX_NORMS,
        ),
        (*_FLUX_ORIGINAL, *_FLUX_MODULATION, "{time_in,guidance_in,vector_in}.{in_layer,out_layer}"),
        legacy="lora_transformer_",
    ),
    _Family(
        "Flux2Model", ("flux2",), (*_FLUX2, *_FLUX2_GUIDANCE), (*_FLUX2_ORIGINAL, *_FLUX2_GUIDANCE.values()),
        legacy="transformer.", meant=_FLUX2_MEANT | _FLUX2_GUIDANCE,
    ),
    _Family(
        "Flux2Model", ("flux2_klein",), _FLUX2, _FLUX2_ORIGINAL, legacy="transformer.", meant=_FLUX2_MEANT,
    ),
    _Family(
        "ChromaModel", ("chroma",), (*_CHROMA_MEANT, _ENDS, *_FLUX_BLOCKS, _FLUX_SINGLE),
        (*_CHROMA_MEANT.values(), *_FLUX_ORIGINAL), legacy="lora_transformer_", meant=_CHROMA_MEANT,
    ),
    _Family(
        "ZImageModel", ("z_image",), _Z_IMAGE, legacy="transformer.", meant=_Z_IMAGE_MEANT,
        alike="diffusion_model.{name}",
    ),
    _unet("StableDiffusionXLModel", "sdxl"),
    _unet("StableDiffusionModel", "sd15", kohya=True),
    _unet("StableDiffusionModel", "sd2", kohya=True),
    _Family("StableDiffusion3Model", ("sd3",), _SD3, _SD3_ORIGINAL, legacy="lora_transformer_"),
    _Family(
        "StableDiffusion3Model", ("sd35",), (*_SD3, "transformer_blocks.0.attn2.{to_q,to_k,to_v,to_out.0}"),
        (*_SD3_ORIGINAL, "joint_blocks.0.x_block.attn2.{qkv,proj}"), legacy="lora_transformer_",
    ),
    _Family(
        "IdeogramModel", ("ideogram4",), (_IDEOGRAM_QKV, "layers.{0..1}.attention.to_out.0", *_IDEOGRAM_REST),
        ("layers.{0..1}.attention.{qkv,o}", *_IDEOGRAM_REST),
        meant={
            _IDEOGRAM_QKV: "layers.{0..1}.attention.qkv[{0,1,2}/3]",
            "layers.{0..1}.attention.to_out.0": "layers.{0..1}.attention.o",
            **{name: name for name in _IDEOGRAM_REST},
        },
    ),
    _Family(
        "ErnieModel", ("ernie",),
        (
            "{x_embedder.proj,text_proj,adaLN_modulation.1,final_norm.linear,final_linear}",
            "time_embedding.{linear_1,linear_2}",
            "layers.{0..1}.self_attention.{to_q,to_k,to_v,to_out.0}",
            "layers.{0..1}.mlp.{gate_proj,up_proj,linear_fc2}",
        ),
        legacy="transformer.",
    ),
    _Family(
        "HiDreamModel", ("hidream",),
        (
            "{x_embedder.proj,final_layer.linear,final_layer.adaLN_modulation.1}",
            "{t_embedder.timestep_embedder,p_embedder.pooled_embedder}.{linear_1,linear_2}",
            "double_stream_blocks.{0..1}.block.attn1.{to_q,to_k,to_v,to_out,to_q_t,to_k_t,to_v_t,to_out_t}",
            "double_stream_blocks.{0..1}.block.ff_t.{w1,w2,w3}",
            "single_stream_blocks.{0..1}.block.attn1.{to_q,to_k,to_v,to_out}",
            f"{{double_stream_blocks,single_stream_blocks}}.{{0..1}}.block.{_HIDREAM_BLOCK}",
            "{double_stream_blocks,single_stream_blocks}.{0..1}.block.ff_i.experts.{0..3}.{w1,w2,w3}",
            "caption_projection.{0..4}.linear",
        ),
    ),
    _Family(
        "HunyuanVideoModel", ("hunyuan_video",), tuple(_HUNYUAN_MEANT), (*_HUNYUAN_ORIGINAL, *_HUNYUAN_SAME),
        legacy="lora_transformer_", meant=_HUNYUAN_MEANT | _HUNYUAN_ORIGINAL,
    ),
    _Family(
        "PixArtAlphaModel", ("pixart",), (*_PIXART, _PIXART_TIME), (*_PIXART_ORIGINAL,), legacy="lora_transformer_",
        alike="transformer.{name}",
    ),
    _Family(
        "PixArtAlphaModel", ("pixart_alpha",), (*_PIXART, _PIXART_TIME, _PIXART_SIZE),
        (*_PIXART_ORIGINAL, _PIXART_SIZE_ORIGINAL), legacy="lora_transformer_", alike="transformer.{name}",
    ),
    _Family(
        "WuerstchenModel", ("cascade_c",), (*_CASCADE, _CASCADE_DIFFUSERS), (*_CASCADE, _CASCADE_ORIGINAL), "prior",
        legacy="lora_prior_unet_", older=(*_CASCADE, _CASCADE_HOST),
        meant=dict.fromkeys((_CASCADE_DIFFUSERS, _CASCADE_ORIGINAL), _CASCADE_HOST) | {name: name for name in _CASCADE},
    ),
)  # fmt: skip

LAYOUTS = tuple(layout for family in _FAMILIES for layout in family.layouts())
