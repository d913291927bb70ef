"""Several processes train one adapter: each on its share of the batch, as one process on the whole batch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed

from comfyui_qr_lora.qrlora_core.train import distributed
from comfyui_qr_lora.tests.support import distributed_worker as worker
from comfyui_qr_lora.tests.support import oracle

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="PyTorch without gloo")

# The other process, where the pack has its alias as in conftest.
OTHER = """
import json, sys, types
alias = sys.modules["comfyui_qr_lora"] = types.ModuleType("comfyui_qr_lora")
alias.__path__ = [sys.argv[1]]
from comfyui_qr_lora.tests.support.distributed_worker import everything_in_a_group
found = everything_in_a_group(sys.argv[2], 1, 2)
with open(sys.argv[3], "w") as file:
    json.dump(found, file)
"""
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def found(tmp_path_factory, one_thread):
    """Of this process and another as a group, and of this one alone. They talk over the loopback device."""
    folder = tmp_path_factory.mktemp("distributed")
    meeting, result = folder / "meeting", folder / "result.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        patch.setenv("OMP_NUM_THREADS", "1")
        other = subprocess.Popen(
            [sys.executable, "-P", "-c", OTHER, ROOT, meeting, result],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            alone = worker.everything()
            this = worker.everything_in_a_group(meeting, 0, 2)
            output, _ = other.communicate()
        finally:
            other.kill()
    assert other.returncode == 0, output
    return [this, json.loads(result.read_text())], alone


@pytest.mark.process
class TestProcesses:
    def test_know_their_place(self, found):
        group, alone = found
        assert [(process["rank"], process["world_size"]) for process in group] == [(0, 2), (1, 2)]
        assert (alone["rank"], alone["world_size"]) == (0, 1)

    def test_have_the_mean_of_all(self, found):
        """Of ranks 0 and 1, whatever the layout in memory."""
        for process in found[0]:
            assert process["average"] == [5.0, [[0.5] * 3] * 2, [0.0, 1.5, 3.0, 4.5]]
        assert found[1]["average"] == [0.0, [[0.0] * 3] * 2, [0.0, 1.0, 2.0, 3.0]]

    def test_exchange_nothing_where_there_is_nothing(self, found):
        assert [process["nothing"] for process in (*found[0], found[1])] == [[], [], []]

    @pytest.mark.parametrize("variant", ["triu", "qr"])
    def test_hold_the_same_to_the_bit(self, found, variant):
        first, second = (process["trained"][variant] for process in found[0])
        assert first == second

    @pytest.mark.parametrize("variant", ["triu", "qr"])
    def test_train_as_one_on_the_whole_batch(self, found, variant):
        """With accumulation, clipping, a schedule, and the moving average that the adapter is."""
        group, alone = found[0][0]["trained"][variant], found[1]["trained"][variant]
        assert group["losses"] == pytest.approx(alone["losses"], rel=1e-6)
        for kind in ("values", "weights"):
            assert group[kind].keys() == alone[kind].keys()
            for name, value in alone[kind].items():
                expected = torch.tensor(value, dtype=torch.float64)
                assert float(expected.abs().max()) > 0.05, name
                assert oracle.error(torch.tensor(group[kind][name], dtype=torch.float64), expected) < 1e-6, name

    def test_stop_together_when_one_of_them_diverges(self, found):
        messages = [process["stumble"] for process in (*found[0], found[1])]
        assert all("the loss became nan" in message for message in messages)


class TestWithoutAGroup:
    def test_there_is_one_process(self):
        assert (distributed.world_size(), distributed.rank()) == (1, 0)

    def test_a_mean_is_what_was_there(self):
        tensors = [torch.tensor([1.0, -0.0, float("nan")]), torch.arange(6.0).reshape(2, 3).T]
        before = [(tensor.data_ptr(), tensor.stride(), tensor.clone()) for tensor in tensors]
        distributed.average(tensors)
        for tensor, (pointer, stride, value) in zip(tensors, before, strict=True):
            assert (tensor.data_ptr(), tensor.stride()) == (pointer, stride)
            assert torch.equal(tensor.view(torch.int32), value.view(torch.int32))

    def test_nor_where_pytorch_has_no_processes(self, monkeypatch):
        monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
        assert (distributed.world_size(), distributed.rank()) == (1, 0)
