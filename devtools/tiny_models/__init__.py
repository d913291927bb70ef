"""Small random-weight models of true architecture: the host's own classes, key names and key maps.

Only widths and depths are reduced. What a newer host asks for beyond the settings here, its own detection is asked.
Call `devtools.host.boot()` first.
"""

from .architecture import Released
from .build import build, real_width_flux, released
from .inputs import call_options, example, predict, sample_inputs
from .quantize import quantized, quantized_forms
from .registry import NAMES, TITLES, UNSERVED, config_of, edits, lacking, limits_of, published, variant_of
from .weights import BLOCK

__all__ = [
    "BLOCK",
    "NAMES",
    "TITLES",
    "UNSERVED",
    "Released",
    "build",
    "call_options",
    "config_of",
    "edits",
    "example",
    "lacking",
    "limits_of",
    "predict",
    "published",
    "quantized",
    "quantized_forms",
    "real_width_flux",
    "released",
    "sample_inputs",
    "variant_of",
]
