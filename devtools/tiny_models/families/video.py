"""Video models with a transformer of their own: Mochi, CogVideoX, MiniMax and others."""

from ..architecture import Architecture

ARCHITECTURES: dict[str, Architecture] = {}
