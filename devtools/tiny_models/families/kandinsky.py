"""Kandinsky 5."""

from ..architecture import Architecture

ARCHITECTURES: dict[str, Architecture] = {}
