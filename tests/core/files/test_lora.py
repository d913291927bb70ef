"""Ordinary LoRA files: the names of every trainer, what is refused and why, and files that other tools read alike."""

import json
import math
import random

import pytest
import torch
from safetensors.torch import load_file, save_file

from comfyui_qr_lora.qrlora_core import (
    AdapterError,
    AdapterFileError,
    Layer,
    QRLoRA,
    Term,
    load_adapter,
    merge,
    save_adapter,
)
from comfyui_qr_lora.qrlora_core.files.peft_settings import PEFT_SETTINGS
from comfyui_qr_lora.tests.support import oracle
from comfyui_qr_lora.tests.support.oracle import normal, orthonormal
from comfyui_qr_lora.tests.support.regression import stored

OUT, RANK, WIDTH = 9, 4, 7
UP, DOWN = normal(OUT, RANK, seed=1), normal(RANK, WIDTH, seed=2)
DELTA = UP.double() @ DOWN.double()
DOTTED = "transformer.transformer_blocks.0.attn.to_q"
EXACT = 1e-6


def saved(tmp_path, tensors, metadata=None, name="cat.safetensors"):
    save_file(
        {key: value.clone(memory_format=torch.contiguous_format) for key, value in tensors.items()},
        tmp_path / name,
        metadata=metadata,
    )
    return tmp_path / name


def refuses(path, *words):
    with pytest.raises(AdapterFileError) as caught:
        load_adapter(path)
    for word in (path.name, *words):
        assert word in str(caught.value)
    return str(caught.value)


def leaves_out(path, *words, keeps):
    """All but one layer or tensor is loaded, which is named in a note of bearable length."""
    loaded = load_adapter(path)
    assert set(loaded.layers) == set(keeps)
    for word in words:
        assert word in loaded.origin.not_loaded
    assert len(loaded.origin.not_loaded) < 1000
    return loaded


def delta(adapter, path):
    return sum(oracle.delta_weight(term.q, term.delta_r, term.alpha) for term in adapter.layers[path].terms)


PEFT_TENSORS = {f"{DOTTED}.lora_A.weight": DOWN, f"{DOTTED}.lora_B.weight": UP}
# The layer's name in the file, and the endings of up and down, by trainer.
NAMINGS = {
    "kohya": ("lora_unet_double_blocks_0_img_attn_qkv", ".lora_up.weight", ".lora_down.weight"),
    "kohya text encoder": ("lora_te1_text_model_encoder_layers_0_mlp_fc1", ".lora_up.weight", ".lora_down.weight"),
    "OneTrainer": ("lora_transformer_single_transformer_blocks_0_attn_to_q", ".lora_up.weight", ".lora_down.weight"),
    "SimpleTuner": ("lycoris_transformer_blocks_0_attn_to_q", ".lora_up.weight", ".lora_down.weight"),
    "ComfyUI": ("diffusion_model.joint_blocks.0.x_block.attn.qkv", ".lora_up.weight", ".lora_down.weight"),
    "diffusers, attention processors": (
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q",
        "_lora.up.weight",
        "_lora.down.weight",
    ),
    "diffusers": ("unet.down_blocks.0.attentions.0.proj_in", ".lora.up.weight", ".lora.down.weight"),
    "diffusers text encoder": (
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
        ".lora_linear_layer.up.weight",
        ".lora_linear_layer.down.weight",
    ),
    "PEFT": (DOTTED, ".lora_B.weight", ".lora_A.weight"),
    "PEFT with the adapter's name": (DOTTED, ".lora_B.default.weight", ".lora_A.default.weight"),
    "PEFT with another name": (DOTTED, ".lora_B.my_cat-2.weight", ".lora_A.my_cat-2.weight"),
    "PEFT of a whole model": ("base_model.model.blocks.0.attn.to_q", ".lora_B.weight", ".lora_A.weight"),
    "PEFT, bare": ("blocks.0.attn.qkv_x", ".lora_B", ".lora_A"),
    "PEFT, bare with a name": ("blocks.0.attn.qkv_x", ".lora_B.default", ".lora_A.default"),
}  # fmt: skip


# What else may stand in such a file, and as what it is left out.
REFUSED = {
    ".magnitude": "DoRA in a layout that no common trainer writes",
    ".oft_diag": "OFT of PEFT",
    ".oft_R.weight": "OFT of PEFT",
    ".boft_R": "OFT of PEFT",
    ".ia3_l": "IA3 of PEFT",
    ".vera_lambda_b": "VeRA",
}
# A part of a kind that is served, alone or beside up and down; what is said of a layer that has no other.
PARTS = {
    ".hada_w1_a": ("LoHa", "found no hada_w1_b and no hada_w2_a and no hada_w2_b"),
    ".lokr_w1": ("LoKr", "found no lokr_w2_a and no lokr_w2_b"),
    ".oft_blocks": ("OFT", "expected square oft_blocks"),
    ".a1.weight": ("GLoRA", "found no a2 and no b1 and no b2"),
    ".on_input": ("IA3", "expected weight as a vector beside on_input"),
}
# Parts that are one beside others alone.
BESIDE = (
    ".dora_scale", ".lora_magnitude_vector", ".lora_magnitude_vector.weight", ".lora_magnitude_vector.default.weight",
    ".rescale", ".weight", ".alpha",
)  # fmt: skip
UNKNOWN = (
    ".unknown", ".lora_A.bias", ".lora_B.bias", ".lora_B.default.bias", ".lora_up.bias", ".lora_embedding_A.weight",
    ".diff_m", ".bias_indices",
)  # fmt: skip


def test_one_layer_that_is_to_be_wider_stops_the_file(tmp_path):
    tensors = {
        f"{number}.lora_{part}.weight": UP if part == "up" else DOWN for number in "abcd" for part in ("up", "down")
    }
    refuses(saved(tmp_path, {**tensors, "a.reshape_weight": torch.tensor([9, 9])}), "LoRA that reshapes weights")


@pytest.mark.parametrize(("layer", "up", "down"), NAMINGS.values(), ids=NAMINGS)
class TestEveryTrainersNames:
    def test_are_read(self, tmp_path, layer, up, down):
        for alpha in (None, torch.tensor(2.0), torch.tensor([2.0]), torch.tensor(2), torch.tensor(-1.0)):
            tensors = {f"{layer}{up}": UP, f"{layer}{down}": DOWN}
            if alpha is not None:
                tensors[f"{layer}.alpha"] = alpha
            loaded = load_adapter(saved(tmp_path, tensors))
            assert list(loaded.layers) == [layer]
            assert oracle.error(delta(loaded, layer), DELTA * (1 if alpha is None else float(alpha) / RANK)) < EXACT
            assert (loaded.metadata, loaded.name) == ({}, "cat.safetensors")
            assert loaded.origin.is_lora

    def test_of_many_layers(self, tmp_path, layer, up, down):
        names = [layer.replace("0", str(number)) for number in range(12)]
        tensors = {}
        for number, name in enumerate(names):
            tensors |= {f"{name}{up}": UP * number, f"{name}{down}": DOWN}
        loaded = load_adapter(saved(tmp_path, tensors))
        assert set(loaded.layers) == set(names)
        for number, name in list(enumerate(names))[1:]:
            assert oracle.error(delta(loaded, name), number * DELTA) < EXACT

    @pytest.mark.parametrize("missing", ["up", "down"])
    def test_half_a_pair_is_refused(self, tmp_path, layer, up, down, missing):
        tensors = {f"{layer}{up}": UP, f"{layer}{down}": DOWN, f"{layer}.alpha": torch.tensor(1.0)}
        del tensors[f"{layer}{up if missing == 'up' else down}"]
        refuses(saved(tmp_path, tensors), f"layer {layer}:", f"found no {missing}")

    def test_alone_after_a_dot_name_no_layer(self, tmp_path, layer, up, down):
        refuses(saved(tmp_path, {up: UP, down: DOWN}))

    def test_what_no_kind_knows_is_left_out_and_named(self, tmp_path, layer, up, down):
        for ending in UNKNOWN:
            for place in (layer, "zz.other"):
                tensors = {f"{layer}{up}": UP, f"{layer}{down}": DOWN, f"{place}{ending}": torch.ones(OUT).int()}
                loaded = leaves_out(saved(tmp_path, tensors), f"tensor {place}{ending}", keeps=[layer])
                assert oracle.error(delta(loaded, layer), DELTA) < EXACT

    def test_a_layer_of_a_kind_that_is_not_served_is_left_out_and_named(self, tmp_path, layer, up, down):
        good = {f"{layer}{up}": UP, f"{layer}{down}": DOWN}
        for ending, kind in REFUSED.items():
            tensors = {**good, f"zz.other{ending}": torch.ones(OUT)}
            leaves_out(saved(tmp_path, tensors), "layer zz.other (", kind, f"'zz.other{ending}'", keeps=[layer])
            refuses(saved(tmp_path, {**good, f"{layer}{ending}": torch.ones(OUT)}), kind, "not supported")

    def test_a_part_of_another_kind_is_left_out_and_named(self, tmp_path, layer, up, down):
        good = {f"{layer}{up}": UP, f"{layer}{down}": DOWN}
        for ending, (kind, words) in PARTS.items():
            tensors = {**good, f"zz.other{ending}": torch.ones(OUT)}
            leaves_out(saved(tmp_path, tensors), "layer zz.other (", words, keeps=[layer])
            both = {**good, f"{layer}{ending}": torch.ones(OUT)}
            refuses(saved(tmp_path, both), f"layer {layer}: expected one kind", "LoRA", kind, f"('{layer}")

    def test_a_part_without_a_layer_is_left_out_and_named(self, tmp_path, layer, up, down):
        for ending in BESIDE:
            tensors = {f"{layer}{up}": UP, f"{layer}{down}": DOWN, f"zz.other{ending}": torch.ones(OUT)}
            loaded = leaves_out(saved(tmp_path, tensors), f"tensor zz.other{ending}", keeps=[layer])
            assert oracle.error(delta(loaded, layer), DELTA) < EXACT

    def test_norms_that_do_not_fit_leave_the_layer_out(self, tmp_path, layer, up, down):
        good = {f"{layer}{up}": UP, f"{layer}{down}": DOWN}
        expected = f"expected {OUT} magnitudes for a weight of {(OUT, WIDTH)}, found {WIDTH}"
        for ending, norms, words in (
            (".dora_scale", (OUT,), f"expected (1, in) or (out, 1), found {(OUT,)}"),
            (".dora_scale", (1, OUT), f"expected {WIDTH} magnitudes for a weight of {(OUT, WIDTH)}, found {OUT}"),
            (".lora_magnitude_vector", (WIDTH,), expected),
        ):
            refuses(saved(tmp_path, {**good, f"{layer}{ending}": torch.ones(norms)}), f"layer {layer}:", words)


class TestWholeDifferences:
    """Of biases, norms and weights: what ComfyUI's own trainer, and some extractors, write."""

    LAYER = "diffusion_model.blocks.0.norm"

    @pytest.mark.parametrize(
        ("ending", "name", "back"),
        [
            (".diff", ".weight", ".diff"),
            (".w_norm", ".weight", ".diff"),
            (".diff_b", ".bias", ".diff_b"),
            (".b_norm", ".bias", ".diff_b"),
        ],
    )
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_a_vector_is_exact_there_and_back(self, tmp_path, ending, name, back, dtype):
        vector = normal(OUT, seed=3).to(dtype)
        loaded = load_adapter(saved(tmp_path, {self.LAYER + ending: vector}))
        assert list(loaded.layers) == [self.LAYER + name]
        assert loaded.layers[self.LAYER + name].shape == (OUT, 1)
        assert oracle.error(loaded.layers[self.LAYER + name].delta_weight().flatten(), vector.double()) < EXACT
        tensors, _ = stored(save_adapter(loaded, tmp_path / "back.safetensors", format="lora"))
        assert list(tensors) == [self.LAYER + back]
        assert oracle.error(tensors[self.LAYER + back], vector.double()) < EXACT
        full = load_adapter(save_adapter(loaded, tmp_path / "full.safetensors"))
        assert torch.equal(
            full.layers[self.LAYER + name].delta_weight(), loaded.layers[self.LAYER + name].delta_weight()
        )

    def test_a_vector_of_zeros(self, tmp_path):
        loaded = load_adapter(saved(tmp_path, {f"{self.LAYER}.diff_b": torch.zeros(OUT)}))
        assert not loaded.layers[f"{self.LAYER}.bias"].delta_weight().any()

    @pytest.mark.parametrize("shape", [(OUT, WIDTH), (3, 12), (OUT, 2, 3, 3)])
    def test_a_weight_is_exact(self, tmp_path, shape):
        whole = normal(*shape, seed=4)
        loaded = load_adapter(saved(tmp_path, {f"{self.LAYER}.diff": whole}))
        assert oracle.error(loaded.layers[self.LAYER].delta_weight(), whole.double()) < EXACT

    def test_what_does_not_go_together(self, tmp_path):
        refuses(saved(tmp_path, {f"{self.LAYER}.diff_b": torch.ones(2, 2)}), "difference of a bias as a vector")
        both = {f"{self.LAYER}.lora_up.weight": UP, f"{self.LAYER}.lora_down.weight": DOWN}
        whole = normal(OUT, WIDTH, seed=7)
        loaded = leaves_out(
            saved(tmp_path, {**both, f"{self.LAYER}.diff": whole}), f"{self.LAYER}.lora_up.weight", keeps=[self.LAYER]
        )
        assert oracle.error(loaded.layers[self.LAYER].delta_weight(), whole.double()) < EXACT
        refuses(saved(tmp_path, {f"{self.LAYER}.diff": torch.tensor(1.0)}), "difference with entries")
        twice = {f"{self.LAYER}.diff": torch.ones(OUT), f"{self.LAYER}.w_norm": torch.ones(OUT)}
        refuses(saved(tmp_path, twice), "expected each part once")


class TestOtherKinds:
    """Files that hold no up and down at all."""

    @pytest.mark.parametrize("layer", ["lora_unet_blocks_0_attn_qkv", "diffusion_model.blocks.0.attn.qkv"])
    @pytest.mark.parametrize(("ending", "kind"), REFUSED.items())
    def test_are_refused_by_name(self, tmp_path, kind, ending, layer):
        message = refuses(saved(tmp_path, {f"{layer}{ending}": torch.ones(2, 2)}), kind, f"'{layer}.", "not supported")
        assert len(message) < 500

    def test_embeddings_alone(self, tmp_path):
        refuses(saved(tmp_path, {"bundle_emb.cat.string_to_param.*": torch.ones(2, 8)}), "bundle_emb.cat")
        refuses(saved(tmp_path, {"bundle_emb.x.lora_up.weight": torch.ones(2, 8)}), "embeddings")


class TestBesideLayers:
    def test_bundled_embeddings_are_told(self, tmp_path):
        more = {f"bundle_emb.cat.{name}": torch.ones(2, 8) for name in ("clip_l", "clip_g")}
        loaded = load_adapter(saved(tmp_path, {"a.lora_up.weight": UP, "a.lora_down.weight": DOWN, **more}))
        assert list(loaded.layers) == ["a"]
        assert loaded.origin.not_loaded == "2 tensors of bundled embeddings"

    def test_two_names_for_one_part(self, tmp_path):
        tensors = {"a.lora_up.weight": UP, "a.lora_down.weight": DOWN, "a.lora_B.weight": UP, "a.lora_A.weight": DOWN}
        refuses(saved(tmp_path, tensors), "layer a:", "expected each part once", ".weight'")
        tensors = {f"a.lora_{part}.{name}.weight": tensor for part, tensor in (("B", UP), ("A", DOWN)) for name in "xy"}
        refuses(saved(tmp_path, tensors), "layer a:", "expected each part once", "'a.lora_A.x.weight'")

    def test_layers_of_several_trainers_in_one_file(self, tmp_path):
        """As merges of other tools are."""
        tensors = {
            "a_b.lora_up.weight": UP,
            "a_b.lora_down.weight": DOWN,
            "a.c.lora_B.weight": 2 * UP,
            "a.c.lora_A.weight": DOWN,
        }
        loaded = load_adapter(saved(tmp_path, tensors))
        assert oracle.error(delta(loaded, "a_b"), DELTA) < EXACT
        assert oracle.error(delta(loaded, "a.c"), 2 * DELTA) < EXACT

    def test_tensors_of_another_layout(self, tmp_path):
        lora = {"a.lora_up.weight": UP, "a.lora_down.weight": DOWN}
        ours = {"b.lora.q.weight": UP, "b.lora.delta_r.weight": DOWN}
        leaves_out(saved(tmp_path, {**lora, **ours}), "2 tensors: a.lora_", keeps=["b"])
        refuses(saved(tmp_path, {**lora, "b.lora_compact.delta_r.weight": DOWN}), "compact")

    @pytest.mark.parametrize(
        ("tensors", "words"),
        [
            ({"lora_up.weight": UP.int()}, ["up: expected a floating dtype", "torch.int32"]),
            ({"lora_down.weight": DOWN.to(torch.int8)}, ["down: expected a floating dtype", "torch.int8"]),
            ({"lora_down.weight": normal(3, WIDTH, seed=1)}, ["of one rank", "(9, 4)", "(3, 7)"]),
            ({"lora_mid.weight": torch.ones(RANK, RANK, 3, 3, dtype=torch.int8)}, ["mid: expected a floating dtype"]),
            ({"lora_mid.weight": torch.ones(3, 3)}, ["expected mid"]),
            ({"alpha": torch.ones(2)}, ["alpha: expected one number", "(2,)"]),
            ({"alpha": torch.tensor(math.nan)}, ["alpha: expected a finite number", "nan"]),
            ({"lora_up.weight": UP / 0}, ["NaN or infinity"]),
            ({"lora_down.weight": DOWN * math.nan}, ["NaN or infinity"]),
            ({"lora_up.weight": UP * 1e38, "lora_down.weight": DOWN * 1e38}, ["NaN or infinity"]),
        ],
    )
    def test_that_do_not_fit(self, tmp_path, tensors, words):
        good = {f"good.lora_{part}.weight": tensor for part, tensor in (("up", UP), ("down", DOWN))}
        bad = {"lora_up.weight": UP, "lora_down.weight": DOWN, **tensors}
        bad = {f"bad.{key}": value for key, value in bad.items()}
        loaded = leaves_out(saved(tmp_path, {**good, **bad}), "layer bad (", *words, keeps=["good"])
        assert oracle.error(delta(loaded, "good"), DELTA) < EXACT
        assert "good" not in loaded.origin.not_loaded
        assert "good" not in refuses(saved(tmp_path, bad), "layer bad:", *words)


class TestConvolutionsInTuckerForm:
    @staticmethod
    def tensors(count=1, *, rank=RANK, width=WIDTH, kernel=(3, 3), out=OUT):
        one = {
            "lora_up.weight": normal(out, rank, 1, 1, seed=1),
            "lora_mid.weight": normal(rank, rank, *kernel, seed=2),
            "lora_down.weight": normal(rank, width, 1, 1, seed=3),
            "alpha": torch.tensor(3.0),
        }
        return {f"lora_unet_{number}.{key}": tensor.clone() for number in range(count) for key, tensor in one.items()}

    def test_are_multiplied_out(self, tmp_path):
        tensors = self.tensors()
        up, mid, down = (tensors[f"lora_unet_0.lora_{part}.weight"].double() for part in ("up", "mid", "down"))
        expected = 3.0 / RANK * torch.einsum("or,rsij,sn->onij", up[..., 0, 0], mid, down[..., 0, 0])
        loaded = load_adapter(saved(tmp_path, tensors))
        assert oracle.error(delta(loaded, "lora_unet_0"), expected) < EXACT

    def test_as_trainers_make_them_are_never_too_large(self, tmp_path):
        loaded = load_adapter(saved(tmp_path, self.tensors(6, rank=32, width=640, out=640)))
        assert len(loaded.layers) == 6

    def test_that_grow_to_many_times_the_file_are_refused_before_they_do(self, tmp_path):
        """Each alone would pass: 48 KB that become 16 MB."""
        path = saved(tmp_path, self.tensors(40, rank=1, width=2**11, kernel=(45, 45)))
        message = refuses(path, "Tucker form", "many times larger")
        assert len(message) < 400


class TestNamesThatOnlyAHostKnows:
    TENSORS = (("a.odd_up", UP), ("a.odd_down", DOWN), ("b.lora_up.weight", 2 * UP), ("b.lora_down.weight", DOWN))

    def test_are_renamed_first(self, tmp_path):
        def rename(tensors):
            assert all(torch.equal(tensors[name], tensor) for name, tensor in self.TENSORS)
            return {name.replace("odd_up", "lora_B").replace("odd_down", "lora_A"): tensors[name] for name in tensors}

        path = saved(tmp_path, dict(self.TENSORS))
        loaded = load_adapter(path, rename=rename)
        assert oracle.error(delta(loaded, "a"), DELTA) < EXACT
        assert oracle.error(delta(loaded, "b"), 2 * DELTA) < EXACT
        leaves_out(path, "2 tensors: a.odd_", keeps=["b"])

    @pytest.mark.parametrize(
        "problem", [KeyError("img_in.lora_B.weight"), IndexError("\u202e" * 10**5), RuntimeError("shape")]
    )
    def test_a_host_that_expected_more_of_the_file(self, tmp_path, problem):
        def rename(tensors):
            raise problem

        with pytest.raises(AdapterFileError, match=rf"cat\.safetensors.*{type(problem).__name__}") as caught:
            load_adapter(saved(tmp_path, dict(self.TENSORS)), rename=rename)
        assert caught.value.__cause__ is problem
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 1500

    def test_other_layouts_are_never_renamed(self, tmp_path):
        path = save_adapter(QRLoRA({DOTTED: Layer((trained(1),))}), tmp_path / "a.safetensors")
        assert load_adapter(path, rename=None).layers.keys() == load_adapter(path, rename=lambda _: 1 / 0).layers.keys()


class TestSettingsOfPeft:
    """``lora_adapter_metadata``, as diffusers writes it."""

    def factor(self, tmp_path, settings, stem=DOTTED):
        tensors = {key.replace(DOTTED, stem): tensor for key, tensor in PEFT_TENSORS.items()}
        text = settings if isinstance(settings, str) else json.dumps(settings)
        loaded = load_adapter(saved(tmp_path, tensors, {PEFT_SETTINGS: text}))
        found = delta(loaded, stem)
        factor = float((found * DELTA).sum() / DELTA.square().sum())
        assert oracle.error(found, factor * DELTA, effect=DELTA) < EXACT
        return factor

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"transformer.lora_alpha": 2}, 2 / RANK),
            ({"transformer.lora_alpha": 0.5, "transformer.r": RANK}, 0.5 / RANK),
            ({"transformer.lora_alpha": 0}, 0.0),
            ({"transformer.lora_alpha": 8, "transformer.use_rslora": True}, 8 / math.sqrt(RANK)),
            ({"transformer.lora_alpha": 8, "transformer.use_rslora": False}, 8 / RANK),
            ({"text_encoder.lora_alpha": 2}, 1.0),
            ({"lora_alpha": 2}, 1.0),
            ({"transformer.lora_alpha": 2, "transformer.r": 64, "transformer.rank_pattern": {"to_q": 64}}, 2 / RANK),
            ({"transformer.lora_alpha": 2, "transformer.alpha_pattern": {"attn.to_q": 6}}, 6 / RANK),
            ({"transformer.lora_alpha": 2, "transformer.alpha_pattern": {"attn.to_k": 6}}, 2 / RANK),
            ({"transformer.alpha_pattern": {"to_q": 6}}, 6 / RANK),
            ({"transformer.lora_alpha": 2, "transformer.alpha_pattern": {"o_q": 6}}, 2 / RANK),
            (
                {"transformer.lora_alpha": 2, "transformer.alpha_pattern": {"transformer_blocks.0.attn.to_q": 6}},
                6 / RANK,
            ),
            ({"transformer.lora_alpha": 2, "transformer.alpha_pattern": {"to_q": 6, "attn.to_q": 7}}, 6 / RANK),
            ({"transformer.lora_alpha": 2, "transformer.alpha_pattern": {"^attn.to_q": 6}}, 2 / RANK),
            ({"transformer.alpha_pattern": {"^transformer_blocks.0.attn.to_q": 6}}, 6 / RANK),
            ({"transformer.alpha_pattern": {r"attn\.to_q$": 6}}, 6 / RANK),
            ({"transformer.alpha_pattern": {"to_q": 6}, "transformer.use_rslora": True}, 6 / math.sqrt(RANK)),
        ],
    )
    def test_give_alpha(self, tmp_path, settings, expected):
        assert self.factor(tmp_path, settings) == pytest.approx(expected, rel=1e-6, abs=1e-9)

    @pytest.mark.parametrize(
        "patterns",
        [
            {"to_q": 6.0, "attn.to_q": 7.0},
            {"attn.to_q": 7.0, "to_q": 6.0},
            {"^transformer_blocks.0.attn.to_q": 3.0, "to_q": 5.0},
            {"^attn.to_q": 3.0, "to_q": 5.0},
            {"o_q": 3.0},
            {r"0\.attn\.to_q": 3.0},
        ],
    )
    def test_patterns_match_as_pefts_do(self, tmp_path, patterns):
        from peft.utils.other import get_pattern_key

        name = DOTTED.removeprefix("transformer.")
        expected = patterns.get(get_pattern_key(patterns, name), 2.0)
        settings = {"transformer.lora_alpha": 2.0, "transformer.alpha_pattern": patterns}
        assert self.factor(tmp_path, settings) == pytest.approx(expected / RANK, rel=1e-6)

    def test_of_a_prefix_count_there_alone(self, tmp_path):
        settings = {"transformer.lora_alpha": 2, "text_encoder.lora_alpha": 3, "unet.lora_alpha": 1}
        for prefix, alpha in (("transformer", 2), ("text_encoder", 3), ("unet", 1), ("text_encoder_2", RANK)):
            assert self.factor(tmp_path, settings, f"{prefix}.x.to_q") == pytest.approx(alpha / RANK, rel=1e-6)

    def test_the_files_own_alpha_comes_first(self, tmp_path):
        tensors = {**PEFT_TENSORS, f"{DOTTED}.alpha": torch.tensor(1.0)}
        loaded = load_adapter(saved(tmp_path, tensors, {PEFT_SETTINGS: '{"transformer.lora_alpha": 2}'}))
        assert oracle.error(delta(loaded, DOTTED), DELTA / RANK) < EXACT

    @pytest.mark.parametrize(
        "settings",
        [
            "",
            "{",
            "null",
            "[]",
            '"text"',
            "5",
            "[" * 100_000,
            '{"transformer.lora_alpha": ' + "9" * 5000 + "}",
            '{"transformer.lora_alpha": ' + "9" * 400 + "}",
            '{"transformer.lora_alpha": NaN}',
            '{"transformer.lora_alpha": Infinity}',
            {"transformer.lora_alpha": "8"},
            {"transformer.lora_alpha": True},
            {"transformer.lora_alpha": None},
            {"transformer.lora_alpha": [8]},
            {"transformer.alpha_pattern": 5},
            {"transformer.alpha_pattern": ["to_q"]},
            {"transformer.alpha_pattern": {"to_q": "8"}},
            {"transformer.alpha_pattern": {"to_q": {}}},
            {"transformer.use_rslora": "yes"},
        ],
    )
    def test_that_are_nonsense_are_as_none(self, tmp_path, settings):
        assert self.factor(tmp_path, settings) == pytest.approx(1.0, rel=1e-6)

    @pytest.mark.parametrize("pattern", [".*to_q", "to_(q|k)", "(a+)+$", "", "blocks.[0-9]", "to_q|"])
    def test_patterns_that_are_no_names_are_noted_and_never_run(self, tmp_path, pattern):
        for more, expected in (({}, 1.0), ({"transformer.lora_alpha": 2}, 2 / RANK)):
            settings = {"transformer.alpha_pattern": {pattern: 8, "to_k": 3}, **more}
            assert self.factor(tmp_path, settings) == pytest.approx(expected, rel=1e-6)
            *_, note = load_adapter(tmp_path / "cat.safetensors").origin.notes
            assert "the regular expressions in its alpha_pattern are not followed" in note
            assert f"('{pattern}')" in note
            assert len(note) < 500

    def test_a_name_after_a_pattern_that_is_none_counts(self, tmp_path):
        settings = {"transformer.alpha_pattern": {"(a+)+$": 8, "to_q": 6}}
        assert self.factor(tmp_path, settings) == pytest.approx(6 / RANK, rel=1e-6)

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({}, ""),
            ({"transformer.lora_alpha": RANK}, ""),
            ({"text_encoder.lora_alpha": 2}, ""),
            ({"transformer.lora_alpha": 2}, "scale 3 of 3 layers by 0.5, as PEFT"),
            ({"transformer.lora_alpha": RANK, "transformer.use_rslora": True}, "scale 3 of 3 layers by 2, as PEFT"),
            ({"transformer.alpha_pattern": {"0.to_q": 1}}, "scale 1 of 3 layers by 0.25, as PEFT"),
            (
                {"transformer.lora_alpha": 2, "transformer.alpha_pattern": {"0.to_q": 8}},
                "3 of 3 layers by 0.5 to 2,",
            ),
        ],
    )
    def test_what_a_stock_loader_makes_of_the_file_is_told_once(self, tmp_path, settings, words):
        tensors = {
            key.replace(DOTTED, f"transformer.{number}.to_q"): tensor
            for number in range(3)
            for key, tensor in PEFT_TENSORS.items()
        }
        notes = load_adapter(saved(tmp_path, tensors, {PEFT_SETTINGS: json.dumps(settings)})).origin.notes
        assert len(notes) == bool(words)
        assert all(words in note for note in notes)

    @pytest.mark.parametrize("use_rslora", [False, True])
    @pytest.mark.parametrize("seed", range(4))
    def test_mean_what_they_mean_in_peft(self, tmp_path, use_rslora, seed):
        """Random patterns of ranks and alphas; the tensors and the effect are PEFT's own."""
        import peft  # takes seconds

        names = [f"blocks.{block}.{name}" for block in range(2) for name in ("to_q", "to_k", "out")]
        draw = random.Random(seed)
        patterns = [
            {
                draw.choice([name, name.split(".", 1)[1], name.rsplit(".")[-1]]): draw.randint(1, 9)
                for name in draw.sample(names, 3)
            }
            for _ in range(2)
        ]
        config = peft.LoraConfig(
            r=3, lora_alpha=5, target_modules=["to_q", "to_k", "out"], use_rslora=use_rslora,
            rank_pattern=patterns[0], alpha_pattern=patterns[1], init_lora_weights=False,
        )  # fmt: skip
        blocks = [
            torch.nn.ModuleDict({name: torch.nn.Linear(WIDTH, OUT) for name in ("to_q", "to_k", "out")}) for _ in "ab"
        ]
        network = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList(blocks)})
        peft.inject_adapter_in_model(config, network)
        state = peft.get_peft_model_state_dict(network)
        tensors = {f"transformer.{key}": tensor.detach() for key, tensor in state.items()}
        told = {
            "r": 3,
            "lora_alpha": 5,
            "use_rslora": use_rslora,
            "rank_pattern": patterns[0],
            "alpha_pattern": patterns[1],
        }
        settings = json.dumps({f"transformer.{key}": value for key, value in told.items()})
        loaded = load_adapter(saved(tmp_path, tensors, {PEFT_SETTINGS: settings}))
        for name in names:
            expected = network.get_submodule(name).get_delta_weight("default").detach()
            assert oracle.error(delta(loaded, f"transformer.{name}"), expected.double()) < EXACT

    @pytest.mark.parametrize("use_rslora", [False, True])
    def test_of_a_network_that_diffusers_saved_alone(self, tmp_path, use_rslora):
        """Neither its settings nor its layers are of a part of a pipeline."""
        settings = {"lora_alpha": 3, "use_rslora": use_rslora, "alpha_pattern": {"1.attn.to_q": 5}}
        factors = {f"transformer_blocks.{number}.attn.to_q": alpha for number, alpha in ((0, 3), (1, 5))}
        for stem, alpha in factors.items():
            expected = alpha / (math.sqrt(RANK) if use_rslora else RANK)
            assert self.factor(tmp_path, settings, stem) == pytest.approx(expected, rel=1e-6)


class TestNotes:
    def files(self, *ups, alpha=None):
        tensors = {}
        for number, up in enumerate(ups):
            tensors |= {f"transformer.{number}.lora.up.weight": up, f"transformer.{number}.lora.down.weight": DOWN}
            if alpha is not None:
                tensors[f"transformer.{number}.alpha"] = torch.tensor(alpha)
        return tensors

    def test_a_file_that_may_replace_the_core_says_so(self, tmp_path):
        q = orthonormal(OUT, RANK, seed=1)
        cases = [
            (self.files(q, q + 0.001), True),
            (self.files(q.bfloat16()), True),
            (self.files(q, UP), False),
            (self.files(UP), False),
            (self.files(q, alpha=4.0), False),  # the published files hold none
        ]
        for tensors, expected in cases:
            assert load_adapter(saved(tmp_path, tensors)).origin.may_replace_core == expected

    def test_what_one_file_alone_says_is_not_saved_again(self, tmp_path):
        more = {"bundle_emb.cat": torch.ones(2)}
        told = {PEFT_SETTINGS: '{"transformer.lora_alpha": 2}', "note": "x"}
        first = load_adapter(saved(tmp_path, {**self.files(UP), **more}, told))
        for format in ("full", "lora"):
            again = save_adapter(first, tmp_path / f"{format}.safetensors", format=format)
            _, metadata = stored(again)
            assert metadata["note"] == "x"
            assert PEFT_SETTINGS not in metadata
            assert oracle.error(delta(load_adapter(again), "transformer.0"), DELTA / 2) < EXACT


def trained(seed, alpha=6.0, *, size=1.0, kernel=(), dtype=torch.float32, rank=RANK):
    delta_r = size * normal(rank, WIDTH, *kernel, seed=seed + 50)
    return Term(orthonormal(OUT, rank, seed=seed).to(dtype), delta_r.to(dtype), alpha, delta_r.to(dtype))


def merged_adapter():
    """Two bases, so two terms in the layer that both have."""
    one = QRLoRA(
        {DOTTED: Layer((trained(1),)), "transformer.b.to_k": Layer((trained(2, 0.3),))}, {"qr_lora.variant": "triu"}
    )
    return merge([(one, 0.7), (QRLoRA({DOTTED: Layer((trained(3),))}), -1.2)])


class TestExport:
    @pytest.mark.parametrize("path", [DOTTED, "unet.mid_block.attn1.to_q", "lora_te1_text_x", "diffusion_model.a.b"])
    @pytest.mark.parametrize("kernel", [(), (1, 1), (3, 3), (3,)])
    def test_read_back_gives_the_same_delta(self, tmp_path, path, kernel):
        original = QRLoRA({path: Layer((trained(1, kernel=kernel), trained(2, -0.4, kernel=kernel, rank=3)))})
        loaded = load_adapter(save_adapter(original, tmp_path / "a.safetensors", format="lora"))
        (found,) = loaded.layers
        assert found == ("lora_unet_mid_block_attn1_to_q" if path.startswith("unet.") else path)
        assert loaded.layers[found].shape == (OUT, WIDTH, *kernel)
        assert oracle.error(delta(loaded, found), delta(original, path)) < EXACT

    def test_of_a_merge(self, tmp_path):
        original = merged_adapter()
        assert len(original.layers[DOTTED].terms) == 2
        path = save_adapter(original, tmp_path / "a.safetensors", format="lora")
        loaded = load_adapter(path)
        for layer in original.layers:
            assert oracle.error(delta(loaded, layer), delta(original, layer)) < EXACT
        tensors, metadata = stored(path)
        assert set(tensors) == {f"{layer}.lora_{factor}.weight" for layer in original.layers for factor in "AB"}
        assert "qr_lora.variant" not in metadata
        assert "qr_lora.format_version" not in metadata

    def test_names_and_alpha_are_those_that_each_tool_reads(self, tmp_path):
        paths = [
            DOTTED,
            "unet.mid_block.attn1.to_q",
            "lora_te1_x",
            "unet.a.attn1.processor.to_out",
            "a.attn2.processor.to_k",
        ]
        original = QRLoRA({path: Layer((trained(1),)) for path in paths})
        tensors, _ = stored(save_adapter(original, tmp_path / "a.safetensors", format="lora"))
        kohya = ["lora_unet_mid_block_attn1_to_q", "lora_te1_x", "lora_unet_a_attn1_to_out_0"]
        assert set(tensors) == {
            *(f"{path}.lora_{factor}.weight" for path in (DOTTED, "a.attn2.to_k") for factor in "AB"),
            *(f"{name}.{part}" for name in kohya for part in ("lora_up.weight", "lora_down.weight", "alpha")),
        }
        assert all(float(tensors[f"{name}.alpha"]) == RANK for name in kohya)

    def test_two_names_for_one_layer_are_added(self, tmp_path):
        """As in a merge of files from two trainers: neither overwrites the other."""
        paths = ["unet.a.attn1.to_q", "lora_unet_a_attn1_to_q", "unet.a.attn1.processor.to_q"]
        original = QRLoRA({path: Layer((trained(seed),)) for seed, path in enumerate(paths)})
        loaded = load_adapter(save_adapter(original, tmp_path / "a.safetensors", format="lora"))
        expected = sum(delta(original, path) for path in paths)
        assert list(loaded.layers) == [paths[1]]
        assert oracle.error(delta(loaded, paths[1]), expected) < EXACT

    @pytest.mark.parametrize(
        ("paths", "kernels", "words"),
        [
            (["unet.a_b.c", "unet.a.b_c"], [(), ()], ["unet.a_b.c and unet.a.b_c", "Save as full"]),
            (["unet.a.b", "lora_unet_a_b"], [(), (3,)], ["layer lora_unet_a_b", "different shapes"]),
        ],
    )
    def test_two_layers_under_one_name_are_refused(self, tmp_path, paths, kernels, words):
        layers = {path: Layer((trained(1, kernel=kernel),)) for path, kernel in zip(paths, kernels, strict=True)}
        with pytest.raises(AdapterError) as caught:
            save_adapter(QRLoRA(layers), tmp_path / "a.safetensors", format="lora")
        assert all(word in str(caught.value) for word in words)
        assert not list(tmp_path.iterdir())

    # Half a unit in the last place of either factor.
    @pytest.mark.parametrize(
        ("dtype", "rounding"), [(torch.float16, 2**-10), (torch.bfloat16, 2**-7), (torch.float32, EXACT)]
    )
    @pytest.mark.parametrize("size", [1e-30, 1e-6, 1e-3, 1.0, 1e6, 1e15])
    @pytest.mark.parametrize("alpha", [6.0, 0.1, -1e3])
    def test_of_tiny_and_huge_changes_keeps_the_precision_of_the_dtype(self, tmp_path, dtype, rounding, size, alpha):
        original = QRLoRA({DOTTED: Layer((trained(1, alpha, size=size),))})
        path = tmp_path / "a.safetensors"
        if dtype == torch.float16 and not 1e-8 < abs(alpha) * size < 1e10:  # of which no factors in float16 exist
            with pytest.raises(
                AdapterError, match=rf"{DOTTED}\.lora_..*do not fit into torch.float16.*choose bfloat16"
            ):
                save_adapter(original, path, format="lora", dtype=dtype)
            return
        save_adapter(original, path, format="lora", dtype=dtype)
        assert {tensor.dtype for tensor in load_file(path).values()} == {dtype}
        assert oracle.error(delta(load_adapter(path), DOTTED), delta(original, DOTTED)) < rounding

    @pytest.mark.parametrize("format", ["full", "lora"])
    def test_never_rounds_a_change_away(self, tmp_path, format):
        original = QRLoRA({DOTTED: Layer((trained(1, size=1e-12),))})
        with pytest.raises(AdapterError, match=f"{DOTTED}.*do not fit into torch.float16"):
            save_adapter(original, tmp_path / "a.safetensors", format=format, dtype=torch.float16)
        assert not list(tmp_path.iterdir())

    def test_of_an_untrained_one(self, tmp_path):
        original = QRLoRA({DOTTED: Layer((trained(1, size=0.0),))})
        loaded = load_adapter(save_adapter(original, tmp_path / "a.safetensors", format="lora"))
        assert not bool(loaded.layers[DOTTED].delta_weight().any())


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = torch.nn.ModuleDict(
            {"to_q": torch.nn.Linear(WIDTH, OUT), "to_out": torch.nn.ModuleList([torch.nn.Linear(WIDTH, OUT)])}
        )
        self.conv = torch.nn.Conv2d(WIDTH, OUT, 3)

    def forward(self, x):
        linear = self.attn["to_q"](x) + self.attn["to_out"][0](x)
        return linear + self.conv(x[:, :, None, None].expand(-1, -1, 3, 3))[..., 0, 0]


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList([Block(), Block()])

    def forward(self, x):
        return sum(block(x) for block in self.blocks)


class TestPeftReadsIt:
    """The library itself: what it computes with our file is the base and our deltas."""

    TARGETS = ("attn.to_q", "attn.to_out.0", "conv")

    def adapter(self):
        layers = {}
        for block in range(2):
            for number, target in enumerate(self.TARGETS):
                kernel = (3, 3) if target == "conv" else ()
                terms = (trained(10 * block + number, kernel=kernel), trained(40 + number, -0.4, kernel=kernel, rank=2))
                layers[f"transformer.blocks.{block}.{target}"] = Layer(terms)
        return QRLoRA(layers)

    @pytest.mark.parametrize("dtype", [None, torch.float16])
    def test_with_equal_results(self, tmp_path, dtype):
        import peft  # takes seconds

        torch.manual_seed(0)
        model, original = Small().double(), self.adapter()
        x = normal(5, WIDTH, seed=9).double()
        base = model(x)
        tensors = load_file(save_adapter(original, tmp_path / "a.safetensors", format="lora", dtype=dtype))
        weights = {key.removeprefix("transformer."): tensor.double() for key, tensor in tensors.items()}
        rank = RANK + 2
        config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=["to_q", "to_out.0", "conv"])
        adapted = peft.inject_adapter_in_model(config, model)
        result = peft.set_peft_model_state_dict(adapted, weights)
        assert not result.unexpected_keys
        assert not [key for key in result.missing_keys if "lora_" in key]
        expected = base.clone()
        for path in original.layers:
            change = delta(original, path).sum((2, 3)) if path.endswith("conv") else delta(original, path)
            expected = expected + x @ change.T
        error = oracle.error(adapted.double()(x), expected, effect=expected - base)
        assert error < (EXACT if dtype is None else 2**-9)
