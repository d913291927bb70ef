"""Krea 2."""

from ..architecture import Architecture, Released
from ..conditioning import CONTEXT_WIDTH, constant, reference_latents

_KREA2 = {
    "image_model": "krea2",
    "features": 128,
    "heads": 4,
    "kvheads": 2,
    "layers": 2,
    "channels": 16,
    "patch": 2,
    "txtlayers": 3,
    "txtdim": CONTEXT_WIDTH // 3,
    "txtheads": 2,
    "txtkvheads": 2,
}
_TRUE = {
    "features": 6144, "heads": 48, "kvheads": 12, "layers": 28, "txtlayers": 12, "txtdim": 2560, "txtheads": 20,
    "txtkvheads": 20,
}  # fmt: skip

ARCHITECTURES = {
    "krea2": Architecture(
        "Krea 2", "Krea2", _KREA2, (16, 1, 16, 16), conditioning=(),
        # The network has no method of its own for them: without one it leaves them out.
        reference=(reference_latents(16, 1, 16, 16), constant(reference_latents_method="index")),
        released=(
            Released(
                "Krea 2", _KREA2 | _TRUE, 12.9,
                {"blocks": 28, "txtfusion.layerwise_blocks": 2, "txtfusion.refiner_blocks": 2},
                "model card of CalamitousFelicitousness/Krea-2-Base-Diffusers: 12.9B, 28 blocks 6144 wide (Raw, Turbo)",
            ),
        ),
    ),
}  # fmt: skip
