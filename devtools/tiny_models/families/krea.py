"""Krea 2."""

from ..architecture import Architecture
from ..conditioning import CONTEXT_WIDTH

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

ARCHITECTURES = {
    "krea2": Architecture("Krea 2", "Krea2", _KREA2, (16, 1, 16, 16)),
}
