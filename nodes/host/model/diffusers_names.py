"""How diffusers calls the layers of networks for which the host has no table of its names, and others call them so too.

A table is for the networks that have a layer for each of its rows. Names are found by it, never given: layers are
called by the host's own names where it has no others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

Rows = tuple[int, int]  # start, length


@dataclass(frozen=True)
class Naming:
    """Dotted names of a network's layers, the host's to diffusers'.

    ``*`` stands for the number of a block, or for those of a level and of a block in it.

    Args:
        layers: those that each network of the kind has. Several names for one layer are those of its rows: query, key
            and value, and what is after them.
        others: those that only some have.
        swapped: those whose two halves diffusers has the other way round (scale and shift).
        wrappers: what some trainers put before all of diffusers' names.
    """

    layers: Mapping[str, str | tuple[str, ...]]
    others: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    swapped: Mapping[str, str] = field(default_factory=dict)
    wrappers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Named:
    """A name of diffusers, and the host's layer that it means.

    Args:
        name: of diffusers.
        layer: the host's dotted name.
        part: which of the parts of the layer, of how many.
        swapped: whether its halves are the other way round.
    """

    name: str
    layer: str
    part: tuple[int, int] = (0, 1)
    swapped: bool = False

    def rows(self, shape: tuple[int, ...]) -> Rows | None:
        """The rows of a weight of this shape; None for all of them."""
        index, count = self.part
        if count == 1:
            return None
        starts = _starts(shape[0], shape[1], count)
        return starts[index], starts[index + 1] - starts[index]


def _starts(out: int, inner: int, count: int) -> tuple[int, ...]:
    """Where the rows of query, key, value and the rest begin, and the last ends. Queries are as wide as what comes in.

    Keys and values are narrower where several queries share them; a rest is there only where they do not.
    """
    shared = inner if count > 3 else (out - inner) // 2
    return (0, inner, inner + shared, inner + 2 * shared, out)[: count + 1]


def names_of(layers: Iterable[str], namings: Iterable[Naming]) -> Iterator[Named]:
    """All names for a network's layers that a table has.

    Args:
        layers: the host's dotted names.
        namings: the tables.
    """
    kinds = _by_kind(layers)
    for naming in namings:
        if naming.layers.keys() <= kinds.keys():
            yield from _names(naming, kinds)


def _by_kind(layers: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
    """Names with their first number folded, and with their first two that stand together, to (number, name)."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for layer in layers:
        kinds.setdefault(layer, []).append(("", layer))
        for number in filter(None, (_NUMBER.search(layer), _NUMBERS.search(layer))):
            folded = f"{layer[: number.start()]}*{layer[number.end() :]}"
            kinds.setdefault(folded, []).append((number[0], layer))
    return kinds


_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_NUMBERS = re.compile(r"(?<=\.)\d+\.\d+(?=\.)")


def _names(naming: Naming, kinds: Mapping[str, list[tuple[str, str]]]) -> Iterator[Named]:
    for kind, told in {**naming.layers, **naming.others, **naming.swapped}.items():
        parts = (told,) if isinstance(told, str) else told
        for number, layer in kinds.get(kind, ()):
            for index, part in enumerate(parts):
                for wrapper in ("", *naming.wrappers):
                    name = wrapper + part.replace("*", number)
                    yield Named(name, layer, (index, len(parts)), kind in naming.swapped)


def _prefixed(prefix: str, own: str, names: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}{host}": f"{own}{name}" for host, name in names.items()}


def _query_key_value(name: str) -> tuple[str, ...]:
    return tuple(f"{name}.to_{part}" for part in "qkv")


_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}
WAN = Naming(
    {
        **_prefixed("blocks.*.self_attn.", "blocks.*.attn1.", _ATTENTION),
        **_prefixed("blocks.*.cross_attn.", "blocks.*.attn2.", _ATTENTION),
        "blocks.*.ffn.0": "blocks.*.ffn.net.0.proj",
        "blocks.*.ffn.2": "blocks.*.ffn.net.2",
    },
    {
        "blocks.*.cross_attn.k_img": "blocks.*.attn2.add_k_proj",
        "blocks.*.cross_attn.v_img": "blocks.*.attn2.add_v_proj",
        "time_embedding.0": "condition_embedder.time_embedder.linear_1",
        "time_embedding.2": "condition_embedder.time_embedder.linear_2",
        "time_projection.1": "condition_embedder.time_proj",
        "text_embedding.0": "condition_embedder.text_embedder.linear_1",
        "text_embedding.2": "condition_embedder.text_embedder.linear_2",
        "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
        "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
        "head.head": "proj_out",
    },
)

_COSMOS_ATTENTION = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "output_proj": "to_out.0"}
_MODULATION = {"self_attn": "norm1", "cross_attn": "norm2", "mlp": "norm3"}
COSMOS_PREDICT2 = Naming(
    {
        **_prefixed("blocks.*.self_attn.", "transformer_blocks.*.attn1.", _COSMOS_ATTENTION),
        **_prefixed("blocks.*.cross_attn.", "transformer_blocks.*.attn2.", _COSMOS_ATTENTION),
        "blocks.*.mlp.layer1": "transformer_blocks.*.ff.net.0.proj",
        "blocks.*.mlp.layer2": "transformer_blocks.*.ff.net.2",
    },
    {
        **{
            f"blocks.*.adaln_modulation_{part}.{i}": f"transformer_blocks.*.{norm}.linear_{i}"
            for part, norm in _MODULATION.items()
            for i in (1, 2)
        },
        "x_embedder.proj.1": "patch_embed.proj",
        "t_embedder.1.linear_1": "time_embed.t_embedder.linear_1",
        "t_embedder.1.linear_2": "time_embed.t_embedder.linear_2",
        "final_layer.adaln_modulation.1": "norm_out.linear_1",
        "final_layer.adaln_modulation.2": "norm_out.linear_2",
        "final_layer.linear": "proj_out",
    },
    wrappers=("core.",),  # SimpleTuner's network around that of diffusers
)

_REFINER, _TEXT = "txt_in.individual_token_refiner.blocks.*", "context_embedder"
_TWO_LAYERS = {"in_layer": "linear_1", "out_layer": "linear_2"}
HUNYUAN_VIDEO = Naming(
    {
        "double_blocks.*.img_attn.qkv": _query_key_value("transformer_blocks.*.attn"),
        "double_blocks.*.img_attn.proj": "transformer_blocks.*.attn.to_out.0",
        "double_blocks.*.txt_attn.qkv": tuple(f"transformer_blocks.*.attn.add_{part}_proj" for part in "qkv"),
        "double_blocks.*.txt_attn.proj": "transformer_blocks.*.attn.to_add_out",
        f"{_REFINER}.self_attn.qkv": _query_key_value(f"{_TEXT}.token_refiner.refiner_blocks.*.attn"),
        f"{_REFINER}.self_attn.proj": f"{_TEXT}.token_refiner.refiner_blocks.*.attn.to_out.0",
    },
    {
        "double_blocks.*.img_mlp.0": "transformer_blocks.*.ff.net.0.proj",
        "double_blocks.*.img_mlp.2": "transformer_blocks.*.ff.net.2",
        "double_blocks.*.txt_mlp.0": "transformer_blocks.*.ff_context.net.0.proj",
        "double_blocks.*.txt_mlp.2": "transformer_blocks.*.ff_context.net.2",
        "double_blocks.*.img_mod.lin": "transformer_blocks.*.norm1.linear",
        "double_blocks.*.txt_mod.lin": "transformer_blocks.*.norm1_context.linear",
        "single_blocks.*.linear1": (
            *_query_key_value("single_transformer_blocks.*.attn"), "single_transformer_blocks.*.proj_mlp",
        ),
        "single_blocks.*.linear2": "single_transformer_blocks.*.proj_out",
        "single_blocks.*.modulation.lin": "single_transformer_blocks.*.norm.linear",
        f"{_REFINER}.mlp.0": f"{_TEXT}.token_refiner.refiner_blocks.*.ff.net.0.proj",
        f"{_REFINER}.mlp.2": f"{_TEXT}.token_refiner.refiner_blocks.*.ff.net.2",
        f"{_REFINER}.adaLN_modulation.1": f"{_TEXT}.token_refiner.refiner_blocks.*.norm_out.linear",
        "txt_in.input_embedder": f"{_TEXT}.proj_in",
        **_prefixed("txt_in.t_embedder.", f"{_TEXT}.time_text_embed.timestep_embedder.", _TWO_LAYERS),
        **_prefixed("txt_in.c_embedder.", f"{_TEXT}.time_text_embed.text_embedder.", _TWO_LAYERS),
        **_prefixed("time_in.", "time_text_embed.timestep_embedder.", _TWO_LAYERS),
        **_prefixed("guidance_in.", "time_text_embed.guidance_embedder.", _TWO_LAYERS),
        **_prefixed("vector_in.", "time_text_embed.text_embedder.", _TWO_LAYERS),
        "img_in.proj": "x_embedder.proj",
        "final_layer.linear": "proj_out",
    },
    swapped={"final_layer.adaLN_modulation.1": "norm_out.linear"},
)  # fmt: skip


def _lumina2(block: str) -> dict[str, str | tuple[str, ...]]:
    return {
        f"{block}.*.attention.qkv": _query_key_value(f"{block}.*.attn"),
        f"{block}.*.attention.out": f"{block}.*.attn.to_out.0",
        **{f"{block}.*.feed_forward.w{i}": f"{block}.*.feed_forward.linear_{i}" for i in (1, 2, 3)},
    }


LUMINA2 = Naming(
    {
        **_lumina2("noise_refiner"),
        **_lumina2("context_refiner"),
        **_lumina2("layers"),
        "layers.*.adaLN_modulation.1": "layers.*.norm1.linear",  # Z-Image, which has the rest, has it as .0
        "noise_refiner.*.adaLN_modulation.1": "noise_refiner.*.norm1.linear",
    },
    {
        "t_embedder.mlp.0": "time_caption_embed.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_caption_embed.timestep_embedder.linear_2",
        "cap_embedder.1": "time_caption_embed.caption_embedder.1",
        "final_layer.adaLN_modulation.1": "norm_out.linear_1",
        "final_layer.linear": "norm_out.linear_2",
    },
)
IDEOGRAM4 = Naming(
    {
        "layers.*.attention.qkv": _query_key_value("layers.*.attention"),
        "layers.*.attention.o": "layers.*.attention.to_out.0",
    }
)
COGVIDEOX = Naming(
    {
        "blocks.*.q": "transformer_blocks.*.attn1.to_q",
        "blocks.*.k": "transformer_blocks.*.attn1.to_k",
        "blocks.*.v": "transformer_blocks.*.attn1.to_v",
        "blocks.*.attn_out": "transformer_blocks.*.attn1.to_out.0",
        "blocks.*.ff_proj": "transformer_blocks.*.ff.net.0.proj",
        "blocks.*.ff_out": "transformer_blocks.*.ff.net.2",
    },
    {
        "blocks.*.norm1.linear": "transformer_blocks.*.norm1.linear",
        "blocks.*.norm2.linear": "transformer_blocks.*.norm2.linear",
        "time_embedding_linear_1": "time_embedding.linear_1",
        "time_embedding_linear_2": "time_embedding.linear_2",
    },
)
FLUX2 = Naming(  # what it shares with FLUX.1 is in the host's table
    {
        "double_stream_modulation_img.lin": "double_stream_modulation_img.linear",
        "double_stream_modulation_txt.lin": "double_stream_modulation_txt.linear",
        "single_stream_modulation.lin": "single_stream_modulation.linear",
        "single_blocks.*.linear1": "single_transformer_blocks.*.attn.to_qkv_mlp_proj",
        "single_blocks.*.linear2": "single_transformer_blocks.*.attn.to_out",
        "double_blocks.*.img_mlp.0": "transformer_blocks.*.ff.linear_in",
        "double_blocks.*.img_mlp.2": "transformer_blocks.*.ff.linear_out",
        "double_blocks.*.txt_mlp.0": "transformer_blocks.*.ff_context.linear_in",
        "double_blocks.*.txt_mlp.2": "transformer_blocks.*.ff_context.linear_out",
    },
    {
        **_prefixed("time_in.", "time_guidance_embed.timestep_embedder.", _TWO_LAYERS),
        **_prefixed("guidance_in.", "time_guidance_embed.guidance_embedder.", _TWO_LAYERS),
    },
)
CHROMA = Naming(_prefixed("distilled_guidance_layer.layers.*.", "distilled_guidance_layer.layers.*.", _TWO_LAYERS))
_CASCADE_ATTENTION = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "out_proj": "to_out.0"}
CASCADE = Naming(
    {
        **_prefixed("down_blocks.*.attention.attn.", "down_blocks.*.attention.", _CASCADE_ATTENTION),
        **_prefixed("up_blocks.*.attention.attn.", "up_blocks.*.attention.", _CASCADE_ATTENTION),
    }
)
NAMINGS = (CASCADE, FLUX2, CHROMA, WAN, COSMOS_PREDICT2, HUNYUAN_VIDEO, LUMINA2, IDEOGRAM4, COGVIDEOX)
