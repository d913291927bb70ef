"""QR-LoRA in pure PyTorch: decompose, train, merge and store adapters ``W' = W + scaling * Q dR``.

Method: Yang et al., "QR-LoRA: Efficient and Disentangled Fine-tuning via QR Decomposition for Customized
Generation", ICCV 2025 (arXiv 2507.04599). Not to be confused with arXiv 2508.21810 of the same name.
"""

from .adapter import Layer, QRLoRA, Term
from .checkpoint import load_adapter, save_adapter
from .decompose import Factors, decompose
from .errors import (
    AdapterError,
    AdapterFileError,
    DecompositionError,
    QRLoRAError,
    ScheduleError,
    TargetError,
    TrainingError,
)
from .merge import merge
from .schedule import Schedule
from .targets import PRESETS, select
from .train import OptimizerSettings, TrainableDelta, Trainer

__all__ = [
    "PRESETS",
    "AdapterError",
    "AdapterFileError",
    "DecompositionError",
    "Factors",
    "Layer",
    "OptimizerSettings",
    "QRLoRA",
    "QRLoRAError",
    "Schedule",
    "ScheduleError",
    "TargetError",
    "Term",
    "TrainableDelta",
    "Trainer",
    "TrainingError",
    "decompose",
    "load_adapter",
    "merge",
    "save_adapter",
    "select",
]
