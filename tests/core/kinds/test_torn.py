"""Torn and hostile layers of every kind: each is named and left out, or can be computed, and the rest serves."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from comfyui_qr_lora.qrlora_core import AdapterError, AdapterFileError, QRLoRA, load_adapter, save_adapter
from comfyui_qr_lora.qrlora_core.changes.dora import Dora, Norms
from comfyui_qr_lora.tests.support.adapter_kinds import KINDS, kinds_for, made
from comfyui_qr_lora.tests.support.oracle import normal

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = [(8, 6), (8, 4, 3, 3), (8,)]
CASES = [(kind, shape) for shape in SHAPES for kind in kinds_for(shape)]
each = pytest.mark.parametrize(("kind", "shape"), CASES, ids=[f"{kind} {shape}" for kind, shape in CASES])
GOOD = {"good.lora_up.weight": normal(8, 2, seed=1), "good.lora_down.weight": normal(2, 6, seed=2)}
OTHER_DTYPES = (
    torch.int8, torch.uint8, torch.int16, torch.int64, torch.bool, torch.complex64, torch.float8_e5m2, torch.bfloat16,
    torch.float64,
)  # fmt: skip
LARGEST = torch.finfo(torch.float32).max


def filled(shape):
    return normal(math.prod(shape), seed=5).reshape(shape)


def torn(tensor):
    """What may stand in the place of a part, by what was done to it; None where it lacks."""
    shape = tuple(tensor.shape)
    shapes = {(), (0,), (1,), (3,), (2, 2), (0, 3), (3, 0), (1,) * 8, (*shape, 1), (*shape, 2), (1, *shape)}
    shapes |= {shape[:-1], shape[1:], shape[::-1], (math.prod(shape),)}
    for side, size in enumerate(shape):
        shapes |= {(*shape[:side], other, *shape[side + 1 :]) for other in (0, 1, size + 1, 2 * size)}
    yield "lacks", None
    yield from ((f"shape {other}", filled(other)) for other in sorted(shapes - {shape}))
    yield from ((str(dtype), (3 * filled(shape)).to(dtype)) for dtype in OTHER_DTYPES)
    for number in (math.nan, math.inf, -math.inf):
        damaged = filled(shape).clone()
        damaged.view(-1)[-1] = number
        yield f"one {number}", damaged
    yield from ((f"all {number:g}", torch.full(shape, number)) for number in (0.0, LARGEST, -LARGEST, 1e-45, 1e25))
    yield "all 1e300", torch.full(shape, 1e300, dtype=torch.float64)


def saved(tensors, folder):
    """Beside so many good layers that the file is not refused for the others."""
    count = len(tensors) + 1
    good = {f"{number}{key}": tensor for number in range(count) for key, tensor in GOOD.items()}
    path = folder / "torn.safetensors"
    save_file({key: tensor.clone().contiguous() for key, tensor in {**good, **tensors}.items()}, path)
    return path, [f"{number}good" for number in range(count)]


def check_layer(layer):
    """What is served has numbers, whatever the weight."""
    assert layer.is_finite()
    shape = tuple(side or 8 for side in layer.shape)
    assert all(shape)
    weight = normal(*shape, seed=9, dtype=torch.float64)
    for change in layer.changes:
        if isinstance(change, Dora) and change.norms is Norms.COLUMNS and len(shape) == 2:
            weight = weight.reshape(shape[0], change.magnitude.numel(), -1)  # the file may have flattened a kernel
    assert torch.isfinite(layer.in_shape(tuple(weight.shape)).delta_weight(weight)).all()
    if not layer.contains_base and layer.as_terms().is_finite():  # terms do without the scale till the end
        assert torch.isfinite(layer.delta_weight()).all()


def check(path, names, good):
    """Every layer is served or named, and what is served is sound, here and after it was saved."""
    loaded = load_adapter(path)
    served = {name.split(".")[0]: layer for name, layer in loaded.layers.items()}
    assert set(good) <= served.keys()
    for name in names & served.keys():
        check_layer(served[name])
    alone = {name: layer for name, layer in loaded.layers.items() if name.split(".")[0] in names}
    if alone:
        try:
            saved_again = save_adapter(QRLoRA(alone), path.parent / "again.safetensors")
        except AdapterError as error:  # what is finite may have a QR form that is not
            if "a number does not fit" not in str(error):
                raise
            return names - served.keys(), loaded.origin.not_loaded
        again = load_adapter(saved_again)
        assert again.origin.not_loaded == ""
        assert again.layers.keys() == alone.keys()
    return names - served.keys(), loaded.origin.not_loaded


@each
def test_one_part_that_is_torn(tmp_path, kind, shape):
    one = made(kind, shape, 1).tensors
    tensors = {}
    for part, tensor in one.items():
        for number, (_, other) in enumerate(torn(tensor)):
            own = {**one, part: other} if other is not None else {key: own for key, own in one.items() if key != part}
            tensors |= {f"bad_{part.replace('.', '_')}_{number}.{key}": value for key, value in own.items()}
    path, good = saved(tensors, tmp_path)
    check(path, {key.split(".")[0] for key in tensors}, good)


@each
def test_what_is_left_out_is_named_alone(tmp_path, kind, shape):
    one = made(kind, shape, 1).tensors
    for part, tensor in one.items():
        for what, other in torn(tensor):
            if what in ("lacks", "shape (0, 3)", "one nan", "torch.int8", "torch.complex64", "shape ()"):
                own = {key: value for key, value in {**one, part: other}.items() if value is not None}
                if not own:
                    continue
                path, good = saved({f"bad.{key}": value for key, value in own.items()}, tmp_path)
                lost, told = check(path, {"bad"}, good)
                assert not lost or "bad" in told, (part, what)
                assert "good" not in told
                assert len(told) < 1000


@each
def test_numbers_that_are_not_finite_are_left_out(tmp_path, kind, shape):
    one = made(kind, shape, 1).tensors
    for part, tensor in one.items():
        for number in (math.nan, math.inf):
            if not tensor.is_floating_point():
                continue
            damaged = tensor.clone()
            damaged.view(-1)[0] = number
            path, good = saved({f"bad.{key}": value for key, value in {**one, part: damaged}.items()}, tmp_path)
            lost, told = check(path, {"bad"}, good)
            assert lost == {"bad"}, (part, number)
            assert "NaN or infinity in its numbers" in told or "expected a finite number" in told


PARTS = {
    "LoKr": ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t1", "lokr_t2"),
    "LoHa": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    "OFT": ("oft_blocks", "rescale"),
    "GLoRA": ("a1.weight", "a2.weight", "b1.weight", "b2.weight", "bm.weight"),
    "IA3": ("weight", "on_input"),
    "LoRA": ("lora_up.weight", "lora_mid.weight", "lora_down.weight"),
    "whole": ("diff", "diff_b", "w_norm", "set_weight"),
}
SIDES = st.lists(st.sampled_from([0, 1, 1, 2, 2, 2, 3, 4, 4]), min_size=0, max_size=5)


@st.composite
def parts(draw):
    """Some parts of a kind, or of all, in any shape."""
    own = draw(st.sampled_from([*PARTS.values(), tuple(part for listed in PARTS.values() for part in listed)]))
    names = draw(st.lists(st.sampled_from((*own, "alpha", "dora_scale", "lora_magnitude_vector")), unique=True))
    dtype = st.sampled_from([torch.float32] * 6 + [torch.int64, torch.float16, torch.bool])
    return {name: filled(tuple(draw(SIDES))).to(draw(dtype)) for name in names}


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.lists(parts(), min_size=1, max_size=6))
def test_any_parts_in_any_shape(tmp_path_factory, layers):
    tensors = {f"bad_{number}.{part}": one for number, own in enumerate(layers) for part, one in own.items()}
    path, good = saved(tensors, tmp_path_factory.mktemp("any"))
    check(path, {key.split(".")[0] for key in tensors}, good)


@each
def test_our_own_files_with_one_part_that_is_torn(tmp_path, kind, shape):
    """`full` keeps the kind; its parts may be damaged as well."""
    path = tmp_path / "own.safetensors"
    save_file({key: tensor.clone().contiguous() for key, tensor in made(kind, shape, 1).keyed("a").items()}, path)
    loaded = load_adapter(path)
    layers = {name: layer.in_rows(8, 8, 24) if not layer.is_vector else layer for name, layer in loaded.layers.items()}
    one = load_file(save_adapter(QRLoRA(layers), path))
    (name,) = layers
    good, tensors = {"good.lora.q.weight": normal(8, 2, seed=1), "good.lora.delta_r.weight": normal(2, 6, seed=2)}, {}
    others = [(part, other) for part, tensor in one.items() for _, other in torn(tensor)]
    for number, (part, other) in enumerate(others):
        own = {key: value for key, value in {**one, part: other}.items() if value is not None}
        tensors |= {f"{number}{key}": value for key, value in own.items()}
        tensors |= {f"{number}{key}": value for key, value in good.items()}
    save_file({key: value.clone().contiguous() for key, value in tensors.items()}, path)
    again = load_adapter(path)
    assert {f"{number}good" for number in range(len(others))} <= again.layers.keys()
    found = [again.layers[f"{number}{name}"] for number in range(len(others)) if f"{number}{name}" in again.layers]
    assert len(found) < len(others)
    for layer in found:
        check_layer(layer)


@pytest.mark.parametrize(
    "rows", [(-1, 8, 24), (17, 8, 24), (0, 7, 24), (0, 8, 7), (0, 8, 2**40), (2**62, 8, 2**63 - 1)]
)
def test_rows_of_no_weight_are_refused(tmp_path, rows):
    for kind in kinds_for((8, 6)):
        path = tmp_path / "own.safetensors"
        save_file({key: one.clone().contiguous() for key, one in made(kind, (8, 6), 1).keyed("a").items()}, path)
        one = load_file(save_adapter(load_adapter(path), path))
        tags = {key.rsplit(".", 1)[0] for key in one if ".lora_change." in key and ".layer." not in key}
        if tags:
            save_file({**one, **{f"{tag}.rows": torch.tensor(rows) for tag in tags}}, path)
            if rows == (0, 7, 24) and kind == "IA3 on input":  # which is for any number of rows
                check_layer(load_adapter(path).layers["a"])
                continue
            with pytest.raises(AdapterFileError, match=r"layer a: .*(rows|different shapes)"):
                load_adapter(path)


LONG = 2**17
CLAIMS = {
    "LoKr": {"lokr_w1": (LONG, 1), "lokr_w2": (1, LONG)},
    "LoKr of full rank": {"lokr_w1": (512, 512), "lokr_w2": (512, 512)},
    "LoKr of products": {"lokr_w1": (2, 2), "lokr_w2_a": (LONG, 1), "lokr_w2_b": (1, LONG)},
    "LoKr, left a product": {"lokr_w1_a": (LONG, 1), "lokr_w1_b": (1, LONG), "lokr_w2": (2, 2)},
    "LoKr, Tucker": {"lokr_w1": (2, 2), "lokr_w2_a": (1, 2), "lokr_w2_b": (1, LONG), "lokr_t2": (1, 1, 64, 64)},
    "LoHa": {"hada_w1_a": (LONG, 1), "hada_w1_b": (1, LONG), "hada_w2_a": (LONG, 1), "hada_w2_b": (1, LONG)},
    "LoHa of rank": {
        "hada_w1_a": (4096, 64), "hada_w1_b": (64, LONG), "hada_w2_a": (4096, 64), "hada_w2_b": (64, LONG),
    },
    "LoHa, Tucker": {
        "hada_w1_a": (1, 2), "hada_w1_b": (1, LONG), "hada_t1": (1, 1, 64, 64),
        "hada_w2_a": (1, 2), "hada_w2_b": (1, LONG), "hada_t2": (1, 1, 64, 64),
    },
    "GLoRA": {"a1.weight": (LONG, 1), "a2.weight": (1, LONG), "b1.weight": (LONG, 1), "b2.weight": (1, LONG)},
    "GLoRA, Tucker": {
        "a1.weight": (LONG, 1), "a2.weight": (1, LONG), "b1.weight": (2, 1), "b2.weight": (1, LONG),
        "bm.weight": (1, 1, 64, 64),
    },
    "LoRA": {"lora_up.weight": (LONG, 1), "lora_down.weight": (1, LONG)},
}  # fmt: skip


@pytest.mark.parametrize("size", [1.0, 1e25])
@pytest.mark.parametrize("kind", CLAIMS)
def test_small_parts_of_an_enormous_product_take_no_memory(tmp_path, kind, size):
    """64 GB, were it multiplied out: loading ends soon, with a layer that claims its shape or without it."""
    tensors = {f"bad.{part}": torch.full(shape, size) for part, shape in CLAIMS[kind].items()}
    path, good = saved(tensors, tmp_path)
    loaded = load_adapter(path)
    assert set(good) <= loaded.layers.keys()
    assert "bad" in loaded.layers or "bad" in loaded.origin.not_loaded
    if "bad" in loaded.layers:
        assert size == 1.0
    if "bad" in loaded.layers and "full rank" in kind:
        with pytest.raises(AdapterError, match="no weight is as large"):
            loaded.layers["bad"].as_terms()


GROWING = {
    "LoKr, Tucker": {"lokr_w1": (2, 2), "lokr_w2_a": (1, 2), "lokr_w2_b": (1, 2**10), "lokr_t2": (1, 1, 32, 32)},
    "LoKr, left a product": {"lokr_w1_a": (2**10, 1), "lokr_w1_b": (1, 2**10), "lokr_w2": (2, 2)},
    "LoHa, Tucker": {
        "hada_w1_a": (1, 2), "hada_w1_b": (1, 2**10), "hada_t1": (1, 1, 32, 32),
        "hada_w2_a": (1, 2), "hada_w2_b": (1, 2**10), "hada_t2": (1, 1, 32, 32),
    },
    "GLoRA, Tucker": {
        "a1.weight": (2**10, 1), "a2.weight": (1, 2**10), "b1.weight": (2, 1), "b2.weight": (1, 2**10),
        "bm.weight": (1, 1, 32, 32),
    },
}  # fmt: skip


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("kind", GROWING)
def test_many_layers_that_grow_to_many_times_the_file_are_refused_before_they_do(tmp_path, kind, norms):
    """Each alone would pass: some KB that become 4 MB."""
    layers = [f"{number}bad" for number in range(200)]
    parts = {part: torch.ones(shape).to(torch.float8_e4m3fn) for part, shape in GROWING[kind].items()}
    tensors = {f"{name}.{part}": tensor.clone() for name in layers for part, tensor in parts.items()}
    if norms and "LoKr" in kind:
        rows = 4 if "Tucker" in kind else 2**11
        tensors |= {f"{name}.dora_scale": torch.ones(rows, 1, 1, 1) for name in layers}
    save_file(tensors, tmp_path / "torn.safetensors")
    with pytest.raises(AdapterFileError, match=r"torn\.safetensors: .* many times larger than the file"):
        load_adapter(tmp_path / "torn.safetensors")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind].fits((64, 48, 3, 3))])
def test_files_of_trainers_never_grow_too_much(tmp_path, kind):
    one = made(kind, (64, 48, 3, 3), 1, torch.float8_e4m3fn).tensors
    tensors = {f"{number}.{part}": tensor.clone() for number in range(60) for part, tensor in one.items()}
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / "a.safetensors")
    assert len(load_adapter(tmp_path / "a.safetensors").layers) == 60


def test_all_kinds_are_torn():
    assert {kind for kind, _ in CASES} == set(KINDS)
