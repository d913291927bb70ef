"""Run an example and print what came of it, as JSON. For a Python in which the built package is installed.

What is compared with the package is written out here: deltas are ``alpha / rank * Q dR``, from the tensors.
"""

from __future__ import annotations

import json
import runpy
import sys
from typing import Any

import torch
from safetensors.torch import load_file
from torch.nn import GELU, Linear, Sequential
from torch.nn.functional import mse_loss

Deltas = dict[str, torch.Tensor]


def base_model() -> Sequential:
    """The model of the example as it was before anything was added to it."""
    torch.manual_seed(0)
    return Sequential(Linear(32, 64), GELU(), Linear(64, 32)).requires_grad_(False)


def deltas_of(adapter: Any) -> Deltas:
    """What a trained adapter, one term a layer, adds to each weight."""
    terms = {path: layer.terms[0] for path, layer in adapter.layers.items()}
    return {path: term.alpha / term.rank * term.q @ term.delta_r for path, term in terms.items()}


def deltas_in(file: str) -> Deltas:
    """The same from a file, without our reader."""
    tensors = load_file(file)
    found = {}
    for path in {key.partition(".lora.")[0] for key in tensors}:
        q, delta_r, alpha = (tensors[f"{path}.lora.{part}"] for part in ("q.weight", "delta_r.weight", "alpha"))
        found[path] = alpha.item() / q.shape[1] * q @ delta_r
    return found


def loss(x: torch.Tensor, wanted: torch.Tensor, deltas: Deltas) -> float:
    """Of the base model with these deltas in its weights."""
    model = base_model()
    for path, delta in deltas.items():
        model.get_submodule(path).weight += delta
    return mse_loss(model(x), wanted).item()


def difference(found: Deltas, expected: Deltas) -> float:
    """The largest over the layers, relative to what is expected."""
    assert found.keys() == expected.keys()
    return max(((found[path] - delta).norm() / delta.norm()).item() for path, delta in expected.items())


def main() -> None:
    """Run the example that the first argument names."""
    done = runpy.run_path(sys.argv[1])
    x, flip, roll = done["x"], deltas_of(done["flip"]), deltas_of(done["roll"])
    mixed = {path: 0.8 * flip[path] + 0.5 * roll[path] for path in flip}
    loaded = {path: layer.delta_weight() for path, layer in done["loaded"].layers.items()}
    saved = {path: layer.delta_weight() for path, layer in done["mixed"].layers.items()}
    weights = {path: linear.weight for path, linear in done["linears"].items()}
    base = base_model()
    result = {
        "package": done["core"].__file__,
        "flip": [loss(x, x.flip(1), {}), loss(x, x.flip(1), flip)],
        "roll": [loss(x, x.roll(8, dims=1), {}), loss(x, x.roll(8, dims=1), roll)],
        "file": difference(deltas_in("mixed.safetensors"), mixed),
        "loaded as saved": all(torch.equal(loaded[path], delta) for path, delta in saved.items()),
        "loaded": difference(loaded, mixed),
        "weights": difference({path: w - base.get_submodule(path).weight for path, w in weights.items()}, mixed),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
