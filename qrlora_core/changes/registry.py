"""All changes, by their names in files."""

from __future__ import annotations

from ..change import Change
from .blocks import BlockProduct, Butterfly
from .dora import Dora
from .input_product import InputProduct
from .kronecker import Kronecker
from .scales import ColumnScale, RowScale

CHANGES: dict[str, type[Change]] = {
    own.tag: own for own in (Kronecker, RowScale, ColumnScale, InputProduct, BlockProduct, Butterfly, Dora)
}
