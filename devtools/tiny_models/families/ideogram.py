"""Ideogram 4."""

from ..architecture import Architecture

ARCHITECTURES: dict[str, Architecture] = {}
