"""Names under which files of others call a layer: what each kind of them means, and what is left out."""

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from comfyui_qr_lora.nodes.host.model.key_map import KeyMap
from devtools import tiny_models
from devtools.trainers.layout import expanded
from devtools.trainers.unet import UNet


class Network(nn.Module):
    """As the host holds a network, with linear layers of these names."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.model_config = SimpleNamespace(unet_config={})
        self.diffusion_model = nn.Module()
        for name in names:
            *path, last = name.split(".")
            parent = self.diffusion_model
            for part in path:
                if not hasattr(parent, part):
                    parent.add_module(part, nn.Module())
                parent = getattr(parent, part)
            parent.add_module(last, nn.Linear(2, 2))


def found(key_map: KeyMap, name: str) -> str | None:
    target = key_map.find(name)
    return None if target is None else target.module.removeprefix("diffusion_model.")


@pytest.mark.parametrize("prefix", ["lora_unet_", "lora_transformer_", "lycoris_"])
def test_underscores_stand_for_dots(prefix: str) -> None:
    key_map = KeyMap(Network("layers.0.to_q", "layers.0.turn.out"))
    assert found(key_map, f"{prefix}layers_0_to_q") == "layers.0.to_q"
    assert found(key_map, f"{prefix}layers_0_turn_out") == "layers.0.turn.out"


def test_dots_in_other_places_are_the_same_name() -> None:
    key_map = KeyMap(Network("text_blocks.0.out_layer"))
    assert found(key_map, "diffusion_model.text.blocks.0.out.layer") == "text_blocks.0.out_layer"
    assert found(key_map, "diffusion_model.text_blocks_0_out_layer") == "text_blocks.0.out_layer"


def test_what_could_mean_two_layers_means_none() -> None:
    key_map = KeyMap(Network("a.b_c", "a_b.c"))
    assert found(key_map, "lora_unet_other") is None
    assert found(key_map, "a.b.c") is None
    assert found(key_map, "a.b_c") == "a.b_c"
    assert found(key_map, "a_b.c") == "a_b.c"


@pytest.mark.parametrize("wrapper", ["net", "model", "model.diffusion_model", "model.model"])
def test_what_checkpoints_put_before_names_may_stay_there(wrapper: str) -> None:
    key_map = KeyMap(Network("blocks.0.proj"))
    assert found(key_map, f"{wrapper}.blocks.0.proj") == "blocks.0.proj"
    assert found(key_map, f"lora_unet_{wrapper.replace('.', '_')}_blocks_0_proj") == "blocks.0.proj"
    assert found(key_map, f"strange.{wrapper}.blocks.0.proj") is None


def test_a_part_of_what_the_host_fuses_is_its_rows() -> None:
    model: Any = tiny_models.build("hunyuan_video").model
    key_map = KeyMap(model)
    parts = [key_map.find(f"lora_unet_double_blocks_1_txt_attn_{part}") for part in "qkv"]
    assert [part.rows for part in parts if part] == [(0, 128), (128, 128), (256, 128)]
    assert {part.module for part in parts if part} == {"diffusion_model.double_blocks.1.txt_attn.qkv"}


def test_the_unets_of_stable_diffusion_are_numbered_as_trainers_write_it_out() -> None:
    """The counts and numbers are those of OneTrainer's and sd-scripts' own tables for the published networks."""
    tables = [
        (UNet(2, (1, 1, 1, 0), 1, (1, 2)), 282, 192),
        (UNet(2, (0, 2, 10), 10, (1, 2), labels=True), 794, 722),
    ]
    for unet, layers, of_transformers in tables:
        assert sum(len(expanded(name)) for name in unet.everything()) == layers
        assert sum(len(expanded(name)) for name in unet.transformers()) == of_transformers
    names = {own: host for table in tables[:1] for own, host in table[0].everything().items()}
    assert names["up_blocks.2.attentions.1.{proj_in,proj_out}"] == "output_blocks.7.1.{proj_in,proj_out}"
    assert names["down_blocks.2.resnets.1.{conv1,time_emb_proj,conv2}"].startswith("input_blocks.8.0.")
    assert names["up_blocks.0.upsamplers.0.conv"] == "output_blocks.2.1.conv"
    assert names["up_blocks.1.upsamplers.0.conv"] == "output_blocks.5.2.conv"
