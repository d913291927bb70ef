"""Live adapters on models that `torch.compile` turns into programs: as without it, and nothing is compiled for a scale.

Compiled are a block by the real inductor, and the whole network up to its operators. Each step samples the compiled
model and the one that is not; the error is relative to the adapters' effect. Where the host's own code breaks a program
in two, the adapters must not break it more often.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_management
import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from torch import Tensor
from torch._dynamo.utils import counters

from comfyui_qr_lora.qrlora_core import QRLoRA, QRLoRAError
from comfyui_qr_lora.qrlora_core.schedule import make_curve
from devtools import tiny_models

from ...support.adapters import merged, random_adapter, relative_error
from ...support.kind_files import small_model
from ...support.sampling import sample

BLOCK = "diffusion_model.joint_blocks.0"
TOLERANCE = 1e-5
needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler"
)
ways = pytest.mark.parametrize(
    ("backend", "part"),
    [pytest.param("inductor", BLOCK, marks=needs_compiler), ("aot_eager", "diffusion_model")],
)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A new one. The host's attention asks for free memory, and is compiled anew for another figure: it gets one."""
    free = 4 << 30
    monkeypatch.setattr(
        comfy.model_management,
        "get_free_memory",
        lambda _=None, torch_free_too=False: (free, free) if torch_free_too else free,
    )
    torch.compiler.reset()
    yield tiny_models.build("sd3")
    torch.compiler.reset()


def without_options(entries: Any) -> list[bool]:
    """What the host's own node leaves unguarded."""
    return ["transformer_options" not in entry.name for entry in entries]


def compiled(patcher: Any, backend: str, part: str) -> Any:
    """As the host's node compiles the whole network, and those of other packs its blocks."""
    clone = patcher.clone()
    options = {"guard_filter_fn": without_options} if backend == "inductor" else None
    set_torch_compile_wrapper(model=clone, backend=backend, options=options, keys=[part])
    return clone


def adapters(model: Any) -> dict[str, QRLoRA]:
    large = {name: random_adapter(model, seed=seed, size=1.0) for seed, name in enumerate("ABC")}
    return {**large, "small": random_adapter(model, seed=7, rank=4, size=1.0)}


def made(work: Callable[[], Tensor]) -> tuple[Tensor, int, int]:
    """What a sampling gives, how many programs were made for it, and how many breaks were in them."""
    before = counters["stats"]["unique_graphs"], counters["graph_break"].total()
    latent = work()
    after = counters["stats"]["unique_graphs"], counters["graph_break"].total()
    return latent, after[0] - before[0], after[1] - before[1]


class Pair:
    """A compiled model and the same one that is not, with merges of one kind on both."""

    def __init__(self, model: Any, backend: str, part: str) -> None:
        self.plain, self.compiled = model, compiled(model, backend, part)
        self.base = sample(model)

    def check(self, change: Callable[[Any], Any]) -> tuple[int, int]:
        """Programs and breaks that a sampling took; it equals the one without a program."""
        live = change(self.compiled)
        found, programs, breaks = made(lambda: sample(live))
        expected = sample(change(self.plain))
        effect = expected if torch.equal(expected, self.base) else expected - self.base
        assert (found - expected).norm() < TOLERANCE * effect.norm()
        return programs, breaks


@pytest.mark.slow
@ways
def test_a_compiled_model_equals_the_plain_one_whatever_is_merged(
    model: Any, backend: str, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    given, pair = adapters(model), Pair(model, backend, part)
    curves = {"schedule_1": make_curve("ramp down"), "schedule_2": make_curve("ramp up", 0.0, 0.7)}

    def merge(*pairs: tuple[str, float], **more: Any) -> Callable[[Any], Any]:
        return lambda patcher: merged(patcher, *((given[name], scale) for name, scale in pairs), **more)

    def bare(patcher: Any) -> Any:
        return patcher

    _, breaks = pair.check(bare)
    programs, breaks_live = pair.check(merge(("A", 1.0)))
    assert programs > 0  # it was compiled without adapters: a program that stayed would have none
    assert breaks_live <= breaks
    pair.check(bare)  # once with the hooks in it, and off
    for again in (bare, merge(("A", 1.0)), merge(("A", 0.3)), merge(("B", 1.0)), merge(("A", 0.5), ("C", -0.7)), bare):
        assert pair.check(again) == (0, 0)
    programs, _ = pair.check(merge(("A", 1.0), ("B", 0.8), **curves))
    assert programs == 0 or backend != "inductor"  # without the node's filter it sees a wrapper more in the options
    assert pair.check(merge(("B", 0.8), ("C", 0.4), **curves)) == (0, 0)
    programs, _ = pair.check(merge(("small", 1.0)))
    assert programs > 0
    for again in (merge(("small", 0.2)), merge(("A", 1.0)), bare):
        assert pair.check(again) == (0, 0)
    assert "was exported" not in caplog.text


@ways
def test_other_kinds_of_adapters_are_compiled_once(model: Any, backend: str, part: str) -> None:
    """None breaks a program in two, and a new scale or another file of the same kinds makes no new one."""
    kinds = ("LoKr, both whole", "LoKr, right a product", "DoRA of LoRA by column", "DoRA of PEFT", "OFT, rescaled")
    kinds = (*kinds, "BOFT, alpha 0, rescaled", "GLoRA", "replaced weight")
    files = [[small_model("sd3").file(kind, seed).adapter for kind in kinds] for seed in (1, 2)]
    pair = Pair(model, backend, part)

    def merge(number: int, scale: float) -> Callable[[Any], Any]:
        return lambda patcher: merged(patcher, *((adapter, scale) for adapter in files[number]))

    def bare(patcher: Any) -> Any:
        return patcher

    _, breaks = pair.check(bare)
    programs, breaks_live = pair.check(merge(0, 0.3))
    assert programs > 0
    assert breaks_live <= breaks
    pair.check(bare)  # once with the hooks in it, and off
    for again in (merge(0, -0.2), merge(1, 0.3), bare):
        assert pair.check(again) == (0, 0)


@ways
def test_merges_before_the_compiler_and_in_a_row_and_dropped_clones(model: Any, backend: str, part: str) -> None:
    given = adapters(model)
    base, first = sample(model), merged(model, (given["A"], 0.6))
    row = compiled(merged(first, (given["B"], 0.7)), backend, part)
    expected = sample(merged(first, (given["B"], 0.7)))
    assert relative_error(sample(row), expected, base) < TOLERANCE
    dropped = row.clone()
    del dropped
    gc.collect()
    found, programs, _ = made(lambda: sample(row))
    assert programs == 0
    assert relative_error(found, expected, base) < TOLERANCE
    alone = compiled(first, backend, part)
    assert relative_error(sample(alone), sample(first), base) < TOLERANCE
    assert relative_error(sample(compiled(model, backend, part)), base, torch.zeros_like(base)) < TOLERANCE
    assert torch.equal(sample(model), base)


def test_a_new_merge_has_the_names_of_the_one_before_among_the_options(model: Any) -> None:
    """Where a program is broken in two, the compiler looks at all keys of the options that models are called with."""

    def names(*scales: float) -> dict[str, list[Any]]:
        patcher = model
        for scale in scales:
            patcher = merged(patcher, (given["A"], scale))
        return {call: list(keys) for call, keys in patcher.callbacks.items()}

    given = adapters(model)
    assert names(1.0) == names(0.5)
    assert names(1.0, 0.3) == names(0.5, 0.2) != names(1.0)


def test_a_part_compiled_in_place(model: Any) -> None:
    """By PyTorch's own method, which leaves no sign on the patcher."""
    given, base = adapters(model), sample(model)
    expected = sample(merged(model, (given["A"], 1.0)))
    model.model.get_submodule(BLOCK).compile(backend="aot_eager")
    assert relative_error(sample(model), base, torch.zeros_like(base)) < TOLERANCE
    assert relative_error(sample(merged(model, (given["A"], 1.0))), expected, base) < TOLERANCE
    assert relative_error(sample(model), base, torch.zeros_like(base)) < TOLERANCE


def test_a_part_that_a_node_has_put_in_place_of_another(model: Any) -> None:
    given, base = adapters(model), sample(model)
    expected = sample(merged(model, (given["A"], 1.0)))
    patched = model.clone()
    patched.add_object_patch(BLOCK, torch.compile(model.model.get_submodule(BLOCK), backend="aot_eager"))
    assert relative_error(sample(patched), base, torch.zeros_like(base)) < TOLERANCE
    assert relative_error(sample(merged(patched, (given["A"], 1.0))), expected, base) < TOLERANCE
    assert relative_error(sample(merged(model, (given["A"], 1.0))), expected, base) < TOLERANCE


def with_exported(patcher: Any, program: torch.nn.Module) -> Any:
    clone = patcher.clone()
    clone.add_object_patch(f"{BLOCK}.x_block.mlp", program)
    return clone


def exported(patcher: Any) -> Any:
    """The feed-forward of a block as a program, with what is live on it by then."""
    comfy.model_management.load_models_gpu([patcher])
    module = patcher.model.get_submodule(f"{BLOCK}.x_block.mlp").requires_grad_(False)
    with torch.inference_mode(False), torch.no_grad():
        return torch.export.export(module, (torch.randn(2, 16, 128),), strict=False).module()


def test_an_exported_part_follows_scales_and_adapters_of_the_same_rank(
    model: Any, caplog: pytest.LogCaptureFixture
) -> None:
    given, base = adapters(model), sample(model)
    alone = {name: only(adapter, "transformer.transformer_blocks.0.ff.") for name, adapter in given.items()}
    curve = {"schedule_1": make_curve("ramp down")}
    merges: list[tuple[list[tuple[QRLoRA, float]], dict[str, Any]]] = [
        ([(alone["A"], 1.0)], {}), ([(alone["A"], 0.4)], {}), ([(alone["B"], 1.0)], {}),
        ([(alone["A"], 0.5), (alone["C"], 0.5)], {}), ([(alone["B"], 1.0)], curve),
    ]  # fmt: skip
    all_expected = [sample(merged(model, *pairs, **more)) for pairs, more in merges]
    small = merged(model, (alone["small"], 1.0))
    patched = with_exported(model, exported(merged(model, (alone["A"], 1.0))))
    assert relative_error(sample(patched), base, torch.zeros_like(base)) < TOLERANCE
    assert "was exported" in caplog.text
    for (pairs, more), expected in zip(merges, all_expected, strict=True):
        assert relative_error(sample(merged(patched, *pairs, **more)), expected, base) < TOLERANCE
        assert relative_error(sample(patched), base, torch.zeros_like(base)) < TOLERANCE
    small.add_object_patch(f"{BLOCK}.x_block.mlp", patched.object_patches[f"{BLOCK}.x_block.mlp"])
    with pytest.raises(QRLoRAError, match="no effect"):
        sample(small)
    assert relative_error(sample(patched), base, torch.zeros_like(base)) < TOLERANCE


def only(adapter: QRLoRA, start: str) -> QRLoRA:
    return QRLoRA({path: layer for path, layer in adapter.layers.items() if path.startswith(start)}, name=adapter.name)


def test_a_part_exported_without_adapters_is_told(model: Any) -> None:
    given = adapters(model)
    alone = only(given["A"], "transformer.transformer_blocks.0.ff.")
    assert len(alone.layers) == 2
    patched = with_exported(model, exported(model))
    with pytest.raises(QRLoRAError, match="no effect"):
        sample(merged(patched, (alone, 1.0)))
