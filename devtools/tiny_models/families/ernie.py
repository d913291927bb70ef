"""ERNIE-Image."""

from ..architecture import Architecture

ARCHITECTURES: dict[str, Architecture] = {}
