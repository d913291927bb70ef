"""How the original checkpoints of some networks call layers that the host renames or fuses, and trainers with them.

The tables are of the same form as those of diffusers' names, and hold what both the host's own names and its tables
lack.
"""

from __future__ import annotations

from .diffusers_names import Naming

_REFINER = "txt_in.individual_token_refiner.blocks.*"


def _parts(block: str, stream: str) -> dict[str, str]:
    return {
        f"{block}.{stream}_attn.qkv": f"{block}.{stream}_attn_qkv",
        f"{block}.{stream}_attn.proj": f"{block}.{stream}_attn_proj",
        f"{block}.{stream}_mlp.0": f"{block}.{stream}_mlp.fc1",
        f"{block}.{stream}_mlp.2": f"{block}.{stream}_mlp.fc2",
        f"{block}.{stream}_mod.lin": f"{block}.{stream}_mod.linear",
    }


_BLOCK = "double_blocks.*"
_TEXT = {
    f"{_REFINER}.self_attn.qkv": f"{_REFINER}.self_attn_qkv",
    f"{_REFINER}.self_attn.proj": f"{_REFINER}.self_attn_proj",
    f"{_REFINER}.mlp.0": f"{_REFINER}.mlp.fc1",
    f"{_REFINER}.mlp.2": f"{_REFINER}.mlp.fc2",
}
HUNYUAN = Naming(
    {**_parts(_BLOCK, "img"), **_parts(_BLOCK, "txt"), **_TEXT},
    {
        "single_blocks.*.modulation.lin": "single_blocks.*.modulation.linear",
        "txt_in.t_embedder.in_layer": "txt_in.t_embedder.mlp.0",
        "txt_in.t_embedder.out_layer": "txt_in.t_embedder.mlp.2",
        "txt_in.c_embedder.in_layer": "txt_in.c_embedder.linear_1",
        "txt_in.c_embedder.out_layer": "txt_in.c_embedder.linear_2",
        **{f"{part}.in_layer": f"{part}.mlp.0" for part in ("time_in", "guidance_in", "time_r_in")},
        **{f"{part}.out_layer": f"{part}.mlp.2" for part in ("time_in", "guidance_in", "time_r_in")},
    },
)
# HunyuanVideo 1.5 and HunyuanImage, which have all of the above, keep what FLUX fuses apart.
HUNYUAN_APART = Naming(
    {
        f"{block}.{stream}": tuple(f"{block}.{stream.replace('.qkv', '')}_{part}" for part in "qkv")
        for block, stream in ((_BLOCK, "img_attn.qkv"), (_BLOCK, "txt_attn.qkv"), (_REFINER, "self_attn.qkv"))
    }
)
CASCADE = Naming(  # of torch's attention, whose one weight for three trainers take apart
    {
        f"{way}_blocks.*.attention.attn.to_{part}": f"{way}_blocks.*.attention.attn.in_proj.{i}"
        for way in ("down", "up")
        for i, part in enumerate("qkv")
    }
)
NAMINGS = (HUNYUAN, HUNYUAN_APART, CASCADE)
