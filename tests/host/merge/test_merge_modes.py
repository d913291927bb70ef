"""The merge modes on a host model equal dense float64 equations, applied by the host's own diff patches."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from comfyui_qr_lora.nodes.host.merge.modes.null_space import PROJECTED
from comfyui_qr_lora.nodes.host.model.key_map import KeyMap, Target
from comfyui_qr_lora.nodes.host.model.memo import recalled
from comfyui_qr_lora.nodes.merge import Merge
from comfyui_qr_lora.nodes.sweep import Sweep
from comfyui_qr_lora.qrlora_core import AdapterError, Layer, QRLoRA, QRLoRAError
from comfyui_qr_lora.qrlora_core.functional.lora import from_lora
from devtools import tiny_models

from ...support.adapters import random_adapter, relative_error

TOLERANCE = 1e-4
MODES = ("live", "patch")
Dense = dict[Target, np.ndarray]


@cache
def model(name: str) -> Any:
    return tiny_models.build(name)


def predict(name: str, patcher: Any) -> Tensor:
    return tiny_models.predict(patcher, tiny_models.sample_inputs(name, patcher))


def merge(name: str, first: QRLoRA, second: QRLoRA, apply: str, **more: Any) -> tuple[Any, ...]:
    return Merge.execute(
        model=model(name), apply=apply, adapter_1=first, scale_1=0.9, adapter_2=second, scale_2=-0.6, **more
    ).args


def dense(name: str, adapter: QRLoRA) -> Dense:
    """Every layer's delta in float64, by what it belongs to."""
    key_map = KeyMap(model(name).model)
    deltas = {}
    for path, layer in adapter.layers.items():
        target = key_map.find(path)
        assert target is not None
        deltas[target] = sum(
            term.alpha / term.rank * term.q.double().numpy() @ term.delta_r.double().flatten(1).numpy()
            for term in layer.terms
        )
    return deltas


def with_deltas(name: str, deltas: Dense) -> Any:
    """The model with these deltas through the host's `diff` patches."""
    clone, whole = model(name).clone(), {}
    for target, delta in deltas.items():
        weight = whole.setdefault(target.key, torch.zeros(*KeyMap(clone.model).shape_of(target.key)))
        target.of(weight).add_(torch.from_numpy(delta).float().reshape(target.shape))
    assert len(clone.add_patches({key: ("diff", (delta,)) for key, delta in whole.items()})) == len(whole)
    return clone


def away_from(protected: np.ndarray, other: np.ndarray, mu: float) -> np.ndarray:
    """NP-LoRA: ``delta (I - mu / (1 + mu) V V^T)``, V holding 0.9 of the protected energy."""
    _, values, right = np.linalg.svd(protected, full_matrices=False)
    kept = int(np.searchsorted(np.cumsum(values**2) / np.sum(values**2), 0.9)) + 1
    return other - mu / (1 + mu) * (other @ right[:kept].T) @ right[:kept]


def ties(taus: list[np.ndarray], density: float) -> np.ndarray:
    """TIES of scaled coefficients: trim, elect, disjoint mean."""
    kept = []
    for tau in taus:
        count = int(density * tau.size)
        bound = np.sort(np.abs(tau).ravel())[-count] if count else np.inf
        kept.append(np.where(np.abs(tau) >= bound, tau, 0.0))
    sign = np.sign(sum(kept))
    agree = [(np.sign(tau) == sign) & (tau != 0) for tau in kept]
    total = sum(np.where(ok, tau, 0.0) for ok, tau in zip(agree, kept, strict=True))
    return total / np.maximum(sum(ok.astype(float) for ok in agree), 1.0)


@pytest.mark.parametrize("apply", MODES)
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("mu", [0.5, 1000.0])
def test_null_space(apply: str, mirrored: bool, mu: float) -> None:
    content, style = random_adapter(model("sd3"), seed=1), random_adapter(model("sd3"), seed=2, mirrored=mirrored)
    first, second = dense("sd3", content), dense("sd3", style)
    deltas = {t: 0.9 * away_from(second[t], first[t], mu) - 0.6 * second[t] for t in first}
    base, expected = predict("sd3", model("sd3")), predict("sd3", with_deltas("sd3", deltas))
    plain = predict("sd3", merge("sd3", content, style, apply)[0])
    assert relative_error(plain, expected, base) > 100 * TOLERANCE  # the mode matters here
    done = merge("sd3", content, style, apply, mode="null_space", protect=2, mu=mu)
    assert relative_error(predict("sd3", done[0]), expected, base) < TOLERANCE
    saved = Merge.execute(model=model("sd3"), adapter_1=done[1], scale_1=1.0).args[0]
    assert relative_error(predict("sd3", saved), expected, base) < TOLERANCE
    assert f"null_space: the others are kept away from random_2.safetensors, mu {mu:g}" in done[2]


@pytest.mark.parametrize("apply", MODES)
def test_null_space_where_one_names_the_whole_of_a_weight_and_the_other_its_slices(apply: str) -> None:
    """Then a layer is the whole weight for both."""
    generator = torch.Generator().manual_seed(0)
    weights = [key for key in model("flux").model.state_dict() if key.endswith("attn.qkv.weight")]
    fused = QRLoRA(
        {
            key.removesuffix(".weight"): Layer(
                (from_lora(torch.randn(384, 4, generator=generator), 0.02 * torch.randn(4, 128, generator=generator)),)
            )
            for key in weights
        },
        name="fused",
    )
    split = random_adapter(model("flux"), seed=3)
    first, second = dense("flux", split), dense("flux", fused)
    joined: dict[str, np.ndarray] = {target.key: np.zeros((384, 128)) for target in second}
    deltas: Dense = {}
    for target, delta in first.items():
        if target.key in joined:
            start, length = target.rows or (0, 0)
            joined[target.key][start : start + length] += delta
        else:
            deltas[target] = 0.9 * delta
    for target, protected in second.items():
        deltas[target] = 0.9 * away_from(protected, joined[target.key], 4.0) - 0.6 * protected
    base, expected = predict("flux", model("flux")), predict("flux", with_deltas("flux", deltas))
    found = predict("flux", merge("flux", split, fused, apply, mode="null_space", protect=2, mu=4.0)[0])
    assert relative_error(found, expected, base) < TOLERANCE


@pytest.mark.parametrize("apply", MODES)
def test_ties_on_a_shared_basis(apply: str) -> None:
    content, style = random_adapter(model("sd3"), seed=1), random_adapter(model("sd3"), seed=2)
    key_map, deltas = KeyMap(model("sd3").model), {}
    for path, layer in content.layers.items():
        (a,), (b,) = layer.terms, style.layers[path].terms
        taus = [scale * term.alpha / term.rank * term.delta_r.double().numpy() for scale, term in ((0.9, a), (-0.6, b))]
        deltas[key_map.find(path)] = a.q.double().numpy() @ ties(taus, 0.4)
    base, expected = predict("sd3", model("sd3")), predict("sd3", with_deltas("sd3", deltas))
    assert relative_error(predict("sd3", merge("sd3", content, style, apply)[0]), expected, base) > 100 * TOLERANCE
    done = merge("sd3", content, style, apply, mode="ties", density=0.4)
    assert relative_error(predict("sd3", done[0]), expected, base) < TOLERANCE
    assert "ties: density 0.4" in done[2]


@pytest.mark.parametrize("mode", ["null_space", "ties"])
def test_one_adapter_alone_or_a_protected_one_that_is_off_is_a_plain_merge(mode: str) -> None:
    content, style = random_adapter(model("sd3"), seed=1), random_adapter(model("sd3"), seed=2)
    plain = predict("sd3", Merge.execute(model=model("sd3"), adapter_1=content, scale_1=0.7).args[0])
    for more in ({}, {"adapter_2": style, "scale_2": 0.0}):
        found = Merge.execute(model=model("sd3"), adapter_1=content, scale_1=0.7, mode=mode, protect=1, **more).args[0]
        assert torch.equal(predict("sd3", found), plain)


def test_a_new_scale_projects_and_uploads_nothing_again() -> None:
    content, style = random_adapter(model("sd3"), seed=1), random_adapter(model("sd3"), seed=2)
    models = [
        Merge.execute(
            model=model("sd3"), adapter_1=content, scale_1=scale, adapter_2=style, mode="null_space", mu=2.0
        ).args[0]
        for scale in (0.5, 0.8)
    ]
    factors = [{id(more) for listed in made.additional_models.values() for more in listed} for made in models]
    assert factors[0] == factors[1]
    assert factors[0]


def test_a_dragged_mu_keeps_one_projection() -> None:
    content, style = random_adapter(model("sd3"), seed=1), random_adapter(model("sd3"), seed=2)
    for mu in (0.5, 1.0, 2.0):
        merge("sd3", content, style, "live", mode="null_space", mu=mu)
    assert list(recalled(content, style, PROJECTED)) == [2.0]


def test_a_cell_of_a_sweep_is_the_single_run() -> None:
    content, style = random_adapter(model("sd3"), seed=1), random_adapter(model("sd3"), seed=2)
    how = {"mode": "null_space", "protect": 2, "mu": 3.0}
    models, _ = Sweep.execute(model("sd3"), content, "0.4, 0.9", style, "0.5, -0.6", **how).args
    single = merge("sd3", content, style, "live", **how)[0]
    assert torch.equal(predict("sd3", models[3]), predict("sd3", single))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"mode": "null_space", "protect": 3}, QRLoRAError, r"number of a connected adapter \(1, 2\), found 3"),
        ({"mode": "null_space", "mu": -1.0}, AdapterError, "expected mu of 0 or more, found -1"),
        ({"mode": "ties", "density": 0.0}, AdapterError, "expected density above 0 and up to 1, found 0"),
        ({"mode": "svd"}, QRLoRAError, "mode: expected one of add, null_space, ties, found 'svd'"),
    ],
)  # fmt: skip
def test_wrong_settings(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    content, style = random_adapter(model("sd3"), seed=1), random_adapter(model("sd3"), seed=2)
    with pytest.raises(error, match=message):
        merge("sd3", content, style, "live", **settings)
