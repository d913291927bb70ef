"""Two processes that train together give the adapter of one process with twice the batch, and write it once."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from devtools.environment import ROOT
from generators.workflows import prompt_of, without_roles
from playground import assemble

pytestmark = [pytest.mark.process, pytest.mark.slow]
EXAMPLE = without_roles(prompt_of("compose_content_and_style"))
LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    assemble.furnish(folder)
    return folder


def workflow(folder: Path, name: str, *, roles: bool = False, **settings: Any) -> Path:
    """Both trainings of the example, saved, and nothing else; each for its role, with pixels and VAE, where asked."""
    prompt = {key: copy.deepcopy(EXAMPLE[key]) for key in ("1", "2", "3", "4", "5", "6", "7", "8", "9", "17", "18")}
    for node in ("8", "9"):
        prompt[node]["inputs"] |= {"steps": 4, "learning_rate": 1e-3, "run_name": f"{name}{node}", **settings}
    if roles:
        prompt["20"] = {"class_type": "QRLoRA_Role", "inputs": {"strength": "strong", "variants": 4}}
        for node, role, picture in (("8", "content", "2"), ("9", "style", "5")):
            connected = {"role_settings": ["20", 0], "pixels": [picture, 0], "vae": ["1", 2]}
            prompt[node]["inputs"] |= {"role": role, **connected}
    for node in ("17", "18"):
        prompt[node]["inputs"]["filename_prefix"] = f"{name}{node}"
    file = folder / f"{name}.json"
    file.write_text(json.dumps(prompt), encoding="utf-8")
    return file


def run(launcher: list[str], file: Path, base: Path) -> tuple[int, str]:
    """Exit status and errors; no process of it is left, whatever happens."""
    command = [sys.executable, *launcher, "-m", "cli.train", str(file), "--base", str(base), "--cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        return _ended(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate()
    return process.returncode, errors


def assert_runs(launcher: list[str], file: Path, base: Path) -> None:
    status, errors = run(launcher, file, base)
    assert status == 0, errors


def largest_change(base: Path, node: str, first: str, second: str) -> float:
    """Of what was trained, relative, between two saved adapters; what is not trained must be the same."""
    one, two = (
        load_file(base / "output" / "qr_loras" / f"{name}{node}_00001_.safetensors") for name in (first, second)
    )
    assert one.keys() == two.keys()
    trained = {key for key in one if "delta_r" in key}
    assert all(torch.equal(one[key], two[key]) for key in one.keys() - trained)
    return max(float((one[key] - two[key]).norm() / one[key].norm()) for key in trained)


def test_two_processes_train_what_one_does_with_twice_the_batch(base: Path, tmp_path: Path) -> None:
    for launcher, name, batch in (([], "one", 2), (LAUNCHER, "two", 1)):
        assert_runs(launcher, workflow(tmp_path, name, batch_size=batch), base)
    folder = base / "output" / "qr_loras"
    for node in ("17", "18"):
        assert largest_change(base, node, "one", "two") <= 1e-3  # the same sums in another order
    saved = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors"))
    for name in ("one", "two"):
        for training, save in (("8", "17"), ("9", "18")):
            own = [path for path in saved if path.startswith((f"{name}{save}_", f"checkpoints/{name}{training}_"))]
            assert own == [
                f"checkpoints/{name}{training}_00001/step_00000004.safetensors", f"{name}{save}_00001_.safetensors",
            ]  # fmt: skip


def test_so_they_do_for_a_role_and_go_on_exactly(base: Path, tmp_path: Path) -> None:
    """Each process makes the variants for itself: were they others on the second, the adapter would be another."""
    for launcher, name, given in (
        ([], "role_one", {"batch_size": 2}),
        (LAUNCHER, "role_two", {"batch_size": 1}),
        (LAUNCHER, "role_half", {"batch_size": 1, "steps": 2}),
    ):
        assert_runs(launcher, workflow(tmp_path, name, roles=True, **given), base)
    file = workflow(tmp_path, "role_half", roles=True, batch_size=1, resume_from="latest")
    for node in ("17", "18"):
        (base / "output" / "qr_loras" / f"role_half{node}_00001_.safetensors").unlink()
    assert_runs(LAUNCHER, file, base)
    for node in ("17", "18"):
        assert largest_change(base, node, "role_one", "role_two") <= 1e-3
        assert largest_change(base, node, "role_half", "role_two") == 0


def test_a_failure_names_the_node_and_ends_with_an_error(base: Path, tmp_path: Path) -> None:
    status, errors = run([], workflow(tmp_path, "bad", targets="custom", custom_targets="no_such_layer"), base)
    assert status == 1
    assert "QRLoRA_Train" in errors
    assert "no layer of this model matches" in errors


def test_a_workflow_without_training_is_refused(base: Path, tmp_path: Path) -> None:
    file = tmp_path / "none.json"
    file.write_text("{}", encoding="utf-8")
    status, errors = run([], file, base)
    assert status == 2
    assert "no QRLoRA_Train node" in errors
