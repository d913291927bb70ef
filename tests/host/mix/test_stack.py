"""``LORA_STACK``: what other packs give and take."""

from __future__ import annotations

import os
from typing import Any

import pytest

from comfyui_qr_lora.nodes.host.mix.document import Row
from comfyui_qr_lora.nodes.host.mix.stack import as_stack, describe_rest, rows_of_stack
from comfyui_qr_lora.qrlora_core import QRLoRAError


def test_as_other_packs_make_it() -> None:
    """Tuples or lists, slashes of either kind, rows without a file, and fields that a pack adds."""
    stack = [
        ("cat.safetensors", 1.0, 0.5),
        ["a\\b\\dog.safetensors", "0.5", 0],
        ("None", 1.0, 1.0),
        ("x", 1, 1, "more"),
    ]
    assert rows_of_stack(stack) == [
        Row("loras/cat.safetensors", scale=1.0, clip_scale=0.5),
        Row("loras/a/b/dog.safetensors", scale=0.5, clip_scale=0.0),
        Row("loras/x", scale=1.0, clip_scale=1.0),
    ]
    assert rows_of_stack(None) == rows_of_stack([]) == rows_of_stack(()) == []
    assert rows_of_stack([("strong", 250.0, -3.0)])[0].scale == 250.0, "no limit of ours"


def test_there_and_back() -> None:
    stack = [(os.path.join("a", "dog.safetensors"), 0.7, -0.2), ("cat.safetensors", 0.1 + 0.2, 0.0)]
    assert as_stack(rows_of_stack(stack)) == (stack, [])


def test_what_a_stack_cannot_carry_is_told() -> None:
    rows = [
        Row("loras/cat.safetensors", scale=0.5),
        Row("output/qr_loras/dog.safetensors", schedule="early"),
        Row("qr_loras/cow.safetensors"),
    ]
    stack, others = as_stack(rows)
    assert stack == [("cat.safetensors", 0.5, 0.5)]
    assert others == ["output/qr_loras/dog.safetensors", "qr_loras/cow.safetensors"]
    lines = "\n".join(describe_rest(rows, others))
    assert "output/qr_loras/dog.safetensors, qr_loras/cow.safetensors" in lines
    assert "schedules" in lines
    assert describe_rest(rows[:1], []) == []


@pytest.mark.parametrize(
    ("stack", "message"),
    [
        ("cat.safetensors", "expected a list"),
        ({"cat": 1}, "expected a list"),
        ([("cat", 1.0)], "entry 1: expected (name, strength, strength)"),
        ([("cat", 1.0, 1.0), 5], "entry 2"),
        ([(5, 1.0, 1.0)], "entry 1: expected the name"),
        ([(["cat"], 1.0, 1.0)], "entry 1: expected the name"),
        ([("cat", None, 1.0)], "entry 1: expected a finite strength, found None"),
        ([("cat", 1.0, float("nan"))], "found nan"),
        ([("cat", 10**400, 1.0)], "entry 1: expected a finite strength"),
        ([("cat", 1.0, 1.0)] * 65, "at most 64 entries, found 65"),
    ],
)
def test_a_wrong_one_is_refused_with_the_entry(stack: Any, message: str) -> None:
    with pytest.raises(QRLoRAError) as refused:
        rows_of_stack(stack)
    assert str(refused.value).startswith("lora_stack")
    assert message in str(refused.value)
