"""How exactly stock patching and live branches apply an adapter, by storage, compute dtype and scale.

    python -m benchmarks.precision
    python -m benchmarks.precision --quick    FLUX alone

Errors are those of the network's prediction, relative to the adapter's effect on it ("patched weights": of the weights,
relative to the delta). Two oracles, both with the weights as stored, dequantized, plus the exact delta: one in float32
throughout, one ("own") with activations in the model's compute dtype, every adapted layer in float32 and rounded once.
With compute below float32, arithmetic alone moves the prediction, on either path: "noise" is how far the bare model is
from the bare float32 oracle.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.ratios import claim, finish
from benchmarks.setting import DEVICE, machine, tiny_models

# isort: split
from torch import Tensor

from comfyui_qr_lora.nodes.host.model.key_map import KeyMap
from comfyui_qr_lora.tests.support.adapters import merged, random_adapter, relative_error, with_stock_lora

NAMES = ("flux", "sd3")
SCALES = (1.0, 0.1)
LOW = (torch.bfloat16, torch.float8_e4m3fn)
# (storage, compute)
SETTINGS = [(torch.float32, torch.float32), *((storage, torch.float32) for storage in LOW)]
SETTINGS += [(storage, torch.bfloat16) for storage in LOW]
LIVE_BAR = 0.01


@dataclass(frozen=True)
class Errors:
    """One line of the table."""

    stock: float
    live: float
    stock_own: float
    live_own: float
    noise: float
    patched_weights: float


class Model:
    """One model as stored, the same with dequantized weights in float32, and their bare predictions."""

    def __init__(self, name: str, storage: torch.dtype, compute: torch.dtype) -> None:
        self.name = name
        own = None if storage == compute else compute
        self.stored = tiny_models.build(name, dtype=storage, compute_dtype=own, device=DEVICE)
        self.exact = tiny_models.build(name, device=DEVICE)
        # Copies: a patched model has other weights while it is loaded.
        saved = self.stored.model.state_dict().items()
        self.weights = {key: value.to(DEVICE, torch.float32, copy=True) for key, value in saved}
        self.exact.model.load_state_dict(self.weights)
        self.adapter = random_adapter(self.exact)
        self.base = self.predict(self.exact)

    def predict(self, patcher: Any) -> Tensor:
        """Two predictions in one batch, on the stored model or a clone of it, or the exact one."""
        return tiny_models.predict(patcher, tiny_models.sample_inputs(self.name, patcher, batch=2))

    def deltas(self, scale: float) -> dict[str, Tensor]:
        """Host module to the exact change of its weight, float32."""
        key_map = KeyMap(self.exact.model)
        deltas: dict[str, Tensor] = {}
        for path, layer in self.adapter.layers.items():
            target = key_map.find(path)
            delta = scale * layer.delta_weight().to(DEVICE)
            whole = deltas.setdefault(target.module, torch.zeros_like(self.weights[target.key]))
            target.of(whole).add_(delta.reshape(target.shape))
        return deltas

    def errors(self, scale: float) -> Errors:
        """Stock and live at one scale."""
        expected = self.predict(with_stock_lora(self.exact, self.adapter, scale))
        deltas = self.deltas(scale)
        bare = self.predict(self.stored)
        own_base = self.predict_in_float32({name: torch.zeros_like(delta) for name, delta in deltas.items()})
        own_expected = self.predict_in_float32(deltas)
        live = self.predict(merged(self.stored, (self.adapter, scale)))
        stock = self.predict(patched := with_stock_lora(self.stored, self.adapter, scale))
        return Errors(
            stock=relative_error(stock, expected, self.base),
            live=relative_error(live, expected, self.base),
            stock_own=relative_error(stock, own_expected, own_base),
            live_own=relative_error(live, own_expected, own_base),
            noise=float((bare - self.base).norm() / (expected - self.base).norm()),
            patched_weights=self._weight_error(patched, deltas),
        )

    def predict_in_float32(self, deltas: dict[str, Tensor]) -> Tensor:
        """The stored model's prediction, these layers computing with exact weights plus deltas and rounding once."""
        handles = []
        for name, delta in deltas.items():
            weight, bias = self.weights[f"{name}.weight"] + delta, self.weights.get(f"{name}.bias")

            def compute(_: Any, args: Any, output: Tensor, weight: Tensor = weight, bias: Any = bias) -> Tensor:
                return F.linear(args[0].float(), weight, bias).to(output.dtype)

            handles.append(self.stored.model.get_submodule(name).register_forward_hook(compute))
        try:
            return self.predict(self.stored)
        finally:
            for handle in handles:
                handle.remove()

    def _weight_error(self, patched: Any, deltas: dict[str, Tensor]) -> float:
        """Of the patched weights that are loaded now, relative to the deltas, all layers together."""
        wrong = meant = 0.0
        for name, delta in deltas.items():
            found = patched.model.get_submodule(name).weight.float() - self.weights[f"{name}.weight"]
            wrong += float((found - delta).square().sum())
            meant += float(delta.square().sum())
        return (wrong / meant) ** 0.5


def short(dtype: torch.dtype) -> str:
    """``bfloat16``."""
    return str(dtype).removeprefix("torch.")


def percent(value: float) -> str:
    """Three digits at least."""
    return f"{value:9.4%}" if value < 0.1 else f"{value:9.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Errors of stock patching and of live branches.")
    parser.add_argument("--quick", action="store_true", help="FLUX alone")
    quick = parser.parse_args().quick
    print(f"{machine()}; tiny models, adapters of rank 8; errors relative to the adapter's effect")
    print("| model | storage | compute | scale | patched weights | stock | live | stock, own | live, own | noise |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    rows: dict[tuple[Any, ...], Errors] = {}
    for name in NAMES[:1] if quick else NAMES:
        for storage, compute in SETTINGS:
            model = Model(name, storage, compute)
            for scale in SCALES:
                errors = rows[name, storage, compute, scale] = model.errors(scale)
                cells = [errors.patched_weights, errors.stock, errors.live, errors.stock_own, errors.live_own]
                figures = " | ".join(map(percent, [*cells, errors.noise]))
                print(f"| {name} | {short(storage)} | {short(compute)} | {scale} | {figures} |", flush=True)
    print("own: against the oracle with the model's own compute dtype")
    claim_rows(rows)
    finish()


def claim_rows(rows: dict[tuple[Any, ...], Errors]) -> None:
    """The claims over all rows of a kind."""

    def of(storage: torch.dtype, compute: torch.dtype) -> list[Errors]:
        return [errors for key, errors in rows.items() if key[1:3] == (storage, compute)]

    for storage in LOW:
        exact, label = of(storage, torch.float32), f"{short(storage)} storage, float32 compute"
        claim(f"live, {label}, worst error", max(errors.live for errors in exact), LIVE_BAR, at_least=False)
        claim(f"stock error / live error, {label}, least", min(errors.stock / errors.live for errors in exact), 1)
    bfloat16 = of(torch.bfloat16, torch.bfloat16)
    factors = ", ".join(f"{errors.stock_own / errors.live_own:.2f}" for errors in bfloat16)
    print(f"stock error / live error, bfloat16 storage and compute: {factors}; both are the noise of the activations")
    float8 = of(torch.float8_e4m3fn, torch.bfloat16)
    factor = min(errors.stock_own / errors.live_own for errors in float8)
    claim("stock error / live error, float8_e4m3fn storage, bfloat16 compute, least", factor, 1)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
