"""What cannot be judged, told before anything is loaded, and what to know of how it is."""

from __future__ import annotations

from .....qrlora_core import TrainingError
from ..samples import ELSEWHERE, NO_MARK, WITHOUT_WORD, SampleSettings
from .best import MARKS, NEEDS_FREEDOM


def check_judged(samples: SampleSettings, steps: int) -> None:
    """Refuse what is asked of samples that are never drawn, or of too few of them.

    Raises:
        TrainingError: names the input, and what to connect or set.
    """
    if samples.mark_best not in MARKS:
        raise TrainingError(f"mark_best: expected one of {', '.join(MARKS)}, found {samples.mark_best!r}.")
    wanted = {"mark_best": samples.mark_best != NO_MARK, "judge": samples.judge is not None}
    named = " and ".join(name for name, is_wanted in wanted.items() if is_wanted)
    if named and not samples.every:
        raise TrainingError(
            f"sample_every is 0, so no sample is drawn for {named} to go by. Set sample_every, to 100 for example, or "
            "set mark_best to none and disconnect judge."
        )
    if samples.mark_best != NO_MARK and samples.every > steps:
        raise TrainingError(
            f"mark_best: sample_every is {samples.every} and steps {steps}, so no sample is ever drawn. Lower "
            "sample_every, or set mark_best to none."
        )
    if samples.mark_best in NEEDS_FREEDOM and not samples.captions:
        raise TrainingError(
            f"mark_best {samples.mark_best}: freedom is seen in other words than the caption's, and neither "
            "without_word nor elsewhere is connected. Connect one of them, or set mark_best to likeness."
        )


def judged_notes(samples: SampleSettings, *, keeps: bool) -> list[str]:
    """What is connected and not used, how rough the measure is, and what will not be kept."""
    drawn = {WITHOUT_WORD: samples.without_word, ELSEWHERE: samples.elsewhere}
    idle = " and ".join(name for name, caption in drawn.items() if caption is not None)
    if idle and not samples.every:
        return [f"sample_every is 0: {idle} connected, and not drawn"]
    if not samples.is_judged:
        return []
    rough = "samples are compared by a rough measure of edges and colours; connect an image encoder to judge"
    blurred = "vae is not connected: what is compared are the rough colours of latents"
    unkept = "keep_checkpoints is 0: the best step is named, and not kept"
    return [
        *([rough] if samples.judge is None else []),
        *([blurred] if samples.vae is None else []),
        *([unkept] if samples.mark_best != NO_MARK and not keeps else []),
    ]
