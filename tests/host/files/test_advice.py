"""The core states facts, the nodes say what to do: every reason of an error has advice, and it is added once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from comfyui_qr_lora.nodes.host.advice import advised
from comfyui_qr_lora.nodes.host.files.header import facts_of
from comfyui_qr_lora.nodes.host.files.load import load
from comfyui_qr_lora.qrlora_core.errors import AdapterFileError, QRLoRAError, Reason, TrainingError


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_advice_and_the_kind_of_error_stays(reason: Reason) -> None:
    with pytest.raises(TrainingError, match=r"^layer x: found y\. [A-Z].+\.$") as raised, advised():
        raise TrainingError("layer x: found y.", reason)
    assert raised.value.reason is None  # so that no border further out adds it again
    with pytest.raises(QRLoRAError, match=r"^plain$"), advised():
        raise QRLoRAError("plain")


def test_a_kind_that_is_not_read_says_what_reads_it_in_the_picker_too(tmp_path: Any) -> None:
    path = tmp_path / "wider.safetensors"
    factors = {f"a.lora_{part}.weight": torch.ones(2, 2) for part in ("up", "down")}
    save_file({**factors, "a.reshape_weight": torch.tensor([2, 2])}, path)
    for read in (load, facts_of):
        with (
            pytest.raises(AdapterFileError, match=r"^wider\.safetensors: this is a LoRA that reshapes") as raised,
            advised(),
        ):
            read(path)
        assert str(raised.value).count("Load it with ComfyUI's own LoRA loader") == 1
