"""Every error that this package raises on purpose, under one base class."""


class QRLoRAError(Exception):
    """Base class. The message names the file or layer, what was expected, what was found, and what to do."""


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
