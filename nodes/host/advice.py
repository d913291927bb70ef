"""What a user of ComfyUI can do about an error of the core, which knows of no node: added once, on the way out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ...qrlora_core import QRLoRAError, Reason

_ADVICE = {
    Reason.OTHER_BASE: "Connect that model.",
    Reason.BASE_NEEDED: "Connect it to the input model of Load QR-LoRA.",
    Reason.CONTAINS_BASE: "Merge it with mode add; or put QR-LoRA Rebase with this model before, which makes a "
    "low-rank adapter of it.",
    Reason.NOT_LOW_RANK: "Or put QR-LoRA Rebase before, with a rank: it says what of the adapter that keeps.",
    Reason.NOT_ON_ONE_BASIS: "Or put QR-LoRA Rebase before.",
    Reason.OTHER_KIND: "ComfyUI's own LoRA loader reads more kinds; it may stand before or after QR-LoRA Merge.",
    Reason.OTHER_TRAINING: "Start a new run, without resume_from.",
    Reason.DIVERGED: "Or choose training_dtype fp32.",
}


@contextlib.contextmanager
def advised() -> Iterator[None]:
    """Within the context, errors of the core say what to do in ComfyUI."""
    try:
        yield
    except QRLoRAError as error:
        if error.reason is None:
            raise
        raise type(error)(f"{error} {_ADVICE[error.reason]}") from error
