"""What a training is: its settings, data and base, for the file, and for going on from one."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from ....qrlora_core import BASE_FINGERPRINT, Trainer, TrainingError, TrainingState
from ....qrlora_core.files.adapter_file import describe
from ....qrlora_core.train import distributed
from ..model.host_types import Patcher
from ..model.key_map import Target
from ..model.weights import base_name, fingerprint
from .dataset import TrainingSet
from .presets.preset import Preset
from .report import loss_ends
from .settings import TrainingSettings

# What settings meant before they were there: a checkpoint of then goes on.
_BEFORE_THERE_WERE = {"min_timestep": 0, "max_timestep": 1000, "noise_bias": 0.0}


class TrainingRecord:
    """Describes one training."""

    def __init__(
        self,
        patcher: Patcher,
        targets: Mapping[str, Target],
        data: TrainingSet,
        settings: TrainingSettings,
        preset: Preset | None = None,
    ) -> None:
        self._preset = {} if preset is None else {"preset": f"{preset.name}, {preset.family}"}
        self._settings, self._images = settings, len(data.examples)
        self._base, self._fingerprint = base_name(patcher), fingerprint(patcher, targets)
        self._record = {
            **_flat(asdict(settings)), "processes": distributed.world_size(),
            "caption_dropout": data.caption_dropout, "prior_weight": data.prior_weight,
            "repeats": [example.repeats for example in data.examples],
            "noise_levels_of_model": _noise_levels(patcher), "patches_on_model": _patches(patcher),
        }  # fmt: skip
        self._data = data.fingerprint()
        self._start = time.monotonic()

    def metadata(self, losses: Sequence[float]) -> dict[str, str]:
        """Of an adapter after so many updates."""
        settings = self._settings
        figures = {
            "images": self._images, "steps_done": len(losses), "seconds": round(time.monotonic() - self._start, 1),
            **loss_ends(losses),
        }  # fmt: skip
        return describe(
            base_model=self._base,
            architecture=self._base,
            rank=settings.rank,
            alpha=settings.alpha or float(settings.rank),
            variant=settings.variant,
            training={**_flat(asdict(settings)), **self._preset, **figures},
            base_fingerprint=self._fingerprint,
        )

    def state(self, trainer: Trainer, losses: Sequence[float]) -> TrainingState:
        """For a checkpoint, but for the random state."""
        tensors, record = trainer.state()
        tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
        return TrainingState(
            trainer.adapter(self.metadata(losses)),
            tensors,
            {"trainer": record, "settings": self._record, "data": self._data},
        )

    def require_same(self, resumed: TrainingState) -> None:
        """Refuse to go on from a checkpoint of another training.

        Raises:
            TrainingError: names every difference.
        """
        differences = self._changed_settings(resumed.record["settings"], resumed.record["trainer"]["updates"])
        if resumed.record["data"] != self._data:
            differences.append(
                "the pictures, captions or masks are others (a GPU may encode the same ones a little differently; "
                "Save Training Dataset keeps them as they are)"
            )
        base = json.loads(resumed.adapter.metadata[BASE_FINGERPRINT])
        others = sum(base.get(path) != digest for path, digest in self._fingerprint.items())
        if others or len(base) != len(self._fingerprint):
            differences.append(f"the base model is another in {others} of {len(self._fingerprint)} layers")
        if differences:
            raise TrainingError(
                f"resume_from {resumed.adapter.name}: this is another training: {'; '.join(differences)}. Set it as "
                "it was, or set resume_from to none to start anew."
            )

    def _changed_settings(self, saved: Mapping[str, Any], updates: int) -> list[str]:
        free = {"gradient_checkpointing"}
        saved = {**_BEFORE_THERE_WERE, **saved}
        # Other steps are no change while the learning rate does not depend on how many there are.
        if self._settings.optimizer.schedule == "constant" and self._settings.steps >= updates:
            free.add("steps")
        return [
            f"{name} was {saved.get(name)} and is {value}"
            for name, value in self._record.items()
            if name not in free and saved.get(name) != value
        ]


def _noise_levels(patcher: Patcher) -> list[float]:
    """What another node's shift would change."""
    sampling = patcher.get_model_object("model_sampling")
    return [round(float(sampling.percent_to_sigma(percent)), 6) for percent in (0.25, 0.5, 0.75)]


def _patches(patcher: Patcher) -> str:
    """Which weights other nodes changed, and how strongly: LoRA loaders before the training."""
    strengths = {str(key): [patch[0] for patch in patches] for key, patches in patcher.patches.items()}
    text = json.dumps(strengths, sort_keys=True, default=str)
    return f"{len(strengths)} weights, {hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings as one level; the node's own values win over the defaults inside ``optimizer``."""
    flat: dict[str, Any] = {}
    for value in settings.values():
        flat |= value if isinstance(value, dict) else {}
    return flat | {name: value for name, value in settings.items() if not isinstance(value, dict)}
