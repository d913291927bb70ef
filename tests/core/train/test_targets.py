"""Which layers are chosen, on the true module names of FLUX.1, SD3, SD3.5 and SDXL in diffusers."""

import pytest

from comfyui_qr_lora.qrlora_core import PRESETS, TargetError, select
from comfyui_qr_lora.qrlora_core.train.targets import matches

PUBLISHED = """attn.to_q, attn.to_k, attn.to_v, attn.to_out.0, attn.add_q_proj, attn.add_k_proj, attn.add_v_proj,
attn.to_add_out, ff.net.0.proj, ff.net.2, ff_context.net.0.proj, ff_context.net.2"""

SELF_ATTENTION = ["to_q", "to_k", "to_v"]
TEXT_ATTENTION = ["add_q_proj", "add_k_proj", "add_v_proj"]
EMBEDDERS = [
    "timestep_embedder.linear_1",
    "timestep_embedder.linear_2",
    "text_embedder.linear_1",
    "text_embedder.linear_2",
]
FEED_FORWARD = ["net.0.proj", "net.2"]


def under(prefix, names):
    return [f"{prefix}.{name}" for name in names]


def joint_block(prefix, *, last=False, dual=False):
    """A block of text and image; the last one of SD3 has no text output, the first ones of SD3.5 attend twice."""
    yield from under(prefix, ["norm1.linear", "norm1_context.linear"])
    yield from under(f"{prefix}.attn", [*SELF_ATTENTION, *TEXT_ATTENTION, "to_out.0"])
    yield from under(f"{prefix}.ff", FEED_FORWARD)
    if not last:
        yield from under(prefix, ["attn.to_add_out", *under("ff_context", FEED_FORWARD)])
    if dual:
        yield from under(f"{prefix}.attn2", [*SELF_ATTENTION, "to_out.0"])


def flux():
    names = under("time_text_embed", [*EMBEDDERS, "guidance_embedder.linear_1", "guidance_embedder.linear_2"])
    names += ["context_embedder", "x_embedder"]
    for i in range(19):
        names += joint_block(f"transformer_blocks.{i}")
    for i in range(38):
        names += under(
            f"single_transformer_blocks.{i}", ["norm.linear", "proj_mlp", "proj_out", *under("attn", SELF_ATTENTION)]
        )
    return [*names, "norm_out.linear", "proj_out"]


def sd3(blocks=18, dual=0):
    names = [*under("time_text_embed", EMBEDDERS), "context_embedder"]
    for i in range(blocks):
        names += joint_block(f"transformer_blocks.{i}", last=i == blocks - 1, dual=i < dual)
    return [*names, "norm_out.linear", "proj_out"]


def sdxl():
    names = under("time_embedding", ["linear_1", "linear_2"]) + under("add_embedding", ["linear_1", "linear_2"])
    names += [f"down_blocks.{i}.resnets.{j}.time_emb_proj" for i in range(3) for j in range(2)]
    names += [f"up_blocks.{i}.resnets.{j}.time_emb_proj" for i in range(3) for j in range(3)]
    names += [f"mid_block.resnets.{j}.time_emb_proj" for j in range(2)]
    spots = [(f"down_blocks.{i}.attentions.{j}", depth) for i, depth in ((1, 2), (2, 10)) for j in range(2)]
    spots += [(f"up_blocks.{i}.attentions.{j}", depth) for i, depth in ((0, 10), (1, 2)) for j in range(3)]
    for prefix, depth in [*spots, ("mid_block.attentions.0", 10)]:
        names += under(prefix, ["proj_in", "proj_out"])
        for i in range(depth):
            for attention in ("attn1", "attn2"):
                names += under(f"{prefix}.transformer_blocks.{i}.{attention}", [*SELF_ATTENTION, "to_out.0"])
            names += under(f"{prefix}.transformer_blocks.{i}.ff", FEED_FORWARD)
    return names


MODELS = {"flux": flux(), "sd3": sd3(), "sd35": sd3(24, dual=13), "sdxl": sdxl()}
SDXL_BLOCKS = 2 * (2 + 10) + 3 * (10 + 2) + 10


@pytest.mark.parametrize(("model", "linears"), [("flux", 504), ("sd3", 256), ("sd35", 392), ("sdxl", 743)])
def test_the_lists_have_as_many_linear_layers_as_the_models(model, linears):
    """Counted on diffusers' own models (0.35 and later), so that the lists above are the true ones."""
    assert len(MODELS[model]) == len(set(MODELS[model])) == linears


class TestPresets:
    def test_the_published_suffixes_on_flux(self):
        chosen = select(MODELS["flux"], PUBLISHED)
        assert len(chosen) == 19 * 12 + 38 * 3 == 342
        assert chosen == select(MODELS["flux"], "paper")
        assert not [path for path in chosen if "norm" in path or "embed" in path or path.endswith("proj_mlp")]

    @pytest.mark.parametrize(
        ("model", "preset", "count"),
        [
            ("flux", "paper", 342),
            ("flux", "attention", 19 * 8 + 38 * 3),
            ("sd3", "paper", 18 * 12 - 3),
            ("sd3", "attention", 18 * 8 - 1),
            ("sd35", "paper", 24 * 12 - 3 + 13 * 4),
            ("sd35", "attention", 24 * 8 - 1 + 13 * 4),
            ("sdxl", "paper", SDXL_BLOCKS * 10),
            ("sdxl", "attention", SDXL_BLOCKS * 8),
        ],
    )
    def test_choose_attention_and_feed_forward_alone(self, model, preset, count):
        chosen = select(MODELS[model], preset)
        assert len(chosen) == count
        assert set(chosen) <= set(MODELS[model])
        inside = (".attn.", ".attn1.", ".attn2.") + ((".ff.", ".ff_context.") if preset == "paper" else ())
        assert chosen == [path for path in MODELS[model] if any(part in path for part in inside)]

    @pytest.mark.parametrize("model", MODELS)
    def test_all_linear_is_all(self, model):
        assert select(MODELS[model], "all-linear") == MODELS[model]

    @pytest.mark.parametrize("model", MODELS)
    def test_with_the_prefix_of_the_published_files(self, model):
        prefixed = under("transformer", MODELS[model])
        for preset in PRESETS:
            assert select(prefixed, preset) == under("transformer", select(MODELS[model], preset))

    @pytest.mark.parametrize("preset", PRESETS)
    def test_that_match_nothing_say_what_is_there(self, preset):
        paths = [f"blocks.{i}.mixer.gate" for i in range(12)] if preset != "all-linear" else []
        with pytest.raises(TargetError) as caught:
            select(paths, preset)
        assert preset in str(caught.value)
        assert ("blocks.N.mixer.gate (12)" if paths else "no linear layers") in str(caught.value)


class TestPatterns:
    @pytest.mark.parametrize(
        ("path", "pattern", "expected"),
        [
            ("blocks.0.attn.to_q", "attn.to_q", True),
            ("attn.to_q", "attn.to_q", True),
            ("blocks.0.cross_attn.to_q", "attn.to_q", False),  # not in mid-word
            ("blocks.0.xattn.to_q", "attn.to_q", False),
            ("blocks.0.attn.to_q_extra", "attn.to_q", False),
            ("blocks.0.attn.to_q.0", "attn.to_q", False),
            ("blocks.0.attn.to_q", "to_q", True),
            ("blocks.0.attn.to_q", "o_q", False),
            ("blocks.0.attnXto_q", "attn.to_q", False),  # a dot is a dot
            ("blocks.0.attn.to_q", "Attn.to_q", False),
            ("blocks.0.attn.to_q", "blocks.0", False),
            ("blocks.10.ff", "blocks.1?.*", True),
            ("blocks.2.ff", "blocks.1?.*", False),
            ("model.blocks.10.ff", "blocks.1?.*", True),
            ("model.double_blocks.10.ff", "blocks.1?.*", False),
            ("model.double_blocks.10.ff", "*blocks.1?.*", True),
            ("blocks.3.ff", "blocks.[0-4].ff", True),
            ("blocks.7.ff", "blocks.[0-4].ff", False),
            ("blocks.0.attn.to_q", "attn.to_[qv]", True),
            ("blocks.0.attn.to_k", "attn.to_[qv]", False),
            ("blocks.0.attn.to_q.bias", "attn.to_[qv]", False),
            ("x", "*", True),
        ],
    )
    def test_matches(self, path, pattern, expected):
        assert matches(path, pattern) is expected

    @pytest.mark.parametrize(
        "choice",
        [
            "attn.to_q,ff.net.2",
            "attn.to_q\nff.net.2",
            " attn.to_q ,\n\n ff.net.2 ,",
            "attn.to_q\r\nff.net.2\r\n",
            ["attn.to_q", "ff.net.2"],
            ("ff.net.2", " attn.to_q ", ""),
        ],
    )
    def test_lists(self, choice):
        chosen = select(MODELS["flux"], choice)
        assert len(chosen) == 19 * 2 + 38
        assert chosen == [path for path in MODELS["flux"] if path.endswith((".attn.to_q", ".ff.net.2"))]

    def test_a_layer_that_several_patterns_match_comes_once_in_the_order_of_the_model(self):
        assert select(["b.to_q", "a.to_q", "a.to_k"], "to_*, to_q, a.*") == ["b.to_q", "a.to_q", "a.to_k"]

    def test_paths_may_come_from_a_generator(self):
        assert select((path for path in ("a.to_q", "b.to_k")), "to_k") == ["b.to_k"]


class TestErrors:
    def test_list_what_is_there(self):
        with pytest.raises(TargetError) as caught:
            select(MODELS["flux"], "attn.qkv")
        message = str(caught.value)
        assert "no layer of this model matches 'attn.qkv'" in message
        assert "transformer_blocks.N.attn.to_q (19)" in message
        assert "single_transformer_blocks.N.attn.to_q (38)" in message
        assert "context_embedder (1)" in message

    def test_are_short_on_a_large_model(self):
        with pytest.raises(TargetError, match="and 160 kinds more") as caught:
            select([f"layer_{i:03}" for i in range(200)], "none")
        assert len(str(caught.value)) < 1000

    def test_a_pattern_that_matches_nothing_though_others_do(self):
        with pytest.raises(TargetError, match=r"matches 'attn\.to_x'"):
            select(MODELS["flux"], "attn.to_q, attn.to_x, ff.net.2")

    @pytest.mark.parametrize("choice", ["", "  ", ",\n ,", [], ["", " "]])
    def test_an_empty_choice(self, choice):
        with pytest.raises(TargetError, match="expected paper, attention, all-linear or patterns, found nothing"):
            select(MODELS["flux"], choice)

    def test_a_model_without_linear_layers(self):
        with pytest.raises(TargetError, match="no linear layers"):
            select([], "attn.to_q")


@pytest.mark.parametrize(
    ("aside", "path"),
    [
        ("llm_adapter", "blocks.0.self_attn.q_proj"),
        ("music_encoder", "blocks.0.self_attn.q_proj"),
        ("visual", "blocks.0.attn.qkv"),
        ("video_embeddings_connector", "blocks.0.attn1.to_q"),
        ("token_refiner", "blocks.0.attn.qkv"),
    ],
)
def test_what_prepares_text_or_music_or_pictures_is_left_out_unless_asked_for(aside, path):
    names = [f"diffusion_model.{path}", f"diffusion_model.{aside}.{path}"]
    for preset in ("paper", "attention"):
        assert select(names, preset) == names[:1]
    assert select(names, "all-linear") == select(names, path) == names


def test_attention_to_a_picture_and_to_sound_is_attention():
    wan = [f"blocks.0.cross_attn.{name}" for name in ("q", "k", "v", "o", "k_img", "v_img")]
    sound = [f"blocks.0.audio_cross_attn_wrapper.audio_cross_attn.{name}" for name in ("q", "k", "v", "o")]
    others = ["blocks.0.after_proj", "audio_injector.injector.0.q", "face_adapter.fuser_blocks.0.linear1_q"]
    for preset in ("paper", "attention"):
        assert select([*wan, *sound, *others], preset) == [*wan, *sound]


def test_of_a_mixture_of_experts_the_one_that_sees_every_token_is_chosen():
    block = "transformer.single_stream_blocks.0.block"
    names = [f"{block}.ff_i.{expert}.w1" for expert in ("shared_experts", "experts.0", "experts.3")]
    assert select([f"{block}.attn1.to_q", *names], "paper") == [f"{block}.attn1.to_q", names[0]]
