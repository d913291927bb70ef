"""QR-LoRA in pure PyTorch: decompose, train, merge and store adapters ``W' = W + scaling * Q dR``.

Method: Yang et al., "QR-LoRA: Efficient and Disentangled Fine-tuning via QR Decomposition for Customized
Generation", ICCV 2025 (arXiv 2507.04599). Not to be confused with arXiv 2508.21810 of the same name.
"""

from .adapter import Layer, Origin, QRLoRA
from .change import Change, Stage, are_one_shape
from .errors import (
    AdapterError,
    AdapterFileError,
    DecompositionError,
    QRLoRAError,
    Reason,
    ScheduleError,
    TargetError,
    TrainingError,
)
from .files.adapter_file import load_adapter, save_adapter
from .files.basis_store import BasisStore
from .files.formats import FORMATS
from .files.text_encoder_names import is_of_text_encoder
from .files.training_state import TrainingState, load_training, save_training
from .functional.as_terms import as_terms
from .functional.compare import Comparison, as_table, compare
from .functional.decompose import Factors, decompose
from .functional.merge import group_by_basis, merge
from .functional.null_space import null_space
from .functional.rebase import Rebased, overall_energy, rebase_layer, reduce_layer, require_captured
from .functional.scale_blocks import parse_rules, scale_blocks
from .functional.ties import ties
from .metadata import BASE_FINGERPRINT, json_object
from .schedule import Schedule, make_curve, parse_points
from .term import Term, from_difference
from .text import UNREADABLE, listed
from .train.delta import TrainableDelta
from .train.lora import TrainableLoRA
from .train.objective import ObjectiveSettings
from .train.optimizers import OptimizerSettings
from .train.targets import PRESETS, select
from .train.trainable import Trainable
from .train.trainer import Trainer

__all__ = [
    "BASE_FINGERPRINT",
    "FORMATS",
    "PRESETS",
    "UNREADABLE",
    "AdapterError",
    "AdapterFileError",
    "BasisStore",
    "Change",
    "Comparison",
    "DecompositionError",
    "Factors",
    "Layer",
    "ObjectiveSettings",
    "OptimizerSettings",
    "Origin",
    "QRLoRA",
    "QRLoRAError",
    "Reason",
    "Rebased",
    "Schedule",
    "ScheduleError",
    "Stage",
    "TargetError",
    "Term",
    "Trainable",
    "TrainableDelta",
    "TrainableLoRA",
    "Trainer",
    "TrainingError",
    "TrainingState",
    "are_one_shape",
    "as_table",
    "as_terms",
    "compare",
    "decompose",
    "from_difference",
    "group_by_basis",
    "is_of_text_encoder",
    "json_object",
    "listed",
    "load_adapter",
    "load_training",
    "make_curve",
    "merge",
    "null_space",
    "overall_energy",
    "parse_points",
    "parse_rules",
    "rebase_layer",
    "reduce_layer",
    "require_captured",
    "save_adapter",
    "save_training",
    "scale_blocks",
    "select",
    "ties",
]
