"""One booted host per session, in the inference mode in which it executes nodes."""

from collections.abc import Iterator

import pytest
import torch

from devtools.host import boot

boot(nodes=True)
torch.set_num_threads(1)  # tiny models: more threads only wait for each other


@pytest.fixture(autouse=True)
def as_the_host_executes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nodes run inside `torch.inference_mode`."""
    with torch.inference_mode():
        yield
