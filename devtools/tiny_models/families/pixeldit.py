"""Models that draw pixels without a VAE."""

from ..architecture import Architecture

ARCHITECTURES: dict[str, Architecture] = {}
