"""Two adapters for the model of `tests/host/conftest.py`."""

from typing import Any

import pytest

from comfyui_qr_lora.qrlora_core import QRLoRA

from ...support.adapters import random_adapter


@pytest.fixture(scope="module")
def adapter(model: Any) -> QRLoRA:
    return random_adapter(model, seed=1)


@pytest.fixture(scope="module")
def other(model: Any) -> QRLoRA:
    return random_adapter(model, seed=2)
