"""Comparing adapters, against dense float64 deltas and their SVDs."""

import json
import math
from dataclasses import replace

import pytest
import torch

from comfyui_qr_lora.qrlora_core import AdapterError, Layer, QRLoRA, merge
from comfyui_qr_lora.qrlora_core.functional.compare import as_json, as_table, block_of, compare
from comfyui_qr_lora.qrlora_core.functional.inner_product import inner_product
from comfyui_qr_lora.tests.support import oracle
from comfyui_qr_lora.tests.support.oracle import normal, orthonormal

pytestmark = pytest.mark.usefixtures("one_thread")

OUT, RANK, WIDTH = 9, 4, 12
Q1, Q2 = (orthonormal(OUT, RANK, seed=seed) for seed in (1, 2))
FACTORS = ("q_cosine", "delta_r_cosine", "base_r_cosine")


def layer_of(q=Q1, *, seed=1, alpha=2.5, kernel=(WIDTH,), base_r=None):
    return Layer.single(q, normal(q.shape[1], *kernel, seed=seed), alpha=alpha, base_r=base_r)


def one(first, second):
    """The comparison of two layers."""
    (found,) = compare(QRLoRA({"x": first}), QRLoRA({"x": second})).layers
    return found


def dense(layer):
    return sum(oracle.delta_weight(term.q, term.delta_r, term.alpha) for term in layer.terms).flatten(1)


def cosine(a, b):
    a, b = a.double().flatten(), b.double().flatten()
    return float(a @ b / (a.norm() * b.norm()))


def overlap(a, b, side):
    """``tr(P_a P_b) / min(r_a, r_b)`` by the dense projectors on the column or row spaces."""
    projectors, ranks = [], []
    for delta in (a, b):
        matrix = delta if side == "columns" else delta.T
        U, S, _ = torch.linalg.svd(matrix, full_matrices=False)
        U = U[:, S / S[0] > 1e-6]
        projectors.append(U @ U.T)
        ranks.append(U.shape[1])
    return float(torch.trace(projectors[0] @ projectors[1]) / min(ranks))


LAYERS = {
    "one basis": (layer_of(seed=1), layer_of(seed=2)),
    "two bases": (layer_of(Q1, seed=1), layer_of(Q2, seed=2, alpha=-1.0)),
    "different ranks": (layer_of(Q1, seed=1), layer_of(normal(OUT, 2, seed=3), seed=2)),
    "several terms": (
        Layer((*layer_of(Q1, seed=1).terms, *layer_of(Q2, seed=2).terms)),
        Layer((*layer_of(normal(OUT, 3, seed=3), seed=3).terms, *layer_of(Q2, seed=4, alpha=1.0).terms)),
    ),
    "dependent columns": (layer_of(torch.ones(OUT, 3), seed=1), layer_of(Q2, seed=2)),
    "cancelling in part": (layer_of(seed=1), Layer.single(Q1, -0.5 * normal(RANK, WIDTH, seed=1), alpha=2.5)),
    "convolution": (layer_of(seed=1, kernel=(3, 2, 2)), layer_of(Q2, seed=2, kernel=(3, 2, 2))),
    "bfloat16": (layer_of(Q1.bfloat16(), seed=1), layer_of(Q2.bfloat16(), seed=2)),
}
each = pytest.mark.parametrize(("first", "second"), LAYERS.values(), ids=LAYERS)


class TestLayers:
    @each
    def test_energies_and_interference_are_those_of_the_dense_deltas(self, first, second):
        found, a, b = one(first, second), dense(first), dense(second)
        energies = [float(x.square().sum()) for x in (a, b, a + b)]
        assert found.energy_first == pytest.approx(energies[0], rel=1e-10)
        assert found.energy_second == pytest.approx(energies[1], rel=1e-10)
        gained = energies[2] - energies[0] - energies[1]
        assert found.interference == pytest.approx(gained / (energies[0] + energies[1]), abs=1e-10)
        assert found.delta_cosine == pytest.approx(cosine(a, b), abs=1e-10)

    @each
    def test_interference_is_what_a_merge_gains(self, first, second):
        found = one(first, second)
        merged = merge([(QRLoRA({"x": first}), 1.0), (QRLoRA({"x": second}), 1.0)]).layers["x"]
        energy = float(dense(merged).square().sum())
        summed = found.energy_first + found.energy_second
        assert energy == pytest.approx(summed * (1 + found.interference), rel=1e-5)

    @each
    def test_inner_products_are_those_of_the_dense_deltas(self, first, second):
        a, b = dense(first).double(), dense(second).double()
        found = inner_product(QRLoRA({"x": first, "alone": second}), QRLoRA({"x": second, "too": first}))
        assert found == pytest.approx(float((a * b).sum()), abs=1e-5 * float(a.norm() * b.norm()))
        energy = inner_product(QRLoRA({"x": first}), QRLoRA({"x": first}))
        assert energy == pytest.approx(float((a * a).sum()), rel=1e-5)

    @each
    def test_overlaps_are_those_of_the_dense_spaces(self, first, second):
        found, a, b = one(first, second), dense(first), dense(second)
        assert found.column_overlap == pytest.approx(overlap(a, b, "columns"), abs=1e-9)
        assert found.row_overlap == pytest.approx(overlap(a, b, "rows"), abs=1e-9)

    @each
    def test_is_symmetric(self, first, second):
        there, back = one(first, second), one(second, first)
        for name in ("column_overlap", "row_overlap", "delta_cosine", "interference"):
            assert getattr(there, name) == pytest.approx(getattr(back, name), abs=1e-12)
        assert (there.energy_first, there.energy_second) == (back.energy_second, back.energy_first)

    def test_cosines_of_the_factors(self):
        R1, R2 = normal(RANK, WIDTH, seed=5), normal(RANK, WIDTH, seed=6)
        first, second = layer_of(Q1, seed=1, base_r=R1), layer_of(Q2, seed=2, alpha=-9.0, base_r=R2)
        found, (a,), (b,) = one(first, second), first.terms, second.terms
        assert found.q_cosine == pytest.approx(cosine(a.q, b.q), abs=1e-12)
        assert found.delta_r_cosine == pytest.approx(cosine(a.delta_r, b.delta_r), abs=1e-12)
        assert found.base_r_cosine == pytest.approx(cosine(R1, R2), abs=1e-12)

    def test_with_itself(self):
        layer = layer_of(base_r=normal(RANK, WIDTH, seed=5))
        found = one(layer, layer)
        for name in (*FACTORS, "column_overlap", "row_overlap", "delta_cosine", "interference"):
            assert getattr(found, name) == pytest.approx(1, abs=1e-12), name
        against = one(layer, Layer.single(Q1, -layer.terms[0].delta_r, alpha=2.5))
        assert (against.interference, against.delta_cosine) == (pytest.approx(-1), pytest.approx(-1))
        assert against.row_overlap == pytest.approx(1)

    def test_one_basis_with_orthogonal_rows_does_not_interfere(self):
        rows = orthonormal(WIDTH, 2 * RANK, seed=7).T
        found = one(Layer.single(Q1, rows[:RANK]), Layer.single(Q1, rows[RANK:]))
        assert found.column_overlap == pytest.approx(1)
        assert found.row_overlap == pytest.approx(0, abs=1e-10)
        assert found.interference == pytest.approx(0, abs=1e-7)

    def test_rows_of_zeros_are_no_directions(self):
        """Three of four columns of q carry nothing: what is left lies within the other's columns."""
        d = torch.zeros(RANK, WIDTH)
        d[2] = normal(WIDTH, seed=8)
        found = one(Layer.single(Q1, d), Layer.single(Q1[:, 2:3], normal(1, WIDTH, seed=9)))
        assert found.column_overlap == pytest.approx(1)
        apart = one(Layer.single(Q1, d), Layer.single(Q1[:, 1:2], normal(1, WIDTH, seed=9)))
        assert apart.column_overlap == pytest.approx(0, abs=1e-10)

    def test_a_space_inside_the_other_overlaps_wholly(self):
        found = one(layer_of(Q1), layer_of(Q1[:, :2], seed=2))
        assert found.column_overlap == pytest.approx(1)
        assert found.q_cosine is None

    def test_no_cosine_of_factors_where_they_do_not_compare(self):
        several = Layer((*layer_of(seed=1).terms, *layer_of(Q2, seed=2).terms))
        for first, second in ((several, layer_of()), (layer_of(), several), (layer_of(), layer_of(Q1[:, :3]))):
            assert [getattr(one(first, second), name) for name in FACTORS] == [None] * 3
        found = one(layer_of(base_r=normal(RANK, WIDTH, seed=5)), layer_of(seed=2))
        assert found.base_r_cosine is None
        assert found.q_cosine == pytest.approx(1)

    def test_of_nothing(self):
        empty = Layer.single(Q1, torch.zeros(RANK, WIDTH))
        for first, second in ((empty, layer_of()), (layer_of(), empty), (empty, empty)):
            found = one(first, second)
            assert found.interference == 0
            assert (found.delta_r_cosine, found.delta_cosine) == (None, None)
            assert (found.column_overlap, found.row_overlap) == (None, None)
            assert found.q_cosine == pytest.approx(1)
        totals = compare(QRLoRA({"x": empty}), QRLoRA({"x": empty})).totals
        assert (totals.interference, totals.q_cosine, totals.energy_first) == (0, None, 0)


def paths(*names, first_seed=1, q=Q1, name="first"):
    """Layers that differ in size and basis."""
    listed = {
        path: layer_of(q.roll(i, 1) + 0.1 * i, seed=first_seed + i, alpha=1.0 + i) for i, path in enumerate(names)
    }
    return QRLoRA(listed, name=name)


FIRST = paths("blocks.0.a", "blocks.0.b", "blocks.1.a", "head", name="content.safetensors")
SECOND = paths("tail", "blocks.1.a", "blocks.0.b", "blocks.2.a", first_seed=11, q=Q2, name="style.safetensors")


class TestWhole:
    def test_which_layers(self):
        found = compare(FIRST, SECOND)
        assert [layer.path for layer in found.layers] == ["blocks.0.b", "blocks.1.a"]
        assert (found.only_first, found.only_second) == (("blocks.0.a", "head"), ("tail", "blocks.2.a"))
        assert (found.first, found.second) == ("content.safetensors", "style.safetensors")

    def test_totals_are_those_of_all_layers_stacked(self):
        """As if every adapter were one long vector, zero where it has no layer."""
        found = compare(FIRST, SECOND)
        every = sorted({*FIRST.layers, *SECOND.layers})
        nothing = torch.zeros(OUT, WIDTH)
        a, b = (
            torch.cat([dense(x.layers[path]) if path in x.layers else nothing for path in every])
            for x in (FIRST, SECOND)
        )
        energies = [float(x.square().sum()) for x in (a, b)]
        assert [found.totals.energy_first, found.totals.energy_second] == pytest.approx(energies, rel=1e-10)
        assert found.totals.interference == pytest.approx(float(2 * (a * b).sum()) / sum(energies), abs=1e-12)

    @pytest.mark.parametrize("name", ["q_cosine", "delta_r_cosine", "column_overlap", "row_overlap", "delta_cosine"])
    def test_means_are_weighted_by_energy(self, name):
        found = compare(FIRST, SECOND)
        left, right = found.layers
        weights = [layer.energy_first + layer.energy_second for layer in (left, right)]
        expected = (getattr(left, name) * weights[0] + getattr(right, name) * weights[1]) / sum(weights)
        assert getattr(found.totals, name) == pytest.approx(expected, rel=1e-9)
        assert getattr(left, name) != getattr(right, name)
        assert found.totals.base_r_cosine is None

    def test_means_skip_layers_without_a_number(self):
        first = QRLoRA({"a": layer_of(seed=1), "b": layer_of(seed=2)})
        second = QRLoRA({"a": layer_of(Q2, seed=3), "b": layer_of(Q2[:, :2], seed=4)})
        found = compare(first, second)
        assert found.totals.q_cosine == pytest.approx(found.layers[0].q_cosine)

    def test_blocks_add_up_their_layers(self):
        found = compare(FIRST, SECOND)
        blocks = {block.block: block for block in found.blocks}
        assert list(blocks) == ["blocks.0", "blocks.1", "head", "tail", "blocks.2"]
        for name, block in blocks.items():
            for adapter, energy in ((FIRST, block.energy_first), (SECOND, block.energy_second)):
                deltas = [dense(layer) for path, layer in adapter.layers.items() if block_of(path) == name]
                assert energy == pytest.approx(sum(float(delta.square().sum()) for delta in deltas), rel=1e-10)
        a, b = (dense(adapter.layers["blocks.0.b"]) for adapter in (FIRST, SECOND))
        total = blocks["blocks.0"].energy_first + blocks["blocks.0"].energy_second
        assert blocks["blocks.0"].interference == pytest.approx(float(2 * (a * b).sum()) / total, abs=1e-10)
        assert blocks["head"].interference == 0

    def test_no_common_layer(self):
        found = compare(paths("a"), paths("b"))
        assert (found.layers, found.totals.interference, found.totals.q_cosine) == ((), 0, None)
        assert "0 in both, 1 only in the first, 1 only in the second" in as_table(found)

    def test_adapters_of_different_models_are_an_error(self):
        narrow = QRLoRA({"x": layer_of(kernel=(WIDTH - 1,))})
        with pytest.raises(AdapterError, match=r"layer x: the adapters do not fit together: .*\(9, 12\).*\(9, 11\)"):
            compare(QRLoRA({"x": layer_of()}), narrow)

    def test_nan_is_an_error_that_names_adapter_and_layer(self):
        bad = paths("x", name="cat")
        bad.layers["x"].terms[0].delta_r[0, 0] = math.nan
        for pair in ((bad, paths("x")), (paths("x"), bad)):
            with pytest.raises(AdapterError, match=r"cat: layer x: expected finite numbers"):
                compare(*pair)

    def test_inputs_are_not_changed(self):
        parts = [part for a in (FIRST, SECOND) for _, term in a.terms() for part in (term.q, term.delta_r)]
        copies = [part.clone() for part in parts]
        compare(FIRST, SECOND)
        assert all(torch.equal(part, copy) for part, copy in zip(parts, copies, strict=True))


@pytest.mark.parametrize(
    ("path", "block"),
    [
        ("transformer.transformer_blocks.0.attn.to_q", "transformer.transformer_blocks.0"),
        ("transformer.transformer_blocks.0.attn.to_out.0", "transformer.transformer_blocks.0"),
        ("transformer.single_transformer_blocks.37.ff.net.2", "transformer.single_transformer_blocks.37"),
        (
            "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0",
            "unet.down_blocks.1.attentions.0.transformer_blocks.0",
        ),
        ("unet.down_blocks.1.attentions.0.proj_in", "unet.down_blocks.1.attentions.0"),
        ("unet.up_blocks.2.resnets.1.conv1", "unet.up_blocks.2.resnets.1"),
        ("unet.up_blocks.2.upsamplers.0.conv", "unet.up_blocks.2"),
        (
            "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q",
            "diffusion_model.input_blocks.4.1.transformer_blocks.0",
        ),
        ("diffusion_model.middle_block.1.proj_in", "diffusion_model.middle_block.1"),
        ("diffusion_model.double_blocks.12.img_mlp.0", "diffusion_model.double_blocks.12"),
        ("diffusion_model.joint_blocks.3.x_block.attn.qkv", "diffusion_model.joint_blocks.3"),
        ("diffusion_model.layers.29.feed_forward.w1", "diffusion_model.layers.29"),
        ("diffusion_model.context_refiner.1.attention.qkv", "diffusion_model.context_refiner.1"),
        ("diffusion_model.blocks.block3.blocks.0.block.attn.to_q.0", "diffusion_model.blocks.block3.blocks.0"),
        ("text_model.encoder.layers.11.self_attn.q_proj", "text_model.encoder.layers.11"),
        ("t5xxl.encoder.block.7.layer.0.SelfAttention.q", "t5xxl.encoder.block.7"),
        ("lora_unet_double_blocks_3_img_attn_qkv", "lora_unet_double_blocks_3"),
        (
            "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_ff_net_2",
            "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0",
        ),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "lora_te1_text_model_encoder_layers_0"),
        ("diffusion_model.final_layer.linear", "diffusion_model.final_layer.linear"),
        ("diffusion_model.time_embed.0", "diffusion_model.time_embed.0"),
        ("blocks.3", "blocks.3"),
        ("x", "x"),
    ],
)
def test_block_of(path, block):
    assert block_of(path) == block


class TestJson:
    def test_is_all_of_it_under_the_names_of_the_attributes(self):
        found = compare(FIRST, SECOND)
        read = json.loads(as_json(found))
        assert read["first"] == "content.safetensors"
        assert read["only_second"] == ["tail", "blocks.2.a"]
        assert [layer["path"] for layer in read["layers"]] == ["blocks.0.b", "blocks.1.a"]
        assert read["layers"][1]["interference"] == found.layers[1].interference
        assert read["totals"]["energy_first"] == found.totals.energy_first
        assert read["blocks"][0]["block"] == "blocks.0"

    def test_what_has_no_number_is_null(self):
        text = as_json(compare(QRLoRA({"x": Layer.single(Q1, torch.zeros(RANK, WIDTH))}), QRLoRA({"x": layer_of()})))
        assert json.loads(text)["layers"][0]["delta_cosine"] is None
        assert "NaN" not in text


class TestTable:
    def test_totals_then_the_layers_the_largest_interference_first(self):
        d = normal(RANK, WIDTH, seed=1)
        first = QRLoRA({name: Layer.single(Q1, d) for name in ("little", "loses", "gains", "else")}, name="cat")
        second = QRLoRA(
            {
                "little": Layer.single(Q1, 0.01 * d),
                "loses": Layer.single(Q1, -d),
                "gains": Layer.single(Q1, 0.5 * d),
                "other": Layer.single(Q1, d),
            },
            name="ink",
        )
        lines = as_table(compare(first, second)).splitlines()
        assert lines[:2] == ["first:  cat", "second: ink"]
        assert lines[2] == "layers: 3 in both, 1 only in the first, 1 only in the second"
        energy = float(d.double().square().sum())
        assert lines[3] == f"energy |delta|^2: first {4 * energy:.4g}, second {2.2501 * energy:.4g}"
        assert lines[4].startswith(f"interference of a merge at scales 1, 1: {200 * (0.51 - 1) / 6.2501:+.1f} %")
        assert [line.split()[0] for line in lines[7:]] == ["layer", "loses", "gains", "little"]
        assert lines[8].split()[1:9] == ["-100.0", "%", "1.000", "-1.000", "-", "1.000", "1.000", "-1.000"]
        assert len({len(line) for line in lines[7:]}) == 1

    @pytest.mark.parametrize("count", [20, 21, 50])
    def test_says_how_many_more_there_are(self, count):
        names = [f"blocks.{i}" for i in range(count)]
        text = as_table(compare(paths(*names), paths(*names, first_seed=9)))
        assert text.count("blocks.") == 20
        assert (f"and {count - 20} more layers" in text) == (count > 20)
        assert as_table(compare(paths(*names), paths(*names)), rows=count).count("blocks.") == count

    def test_no_negative_zeros(self):
        found = compare(QRLoRA({"x": layer_of()}), QRLoRA({"x": layer_of(Q2)}))
        (layer,) = found.layers
        tiny = replace(found, layers=(replace(layer, interference=-1e-9, q_cosine=-1e-9),))
        assert not {"-0.000", "-0.0"} & set(as_table(tiny).split())
