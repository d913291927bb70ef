"""Block rules: which layers they name, and that a factor is a factor of the delta."""

import pytest
import torch

from comfyui_qr_lora.qrlora_core import Layer, QRLoRA, TargetError
from comfyui_qr_lora.qrlora_core.functional.scale_blocks import parse_rules, scale_blocks

PATHS = [f"transformer.single_transformer_blocks.{index}.attn.to_q" for index in (1, 10, 19, 20)]
ALIASES = {path: (f"diffusion_model.single_blocks.{path.split('.')[2]}.linear1",) for path in PATHS}


def adapter() -> QRLoRA:
    generator = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(12, 4, generator=generator)).Q
    make = lambda: Layer.single(q, torch.randn(4, 6, generator=generator), alpha=8.0, base_r=torch.randn(4, 6))  # noqa: E731
    return QRLoRA({path: make() for path in PATHS}, name="a.safetensors")


@pytest.mark.parametrize(
    ("rules", "factors"),
    [
        ("single_transformer_blocks.1?: 0.3", [1, 0.3, 0.3, 1]),
        ("single_transformer_blocks.1: 0.5", [0.5, 1, 1, 1]),
        ("single_blocks.*: 0.5, single_blocks.2?: 2", [0.5, 0.5, 0.5, 2]),
        ("*: 0.5\nattn.to_q: 3", [3, 3, 3, 3]),
        ("", [1, 1, 1, 1]),
    ],
)
def test_factors(rules: str, factors: list[float]) -> None:
    source = adapter()
    scaled = scale_blocks(source, parse_rules(rules), ALIASES)
    for path, factor in zip(PATHS, factors, strict=True):
        expected = factor * source.layers[path].delta_weight()
        assert torch.allclose(scaled.layers[path].delta_weight(), expected, rtol=1e-6)
        before, after = source.layers[path].terms[0], scaled.layers[path].terms[0]
        # scaling * R = Q^T W holds as before, for the base weight is the same.
        assert torch.allclose(after.scaling * after.base_r, before.scaling * before.base_r, rtol=1e-6)


def test_zero_drops_the_layer_and_the_source_stays() -> None:
    source = adapter()
    scaled = scale_blocks(source, parse_rules("single_transformer_blocks.20: 0"))
    assert set(source.layers) - set(scaled.layers) == {PATHS[-1]}
    assert scaled.metadata == source.metadata


@pytest.mark.parametrize("text", ["no number", "a:b", ": 1", "double_blocks.*: nan"])
def test_rules_that_do_not_read(text: str) -> None:
    with pytest.raises(TargetError, match="pattern: factor"):
        parse_rules(text)


def test_a_rule_that_names_nothing() -> None:
    with pytest.raises(TargetError, match=r"'double_blocks\.\*' names no layer of a\.safetensors"):
        scale_blocks(adapter(), parse_rules("double_blocks.*: 1"), ALIASES)
