"""What works with one model, found out by doing it on a small one: train, save, load, apply, on every storage."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from devtools import tiny_models

if TYPE_CHECKING:
    from comfyui_qr_lora.nodes.host.model.host_types import Patcher
    from comfyui_qr_lora.nodes.host.train.settings import TrainingSettings
    from comfyui_qr_lora.qrlora_core import QRLoRA

# What is asked of a model, in the order of the table, and what is measured for it: an error relative to the adapter's
# effect must be below this. compact rounds dR to float16; a patched int8 weight is rounded, as the stock loader does.
_EXACT, _ROUNDED = 1e-4, 1e-3
ASPECTS: dict[str, dict[str, float]] = {
    "train": {"train": 0.0},
    "edit": {"edit, train": 0.0, "edit, live": _EXACT, "edit, patch": _EXACT},
    "live": {"live": _EXACT},
    "patch": {"patch": _EXACT},
    "formats": {
        "full": _EXACT, "full, patch": _EXACT, "compact": _ROUNDED, "compact, patch": _ROUNDED, "lora": _EXACT,
        "lora, patch": _EXACT, "saved merge": _EXACT,
    },
    "quantized": {"float8": _EXACT, "float8, patch": _EXACT, "int8": _EXACT, "int8, patch": _ROUNDED},
}  # fmt: skip
_LIMITS = {what: limit for measured in ASPECTS.values() for what, limit in measured.items()}
_CONVENTIONS = {"transformer": "diffusers", "unet": "kohya", "diffusion_model": "ComfyUI"}
_SCALE = 0.8
_INT8 = "int8"


@dataclass(frozen=True)
class Support:
    """What came of the checks of one model.

    Args:
        errors: by what was done, relative to the adapter's effect; 0 for a training that took its steps, else infinite.
        convention: how the layers of a ``lora`` file are called.
    """

    name: str
    errors: Mapping[str, float]
    convention: str

    def failed(self) -> dict[str, float]:
        """What is above its limit, with the error."""
        return {what: error for what, error in self.errors.items() if not error <= _LIMITS[what]}

    def answers(self) -> dict[str, str]:
        """Aspect to ``yes``, ``no``, or ``-`` where there is nothing to ask."""
        failed = self.failed()

        def answer(measured: Mapping[str, float]) -> str:
            if not measured.keys() & self.errors.keys():
                return "-"
            return "no" if measured.keys() & failed.keys() else "yes"

        return {aspect: answer(measured) for aspect, measured in ASPECTS.items()} | {"names": self.convention}


def check(name: str) -> Support:
    """Train two steps, save in every format, load, apply live and as patches; the oracle is the stock LoRA loader.

    The stock node gets the file in the format lora, and every other way must give what it gives.

    Raises:
        AssertionError: a byte of the base weights, or what the model alone predicts, is another one afterwards.
    """
    patcher = tiny_models.build(name)
    before = _bytes(patcher)
    adapter, trained = _trained(name, patcher)
    files = {kind: _save(adapter, kind) for kind in ("full", "compact", "lora")}
    base = _predict(name, patcher)
    expected = _predict(name, _with_stock_lora(patcher, files["lora"], _SCALE))

    def error(adapter: QRLoRA, mode: str) -> float:
        return _error(_predict(name, _merged(patcher, adapter, mode)[0]), expected, base)

    modes = {"": "live", ", patch": "patch"}
    merge = _save(_merged(patcher, adapter, "live")[1], "lora")
    errors = {
        "train": trained,
        **{mode: error(adapter, mode) for mode in modes.values()},
        **{kind + end: error(_load(file), mode) for kind, file in files.items() for end, mode in modes.items()},
        "saved merge": _error(_predict(name, _with_stock_lora(patcher, merge, 1.0)), expected, base),
        **(_edit_errors(name, patcher, files["lora"]) if tiny_models.edits(name) else {}),
        **_float8_errors(name, adapter, files["lora"]),
        **(_int8_errors(name, adapter, files["lora"]) if _INT8 in tiny_models.quantized_forms() else {}),
    }
    assert torch.equal(_predict(name, patcher), base), f"{name}: the model alone predicts something else afterwards"
    changed = [key for key, value in _bytes(patcher).items() if not torch.equal(value, before[key])]
    assert not changed, f"{name}: {len(changed)} base weights were changed, the first is {changed[0]}"
    return Support(name, errors, _convention(adapter))


def _bytes(patcher: Patcher) -> dict[str, Tensor]:
    saved = patcher.model.state_dict()
    return {key: value.flatten().view(torch.uint8).clone() for key, value in saved.items()}


def _trained(name: str, patcher: Patcher, *, reference: bool = False) -> tuple[QRLoRA, float]:
    """An adapter of two steps, and 0 where both were taken with finite losses.

    Of a model that training refuses, an adapter of random numbers.
    """
    from comfyui_qr_lora.nodes.host.train.dataset import collect
    from comfyui_qr_lora.nodes.host.train.train import train_adapter
    from comfyui_qr_lora.qrlora_core import TrainingError

    latent, caption = tiny_models.example(name, patcher, reference=reference)
    try:
        result = train_adapter(patcher, collect([latent], [caption]), _settings())
    except TrainingError:
        return _random(patcher), float("inf")
    took_steps = len(result.losses) == 2 and all(loss == loss and abs(loss) < float("inf") for loss in result.losses)
    return result.adapter, 0.0 if took_steps else float("inf")


def _random(patcher: Patcher) -> QRLoRA:
    """On the bases of the model."""
    from comfyui_qr_lora.nodes.host.model.key_map import KeyMap
    from comfyui_qr_lora.nodes.host.model.weights import base_weight
    from comfyui_qr_lora.qrlora_core import Layer, QRLoRA, decompose, select

    settings, generator = _settings(), torch.Generator().manual_seed(0)
    available, layers = KeyMap(patcher.model).linear(patcher.model), {}
    for path in select(available, settings.targets):
        factors = decompose(base_weight(patcher, available[path]), settings.rank, alpha=settings.alpha)
        delta_r = 0.1 * factors.base_r.std() * torch.randn(factors.base_r.shape, generator=generator)
        layers[path] = Layer.single(factors.q, delta_r, alpha=factors.alpha, base_r=factors.base_r)
    return QRLoRA(layers, {"qr_lora.base_model": "a small model"}, name="random.safetensors")


def _edit_errors(name: str, patcher: Patcher, file: str) -> dict[str, float]:
    """With a picture to edit beside the text: a training, and what an adapter does.

    Raises:
        AssertionError: the model does not look at the picture.
    """

    def predict(model: Patcher) -> Tensor:
        return _predict(name, model, reference=True)

    _, trained = _trained(name, patcher, reference=True)
    base, adapter = predict(patcher), _load(file)
    assert _error(base, _predict(name, patcher), torch.zeros(())) > 1e-3, f"{name} does not see the picture to edit"
    expected = predict(_with_stock_lora(patcher, file, _SCALE))
    errors = {mode: _error(predict(_merged(patcher, adapter, mode)[0]), expected, base) for mode in ("live", "patch")}
    return {"edit, train": trained} | {f"edit, {mode}": error for mode, error in errors.items()}


def _settings() -> TrainingSettings:
    from comfyui_qr_lora.nodes.host.train.settings import TrainingSettings

    return TrainingSettings(
        steps=2, learning_rate=5e-2, rank=4, alpha=6.0, variant="triu", targets="paper", batch_size=1,
        grad_accumulation=1, seed=0, training_dtype="fp32", gradient_checkpointing=True,
    )  # fmt: skip


def _save(adapter: QRLoRA, kind: str) -> str:
    from comfyui_qr_lora.nodes.save import Save

    return str(Save.execute(adapter, f"support/{kind}", format=kind).args[0])


def _load(name: str) -> QRLoRA:
    from comfyui_qr_lora.nodes.load import Load

    adapter: QRLoRA = Load.execute(name).args[0]
    return adapter


def _merged(patcher: Patcher, adapter: QRLoRA, mode: str) -> tuple[Patcher, QRLoRA]:
    """The model, and the merge as an adapter."""
    from comfyui_qr_lora.nodes.merge import Merge

    model, adapter, *_ = Merge.execute(model=patcher, adapter_1=adapter, scale_1=_SCALE, apply=mode).args
    return model, adapter


def _with_stock_lora(patcher: Patcher, name: str, scale: float) -> Patcher:
    import folder_paths

    import nodes as host_nodes
    from comfyui_qr_lora.nodes.host.files.folders import adapter_path

    folder = Path(folder_paths.get_folder_paths("loras")[0])
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / f"support_{os.getpid()}.safetensors"
    shutil.copy(adapter_path(name), copy)
    try:
        changed: Patcher = host_nodes.LoraLoaderModelOnly().load_lora_model_only(patcher, copy.name, scale)[0]
    finally:
        copy.unlink()
    return changed


def _float8_errors(name: str, adapter: QRLoRA, file: str) -> dict[str, float]:
    """On float8 storage: live against the dequantized base with exact patches, patch against the stock loader.

    The latter by weights: a product's last bit may round one to the next float8, which a prediction shows by far more.
    """
    try:
        stored = tiny_models.build(name, dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    except NotImplementedError:  # of torch, when the host builds the model: there is nothing to try
        return {"float8": float("inf"), "float8, patch": float("inf")}
    try:
        _predict(name, stored)
    except NotImplementedError:  # the model by itself: ComfyUI cannot compute it on such weights
        return {"float8": float("inf")}
    exact = tiny_models.build(name)
    exact.model.load_state_dict({key: value.float() for key, value in stored.model.state_dict().items()})
    expected = _predict(name, _merged(exact, adapter, "patch")[0])
    live = _error(_predict(name, _merged(stored, adapter, "live")[0]), expected, _predict(name, exact))
    base, expected, found = _all_weights(stored, adapter, file, _deltas(stored, adapter))
    return {"float8": live, "float8, patch": _error(_without_ties(found, expected), expected, base)}


_TIES = 1e-5  # share of the weights that may lie on the other side of a rounding
_FLOAT8_STEP, _FLOAT8_LEAST = 1 / 8, 2.0**-9  # relative to the larger of two neighbours; below normal numbers


def _without_ties(found: Tensor, expected: Tensor) -> Tensor:
    """`found`, with what is expected in the few places where the two are neighbours in float8."""
    largest = torch.maximum(found.abs(), expected.abs())
    neighbours = (found - expected).abs() <= torch.clamp(largest * _FLOAT8_STEP, min=_FLOAT8_LEAST)
    few = (neighbours & (found != expected)).sum() <= max(1, _TIES * found.numel())
    return torch.where(neighbours, expected, found) if few else found


def _int8_errors(name: str, adapter: QRLoRA, file: str) -> dict[str, float]:
    """On int8 storage, where what goes into a layer is rounded too, and a last bit may become a whole step.

    Live: the largest error of what one layer gains that is called, against ``x delta^T`` in float32 on the input that
    it had. Patch: of all patched weights, against the stock loader's.
    """
    stored = tiny_models.quantized(name, _INT8)
    deltas = _deltas(stored, adapter)
    gained = _gained(name, stored, _merged(stored, adapter, "live")[0], deltas)
    assert gained, f"{name}: no layer with an adapter was called"
    base, expected, found = _all_weights(stored, adapter, file, deltas)
    return {"int8": max(gained), "int8, patch": _error(found, expected, base)}


def _all_weights(stored: Patcher, adapter: QRLoRA, file: str, modules: Iterable[str]) -> tuple[Tensor, Tensor, Tensor]:
    """The weights of these modules as they are stored, as the stock loader patches them, and as we do."""
    patched = _merged(stored, adapter, "patch")[0]
    base, expected, found = (_weights(p, modules) for p in (stored, _with_stock_lora(stored, file, _SCALE), patched))
    return base, expected, found


def _weights(patcher: Patcher, modules: Iterable[str]) -> Tensor:
    """Of all these modules as the host loads them, dequantized, in one row."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([patcher])
    stored: list[Any] = [patcher.model.get_submodule(path).weight for path in modules]
    plain = [weight.dequantize() if hasattr(weight, "_qdata") else weight for weight in stored]
    return torch.cat(
        [weight.detach().cpu().float().flatten() for weight in plain]
    )  # some stay where they are loaded from


def _deltas(patcher: Patcher, adapter: QRLoRA) -> dict[str, Tensor]:
    """Host module to the delta of its whole weight, float32."""
    from comfyui_qr_lora.nodes.host.model.key_map import KeyMap

    key_map, found = KeyMap(patcher.model), dict[str, Tensor]()
    for path, layer in adapter.layers.items():
        target = key_map.find(path)
        assert target is not None, path
        whole = found.setdefault(target.module, torch.zeros(key_map.shape_of(target.key)))
        target.of(whole).add_(_SCALE * layer.delta_weight().reshape(target.shape))
    return found


def _gained(name: str, bare: Patcher, live: Patcher, deltas: Mapping[str, Tensor]) -> list[float]:
    """Of each layer that is called: the error of what the adapter adds, in a run of the live model."""
    import comfy.model_management

    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            seen.setdefault(path, (args[0].clone(), output.clone()))

        return hook

    comfy.model_management.load_models_gpu([live])  # from here on our hooks are in place, and run before these
    handles = [live.model.get_submodule(path).register_forward_hook(keep(path)) for path in deltas]
    try:
        with torch.no_grad():  # not loaded again, which would put our hooks behind these
            inputs = tiny_models.sample_inputs(name, live)
            live.model.apply_model(**inputs, transformer_options=tiny_models.call_options(inputs))
    finally:
        for handle in handles:
            handle.remove()
    comfy.model_management.load_models_gpu([bare])  # so that a layer by itself gives what it gives without us
    errors = []
    for path, (x, output) in seen.items():
        expected = F.linear(x.float(), deltas[path].to(x.device))
        without = bare.model.get_submodule(path)(x)
        errors.append(float((output - without - expected).norm() / expected.norm()))
    return errors


def _predict(name: str, patcher: Patcher, *, reference: bool = False) -> Tensor:
    return tiny_models.predict(patcher, tiny_models.sample_inputs(name, patcher, reference=reference))


def _error(found: Tensor, expected: Tensor, base: Tensor) -> float:
    return float((found - expected).norm() / (expected - base).norm())


def _convention(adapter: QRLoRA) -> str:
    kinds = {_CONVENTIONS.get(path.split(".")[0], "other") for path in adapter.layers}
    return " and ".join(sorted(kinds))
