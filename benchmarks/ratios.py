"""Claims of the benchmarks: one line each, and a non-zero exit when one falls short."""

import sys

_failed: list[str] = []


def claim(label: str, value: float, bar: float, at_least: bool = True) -> bool:
    """Print `label: ratio: X (bar Y)` and remember whether the bar was missed.

    Args:
        label: what is compared, with units where there are any.
        value: the measured figure.
        bar: the figure promised.
        at_least: the value must reach the bar; False: it must not exceed it.

    Returns:
        whether the claim holds.
    """
    holds = value >= bar if at_least else value <= bar
    # Shares close to one need their nines; other figures are no more exact than three digits.
    digits = 7 if 0.9 < value < 1.1 else 3
    print(f"{label}: ratio: {value:.{digits}g} (bar {bar:g})" + ("" if holds else "  MISSED"), flush=True)
    if not holds:
        _failed.append(label)
    return holds


def finish() -> None:
    """End the script: exit 1, naming the claims that were missed, or return where all hold."""
    if _failed:
        sys.exit("missed: " + "; ".join(_failed))
