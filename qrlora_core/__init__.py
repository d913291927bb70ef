"""QR-LoRA in pure PyTorch: decompose, train, merge and store adapters ``W' = W + scaling * Q dR``.

Method: Yang et al., "QR-LoRA: Efficient and Disentangled Fine-tuning via QR Decomposition for Customized
Generation", ICCV 2025 (arXiv 2507.04599). Not to be confused with arXiv 2508.21810 of the same name.
"""

from .adapter import Layer, QRLoRA, Term
from .analysis import compare
from .basis import BasisStore
from .checkpoint import FORMATS, load_adapter, save_adapter
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
from .modes import null_space, ties
from .objective import ObjectiveSettings
from .optimizers import OptimizerSettings
from .rebase import Rebased, overall_energy, rebase_layer, reduce_layer, require_captured
from .schedule import Schedule
from .targets import PRESETS, select
from .train import TrainableDelta, Trainer
from .training_state import TrainingState, load_training, save_training

__all__ = [
    "FORMATS",
    "PRESETS",
    "AdapterError",
    "AdapterFileError",
    "BasisStore",
    "DecompositionError",
    "Factors",
    "Layer",
    "ObjectiveSettings",
    "OptimizerSettings",
    "QRLoRA",
    "QRLoRAError",
    "Rebased",
    "Schedule",
    "ScheduleError",
    "TargetError",
    "Term",
    "TrainableDelta",
    "Trainer",
    "TrainingError",
    "TrainingState",
    "compare",
    "decompose",
    "load_adapter",
    "load_training",
    "merge",
    "null_space",
    "overall_energy",
    "rebase_layer",
    "reduce_layer",
    "require_captured",
    "save_adapter",
    "save_training",
    "select",
    "ties",
]
