"""Where in the sampling a noise level stands, as the host counts percents."""

from __future__ import annotations

from bisect import bisect_left

from torch import Tensor

from ..model.host_types import Patcher

_RESOLUTION = 1000


class SamplingProgress:
    """Inverts the host's ``percent_to_sigma``: 0 at the first step, 1 at the last.

    Args:
        patcher: its ``model_sampling`` may be replaced by another node's.
    """

    def __init__(self, patcher: Patcher) -> None:
        sampling = patcher.get_model_object("model_sampling")
        self._percents = [index / _RESOLUTION for index in range(_RESOLUTION, -1, -1)]
        self._sigmas = [float(sampling.percent_to_sigma(percent)) for percent in self._percents]

    def at(self, sigma: Tensor) -> float:
        """Progress of the largest noise level in the batch, interpolated."""
        level = float(sigma.max())
        right = bisect_left(self._sigmas, level)
        if right == 0:
            return self._percents[0]
        if right == len(self._sigmas):
            return self._percents[-1]
        low, high = self._sigmas[right - 1], self._sigmas[right]
        share = (level - low) / (high - low)
        return self._percents[right - 1] + share * (self._percents[right] - self._percents[right - 1])
