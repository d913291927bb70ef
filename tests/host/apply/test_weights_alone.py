"""Whatever takes the weights of a live model alone: the adapters go along, or it is refused, and nothing is lost.

All by the host's own nodes. A bare model, a patched one, and a live model that was dropped serve as ever.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from torch import Tensor

import nodes as host_nodes
from comfyui_qr_lora.nodes.merge import Merge
from comfyui_qr_lora.qrlora_core import Layer, QRLoRA, QRLoRAError
from devtools import tiny_models
from playground.text_encoder import weights

from ...support.adapters import merged, relative_error
from ...support.sampling import sample

REFUSED = pytest.raises(QRLoRAError, match="apply to patch")


def node(name: str) -> Any:
    return host_nodes.NODE_CLASS_MAPPINGS[name]


def run(name: str, **inputs: Any) -> Any:
    """Whatever the form in which the host at hand has the node."""
    kind = node(name)
    if hasattr(kind, "define_schema"):
        return kind.execute(**inputs).args
    return getattr(kind(), kind.FUNCTION)(**inputs)


def saved_files() -> set[Path]:
    return set(Path(folder_paths.get_output_directory()).rglob("*.safetensors"))


@pytest.mark.parametrize("ran", [False, True])
def test_saving_a_live_model(model: Any, adapter: QRLoRA, ran: bool) -> None:
    live, before, base = merged(model, (adapter, 1.0)), saved_files(), sample(model)
    picture = sample(live) if ran else None
    with REFUSED:
        run("ModelSave", model=live, filename_prefix="weights_alone/model")
    with REFUSED:
        comfy.sd.save_checkpoint(new_file(), live, clip())
    assert saved_files() == before
    assert torch.equal(sample(model), base)
    if picture is not None:
        assert torch.equal(sample(live), picture)


def new_file() -> str:
    return str(Path(folder_paths.get_output_directory()) / "weights_alone.safetensors")


def test_saving_the_bare_model_beside_a_live_one(model: Any, adapter: QRLoRA) -> None:
    live = merged(model, (adapter, 1.0))
    picture, before = sample(live), saved_files()
    run("ModelSave", model=model, filename_prefix="weights_alone/bare")
    (file,) = saved_files() - before
    state = comfy.utils.load_torch_file(str(file))
    for key, value in model.model.diffusion_model.state_dict().items():
        assert torch.equal(state[f"model.diffusion_model.{key}"], value)
    assert torch.equal(sample(live), picture)


def test_a_patched_model_saved_and_loaded_gives_the_previewed_picture(model: Any, adapter: QRLoRA) -> None:
    preview, base, before = sample(merged(model, (adapter, 0.8))), sample(model), saved_files()
    run("ModelSave", model=merged(model, (adapter, 0.8), apply="patch"), filename_prefix="weights_alone/patched")
    (file,) = saved_files() - before
    state = comfy.utils.load_torch_file(str(file))
    again = tiny_models.build("sd3", seed=7)
    again.model.diffusion_model.load_state_dict(
        {key.removeprefix("model.diffusion_model."): value for key, value in state.items()}
    )
    assert relative_error(sample(again), preview, base) < 1e-4


def test_extracting_a_lora_from_a_live_model(model: Any, adapter: QRLoRA) -> None:
    """The difference of a live model and its base is the adapter, of which the extracted file would have nothing."""
    (difference,) = run("ModelMergeSubtract", model1=merged(model, (adapter, 1.0)), model2=model, multiplier=1.0)
    before = saved_files()
    with REFUSED:
        run("LoraSave", filename_prefix="weights_alone/lora", rank=4, lora_type="standard", bias_diff=False,
            model_diff=difference)  # fmt: skip
    assert saved_files() == before


@pytest.mark.parametrize("name", ["ModelMergeSimple", "ModelMergeAdd", "ModelMergeSubtract"])
def test_a_live_second_model_of_a_merge(model: Any, adapter: QRLoRA, name: str) -> None:
    other, ratio = tiny_models.build("sd3", seed=3), {"ModelMergeSimple": {"ratio": 0.5}}.get(name, {})
    more = ratio or ({"multiplier": 1.0} if name == "ModelMergeSubtract" else {})
    with pytest.raises(QRLoRAError, match="merging models"):
        run(name, model1=other, model2=merged(model, (adapter, 1.0)), **more)
    run(name, model1=other, model2=merged(model, (adapter, 1.0), apply="patch"), **more)


def test_what_takes_the_network_while_it_samples_is_served(model: Any, adapter: QRLoRA) -> None:
    """A ControlLora is built of the base weights at the start of a sampling."""
    live, taken = merged(model, (adapter, 1.0)), list[Any]()
    picture = sample(live)
    found = sample(live, callback=lambda *_: taken.append(model.model.diffusion_model.state_dict()))
    assert taken
    assert torch.equal(found, picture)


def test_a_clone_by_another_node_refuses_as_well(model: Any, adapter: QRLoRA) -> None:
    clone = merged(model, (adapter, 1.0)).clone().clone()
    with REFUSED:
        clone.get_key_patches("diffusion_model.")


def test_a_clone_without_the_adapters_serves(model: Any, adapter: QRLoRA) -> None:
    clone = merged(model, (adapter, 1.0)).clone()
    for key in list(clone.injections):
        clone.remove_injections(key)
    assert clone.get_key_patches("diffusion_model.").keys() == model.get_key_patches("diffusion_model.").keys()


@cache
def clip() -> Any:
    """CLIP-L with random weights."""
    return comfy.sd.load_text_encoder_state_dicts(
        [{key: value.float() for key, value in weights().items()}],
        clip_type=comfy.sd.CLIPType.STABLE_DIFFUSION,
        model_options={"dtype": torch.float32},
    )


def live_clip(model: Any) -> tuple[Any, Tensor]:
    """A text encoder with a live adapter, and what it makes of a prompt."""
    generator = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(768, 4, generator=generator)).Q
    layer = Layer.single(q, torch.randn(4, 768, generator=generator))
    adapter = QRLoRA({"text_encoders.clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj": layer})
    changed = Merge.execute(model=model, adapter_1=adapter, clip=clip()).args[3]
    return changed, encode(changed)


def encode(clip: Any) -> Tensor:
    return clip.encode_from_tokens(clip.tokenize("a red circle"))


def test_saving_a_live_text_encoder(model: Any) -> None:
    base = encode(clip())
    changed, text = live_clip(model)
    assert not torch.equal(text, base)
    before = saved_files()
    with REFUSED:
        run("CLIPSave", clip=changed, filename_prefix="weights_alone/clip")
    with REFUSED:
        comfy.sd.save_checkpoint(new_file(), model, changed)
    assert saved_files() == before
    assert torch.equal(encode(changed), text)
    assert torch.equal(encode(clip()), base)


def test_a_live_second_text_encoder_of_a_merge(model: Any) -> None:
    changed, _ = live_clip(model)
    with pytest.raises(QRLoRAError, match="merging models"):
        run("CLIPMergeSimple", clip1=clip(), clip2=changed, ratio=0.5)
