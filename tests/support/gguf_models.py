"""Small GGUF models: files by the format's own library, loaded by ComfyUI-GGUF, or by a stand-in of ours for it.

QRLORA_GGUF_DIR names the folder of a ComfyUI-GGUF; its tests are skipped without. The stand-in is no copy of it: it
does what such a pack must do, which is all that the tests of ours rely on. It keeps the bytes of the file in tensors
that pass for what they hold, unpacks them at every call of a layer, puts weight patches beside them, loads every
model with ``force_patch_weights``, and clones to its own class of patcher.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import comfy.lora
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.utils
import folder_paths
import gguf
import pytest
import torch
from torch import Tensor, nn

from devtools import tiny_models

FORMS = ["Q8_0", "Q4_0"]
_FOLDER = os.environ.get("QRLORA_GGUF_DIR", "")
_CITY96 = pytest.param(
    "city96",
    marks=pytest.mark.skipif(not _FOLDER, reason="QRLORA_GGUF_DIR names no folder of a ComfyUI-GGUF"),
)
every_pack = pytest.mark.parametrize("pack", ["stand-in", _CITY96])
every_form = pytest.mark.parametrize("form", FORMS)


@cache
def gguf_model(pack: str, name: str, form: str) -> Any:
    """A tiny model from a GGUF file, SD3 as the pack's own loader gives it; it computes in float32."""
    packing = _PACKS[pack]()
    if name == "sd3":
        return packing.load(_file(name, form))
    return packing.patcher(_network(name, packing.read(_file(name, form)), packing.operations))


@cache
def unpacked_model(name: str, form: str) -> Any:
    """The same network through the host's loader, from the numbers that the format's library says are in the file."""
    state = {tensor.name: _numbers(tensor) for tensor in gguf.GGUFReader(_file(name, form)).tensors}
    return _network(name, state, None)


def packed_weights(model: nn.Module) -> dict[str, Tensor]:
    """The bytes of all packed parameters."""
    return {
        name: parameter.as_subclass(Tensor).clone()
        for name, parameter in model.named_parameters()
        if getattr(parameter, "tensor_type", None) is not None and not parameter.is_floating_point()
    }


def gguf_text_encoder(pack: str, form: str, state: dict[str, Tensor]) -> Any:
    """The host's CLIP from a state dict whose matrices are packed, as the pack would load it."""
    packing = _PACKS[pack]()
    return packing.text_encoder({key: _packed(key, value, form, packing.tensor) for key, value in state.items()})


def unpacked_text_encoder(form: str, state: dict[str, Tensor]) -> Any:
    """The same from the numbers that are in the packed tensors."""
    numbers = {key: _packed(key, value, form, _repacked) for key, value in state.items()}
    return comfy.sd.load_text_encoder_state_dicts(state_dicts=[numbers], model_options={"dtype": torch.float32})


def _network(name: str, state: dict[str, Tensor], operations: Any) -> Any:
    """A model that is too small for the host to recognise, with the layers of a pack."""
    patcher = tiny_models.build(name)
    if operations is not None:
        config = patcher.model.model_config
        config.custom_operations = operations
        patcher = comfy.model_patcher.ModelPatcher(config.get_model({}, ""), patcher.load_device, torch.device("cpu"))
    patcher.model.diffusion_model.load_state_dict(state)
    return patcher


@cache
def _file(name: str, form: str) -> Path:
    folder = Path(folder_paths.get_folder_paths("diffusion_models")[0])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}_{form}.gguf"
    writer = gguf.GGUFWriter(path, arch=name)
    for key, value in tiny_models.build(name).model.diffusion_model.state_dict().items():
        kind = _kind(key, value, form)
        if kind is None:
            writer.add_tensor(key, value.float().numpy())
        else:
            writer.add_tensor(key, gguf.quants.quantize(value.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _kind(key: str, value: Tensor, form: str) -> gguf.GGMLQuantizationType | None:
    """Matrices are packed, where their rows are whole blocks; tables of embeddings are not."""
    kind = gguf.GGMLQuantizationType[form]
    whole = value.ndim == 2 and value.shape[1] % gguf.GGML_QUANT_SIZES[kind][0] == 0
    return kind if whole and key.endswith(".weight") and "embeddings" not in key else None


def _packed(key: str, value: Tensor, form: str, made: Callable[[Tensor, Any, torch.Size], Tensor]) -> Tensor:
    kind = _kind(key, value, form)
    if kind is None:
        return value.float()
    return made(torch.from_numpy(gguf.quants.quantize(value.float().numpy(), kind)), kind, value.shape)


def _repacked(data: Tensor, kind: gguf.GGMLQuantizationType, shape: torch.Size) -> Tensor:
    return torch.from_numpy(gguf.quants.dequantize(data.numpy(), kind)).reshape(shape)


def _numbers(tensor: gguf.ReaderTensor) -> Tensor:
    values = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
    return values.reshape(_shape(tensor))


def _shape(tensor: gguf.ReaderTensor) -> tuple[int, ...]:
    return tuple(int(size) for size in reversed(tensor.shape))


class _City96:
    """ComfyUI-GGUF itself."""

    def __init__(self) -> None:
        self._pack = _pack_module()
        self.operations = self._pack.nodes.GGMLOps
        # By itself it unpacks to float16, and so computes with other numbers than those of the file.
        self.operations.Linear.dequant_dtype = torch.float32

    def load(self, file: Path) -> Any:
        return self._pack.nodes.UnetLoaderGGUFAdvanced().load_unet(file.name, dequant_dtype="float32")[0]

    def read(self, file: Path) -> dict[str, Tensor]:
        return self._pack.loader.gguf_sd_loader(file)

    def tensor(self, data: Tensor, kind: Any, shape: torch.Size) -> Tensor:
        return self._pack.ops.GGMLTensor(data, tensor_type=kind, tensor_shape=shape)

    def patcher(self, patcher: Any) -> Any:
        return self._pack.nodes.GGUFModelPatcher.clone(patcher)

    def text_encoder(self, state: dict[str, Tensor]) -> Any:
        kind = comfy.sd.CLIPType.STABLE_DIFFUSION
        return self._pack.nodes.CLIPLoaderGGUF().load_patcher([""], kind, [state])


@cache
def _pack_module() -> ModuleType:
    name = "comfyui_gguf"
    spec = importlib.util.spec_from_file_location(
        name, Path(_FOLDER) / "__init__.py", submodule_search_locations=[_FOLDER]
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class PackedTensor(Tensor):
    """Bytes that pass for the tensor that they hold."""

    tensor_type: gguf.GGMLQuantizationType
    tensor_shape: torch.Size
    patches: list[Any]

    @staticmethod
    def of(data: Tensor, kind: gguf.GGMLQuantizationType, shape: tuple[int, ...]) -> PackedTensor:
        packed = data.as_subclass(PackedTensor)
        packed.tensor_type, packed.tensor_shape, packed.patches = kind, torch.Size(shape), []
        return packed

    @property
    def shape(self) -> torch.Size:
        return vars(self).get("tensor_shape", self.size())

    def to(self, *args: Any, **kwargs: Any) -> PackedTensor:
        moved = super().to(*args, **kwargs)
        return PackedTensor.of(moved.as_subclass(Tensor), self.tensor_type, self.tensor_shape)

    def detach(self) -> PackedTensor:
        return self


def unpacked(weight: Tensor | None, like: Tensor) -> Tensor | None:
    """The numbers of a parameter, with the patches beside it, as the layer's input is."""
    if weight is None or "tensor_type" not in vars(weight):
        return None if weight is None else weight.to(like)
    packed = weight.as_subclass(Tensor)
    numbers = torch.from_numpy(gguf.quants.dequantize(packed.cpu().numpy(), weight.tensor_type))
    numbers = numbers.reshape(weight.tensor_shape).to(packed.device)
    for patches, key in weight.patches:
        numbers = comfy.lora.calculate_weight(patches, numbers, key)
    return numbers.to(like)


class PackedOps(comfy.ops.manual_cast):
    """Layers that keep a packed weight."""

    class Linear(comfy.ops.manual_cast.Linear):
        def __init__(self, in_features: int, out_features: int, bias: bool = True, device=None, dtype=None) -> None:
            nn.Module.__init__(self)
            self.in_features, self.out_features, self.weight, self.bias = in_features, out_features, None, None

        def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
            for name in ("weight", "bias"):
                if prefix + name in state:
                    setattr(self, name, nn.Parameter(state[prefix + name], requires_grad=False))

        def forward_comfy_cast_weights(self, input: Tensor) -> Tensor:
            return nn.functional.linear(input, unpacked(self.weight, input), unpacked(self.bias, input))


class PackedPatcher(comfy.model_patcher.ModelPatcher):
    """Patches beside packed weights, at every load."""

    def load(self, *args: Any, force_patch_weights: bool = False, **kwargs: Any) -> None:
        super().load(*args, force_patch_weights=True, **kwargs)

    def patch_weight_to_device(self, key: str, device_to: Any = None, inplace_update: bool = False) -> None:
        weight = comfy.utils.get_attr(self.model, key)
        if "tensor_type" not in vars(weight):
            super().patch_weight_to_device(key, device_to, inplace_update)
        elif key in self.patches:
            patched = weight.to(device_to or weight.device)
            patched.patches = [(self.patches[key], key)]
            comfy.utils.set_attr_param(self.model, key, patched)

    def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> None:
        for parameter in self.model.parameters() if unpatch_weights else ():
            if getattr(parameter, "patches", None):
                parameter.patches = []
        super().unpatch_model(device_to, unpatch_weights)

    def clone(self, *args: Any, **kwargs: Any) -> PackedPatcher:
        made = super().clone(*args, **kwargs)
        made.__class__ = PackedPatcher  # whatever this one was in the meantime
        return made


class _StandIn:
    """Our own."""

    operations = PackedOps

    def load(self, file: Path) -> Any:
        options = {"custom_operations": PackedOps, "dtype": torch.float32}
        return self.patcher(comfy.sd.load_diffusion_model_state_dict(self.read(file), model_options=options))

    def read(self, file: Path) -> dict[str, Tensor]:
        state = {}
        for tensor in gguf.GGUFReader(file).tensors:
            packed = tensor.tensor_type != gguf.GGMLQuantizationType.F32
            data = torch.from_numpy(tensor.data.copy())
            state[tensor.name] = self.tensor(data, tensor.tensor_type, _shape(tensor)) if packed else _numbers(tensor)
        return state

    tensor = staticmethod(PackedTensor.of)

    def patcher(self, patcher: Any) -> Any:
        patcher.__class__ = PackedPatcher
        return patcher

    def text_encoder(self, state: dict[str, Tensor]) -> Any:
        options = {"custom_operations": PackedOps, "dtype": torch.float32}
        clip = comfy.sd.load_text_encoder_state_dicts(state_dicts=[state], model_options=options)
        self.patcher(clip.patcher)
        return clip


_PACKS: dict[str, Callable[[], Any]] = {"stand-in": _StandIn, "city96": _City96}
