"""Stable Cascade."""

from ..architecture import Architecture

ARCHITECTURES: dict[str, Architecture] = {}
