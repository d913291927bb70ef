"""The judge of one training: it knows the pictures that are learned, and looks at the samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from .....qrlora_core import TrainingError
from ...model.host_types import ClipVision, HostModel
from ..dataset import Example
from ..role.settings import CONTENT, STYLE
from ..samples import ELSEWHERE, OWN, WITHOUT_WORD, SampleSettings
from ..seen import evenly, picture_of
from ..shown import Picture
from . import rough
from .clip_vision import embedding, require_room
from .scores import Scores, excess, freedom, leak, likeness

ROUGH, ENCODER = "rough", "encoder"
_MOST = 32  # pictures that samples are compared with
Measure = Callable[[Tensor], Tensor]  # of a picture (height, width, 3), 0 to 1, to (features,) of length 1

_TO_BRING = {CONTENT: rough.layout, STYLE: rough.look, None: rough.whole}
_NOT_TO_BRING = {CONTENT: (rough.look,), STYLE: (rough.layout,), None: (rough.layout, rough.look)}


@dataclass
class Judging:
    """What is asked of the samples of a training; by default nothing.

    Attributes:
        encoder: what compares the pictures; without one it is done roughly.
        learned: the pictures that are learned; none where nothing is judged.
        bases: what the base draws by itself, by the kind of sample.
    """

    encoder: ClipVision | None = None
    likeness_by: Measure = rough.whole
    leak_by: Measure = rough.whole
    excess_by: tuple[Measure, ...] = ()
    learned: Sequence[Picture] = ()
    bases: dict[str, Picture] = field(default_factory=dict)
    _known: dict[Measure, Tensor] = field(default_factory=dict)
    _of_bases: dict[tuple[str, Measure], Tensor] = field(default_factory=dict)

    @property
    def name(self) -> str | None:
        """What compares the pictures; None where nothing does."""
        return (ROUGH if self.encoder is None else ENCODER) if self.learned else None

    def learn(self) -> None:
        """Look at what is learned, before anything trains."""
        for measure in (self.likeness_by, *self.excess_by):
            self._of_learned(measure)

    def scores(self, drawn: Mapping[str, Picture]) -> Scores:
        """Of one set of samples, see `scores`.

        Raises:
            TrainingError: there is no memory to decode a sample, or for the encoder.
            Exception: what an image encoder raises.
        """
        if self.encoder is not None:
            require_room(self.encoder)
        self._require_alike([*drawn.values(), *self.bases.values()])
        own = drawn.get(OWN)
        like = likeness(self.likeness_by(own.pixels), self._of_learned(self.likeness_by)) if own else None
        return Scores(like, freedom(self._leak(drawn.get(WITHOUT_WORD)), self._excess(drawn.get(ELSEWHERE))))

    def _require_alike(self, pictures: Sequence[Picture]) -> None:
        if len({picture.is_decoded for picture in (*pictures, *self.learned)}) > 1:
            raise TrainingError("no memory for the VAE beside the training, and a latent is not compared with pictures")

    def _of_learned(self, measure: Measure) -> Tensor:
        if measure not in self._known:
            self._known[measure] = torch.stack([measure(picture.pixels) for picture in self.learned])
        return self._known[measure]

    def _of_base(self, kind: str, measure: Measure) -> Tensor:
        if (kind, measure) not in self._of_bases:
            self._of_bases[kind, measure] = measure(self.bases[kind].pixels)
        return self._of_bases[kind, measure]

    def _leak(self, bare: Picture | None) -> float | None:
        if bare is None or WITHOUT_WORD not in self.bases:
            return None
        return leak(self.leak_by(bare.pixels), self._of_base(WITHOUT_WORD, self.leak_by))

    def _excess(self, other: Picture | None) -> float | None:
        if other is None or ELSEWHERE not in self.bases:
            return None
        by = self.excess_by
        now, before = [measure(other.pixels) for measure in by], [self._of_base(ELSEWHERE, measure) for measure in by]
        return excess(now, before, [self._of_learned(measure) for measure in by])


def judging_of(samples: SampleSettings, examples: Sequence[Example], model: HostModel, role: str | None) -> Judging:
    """The judge before the pictures that are learned, looked at before the model is loaded.

    Raises:
        TrainingError: nothing shows the pictures.
        Exception: what a VAE or an image encoder raises.
    """
    if not samples.is_judged:
        return Judging()
    found = [picture_of(example, model, samples.vae) for example in evenly(examples, _MOST)]
    learned = [picture for picture in found if picture is not None]
    if not learned:
        raise TrainingError("this model's latents have no preview; connect a VAE to vae")
    to_bring, any_change = _TO_BRING[role], rough.whole
    if samples.judge is not None:
        to_bring = any_change = partial(embedding, samples.judge)
    judging = Judging(samples.judge, to_bring, any_change, _NOT_TO_BRING[role], learned)
    judging.learn()
    return judging
