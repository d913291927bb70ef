"""The variant lora on a host model: no basis is worked out, and ComfyUI's own loader does with its file what we do."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest

from comfyui_qr_lora.nodes.host.model.bases import KeptBases
from devtools import tiny_models

from ...support.adapters import merged, relative_error, with_stock_lora
from ...support.training_task import train


@pytest.fixture
def trained(model: Any) -> Any:
    with mock.patch.object(KeptBases, "factors", side_effect=AssertionError("a basis was asked for")):
        return train(model, variant="lora", rank=6, alpha=9.0, steps=4, learning_rate=1e-2)


def test_no_basis_is_worked_out_and_layers_learn(trained: Any) -> None:
    assert trained.bases == ""
    terms = [term for _, term in trained.adapter.terms()]
    assert all(term.base_r is None and term.scaling == pytest.approx(1.5) for term in terms)
    assert sum(bool(term.q.any()) for term in terms) == len(terms) - 1  # the last block throws a part away
    assert any("1 of" in note and "learned nothing" in note for note in trained.notes)


def test_comfyuis_own_loader_does_the_same_with_it(model: Any, trained: Any) -> None:
    inputs = tiny_models.sample_inputs("sd3", model)
    base = tiny_models.predict(model, inputs)
    ours = tiny_models.predict(merged(model, (trained.adapter, 0.8)), inputs)
    theirs = tiny_models.predict(with_stock_lora(model, trained.adapter, 0.8), inputs)
    assert float((theirs - base).norm()) > 0
    assert relative_error(ours, theirs, base) < 1e-4
