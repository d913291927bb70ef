from unittest import mock

import pytest

from comfyui_qr_lora.nodes.host.train import train as training

from ...support.training_task import assert_same, latent, train


@pytest.mark.parametrize("gc", [False, True])
@pytest.mark.parametrize("variant", ["triu", "full", "qr", "lora"])
def test_look(model, gc, variant):
    r = train(model, [latent(0), latent(1, size=16)], steps=20, gradient_checkpointing=gc, variant=variant)
    print(r.status.estimate, [n for n in r.notes if "estimate" in n], r.status.seconds_per_step)
    with mock.patch.object(training, "FEWEST_STEPS", 100):
        q = train(model, [latent(0), latent(1, size=16)], steps=20, gradient_checkpointing=gc, variant=variant)
    assert q.status.estimate is None
    assert_same(r.adapter, q.adapter)
    assert q.losses == r.losses
