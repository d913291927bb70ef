"""Tiny models of every architecture: sound, seeded, and named as the key map and the presets expect."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from torch import Tensor

from devtools import tiny_models
from devtools.host import boot
from devtools.tiny_models.registry import ARCHITECTURES

from ...support.models import models

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

# A block by the host's names, and what the layers of one are called in either naming.
BLOCK = re.compile(
    r"diffusion_model\.(.*(transformer_blocks|time_stack)|(double|single|joint)_(blocks|layers)|(vace_)?blocks|layers"
    r"|\w+_refiner|(double|single)_stream_(blocks|layers)|(patch|pixel)_blocks|language_model\.layers"
    r"|txt_in\.individual_token_refiner\.blocks|txtfusion\.(layerwise|refiner)_blocks)\.(block)?\d+\b"
    r"|diffusion_model\.(down|up)_blocks\.\d+\.\d+(?=\.attention\.)"
)
ATTENTION = re.compile(r"attn|attention|\.linear1$|\.[qkv]$")
FEED_FORWARD = re.compile(
    r"\.(ff|ff_in|ffn|ff_(context|i|t)|\w*feed_forward|\w*mlp(_[xy])?)\.|block\.layer\d$|\.linear1$|_mlp_proj$"
    r"|\.ff_out$"
)
FORBIDDEN = re.compile(
    r"norm|mod(ulation)?\.|mod_|adaln|embed|final|time(?!_stack)|guidance|(?<!mlp\.(?:vid|txt|all)\.)proj_in"
    r"|txt_in\.[ct]_|head",
    re.I,
)

TEXT = ("c_crossattn", "clip_text", "clip")  # names of the encoded text; Stable Cascade has its own


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Operations this small only wait for one another on several threads: 16 times as long on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Tiny(NamedTuple):
    name: str
    patcher: ModelPatcher
    inputs: dict[str, Any]


@pytest.fixture(scope="module", params=models())
def tiny(request: pytest.FixtureRequest) -> Tiny:
    boot(nodes=True)
    patcher = tiny_models.build(request.param)
    return Tiny(request.param, patcher, tiny_models.sample_inputs(request.param, patcher))


def raw_output(patcher: ModelPatcher, inputs: dict[str, Any]) -> Tensor:
    """What the network itself returns: the prediction also holds x."""
    seen: list[Tensor] = []
    hook = patcher.model.diffusion_model.register_forward_hook(lambda module, args, output: seen.append(_one(output)))
    try:
        tiny_models.predict(patcher, inputs)
    finally:
        hook.remove()
    return seen[0]


def _one(output: Tensor | list[Tensor]) -> Tensor:
    """Video and sound as one tensor."""
    return output if isinstance(output, Tensor) else torch.cat([part.flatten(1) for part in output], dim=1)


def other_text(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same inputs with another text: another encoding, or other words where the network reads tokens itself."""
    tokens = inputs.get("input_ids")
    if tokens is None:
        text = next(name for name in TEXT if name in inputs)
        return inputs | {text: -inputs[text]}
    return inputs | {"input_ids": torch.where(tokens < 32_000, 32_000 - tokens, tokens)}  # above are marks


def relative(value: Tensor, reference: Tensor) -> float:
    return float((value - reference).norm() / reference.norm())


def test_prediction_is_finite_deterministic_and_shaped_like_the_latent(tiny: Tiny) -> None:
    first = tiny_models.predict(tiny.patcher, tiny.inputs)
    assert first.shape == tiny.inputs["x"].shape
    assert first.dtype is torch.float32
    assert first.isfinite().all()
    assert torch.equal(first, tiny_models.predict(tiny.patcher, tiny.inputs))


def test_network_answers_to_latent_and_text(tiny: Tiny) -> None:
    inputs = tiny.inputs
    output = raw_output(tiny.patcher, inputs)
    assert 0.1 < float(output.std()) < 10
    assert relative(raw_output(tiny.patcher, inputs | {"x": -inputs["x"]}), output) > 0.1
    assert relative(raw_output(tiny.patcher, other_text(inputs)), output) > 0.01


@pytest.mark.parametrize("name", models(name for name, row in ARCHITECTURES.items() if row.reference))
def test_network_answers_to_a_picture_to_edit_by(name: str) -> None:
    boot(nodes=True)
    patcher = tiny_models.build(name)
    output, edited = (
        raw_output(patcher, tiny_models.sample_inputs(name, patcher, reference=reference))
        for reference in (False, True)
    )
    assert relative(edited, output) > 0.01


def test_every_saved_tensor_is_filled_from_the_seed(tiny: Tiny, uninitialised_is_nan: None) -> None:
    expected = tiny.patcher.model.state_dict()
    again = tiny_models.build(tiny.name).model.state_dict()
    assert again.keys() == expected.keys()
    assert [key for key, value in again.items() if not torch.equal(value, expected[key])] == []


@pytest.fixture
def uninitialised_is_nan() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # fills fresh memory with NaN
    yield
    torch.use_deterministic_algorithms(before)


def test_linear_targets_tile_every_weight_once(tiny: Tiny) -> None:
    from ...support.tiling import assert_tiled

    assert assert_tiled(tiny.patcher.model)


def test_paper_preset_picks_attention_and_feed_forward_of_every_block(tiny: Tiny) -> None:
    from comfyui_qr_lora.nodes.host.model.key_map import KeyMap
    from comfyui_qr_lora.qrlora_core.train.targets import select

    targets = KeyMap(tiny.patcher.model).linear(tiny.patcher.model)
    chosen = select(targets, "paper")
    assert [path for path in chosen if FORBIDDEN.search(path) or not BLOCK.match(targets[path].key)] == []
    blocks: dict[str, list[str]] = defaultdict(list)
    for path, target in targets.items():
        if found := BLOCK.match(target.key):
            blocks[found.group()].append(path)
    assert blocks
    for block, paths in blocks.items():
        layers = set(paths) & set(chosen)
        assert any(map(ATTENTION.search, layers)), block
        # The published list leaves out the feed-forward that FLUX's single blocks compute beside the attention.
        fused = any(path.endswith(".proj_mlp") for path in paths)
        # Stable Cascade's attention stands in blocks of its own, between convolutions.
        alone = all(".attention.attn." in path for path in paths)
        assert fused or alone or any(map(FEED_FORWARD.search, layers)), block


@pytest.mark.parametrize("name", ["flux", "chroma", "lumina2", "z_image"])
def test_layers_have_the_names_of_their_own_model(name: str) -> None:
    """Newer hosts list those of relatives as well: a fused weight of FLUX.2's, Z-Image's modules for Lumina 2."""
    from comfyui_qr_lora.nodes.host.model.key_map import KeyMap
    from comfyui_qr_lora.qrlora_core.train.targets import select

    boot(nodes=True)
    model = tiny_models.build(name).model
    chosen = select(KeyMap(model).linear(model), "paper")
    assert len({path.split(".")[0] for path in chosen}) == 1
    if name in ("flux", "chroma"):
        block = {path.rpartition("single_transformer_blocks.0.")[2] for path in chosen if "single" in path}
        assert block >= {"attn.to_q", "attn.to_k", "attn.to_v"}
        assert not {path for path in block if "mlp" in path}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sd15", "EPS"), ("sd2_base", "EPS"), ("sd2", "V_PREDICTION"), ("sd21_unclip_l", "V_PREDICTION"),
        ("sd21_unclip_h", "V_PREDICTION"), ("x4_upscaler", "V_PREDICTION"), ("svd", "V_PREDICTION"), ("sd3", "CONST"),
        ("cascade_c", "EPS"), ("lotus", "IMG_TO_IMG"),
    ],
)  # fmt: skip
def test_the_objective_is_what_the_host_finds_in_the_checkpoint(name: str, kind: str) -> None:
    import comfy.model_sampling

    boot(nodes=True)
    sampling = tiny_models.build(name).model.model_sampling
    assert getattr(comfy.model_sampling, kind) in type(sampling).__bases__  # not by way of a relative


@pytest.mark.parametrize("name", ["sd3", "flux"])
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.bfloat16, 0.05), (torch.float16, 0.01), (torch.float8_e4m3fn, 0.25)], ids=str
)
def test_storage_dtype_changes_precision_alone(name: str, dtype: torch.dtype, bound: float) -> None:
    boot(nodes=True)
    reference, stored = tiny_models.build(name), tiny_models.build(name, dtype=dtype)
    inputs = tiny_models.sample_inputs(name, reference)
    linear = [m for m in stored.model.diffusion_model.modules() if isinstance(m, torch.nn.Linear)]
    assert {module.weight.dtype for module in linear} == {dtype}
    assert 0 < relative(raw_output(stored, inputs).float(), raw_output(reference, inputs)) < bound


def test_compute_dtype_is_cast_by_the_host() -> None:
    boot(nodes=True)
    patcher = tiny_models.build("flux", dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    assert patcher.model.manual_cast_dtype is torch.bfloat16
    assert raw_output(patcher, tiny_models.sample_inputs("flux", patcher)).dtype is torch.bfloat16


def test_batches_and_seeds() -> None:
    boot(nodes=True)
    patcher = tiny_models.build("flux")
    assert tiny_models.predict(patcher, tiny_models.sample_inputs("flux", patcher, batch=3)).shape[0] == 3
    inputs = tiny_models.sample_inputs("flux", patcher)
    assert not torch.equal(inputs["x"], tiny_models.sample_inputs("flux", patcher, seed=2)["x"])
    other = tiny_models.build("flux", seed=1)
    assert relative(tiny_models.predict(other, inputs), tiny_models.predict(patcher, inputs)) > 0.1


def test_wide_flux_has_independent_rows() -> None:
    boot(nodes=True)
    patcher = tiny_models.real_width_flux(hidden=512)
    weight = patcher.model.diffusion_model.single_blocks[0].linear1.weight
    assert weight.numel() > tiny_models.BLOCK  # the case in which random numbers repeat
    singular = torch.linalg.svdvals(weight.detach())
    assert singular[-1] > 0.2 * singular[0]
    assert float(weight.detach().std()) == pytest.approx(512**-0.5, rel=0.01)
    prediction = tiny_models.predict(patcher, tiny_models.sample_inputs("flux", patcher))
    assert prediction.isfinite().all()
