"""Small text encoders of true architecture, as the host's loaders would make them."""

from __future__ import annotations

import json
from functools import cache
from types import SimpleNamespace
from typing import Any

import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.text_encoders.flux
import comfy.text_encoders.hunyuan_video
import comfy.text_encoders.llama
import comfy.text_encoders.sd3_clip
import comfy.text_encoders.z_image
import torch
from torch import Tensor

PROMPT = "a red square beside a blue circle"
_NARROW = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1,
}  # fmt: skip
_CLIPS = {
    "clip_l_model_config": {
        "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 3,
    },
    "clip_g_model_config": {
        "hidden_size": 96, "intermediate_size": 192, "num_attention_heads": 4, "num_hidden_layers": 3,
        "projection_dim": 96,
    },
}  # fmt: skip
_T5 = {"t5xxl_model_config": {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_heads": 4, "num_layers": 2}}


@cache
def clip_l(seed: int = 0) -> Any:
    """CLIP-L with two narrow layers."""
    widths = _CLIPS["clip_l_model_config"] | {"num_hidden_layers": 2}
    options = {"clip_l_model_config": widths}
    return _filled(_clip(comfy.sd1_clip.SD1ClipModel, comfy.sd1_clip.SD1Tokenizer, options), seed)


@cache
def sdxl() -> Any:
    """CLIP-L and CLIP-G, as SDXL has them."""
    return _filled(_clip(comfy.sdxl_clip.SDXLClipModel, comfy.sdxl_clip.SDXLTokenizer, _CLIPS), 3)


@cache
def refiner() -> Any:
    """CLIP-G alone, as SDXL's refiner has it."""
    return _filled(_clip(comfy.sdxl_clip.SDXLRefinerClipModel, comfy.sdxl_clip.SDXLTokenizer, _CLIPS), 4)


@cache
def sd3() -> Any:
    """CLIP-L, CLIP-G and T5."""
    host = comfy.text_encoders.sd3_clip
    return _filled(_clip(host.SD3ClipModel, host.SD3Tokenizer, _CLIPS | _T5), 5)


@cache
def flux() -> Any:
    """CLIP-L and T5."""
    host = comfy.text_encoders.flux
    return _filled(_clip(host.FluxClipModel, host.FluxTokenizer, _CLIPS | _T5), 6)


@cache
def hunyuan_video() -> Any:
    """CLIP-L and Llama."""
    host = comfy.text_encoders.hunyuan_video
    options = _CLIPS | {"llama_model_config": _NARROW | {"num_hidden_layers": 4}}
    return _filled(_clip(host.HunyuanVideoClipModel, host.HunyuanVideoTokenizer, options), 7)


@cache
def qwen3(seed: int = 0) -> Any:
    """Z-Image's text encoder, Qwen3, with three narrow layers; it gives the states before the last one."""
    return _filled(_qwen3(comfy.text_encoders.z_image.ZImageTEModel), seed)


@cache
def qwen3_with_head() -> Any:
    """The same with the layer that gives words, which no prompt needs."""
    return _filled(_qwen3(comfy.text_encoders.z_image.ZImageTEModel, more={"lm_head": True}), 0)


@cache
def merged_qwen3() -> Any:
    """The same with one matrix for query, key and value, and one for gate and up, as some checkpoints have them."""
    return _filled(_qwen3(_MergedEncoder), 0)


@cache
def anima() -> Any:
    """Anima's text encoder, the small Qwen3, which newer hosts have; three narrow layers."""
    import comfy.text_encoders.anima as host

    options = {"qwen3_06b_model_config": _NARROW}
    return _filled(_clip(host.AnimaTEModel, host.AnimaTokenizer, options), 0)


def quantized(clip: Any, layout: str, entry: dict[str, Any], **how: Any) -> tuple[Any, Any]:
    """A small Qwen3 as from a checkpoint with quantized layers, and from the numbers that are in these."""
    from comfy.quant_ops import QuantizedTensor
    from comfy.utils import detect_layer_quantization

    state, numbers = {}, {}
    for key, value in clip.cond_stage_model.qwen3_4b.transformer.state_dict().items():
        if value.ndim == 2 and ".layers." in key:
            weight = QuantizedTensor.from_float(value, layout, **how)
            sign = torch.tensor(list(json.dumps(entry).encode()), dtype=torch.uint8)
            state |= {**weight.state_dict(key), key.replace(".weight", ".comfy_quant"): sign}
            numbers[key] = weight.dequantize().float()
        else:
            state[key] = numbers[key] = value
    kind = type(clip.cond_stage_model)
    stored = _qwen3(kind, state, quantization_metadata=detect_layer_quantization(state, ""))
    return stored, _qwen3(kind, numbers)


def encode(clip: Any, text: str = PROMPT) -> Tensor:
    return clip.encode_from_tokens(clip.tokenize(text))


class _MergedTransformer(comfy.text_encoders.llama.Qwen3_4B):
    def __init__(self, config_dict: dict[str, Any], dtype: Any, device: Any, operations: Any) -> None:
        super().__init__(config_dict, dtype, device, operations)
        config = self.model.config
        config.merged_qkv = config.merged_mlp = True
        self.model = comfy.text_encoders.llama.Llama2_(config, device=device, dtype=dtype, ops=operations)


class _MergedModel(comfy.text_encoders.z_image.Qwen3_4BModel):
    def __init__(self, *, dtype: Any = None, model_options: dict[str, Any] | None = None, **more: Any) -> None:
        options = model_options or {}
        super().__init__(dtype=dtype, model_options=options, **more)
        widths, device = options["qwen3_4b_model_config"], more.get("device")
        self.transformer = _MergedTransformer(widths, dtype, device, self.operations)
        self.freeze()


class _MergedEncoder(comfy.sd1_clip.SD1ClipModel):
    def __init__(self, **more: Any) -> None:
        super().__init__(name="qwen3_4b", clip_model=_MergedModel, **more)


def _qwen3(
    kind: Any, state: dict[str, Tensor] | None = None, more: dict[str, Any] | None = None, **options: Any
) -> Any:
    options["qwen3_4b_model_config"] = _NARROW | (more or {})
    return _clip(kind, comfy.text_encoders.z_image.ZImageTokenizer, options, state)


def _clip(kind: Any, tokenizer: Any, options: dict[str, Any], state: dict[str, Tensor] | None = None) -> Any:
    target = SimpleNamespace(params={}, clip=kind, tokenizer=tokenizer)
    more = {} if state is None else {"state_dict": [state]}  # which older hosts do not take
    return comfy.sd.CLIP(target, model_options={**options, "dtype": torch.float32}, **more)


@torch.no_grad()
def _filled(clip: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in clip.cond_stage_model.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 2:
            values = values * (0.3 if "embed" in name else parameter.shape[1] ** -0.5)
        elif "norm" in name and name.endswith("weight"):
            values = 1 + 0.02 * values
        else:
            values = 0.02 * values
        if not name.endswith("logit_scale"):
            parameter.copy_(values)
    return clip
