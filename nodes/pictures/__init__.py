"""Draw pictures for people."""

from .comparison import comparison_plot
from .drawing import as_image
from .grid import LabelledGrid, labelled_grid, shrunk
from .training import training_view

__all__ = ["LabelledGrid", "as_image", "comparison_plot", "labelled_grid", "shrunk", "training_view"]
