"""One booted host per session, in the inference mode in which it executes nodes."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from devtools.host import boot
from devtools.server import Server

from ..support.servers import SharedServer

boot(nodes=True)
from devtools import tiny_models  # noqa: E402

torch.set_num_threads(1)  # tiny models: more threads only wait for each other


@pytest.fixture(scope="module")
def server(shared_server: SharedServer) -> Server:
    """A real server, with the playground's models and pictures and nothing of other files of tests."""
    shared_server.tidy()
    return shared_server


@pytest.fixture(autouse=True)
def as_the_host_executes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nodes run inside `torch.inference_mode`."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def model() -> Any:
    """A tiny SD3, a new one for each file of tests."""
    return tiny_models.build("sd3")
