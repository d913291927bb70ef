"""What makes a mix keep both: methods, recipes and merges on the embedded model, judged; or on a model of yours.

    python dev.py bench evidence              all of it, in parts of any length: what is done is not done again
    python dev.py bench evidence --tuning     the tuning split alone
    python dev.py bench evidence --quick      two methods, two recipes, 4 x 4 x 3: the direction only

`python -m benchmarks.evidence.gates` tells whether the base model and its single adapters are good enough to be asked.
It runs on a GPU where QRLORA_TEST_DEVICE is cuda.

Raw results go to `benchmarks/results/evidence`, one file a cell; `python -m benchmarks.evidence.report` makes
`docs/evidence.md` of them.

    python dev.py bench evidence --checkpoint NAME --contents DIR --styles DIR

asks a model of a ComfyUI instead, with pictures and judges of your own; --checkpoint NAME --help tells the rest.
"""

from __future__ import annotations

import sys

OF_A_MODEL = ("--checkpoint", "--diffusion-model")


def main() -> None:
    """Command line. What either experiment imports boots a host of its own."""
    if any(argument.split("=")[0] in OF_A_MODEL for argument in sys.argv[1:]):
        from benchmarks.evidence.real.command import main as on_real_model

        sys.exit(on_real_model(sys.argv[1:]))
    from benchmarks.evidence.embedded import main as on_embedded_model

    on_embedded_model(__doc__)


if __name__ == "__main__":
    main()
