"""Files of every kind of adapter on layers of a small model, and the same model with the weights that they mean.

The oracle is another model of the same numbers whose weights are replaced by ``W + sum_i scale_i (W_i' - W)``, worked
out in float64 from the equations of `adapter_kinds` and rounded once to float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.sample
import folder_paths
import torch
from safetensors.torch import save_file
from torch import Tensor

import nodes as host_nodes
from comfyui_qr_lora.nodes.host.files.load import load
from comfyui_qr_lora.nodes.host.model.key_map import KeyMap, Target
from comfyui_qr_lora.qrlora_core import QRLoRA
from devtools import tiny_models

from .adapter_kinds import KINDS, Made, kinds_for, made
from .adapters import stock_lora_name

NAMES = ("sd3", "flux", "sdxl", "z_image")
# Slices of fused weights, layers with and without a bias, convolutions with a kernel, a stride, and a kernel of one.
_LAYERS = {
    "sd3": (
        *(f"transformer.transformer_blocks.0.attn.to_{part}" for part in ("q", "k", "v", "out.0")),
        *(f"transformer.transformer_blocks.1.ff.net.{part}" for part in ("0.proj", "2")),
        "diffusion_model.x_embedder.proj",
    ),
    "flux": (
        *(f"transformer.transformer_blocks.0.attn.{part}" for part in ("to_q", "to_k", "to_v", "add_k_proj")),
        "transformer.transformer_blocks.0.ff.net.2",
        *(f"transformer.single_transformer_blocks.0.{part}" for part in ("attn.to_v", "proj_mlp", "proj_out")),
    ),
    "sdxl": (
        *(f"unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_{part}" for part in ("q", "out.0")),
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj",
        "unet.time_embedding.linear_1",
        "unet.down_blocks.0.resnets.0.conv1",
        "unet.down_blocks.0.downsamplers.0.conv",
        "unet.down_blocks.1.resnets.0.conv_shortcut",
    ),
    "z_image": (
        *(f"transformer.layers.0.attention.to_{part}" for part in ("q", "k", "v", "out.0")),
        *(f"transformer.layers.1.feed_forward.w{part}" for part in "12"),
    ),
}
_MOST_VECTORS = 3


@dataclass(frozen=True, eq=False)
class KindFile:
    """One file.

    Attributes:
        adapter: as loaded from it.
        layers: what its equation is, by target.
        is_named_in_stock: whether the host's own loader knows the names of all its layers: older hosts know none of
            slices of Z-Image.
        in_stock: whether that makes the same of it at strength 1: it must know what the kind does, too.
    """

    path: Path
    adapter: QRLoRA
    layers: Mapping[Target, Made]
    is_named_in_stock: bool
    in_stock: bool


class SmallModel:
    """A small model by name, in float32 unless told otherwise, with what tests and benchmarks compare it with.

    Args:
        exact: another one of the same numbers in float32, whose weights are replaced.
        layers: names of those that files are for, where it is none of `NAMES`.

    Attributes:
        patcher: the model.
    """

    def __init__(self, name: str, patcher: Any = None, exact: Any = None, layers: Sequence[str] = ()) -> None:
        self.name = name
        self.patcher = tiny_models.build(name) if patcher is None else patcher
        self._exact = tiny_models.build(name) if exact is None else exact
        self._layers = layers or _LAYERS[name]

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Its parameters in float64, by key."""
        return {key: value.double() for key, value in self._exact.model.state_dict().items()}

    @cached_property
    def base(self) -> Tensor:
        """What the model predicts."""
        return self.predict(self.patcher)

    def target_of(self, path: str) -> Target:
        """What an adapter's name of a layer means."""
        return _found(self._key_map, path)

    def file(self, kind: str, seed: int = 0, names: Sequence[str] = ()) -> KindFile:
        """Layers of one of `adapter_kinds.KINDS`, each with numbers of its own.

        Args:
            names: of other layers than those that `targets` gives.
        """
        layers, tensors = {}, dict[str, Tensor]()
        targets = {name: self.target_of(name) for name in names} if names else self.targets(kind)
        for number, (layer, target) in enumerate(targets.items()):
            shape = target.shape[:1] if target.vector else target.shape
            layers[target] = made(kind, shape, 1000 * seed + number)
            tensors |= layers[target].keyed(layer)
        path = _loras() / f"kind_{self.name}_{seed}_{kind.replace(' ', '_').replace(',', '')}.safetensors"
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
        is_named = targets.keys() <= self._stock_names
        return KindFile(path, load(path), layers, is_named, is_named and KINDS[kind].in_stock)

    def kinds(self) -> list[str]:
        """The kinds that fit some layer of it."""
        return [kind for kind in KINDS if self.targets(kind)]

    def targets(self, kind: str) -> dict[str, Target]:
        """The name in the file, and the target, of each chosen parameter for which there is such a layer."""
        if kind not in kinds_for((8,)):
            fitting = {layer: own for layer, own in self._matrices.items() if kind in kinds_for(own.shape)}
            return {stock_lora_name(layer): target for layer, target in fitting.items()}
        return self._biases if kind == "whole difference of a bias" else self._norms

    @cached_property
    def _key_map(self) -> KeyMap:
        return KeyMap(self.patcher.model)

    @cached_property
    def _stock_names(self) -> set[str]:
        model = self.patcher.model
        names = (
            comfy.lora.model_lora_keys_unet if hasattr(model, "diffusion_model") else comfy.lora.model_lora_keys_clip
        )
        return set(names(model, {}))

    @cached_property
    def _matrices(self) -> dict[str, Target]:
        return {layer: _found(self._key_map, layer) for layer in self._layers}

    @cached_property
    def _biases(self) -> dict[str, Target]:
        modules = dict.fromkeys(target.module for target in self._matrices.values())
        named = [module for module in modules if f"{module}.bias" in self.weights]
        return {module: _found(self._key_map, f"{module}.bias") for module in named[:_MOST_VECTORS]}

    @cached_property
    def _norms(self) -> dict[str, Target]:
        named = [
            key.removesuffix(".weight")
            for key, value in self.weights.items()
            if key.startswith("diffusion_model.") and key.endswith("norm.weight") and value.ndim == 1
        ]
        return {module: _found(self._key_map, f"{module}.weight") for module in named[:_MOST_VECTORS]}

    def new_weights(self, *pairs: tuple[KindFile, float]) -> dict[str, Tensor]:
        """``W + sum_i scale_i (W_i' - W)`` of every weight that is changed, float64."""
        changed: dict[str, Tensor] = {}
        for file, scale in pairs:
            for target, layer in file.layers.items():
                whole = changed.setdefault(target.key, self.weights[target.key].clone())
                base = target.of(self.weights[target.key])
                target.of(whole).add_(scale * layer.effect(base))
        return changed

    def with_weights(self, weights: Mapping[str, Tensor], run: Callable[[Any], Tensor]) -> Tensor:
        """What the model gives with these weights in place of its own."""
        with self._replaced(weights):
            return run(self._exact)

    @contextmanager
    def _replaced(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        parameters = dict(self._exact.model.named_parameters())
        try:
            for key, weight in weights.items():
                parameters[key].data.copy_(weight)
            yield
        finally:
            for key in weights:
                parameters[key].data.copy_(self.weights[key])

    def expected(self, *pairs: tuple[KindFile, float], run: Callable[[Any], Tensor] | None = None) -> Tensor:
        """What the equations make of the model; by default of its prediction."""
        return self.with_weights(self.new_weights(*pairs), run or self.predict)

    def predict(self, patcher: Any) -> Tensor:
        """Two predictions in one batch, of the model or of one made of it."""
        return tiny_models.predict(patcher, tiny_models.sample_inputs(self.name, patcher, batch=2))

    def last_step(self, patcher: Any) -> Tensor:
        """The second of two steps of a sampling, as the host takes it."""
        latent, conditioning = tiny_models.example(self.name, patcher)
        noise = torch.randn(latent["samples"].shape, generator=torch.Generator().manual_seed(3))
        return comfy.sample.sample(
            patcher, noise, 2, 1.0, "euler", "simple", conditioning, conditioning, latent["samples"],
            start_step=1, disable_pbar=True, seed=0,
        ).float()  # fmt: skip


@cache
def small_model(name: str) -> SmallModel:
    """One for all tests of a process."""
    return SmallModel(name)


def stock(patcher: Any, file: Path, strength: float = 1.0) -> Any:
    """The model with a file of `models/loras` through the host's own loader."""
    return host_nodes.LoraLoaderModelOnly().load_lora_model_only(patcher, file.name, strength)[0]


def _loras() -> Path:
    folder = Path(folder_paths.get_folder_paths("loras")[0])
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _found(key_map: KeyMap, layer: str) -> Target:
    target = key_map.find(layer)
    assert target is not None, layer
    return target
