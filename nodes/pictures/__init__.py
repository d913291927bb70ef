"""Draw pictures for people."""

from .comparison import comparison_plot
from .drawing import as_image
from .grid import labelled_grid
from .training import training_view

__all__ = ["as_image", "comparison_plot", "labelled_grid", "training_view"]
