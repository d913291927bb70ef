"""One tensor never stops a file, one layer never stops a merge: over cases at random, against the stock loader.

What cannot serve is left out and named, exactly; the rest acts as in the stock loader, given the same file.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from comfyui_qr_lora.nodes.compare import Compare
from comfyui_qr_lora.nodes.host.files.folders import register_folders
from comfyui_qr_lora.nodes.load import Load
from comfyui_qr_lora.nodes.merge import Merge
from comfyui_qr_lora.nodes.rebase import Rebase
from comfyui_qr_lora.nodes.schedule import Schedule
from comfyui_qr_lora.qrlora_core import AdapterFileError, QRLoRA, TargetError
from devtools import tiny_models
from nodes import LoraLoader

from ...support.adapters import relative_error
from ...support.lora_files import RANK, by_stock, factors, matrices, model, predict, saved
from ...support.models import models
from ...support.text_encoders import clip_l, encode

register_folders()
TOLERANCE = 1e-4  # relative to the LoRA's effect
STRENGTH = 0.7
MODES = ("live", "patch")
NAMES = ("flux", "sdxl", "sd3")
SEEDS = range(8)

Tensors = dict[str, Tensor]


def load(file: str) -> QRLoRA:
    return Load.execute(f"loras/{file}").args[0]


def merged(name: str, *files: str, mode: str = "live", **more: Any) -> tuple[Any, str]:
    """The model and the report of QR-LoRA Merge."""
    rows = {f"adapter_{row}": load(file) for row, file in enumerate(files, 1)}
    rows |= {f"scale_{row}": STRENGTH for row in range(1, len(files) + 1)}
    done = Merge.execute(model=model(name), apply=mode, **rows, **more).args
    return done[0], done[2]


def some_layers(name: str, rng: random.Random, count: int = 12) -> dict[str, Tensors]:
    """Layers of a LoRA by name, chosen at random."""
    shapes = matrices(model(name))
    generator = torch.Generator().manual_seed(rng.randrange(10**6))
    return {layer: factors(layer, shapes[layer], generator) for layer in rng.sample(sorted(shapes), count)}


def joined(layers: dict[str, Tensors]) -> Tensors:
    return {key: tensor for tensors in layers.values() for key, tensor in tensors.items()}


def word(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_lowercase + "_", k=rng.randrange(3, 12)))


# What may stand beside layers, of no layer that anybody knows.
BESIDE: list[Callable[[random.Random, str], Tensors]] = [
    lambda rng, layer: {f"{layer}.diff_m": torch.ones(3)},
    lambda rng, layer: {f"{layer}.{word(rng)}": torch.ones(rng.randrange(1, 5)).to(torch.int32)},
    lambda rng, layer: {f"{layer}.bias_{part}": torch.zeros(2, 3).long() for part in ("indices", "values", "size")},
    lambda rng, layer: {f"emb.{word(rng)}": torch.full((2, 8), torch.nan)},
    lambda rng, layer: {"clip_l": torch.ones(2, 8), "clip_g": torch.ones(2, 16)},
    lambda rng, layer: {f"{word(rng)}.{word(rng)}.alpha": torch.tensor(1.0)},
    lambda rng, layer: {word(rng): torch.ones([1] * 40)},
    lambda rng, layer: {f"{layer}.lora_up.bias": torch.ones(3)},
]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_unknown_tensors(name: str, seed: int) -> None:
    rng = random.Random(f"{name} {seed}")
    layers = some_layers(name, rng)
    more: Tensors = {}
    for make in rng.sample(BESIDE, 3):
        more |= make(rng, rng.choice(sorted(layers)))
    more = dict(list(more.items())[:3])  # as many as a note shows
    file = saved({**joined(layers), **more})
    note = load(file).origin.not_loaded
    assert all(key in note for key in more)
    assert not [layer for layer in layers if f"layer {layer}" in note]
    require_as_stock(name, file, file, note)


def require_as_stock(name: str, file: str, as_file: str, *words: str) -> None:
    """Live and patched, our picture of a file is the stock loader's of another one, and the report has the words."""
    base = predict(name, model(name))
    expected = predict(name, by_stock(model(name), as_file, STRENGTH))
    assert (expected - base).norm() > 1e-4 * base.norm()
    for mode in MODES:
        found, report = merged(name, file, mode=mode)
        assert relative_error(predict(name, found), expected, base) < TOLERANCE, mode
        for text in words:
            assert text in report


def wider(rng: random.Random, layer: str, tensors: Tensors) -> Tensors:
    """As of a model with more channels."""
    part = rng.choice(("up", "down"))
    key, tensor = f"{layer}.lora_{part}.weight", tensors[f"{layer}.lora_{part}.weight"]
    side = 0 if part == "up" else 1
    return {**tensors, key: torch.cat([tensor, tensor.narrow(side, 0, rng.randrange(1, tensor.shape[side]))], side)}


def other_rank(rng: random.Random, layer: str, tensors: Tensors) -> Tensors:
    key = f"{layer}.lora_up.weight"
    return {**tensors, key: tensors[key][:, :-1]}


def without_up(rng: random.Random, layer: str, tensors: Tensors) -> Tensors:
    return {key: tensor for key, tensor in tensors.items() if "lora_up" not in key}


# The stock loader takes such files, and logs an error for the layer.
MISFITS = {"wider": wider, "another rank": other_rank, "without up": without_up}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_layers_that_the_stock_loader_passes_over(name: str, seed: int) -> None:
    rng = random.Random(f"misfit {name} {seed}")
    layers = some_layers(name, rng)
    bad = rng.sample(sorted(layers), rng.randrange(1, 6))
    for layer in bad:
        layers[layer] = MISFITS[rng.choice(sorted(MISFITS))](rng, layer, layers[layer])
    file = saved(joined(layers))
    require_as_stock(name, file, file)
    _, report = merged(name, file)
    assert report.startswith(f"{file}: {12 - len(bad)} of ")
    warnings = " ".join(report.split("\n")[1:])
    assert all(layer in warnings for layer in bad)
    assert not [layer for layer in layers if layer not in bad and f" {layer}" in warnings]


def with_a_number(value: float) -> Callable[[random.Random, str, Tensors], Tensors]:
    def made(rng: random.Random, layer: str, tensors: Tensors) -> Tensors:
        key = f"{layer}.{rng.choice(('lora_up.weight', 'lora_down.weight', 'alpha'))}"
        tensor = tensors[key].clone()
        tensor.view(-1)[rng.randrange(tensor.numel())] = value
        return {**tensors, key: tensor}

    return made


def of_integers(rng: random.Random, layer: str, tensors: Tensors) -> Tensors:
    return {**tensors, f"{layer}.lora_down.weight": torch.ones_like(tensors[f"{layer}.lora_down.weight"]).char()}


def vera(rng: random.Random, layer: str, tensors: Tensors) -> Tensors:
    return {**tensors, f"{layer}.vera_lambda_b": torch.ones(3)}


def wrong_norms(rng: random.Random, layer: str, tensors: Tensors) -> Tensors:
    return {**tensors, f"{layer}.lora_magnitude_vector": torch.ones(3)}


def torn_lokr(rng: random.Random, layer: str, tensors: Tensors) -> Tensors:
    return {f"{layer}.lokr_w1": torch.ones(1, 1), f"{layer}.lokr_w2_a": torch.ones(2, 2)}


def without_down(rng: random.Random, layer: str, tensors: Tensors) -> Tensors:
    return {key: tensor for key, tensor in tensors.items() if "lora_down" not in key}


# The stock loader applies these, or stops at them; what the note says of each, and of the stock loader.
LOST = {
    "nan": (with_a_number(float("nan")), ""),
    "infinity": (with_a_number(float("-inf")), ""),
    "integers": (of_integers, "ComfyUI's own LoRA loader applies it"),
    "VeRA": (vera, "ComfyUI's own LoRA loader applies a part of it"),
    "norms of another size": (wrong_norms, ""),
    "torn LoKr": (torn_lokr, ""),
    "without down": (without_down, ""),
}


@pytest.mark.parametrize("kind", LOST)
@pytest.mark.parametrize("name", NAMES)
def test_layers_that_are_lost(name: str, kind: str) -> None:
    make, of_stock = LOST[kind]
    rng = random.Random(f"lost {name} {kind}")
    layers = some_layers(name, rng)
    bad = rng.sample(sorted(layers), rng.randrange(1, 4))
    file = saved(joined({layer: make(rng, layer, own) if layer in bad else own for layer, own in layers.items()}))
    rest = saved(joined({layer: own for layer, own in layers.items() if layer not in bad}))
    note = load(file).origin.not_loaded
    assert all(layer in note for layer in bad)
    assert not [layer for layer in layers if layer not in bad and layer in note]
    assert of_stock in note
    assert ("own LoRA loader" in note) == bool(of_stock)
    require_as_stock(name, file, rest, note)


@pytest.mark.parametrize("kind", ["VeRA"])
def test_what_is_said_of_the_stock_loader_is_so(kind: str) -> None:
    """It changes the picture with such a layer where the note says so; and only the rest where it takes a part."""
    make, of_stock = LOST[kind]
    rng = random.Random(0)
    layers = {layer: make(rng, layer, own) for layer, own in some_layers("sd3", rng).items()}
    file = saved(joined(layers))
    base = predict("sd3", model("sd3"))
    assert (predict("sd3", by_stock(model("sd3"), file, 1.0)) - base).norm() > 1e-4 * base.norm()
    with pytest.raises(AdapterFileError, match=rf"this is a .*{kind}.*ComfyUI's own LoRA loader") as caught:
        load(file)
    assert ("applies a part" in str(caught.value)) == ("a part" in of_stock)


@pytest.mark.parametrize("ending", [".ia3_l", ".oft_diag", ".boft_R"])
def test_a_kind_that_nobody_takes_is_not_sent_to_the_stock_loader(ending: str) -> None:
    layers = some_layers("sd3", random.Random(1))
    file = saved({f"{layer}{ending}": torch.ones(4) for layer in layers})
    base = predict("sd3", model("sd3"))
    assert torch.equal(predict("sd3", by_stock(model("sd3"), file, 1.0)), base)
    with pytest.raises(AdapterFileError, match="ComfyUI's own LoRA loader does not apply it either"):
        load(file)


def reshaping(rng: random.Random, layer: str, tensors: Tensors) -> Tensors:
    """To the shape that it has."""
    up, down = (tensors[f"{layer}.lora_{part}.weight"] for part in ("up", "down"))
    return {**tensors, f"{layer}.reshape_weight": torch.tensor([up.shape[0], *down.shape[1:]])}


def test_a_lora_that_widens_a_layer_is_of_no_use_without_it() -> None:
    """As FLUX's canny and depth: one such layer among many, and the whole file is for the stock loader."""
    rng = random.Random(2)
    layers = some_layers("sd3", rng)
    first = next(iter(layers))
    file = saved(
        joined({layer: reshaping(rng, layer, own) if layer == first else own for layer, own in layers.items()})
    )
    base = predict("sd3", model("sd3"))
    assert not torch.equal(predict("sd3", by_stock(model("sd3"), file, 1.0)), base)
    with pytest.raises(AdapterFileError, match=r"reshapes weights.*Load it with ComfyUI's own LoRA loader"):
        load(file)


def test_hardly_anything_that_fits_is_refused() -> None:
    rng = random.Random(2)
    layers = some_layers("sd3", rng)
    for count in (12, 9):
        bad = dict(layers)
        for layer in sorted(layers)[:count]:
            bad[layer] = wider(rng, layer, layers[layer])
        told = "none" if count == 12 else "3"
        with pytest.raises(TargetError, match=rf"{told} of its 12 layers fit this model \(layer .*This model is SD3"):
            merged("sd3", saved(joined(bad), {"ss_base_model_version": "sd3_large"}))
    half = {layer: with_a_number(float("nan"))(rng, layer, own) for layer, own in layers.items()}
    with pytest.raises(AdapterFileError, match=r"layer .*: .*(NaN|nan|finite)"):
        load(saved(joined(half)))


@pytest.mark.parametrize(("of", "on"), [("flux", "flux_fill"), ("flux", "flux_control"), ("sd15", "sd15_inpaint")])
def test_a_relative_with_more_channels(of: str, on: str) -> None:
    """The first layer is for another width, either way round; the stock loader passes over it."""
    for source, target in ((of, on), (on, of)):
        shapes, generator = matrices(model(source)), torch.Generator().manual_seed(0)
        first = "lora_unet_img_in" if "flux" in source else "lora_unet_conv_in"
        alias = "lora_unet_input_blocks_0_0"
        names = [name for name in shapes if name in (first, alias)] + sorted(shapes)[:8]
        file = saved(joined({name: factors(name, shapes[name], generator) for name in dict.fromkeys(names)}))
        require_as_stock(target, file, file, "were left out (the model's weight is")


BARE = ("krea2", "joyimage", "svd", "cosmos", "seedvr2", "cascade_c", "flux", "wan", "z_image", "pixart", "auraflow")


@pytest.mark.parametrize("name", models(name for name in BARE if name in tiny_models.NAMES))
def test_parameters_that_are_neither_weight_nor_bias(name: str) -> None:
    """Each one by itself: applied where the stock loader applies it, and named where it does not."""
    patcher, generator = model(name), torch.Generator().manual_seed(0)
    base, state = predict(name, patcher), patcher.model.state_dict()
    own: dict[str, str] = {}
    for key in state:
        if key.startswith("diffusion_model.") and not key.endswith((".weight", ".bias")) and state[key].ndim:
            own.setdefault(key.rpartition(".")[2], key)
    layer, shape = next(iter(matrices(patcher).items()))
    beside = factors(layer, shape, generator)
    assert own or name == "flux"
    for key in own.values():
        change = {f"{key}.diff": 0.3 * torch.randn(state[key].shape, generator=generator)}
        acts = not torch.equal(predict(name, by_stock(patcher, saved(change), STRENGTH)), base)
        file = saved({**beside, **change})
        said = "were left out (ComfyUI's LoRAs do not change such parameters)"
        expected = predict(name, by_stock(patcher, file, STRENGTH))
        for mode in MODES:
            found, report = merged(name, file, mode=mode)
            assert relative_error(predict(name, found), expected, base) < 10 * TOLERANCE, (key, mode)
            assert (said in report) != acts, key
            assert ("cannot be changed while the model runs" in report) == (acts and mode == "live"), key


def test_a_bias_by_its_own_name() -> None:
    key = "diffusion_model.joint_blocks.0.x_block.attn.qkv.bias"
    file = saved({f"{key}.diff": torch.randn(model("sd3").model.state_dict()[key].shape)})
    require_as_stock("sd3", file, file)


def test_a_schedule_says_what_it_does_not_change() -> None:
    name = "svd"
    key = next(key for key in model(name).model.state_dict() if key.endswith("mix_factor"))
    layer, shape = next(iter(matrices(model(name)).items()))
    file = saved({**factors(layer, shape, torch.Generator().manual_seed(0)), f"{key}.diff": torch.ones(1)})
    schedule = Schedule.execute("constant", 0.0, 1.0).args[0]
    _, report = merged(name, file, schedule_1=schedule)
    assert "patched into its weights; a schedule does not change them" in report


def test_layers_that_no_model_has_never_stop_a_merge() -> None:
    """Two adapters for another model may call layers of different shapes alike."""
    generator = torch.Generator().manual_seed(0)
    layers = some_layers("sd3", random.Random(3), 4)
    files = [
        saved({**joined(layers), **factors("lora_unet_elsewhere", (8 + width, 8), generator)}) for width in range(2)
    ]
    found, report = merged("sd3", *files)
    assert report.count("1 of its layers do not exist in this model and were left out") == 2
    base = predict("sd3", model("sd3"))
    expected = predict("sd3", by_stock(by_stock(model("sd3"), files[0], STRENGTH), files[1], STRENGTH))
    assert relative_error(predict("sd3", found), expected, base) < TOLERANCE


def test_text_layers_alone_ask_for_clip() -> None:
    generator = torch.Generator().manual_seed(0)
    names = [f"lora_te1_text_model_encoder_layers_{number}_mlp_fc1" for number in range(3)]
    file = saved(joined({name: factors(name, (3072, 768), generator) for name in names}))
    with pytest.raises(TargetError, match=r"all of its 3 layers are for a text encoder\. Connect the input clip"):
        merged("sd3", file)
    assert RANK in load(file).ranks


@pytest.mark.parametrize("mode", MODES)
def test_an_embedding_of_a_text_encoder(mode: str) -> None:
    """No hook can serve one: it is patched, and the report says so."""
    clip, name = clip_l(), "text_encoders.clip_l.transformer.text_model.embeddings.position_embedding"
    shape = clip.cond_stage_model.clip_l.transformer.text_model.embeddings.position_embedding.weight.shape
    file = saved({f"{name}.diff": torch.randn(shape, generator=torch.Generator().manual_seed(0))})
    base = encode(clip)
    _, stock = LoraLoader().load_lora(model("sd15"), clip, file, STRENGTH, STRENGTH)
    expected = encode(stock)
    assert (expected - base).norm() > 1e-3 * base.norm()
    done = Merge.execute(model=model("sd15"), clip=clip, apply=mode, adapter_1=load(file), scale_1=STRENGTH).args
    assert relative_error(encode(done[3]), expected, base) < TOLERANCE
    assert ("cannot be changed while the model runs" in done[2]) == (mode == "live")
    assert torch.equal(encode(clip), base)


def test_a_layer_that_differs_does_not_stop_a_comparison() -> None:
    layers = some_layers("sd3", random.Random(4), 5)
    odd = sorted(layers)[0]
    other = {**layers, odd: wider(random.Random(0), odd, layers[odd])}
    first, second = load(saved(joined(layers))), load(saved(joined(other)))
    for patcher in (None, model("sd3")):
        table = Compare.execute(first, second, patcher).args[1]
        assert "not compared" in table
        assert odd in table.split("not compared")[1]
    moved, report = Rebase.execute(second, model("sd3"), 0, 0.0).args
    assert moved.layers[odd] is second.layers[odd]
    assert odd in report
