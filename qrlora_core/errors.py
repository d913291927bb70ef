"""Every error that this package raises on purpose, under one base class."""

from __future__ import annotations

from enum import Enum, auto


class Reason(Enum):
    """Why, where what to do about it depends on the program that uses this package: whoever shows the error adds it."""

    OTHER_BASE = auto()  # made for another base model
    BASE_NEEDED = auto()  # only the base model can give what the file leaves out
    CONTAINS_BASE = auto()  # another change on every base weight, and so no sum of low-rank terms
    NOT_LOW_RANK = auto()  # of full rank, or not the same on every base weight
    NOT_ON_ONE_BASIS = auto()  # more than dR on the basis of the base model
    OTHER_KIND = auto()  # of a kind that has no QR form, or told in a way that is not read here
    OTHER_TRAINING = auto()  # a state of another training
    DIVERGED = auto()  # a number that is not finite


class QRLoRAError(Exception):
    """Base class. The message names the file or layer, what was expected and what was found.

    Args:
        reason: see `Reason`; None where the message itself says what to do.
    """

    def __init__(self, message: str = "", reason: Reason | None = None) -> None:
        super().__init__(message)
        self.reason = reason


class DecompositionError(QRLoRAError):
    """A weight cannot be decomposed as asked (shape, rank, non-finite values)."""


class AdapterError(QRLoRAError):
    """An adapter is inconsistent in itself (shapes, rank, alpha, NaN)."""


class AdapterFileError(QRLoRAError):
    """A file is missing, damaged, of another kind, or cannot be written."""


class TargetError(QRLoRAError):
    """A choice of layers matches nothing, or an adapter fits none of a model's layers."""


class ScheduleError(QRLoRAError):
    """A scale schedule that cannot be read, or cannot be applied as asked."""


class TrainingError(QRLoRAError):
    """Training cannot start or go on (data, captions, settings, loss)."""
