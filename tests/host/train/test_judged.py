"""Samples that are judged: what is drawn and seen, which step is marked and kept; and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from comfyui_qr_lora.nodes.host.files import folders
from comfyui_qr_lora.nodes.host.files.checkpoints import checkpoint_path, latest_checkpoint
from comfyui_qr_lora.nodes.host.train import loop, shown
from comfyui_qr_lora.nodes.host.train.dataset import first_caption
from comfyui_qr_lora.nodes.host.train.judge import clip_vision, rough
from comfyui_qr_lora.nodes.host.train.judge.clip_vision import embedding
from comfyui_qr_lora.nodes.host.train.judge.judging import Judging
from comfyui_qr_lora.nodes.host.train.judge.scores import Scores, excess, leak, likeness
from comfyui_qr_lora.nodes.host.train.report import TrainingResult, describe_training
from comfyui_qr_lora.nodes.host.train.role.settings import CONTENT, STYLE, RoleSettings
from comfyui_qr_lora.nodes.host.train.samples import KINDS, SampleSettings
from comfyui_qr_lora.nodes.host.train.settings import RESUME_LATEST, RunSettings
from comfyui_qr_lora.nodes.host.train.train import View
from comfyui_qr_lora.nodes.pictures import training_view
from comfyui_qr_lora.nodes.train import Train
from comfyui_qr_lora.qrlora_core import (
    OptimizerSettings,
    TrainingError,
    TrainingState,
    load_adapter,
    load_training,
    save_training,
)
from devtools import tiny_models

from ...support.encoders import BlockMeans, pictures
from ...support.image_encoders import CONFIGURATIONS, narrow_encoder
from ...support.models import models
from ...support.training_task import SETTINGS, assert_same, caption, latent, train

OWN, WITHOUT_WORD, ELSEWHERE = KINDS
PAGE = View("7")
VAE = BlockMeans()
PICTURES = [{"samples": VAE.encode(pictures(2))}]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of checkpoints, in an output folder of this test's own."""
    monkeypatch.setattr(folders.folder_paths, "get_output_directory", lambda: str(tmp_path))
    monkeypatch.setattr(folders.folder_paths, "get_temp_directory", lambda: str(tmp_path / "temp"))
    return tmp_path / "qr_loras" / "checkpoints"


def judged(run: Mapping[str, Any] | None = None, **samples: Any) -> RunSettings:
    """Samples at every second step, with both further captions."""
    given = {"without_word": caption(30)[0], "elsewhere": caption(31)[0], "vae": VAE, "every": 2, "steps": 2}
    return RunSettings(**{"run_name": "judged", **(run or {})}, samples=SampleSettings(**given | samples))


def train_judged(model: Any, run: RunSettings, **changes: Any) -> TrainingResult:
    return train(model, PICTURES, run=run, view=PAGE, **{"learning_rate": 0.1, **changes})


def own(result: TrainingResult) -> list[dict[str, Any]]:
    return [entry for entry in result.status.samples if entry["kind"] == OWN]


def files(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step_")) for path in folder.rglob("*.safetensors"))


# What is drawn


def test_each_kind_is_drawn_with_each_sample_and_the_base_once(model: Any) -> None:
    result = train_judged(model, judged())
    assert {kind: [step for step, _ in row] for kind, row in result.pictures.items()} == {
        OWN: [2, 4, 6], WITHOUT_WORD: [0, 2, 4, 6], ELSEWHERE: [0, 2, 4, 6],
    }  # fmt: skip
    first = {kind: row[-1][1] for kind, row in result.pictures.items()}
    assert not torch.equal(first[OWN], first[WITHOUT_WORD])
    assert not torch.equal(first[OWN], first[ELSEWHERE])
    assert [(entry["kind"], entry["step"]) for entry in result.status.samples[:5]] == [
        (WITHOUT_WORD, 0), (ELSEWHERE, 0), (OWN, 2), (WITHOUT_WORD, 2), (ELSEWHERE, 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "given",
    [
        {}, {"variant": "qr"}, {"variant": "lora"}, {"gradient_checkpointing": True},
        {"optimizer": OptimizerSettings(ema_decay=0.9)}, {"role": RoleSettings(variants=3).recipe(STYLE)},
    ],
    ids=["triu", "qr", "lora", "checkpointing", "average", "role"],
)  # fmt: skip
def test_what_is_trained_is_the_same_bit_for_bit(model: Any, given: dict[str, Any]) -> None:
    result, plain = (
        train_judged(model, judged(mark_best="both"), **given),
        train(model, PICTURES, **{"learning_rate": 0.1, **given}),
    )
    assert_same(result.adapter, plain.adapter)
    assert result.losses == plain.losses


@pytest.mark.parametrize("name", models(["sd15", "flux", "wan", "ltxav", "z_image"]))
def test_other_models_are_judged_by_their_rough_colours(name: str) -> None:
    """Noise as velocity and as noise, videos, a video with sound: the same adapter, and numbers in their range."""
    patcher = tiny_models.build(name)
    (given, text), (_, bare), (_, other) = (tiny_models.example(name, patcher, seed=seed) for seed in (1, 2, 3))
    run = judged(vae=None, every=1, without_word=bare[0], elsewhere=other[0])
    result = train(patcher, [given], [text], run=run, view=PAGE, steps=2, learning_rate=0.05)
    assert_same(result.adapter, train(patcher, [given], [text], steps=2, learning_rate=0.05).adapter)
    assert not [note for note in result.notes if "not judged" in note]
    assert len(own(result)) == 2
    assert all(0 <= entry[name] <= 1 for entry in own(result) for name in ("likeness", "freedom"))


@pytest.mark.parametrize("variant", ["triu", "full", "qr", "lora"])
def test_the_base_draws_without_the_adapter_where_a_training_goes_on(model: Any, variant: str) -> None:
    """The same picture as before the first step, when there was none."""
    run = judged({"keep_checkpoints": 1})
    first = train_judged(model, run, variant=variant, steps=4)
    again = train_judged(model, replace(run, resume_from=RESUME_LATEST), variant=variant)
    for kind in (WITHOUT_WORD, ELSEWHERE):
        (_, before), (step, after) = first.pictures[kind][0], again.pictures[kind][0]
        assert step == 0
        assert torch.equal(before, after)
        assert not torch.equal(before, first.pictures[kind][-1][1])


# What is seen


def test_what_does_nothing_is_free_and_what_is_overtrained_is_not(model: Any) -> None:
    """Updates too small for any number to change leave the base's pictures, bit for bit."""
    idle, busy = (train_judged(model, judged(), learning_rate=rate) for rate in (1e-30, 1.0))
    for kind in (WITHOUT_WORD, ELSEWHERE):
        (_, base), *rest = idle.pictures[kind]
        assert all(torch.equal(base, picture) for _, picture in rest)
    assert [entry["freedom"] for entry in own(idle)] == [1, 1, 1]
    assert all(entry["freedom"] < 1 for entry in own(busy))


@pytest.mark.parametrize("role", [None, CONTENT, STYLE])
def test_the_scores_are_those_of_the_pictures_that_are_shown(model: Any, role: str | None) -> None:
    recipe = None if role is None else RoleSettings(variants=1).recipe(role)
    result = train_judged(model, judged(), role=recipe)
    learned = [VAE.decode(one)[0].clamp(0, 1) for one in PICTURES[0]["samples"].split(1)]
    to_bring = {None: rough.whole, CONTENT: rough.layout, STYLE: rough.look}[role]
    not_to_bring = {None: [rough.layout, rough.look], CONTENT: [rough.look], STYLE: [rough.layout]}[role]
    (_, bare_base), *bare = result.pictures[WITHOUT_WORD]
    (_, other_base), *other = result.pictures[ELSEWHERE]

    def known(measure: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.stack([measure(picture) for picture in learned])

    for entry, (_, drawn), (_, now), (_, there) in zip(own(result), result.pictures[OWN], bare, other, strict=True):
        leaked = leak(rough.whole(now), rough.whole(bare_base))
        embedded = ([measure(picture) for measure in not_to_bring] for picture in (there, other_base))
        brought = excess(*embedded, [known(measure) for measure in not_to_bring])
        assert entry["likeness"] == pytest.approx(likeness(to_bring(drawn), known(to_bring)), abs=1e-5)
        assert entry["freedom"] == pytest.approx(1 - (leaked + brought) / 2, abs=1e-5)


@pytest.mark.parametrize(
    ("missing", "found"),
    [
        ({"without_word": None, "elsewhere": None, "mark_best": "likeness"}, (True, False)),
        ({"elsewhere": None}, (True, True)),
        ({"without_word": None}, (True, True)),
    ],
)
def test_what_is_not_connected_is_not_scored(model: Any, missing: dict[str, Any], found: tuple[bool, bool]) -> None:
    for entry in own(train_judged(model, judged(**missing))):
        assert (entry["likeness"] is not None, entry["freedom"] is not None) == found


def test_plain_samples_are_not_judged(model: Any) -> None:
    vae = BlockMeans()
    run = judged(without_word=None, elsewhere=None, vae=vae)
    result = train_judged(model, run)
    assert vae.decoded == 3 + 2  # the samples, and what it saw
    assert result.status.judge is None
    assert all((entry["likeness"], entry["freedom"]) == (None, None) for entry in own(result))
    assert not [note for note in result.notes if "rough" in note]


# By whom


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_an_encoder_of_the_host_gives_one_vector_of_each_picture(tmp_path: Path, kind: str) -> None:
    """CLIP its embedding, DINOv2 that of the class, SigLIP the mean of its patches."""
    encoder, (one, other) = narrow_encoder(kind, tmp_path), pictures(2)
    found = embedding(encoder, one)
    whole = encoder.encode_image(one[None])["image_embeds"][0].double()
    expected = whole.mean(0) if kind == "siglip" else whole
    assert torch.allclose(found, expected / expected.norm())
    assert torch.equal(found, embedding(encoder, one))
    assert likeness(found, torch.stack([embedding(encoder, other), found])) == 1
    assert not torch.allclose(found, embedding(encoder, other))


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_an_encoder_judges_and_changes_nothing(model: Any, tmp_path: Path, kind: str) -> None:
    encoder = narrow_encoder(kind, tmp_path)
    result = train_judged(model, judged(judge=encoder))
    assert_same(result.adapter, train(model, PICTURES, learning_rate=0.1).adapter)
    assert result.status.judge == "encoder"
    assert not [note for note in result.notes if "rough" in note or "not judged" in note]
    learned = torch.stack(
        [embedding(encoder, VAE.decode(one)[0].clamp(0, 1)) for one in PICTURES[0]["samples"].split(1)]
    )
    for entry, (_, drawn) in zip(own(result), result.pictures[OWN], strict=True):
        assert entry["likeness"] == pytest.approx(likeness(embedding(encoder, drawn), learned), abs=1e-4)
        assert 0 <= entry["freedom"] <= 1


class Blind:
    """An encoder that fails after so many pictures."""

    def __init__(self, after: int) -> None:
        self.left, self.patcher = (
            after,
            SimpleNamespace(load_device=torch.device("cpu"), loaded_size=lambda: 0, model_size=lambda: 0),
        )

    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        """The mean colour."""
        self.left -= 1
        if self.left < 0:
            raise ValueError("no eyes")
        return {"image_embeds": image.mean((1, 2))}


@pytest.mark.parametrize(("after", "known"), [(0, 0), (2, 0), (6, 1)])
def test_a_judge_that_fails_is_told_once_and_ends_nothing(model: Any, after: int, known: int) -> None:
    """Before the first step, in the first sample, or later: two pictures are learned, and three looked at each time."""
    result = train_judged(model, judged(judge=Blind(after), mark_best="likeness"))
    assert_same(result.adapter, train(model, PICTURES, learning_rate=0.1).adapter)
    assert [note for note in result.notes if "no eyes" in note] == [
        "samples are not judged: no eyes; the training goes on."
    ]
    assert sum(entry["likeness"] is not None for entry in own(result)) == known
    assert (result.status.best is not None) == bool(known)


def test_a_judge_without_room_is_told_and_ends_nothing(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is a stand-in."""
    monkeypatch.setattr(clip_vision, "has_room", lambda patcher, more: False)
    result = train_judged(model, judged(judge=Blind(100)))
    assert any(note.startswith("samples are not judged: no memory for the judge") for note in result.notes)
    assert all(entry["likeness"] is None for entry in own(result))


class Crowded(BlockMeans):
    """On a device that is full once a training runs on it; the device is a stand-in."""

    def __init__(self) -> None:
        super().__init__()
        self.patcher = SimpleNamespace(load_device=torch.device("cuda"), model_size=lambda: 1)
        self.vae_dtype = torch.float32

    def memory_used_decode(self, shape: torch.Size, dtype: torch.dtype) -> int:
        """Of one latent."""
        return shape.numel() * dtype.itemsize


def test_a_latent_is_not_compared_with_pictures(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "has_room", lambda patcher, more: False)
    result = train_judged(model, judged(vae=Crowded(), mark_best="both"))
    assert result.pictures[OWN][0][1].shape == (8, 8, 3)
    assert any("no memory for the VAE beside the training" in note for note in result.notes)
    assert all(entry["likeness"] is None for entry in own(result))
    assert result.status.best is None


def test_out_of_memory_in_judged_samples_ends_no_training(model: Any) -> None:
    """The error is a stand-in; what was drawn before it is shown."""
    draw, count = loop.draw_sample, [0]

    def fail(*given: Any) -> Any:
        count[0] += 1
        if count[0] % 3 == 0:
            raise torch.OutOfMemoryError("stand-in")
        return draw(*given)

    with mock.patch.object(loop, "draw_sample", fail):
        result = train_judged(model, judged(mark_best="both"))
    assert_same(result.adapter, train(model, PICTURES, learning_rate=0.1).adapter)
    assert sum("out of memory while drawing" in note for note in result.notes) == 1
    assert result.pictures[OWN]


# The best step


def scripted(likenesses: list[float], freedoms: list[float] | None = None) -> Any:
    """The judge sees these numbers, one after the other."""
    found = [Scores(*pair) for pair in zip(likenesses, freedoms or [1.0] * len(likenesses), strict=True)]
    return mock.patch.object(Judging, "scores", side_effect=found)


MARKED = {"checkpoint_every": 1, "keep_checkpoints": 2}


def test_the_best_stays_beside_the_last_ones_and_the_last_is_handed_on(model: Any, folder: Path) -> None:
    with scripted([0.2, 0.8, 0.5, 0.6]):
        result = train_judged(model, judged(MARKED, mark_best="likeness"), steps=8)
    assert files(folder) == [4, 7, 8]
    name = "judged_00001/step_00000004.safetensors"
    assert result.status.best == {
        "by": "likeness", "judge": "rough", "step": 4, "checkpoint": name, "likeness": 0.8, "freedom": 1.0
    }  # fmt: skip
    assert_same(result.adapter, train(model, PICTURES, learning_rate=0.1, steps=8).adapter)
    assert_same(load_adapter(checkpoint_path(name)), train(model, PICTURES, learning_rate=0.1, steps=4).adapter)
    assert (
        f"best by likeness: step 4 (likeness 0.800, freedom 1.000; judge: rough), in checkpoint {name}; Load QR-LoRA "
        "loads it. Handed on is the last step, 8" in describe_training(result)
    )


def test_a_better_one_takes_the_place_of_the_best(model: Any, folder: Path) -> None:
    with scripted([0.9, 0.8, 0.95, 0.1, 0.2]):
        train_judged(model, judged(MARKED, mark_best="likeness"), steps=10)
    assert files(folder) == [6, 9, 10]


def test_a_checkpoint_is_written_for_the_best_where_none_is_due(model: Any, folder: Path) -> None:
    with scripted([0.2, 0.8, 0.5]):
        train_judged(model, judged({"keep_checkpoints": 1}, mark_best="likeness"))
    assert files(folder) == [4, 6]


@pytest.mark.parametrize(("by", "step"), [("likeness", 6), ("freedom", 2), ("both", 4)])
def test_what_the_user_picks_is_what_counts(model: Any, by: str, step: int) -> None:
    with scripted([0.1, 0.6, 0.7], [1.0, 0.9, 0.2]):
        result = train_judged(model, judged(mark_best=by))
    assert result.status.best is not None
    assert (result.status.best["by"], result.status.best["step"]) == (by, step)


def test_of_equals_the_earlier_is_the_best(model: Any) -> None:
    with scripted([0.5, 0.5, 0.5]):
        result = train_judged(model, judged(mark_best="likeness"))
    assert result.status.best is not None
    assert result.status.best["step"] == 2


def test_none_is_marked_where_none_is_asked_for(model: Any, folder: Path) -> None:
    result = train_judged(model, judged({"keep_checkpoints": 1}))
    assert result.status.best is None
    assert files(folder) == [6]
    assert "best" not in describe_training(result)


def test_the_best_is_named_where_none_is_kept(model: Any, folder: Path) -> None:
    with scripted([0.9, 0.5, 0.6]):
        result = train_judged(model, judged(mark_best="likeness"))
    assert not folder.exists()
    assert result.status.best is not None
    assert result.status.best["checkpoint"] is None
    assert "keep_checkpoints is 0: the best step is named, and not kept" in result.notes
    assert "step 2 (likeness 0.900, freedom 1.000; judge: rough), of no checkpoint." in describe_training(result)


def test_the_last_may_be_the_best(model: Any) -> None:
    with scripted([0.1, 0.2, 0.3]):
        text = describe_training(train_judged(model, judged(MARKED, mark_best="likeness")))
    assert "best by likeness: step 6" in text
    assert "the last one, which is handed on" in text


def test_a_training_that_goes_on_knows_its_best(model: Any, folder: Path) -> None:
    run = judged(MARKED, mark_best="likeness")
    with scripted([0.9, 0.5]):
        train_judged(model, run, steps=5)
    assert files(folder) == [2, 4, 5]
    with scripted([0.6, 0.7]):
        again = train_judged(model, replace(run, resume_from=RESUME_LATEST), steps=9)
    assert files(folder) == [2, 8, 9]
    assert again.status.best is not None
    assert (again.status.best["step"], again.status.best["likeness"]) == (2, 0.9)
    assert_same(again.adapter, train(model, PICTURES, learning_rate=0.1, steps=9).adapter)
    with scripted([0.95]):
        train_judged(model, replace(run, resume_from=RESUME_LATEST), steps=10)
    assert files(folder) == [9, 10]


def test_a_checkpoint_of_the_same_step_as_its_sample_knows_that_it_is_the_best(model: Any) -> None:
    run = judged(MARKED, mark_best="likeness")
    with scripted([0.5, 0.9]):
        train_judged(model, run, steps=4)
    path = latest_checkpoint("judged")
    assert path is not None
    assert load_training(path).record["best"]["step"] == 4


@pytest.mark.parametrize("changed", [{"mark_best": "both"}, {"judge": Blind(1000)}, {}])
def test_what_was_best_by_other_means_counts_no_more_and_that_is_said(model: Any, changed: dict[str, Any]) -> None:
    """The last case is a checkpoint of before anything was judged, which goes on as ever."""
    run = judged({"keep_checkpoints": 2}, mark_best="likeness")
    with scripted([0.9, 0.8]):
        train_judged(model, run, steps=4)
    path = latest_checkpoint("judged")
    assert path is not None
    if not changed:
        state = load_training(path)
        record = {name: value for name, value in state.record.items() if name != "best"}
        save_training(TrainingState(state.adapter, state.tensors, record), path)
    on = replace(run, resume_from=RESUME_LATEST, samples=replace(run.samples, **changed))
    with scripted([0.3]):
        again = train_judged(model, on, steps=6)
    by = changed.get("mark_best", "likeness")
    assert f"best by {by} counts from step 4, where this training goes on" in again.notes
    assert again.status.best is not None
    assert again.status.best["step"] == 6
    assert_same(again.adapter, train(model, PICTURES, learning_rate=0.1).adapter)


def test_the_best_of_a_run_that_goes_on_elsewhere_is_named_and_not_removed(model: Any, folder: Path) -> None:
    run = judged({"checkpoint_every": 1, "keep_checkpoints": 9}, mark_best="likeness")
    with scripted([0.9, 0.8]):
        train_judged(model, run, steps=4)
    older = replace(run, resume_from="judged_00001/step_00000003.safetensors", keep_checkpoints=1)
    with scripted([0.1, 0.2]):
        again = train_judged(model, older, steps=6)
    assert again.status.best is not None
    assert again.status.best["checkpoint"] == "judged_00001/step_00000002.safetensors"
    assert checkpoint_path(again.status.best["checkpoint"]).is_file()
    assert files(folder / "judged_00002") == [6]


# What is refused, and what is said


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({"every": 0, "mark_best": "likeness"}, "sample_every is 0, so no sample is drawn for mark_best to go by"),
        ({"every": 0, "judge": Blind(9)}, "sample_every is 0, so no sample is drawn for judge to go by"),
        ({"every": 0, "judge": Blind(9), "mark_best": "both"}, "for mark_best and judge to go by"),
        ({"every": 7, "mark_best": "likeness"}, "sample_every is 7 and steps 6, so no sample is ever drawn"),
        ({"mark_best": "freedom", "without_word": None, "elsewhere": None}, "mark_best freedom: freedom is seen in"),
        ({"mark_best": "both", "without_word": None, "elsewhere": None}, "neither without_word nor elsewhere"),
        ({"mark_best": "beauty"}, "mark_best: expected one of none, likeness, freedom, both, found 'beauty'"),
        ({"without_word": [*caption(0)[0][:1], {}]}, "caption 1 of without_word"),
        ({"elsewhere": [torch.zeros(1, 12, 64), caption(0)[0][1]]}, "caption 1 of elsewhere does not fit SD3"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_before_the_first_step(
    model: Any, folder: Path, samples: dict[str, Any], message: str
) -> None:
    told: list[str] = []
    with pytest.raises(TrainingError, match=message):
        train(model, PICTURES, run=judged({"keep_checkpoints": 2}, **samples), view=View("7", told.append))
    assert not folder.exists()
    assert not [text for text in told if "step 1" in text]


def test_what_is_rough_or_not_used_is_said(model: Any) -> None:
    rough_note = "samples are compared by a rough measure of edges and colours; connect an image encoder to judge"
    no_vae = "vae is not connected: what is compared are the rough colours of latents"
    assert rough_note in train_judged(model, judged()).notes
    assert no_vae not in train_judged(model, judged()).notes
    assert no_vae in train_judged(model, judged(vae=None)).notes
    idle = train_judged(model, judged(every=0))
    assert "sample_every is 0: without_word and elsewhere connected, and not drawn" in idle.notes
    assert idle.pictures == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "without_word: expected a caption, found none"),
        ([[torch.full((1, 2, 3), float("nan")), {}]], "caption 1 of without_word: 6 of 6 numbers"),
    ],
)
def test_a_caption_of_an_input_of_its_own(given: list[Any], message: str) -> None:
    assert first_caption("without_word", None) is None
    with pytest.raises(TrainingError, match=message):
        first_caption("without_word", given)


# On the node


def test_the_node_takes_them_and_its_view_has_a_row_of_each(model: Any) -> None:
    options = {name: [value] for name, value in vars(SETTINGS).items() if name != "role"}
    given = {"model": [model], "latents": [latent(0)], "positive": [caption(0)], **options}
    drawn = {"sample_every": [3], "sample_steps": [1], "without_word": [caption(1)], "elsewhere": [caption(2)]}
    plain = Train.execute(**given, sample_every=[3], sample_steps=[1])
    output = Train.execute(**given, **drawn, mark_best=["both"])
    (told,) = output.ui["qr_lora_training"]
    assert told["judge"] == "rough"
    assert told["best"]["by"] == "both"
    assert told["text"].count("best by both") == 1
    assert_same(output.args[0], plain.args[0])
    assert output.args[2].shape[1] > plain.args[2].shape[1] + 2 * 128
    assert Train.execute(**given).ui["qr_lora_training"][0]["best"] is None


def test_the_view_has_the_rows_one_under_the_other() -> None:
    rows = {
        kind: [(step, torch.full((8, 8, 3), (step + place) / 10)) for step in (0, 1, 2)]
        for place, kind in enumerate(KINDS)
    }
    picture = training_view([1.0], rows)
    one = training_view([1.0], {OWN: rows[OWN]})
    row = one.height - training_view([], {}).height
    for place in range(3):
        y = 200 + place * (row + 20) + 4
        found = [picture.getpixel((64 + 128 * step, y))[0] for step in (0, 1, 2)]
        assert found == [round(255 * (step + place) / 10) for step in (0, 1, 2)]
