"""Checkpoints: exact round trips, trainings that go on as if never interrupted, a clear word on every bad file."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from comfyui_qr_lora.qrlora_core import (
    AdapterError,
    AdapterFileError,
    OptimizerSettings,
    TrainableDelta,
    Trainer,
    TrainingError,
    TrainingState,
    load_adapter,
    load_training,
    merge,
    save_adapter,
    save_training,
)
from comfyui_qr_lora.qrlora_core.files import safetensors_io as file_module
from comfyui_qr_lora.qrlora_core.files.adapter_file import STATE_KEY, STATE_PREFIX
from comfyui_qr_lora.qrlora_core.files.training_state import read_record
from comfyui_qr_lora.qrlora_core.train.delta import VARIANTS
from comfyui_qr_lora.qrlora_core.train.optimizers import SCHEDULES
from comfyui_qr_lora.tests.support.oracle import normal
from comfyui_qr_lora.tests.support.regression import (
    OUT,
    TARGET,
    WIDTH,
    X,
    assert_same_bits,
    factors,
    regression,
    stored,
)

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 6
PATHS = ("transformer.blocks.0.to_q", "transformer.blocks.1.to_k")


class Training:
    """Two layers, on data that depend on the number of the step."""

    def __init__(self, variant="triu", *, ranks=(3, 2), paths=PATHS, **settings):
        layers = zip(paths, ranks, strict=True)
        self.deltas = {path: TrainableDelta(factors(seed=rank, rank=rank), variant=variant) for path, rank in layers}
        options = OptimizerSettings(**{"learning_rate": 0.05, "weight_decay": 0.1, **settings})
        self.trainer = Trainer(self.deltas, options, steps=STEPS)

    def step(self):
        chunks = [(self.trainer.updates + i) % 8 for i in range(self.trainer.settings.grad_accumulation)]
        return self.trainer.step(
            [
                lambda i=i: regression(
                    lambda x: sum(delta(x) for delta in self.deltas.values()),
                    X[8 * i : 8 * i + 8],
                    TARGET[8 * i : 8 * i + 8],
                )
                for i in chunks
            ]
        )

    def steps(self, count):
        return [self.step() for _ in range(count)]

    def state(self, **metadata):
        return TrainingState(self.trainer.adapter(metadata), *self.trainer.state())

    def bits(self):
        """Everything that is trained, and what the adapter would be."""
        trained = {
            f"{path}.{name}": value.detach().clone()
            for path, delta in self.deltas.items()
            for name, value in delta.named_parameters()
        }
        layers = self.trainer.adapter({}).layers
        return trained | {f"{path}.adapter": layer.delta_weight() for path, layer in layers.items()}


def trained(count=3, **options):
    training = Training(**options)
    training.steps(count)
    return training


def assert_equal(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert (value.dtype, value.shape) == (right[name].dtype, right[name].shape), name
        assert torch.equal(value, right[name]), name


class TestRoundTrip:
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_is_exact_to_the_bit(self, tmp_path, variant):
        state = trained(variant=variant, ema_decay=0.9).state(triggers="a cat")
        loaded = load_training(save_training(state, tmp_path / "a.safetensors"))
        assert_same_bits(loaded.adapter, state.adapter)
        assert loaded.adapter.metadata["triggers"] == "a cat"
        assert_equal(dict(loaded.tensors), dict(state.tensors))
        assert json.dumps(loaded.record) == json.dumps(state.record)

    def test_of_any_tensors_and_numbers(self, tmp_path):
        """A random state is bytes, 8-bit optimizers keep bytes and scalars; a record may hold any JSON."""
        tensors = {
            "generator": torch.Generator().manual_seed(7).get_state(),
            "a.b": normal(3, 2, seed=1, dtype=torch.bfloat16),
            "a.c": torch.tensor(math.pi, dtype=torch.float64),
            "whole": torch.arange(5),
            "none": torch.zeros(0, 3),
        }
        record = {"losses": [0.1, 1 / 3, 1e-300], "growth": math.inf, "note": 'Füße 猫 "x"\n', "none": None, "d": {}}
        state = TrainingState(trained().state().adapter, tensors, record)
        loaded = load_training(save_training(state, tmp_path / "a.safetensors"))
        assert_equal(dict(loaded.tensors), tensors)
        assert loaded.record == read_record(tmp_path / "a.safetensors") == record

    @pytest.mark.parametrize("before", range(4))
    def test_of_a_generator_that_goes_on(self, tmp_path, before):
        """PyTorch reads its state from where the tensor's storage begins, so it must be the only one there."""
        generator = torch.Generator().manual_seed(before)
        torch.rand(before, generator=generator)
        others = {f"a{index}": torch.randint(256, (7,), dtype=torch.uint8) for index in range(before)}
        tensors = {**others, "generator": generator.get_state(), "z": normal(3, 5, seed=1)}
        path = save_training(TrainingState(trained().state().adapter, tensors, {}), tmp_path / "a.safetensors")
        restored = torch.Generator()
        restored.set_state(load_training(path).tensors["generator"])
        assert torch.equal(torch.rand(9, generator=restored), torch.rand(9, generator=generator))

    def test_loads_as_the_adapter_it_was(self, tmp_path):
        state = trained().state(triggers="a cat")
        plain = load_adapter(save_adapter(state.adapter, tmp_path / "plain" / "a.safetensors"))
        loaded = load_adapter(save_training(state, tmp_path / "a.safetensors"))
        assert_same_bits(loaded, plain)
        assert loaded.metadata == plain.metadata

    def test_of_layers_whose_names_look_like_keys(self, tmp_path):
        """Tensors of a state are never taken for tensors of an adapter."""
        paths = ("a.lora", "b.lora_qr")
        for variant in VARIANTS:
            state = trained(paths=paths, variant=variant).state()
            loaded = load_training(save_training(state, tmp_path / "a.safetensors"))
            assert_same_bits(loaded.adapter, state.adapter)
            assert loaded.tensors.keys() == state.tensors.keys()

    def test_of_a_basis_whose_columns_lie_apart_in_memory(self, tmp_path):
        """As `torch.linalg.qr` gives it; safetensors wants rows in a row."""
        training = trained(variant="qr")
        assert not any(delta.factors.q.is_contiguous() for delta in training.deltas.values())
        assert load_training(save_training(training.state(), tmp_path / "a.safetensors")).record["updates"] == 3


class TestSavedAgain:
    def test_is_a_plain_adapter_file(self, tmp_path):
        path = save_training(trained().state(triggers="a cat"), tmp_path / "checkpoint.safetensors")
        assert any(key.startswith(STATE_PREFIX) for key in stored(path)[0])
        assert STATE_KEY in stored(path)[1]
        for number, adapter in enumerate(
            [load_adapter(path), load_training(path).adapter, merge([(load_adapter(path), 1.0)])]
        ):
            again = save_adapter(adapter, tmp_path / f"{number}.safetensors")
            tensors, metadata = stored(again)
            assert not any(STATE_PREFIX.rstrip(".") in name for name in (*tensors, *metadata))
            assert metadata["triggers"] == "a cat"
            assert_same_bits(load_adapter(again), load_adapter(path))
            assert read_record(again) is None

    def test_as_a_checkpoint_holds_the_new_record(self, tmp_path):
        training = trained()
        first = load_training(save_training(training.state(), tmp_path / "a.safetensors"))
        training.step()
        second = TrainingState(first.adapter, *training.trainer.state())
        assert load_training(save_training(second, tmp_path / "a.safetensors")).record["updates"] == 4


class TestFilesThatAreNone:
    def test_a_finished_adapter(self, tmp_path):
        path = save_adapter(trained().state().adapter, tmp_path / "cat.safetensors")
        with pytest.raises(AdapterFileError, match=r"cat\.safetensors: this is a finished adapter, not a checkpoint"):
            load_training(path)
        assert read_record(path) is None

    @pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
    def test_cut_short(self, tmp_path, share):
        whole = save_training(trained().state(), tmp_path / "whole.safetensors").read_bytes()
        path = tmp_path / "cut.safetensors"
        path.write_bytes(whole[: int(share * len(whole))])
        for read in (load_training, load_adapter, read_record):
            with pytest.raises(AdapterFileError, match=r"cut\.safetensors: not a readable"):
                read(path)

    @pytest.mark.parametrize("read", [load_training, read_record])
    def test_missing(self, tmp_path, read):
        with pytest.raises(AdapterFileError, match=r"none\.safetensors"):
            read(tmp_path / "none.safetensors")

    @pytest.mark.parametrize("text", ["", "{", "5", "null", "[1]", '"text"'])
    def test_a_record_that_is_none(self, tmp_path, text):
        path = save_training(trained().state(), tmp_path / "bad.safetensors")
        tensors, metadata = stored(path)
        save_file(tensors, path, metadata={**metadata, STATE_KEY: text})
        for read in (load_training, read_record):
            with pytest.raises(AdapterFileError, match=r"bad\.safetensors: not a readable checkpoint"):
                read(path)

    def test_a_state_without_an_adapter(self, tmp_path):
        save_file({f"{STATE_PREFIX}a": torch.ones(2)}, tmp_path / "a.safetensors", metadata={STATE_KEY: "{}"})
        with pytest.raises(AdapterFileError, match=r"a\.safetensors: not an adapter.*found no tensors"):
            load_training(tmp_path / "a.safetensors")


class TestWriting:
    @pytest.mark.parametrize("existing", [True, False])
    def test_that_fails_halfway_leaves_the_older_file(self, tmp_path, monkeypatch, existing):
        path, training = tmp_path / "a.safetensors", trained()
        if existing:
            save_training(training.state(), path)
        before = {file: file.read_bytes() for file in tmp_path.iterdir()}

        def full_disk(tensors, filename, metadata=None):
            save_file(tensors, filename, metadata=metadata)
            whole = Path(filename).read_bytes()
            Path(filename).write_bytes(whole[: len(whole) // 2])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(file_module, "save_file", full_disk)
        training.step()
        with pytest.raises(AdapterFileError, match=r"cannot be written.*No space left.*Free some space"):
            save_training(training.state(), path)
        assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before

    def test_refuses_a_diverged_adapter(self, tmp_path):
        training = trained()
        training.deltas[PATHS[1]].delta_r.data[0, 0] = math.nan
        with pytest.raises(AdapterError, match=f"layer {PATHS[1]}: NaN or infinity"):
            save_training(training.state(), tmp_path / "a.safetensors")
        assert not list(tmp_path.iterdir())


EXTRAS = [{}, {"ema_decay": 0.9}, {"max_grad_norm": 0.3}, {"ema_decay": 0.7, "max_grad_norm": 0.3, "warmup_steps": 2}]


class TestGoingOn:
    @pytest.mark.parametrize("variant", VARIANTS)
    @pytest.mark.parametrize("schedule", SCHEDULES)
    @pytest.mark.parametrize("extra", EXTRAS, ids=lambda extra: "+".join(extra) or "plain")
    def test_from_any_step_is_as_if_never_interrupted(self, tmp_path, variant, schedule, extra):
        options = {"variant": variant, "schedule": schedule, "grad_accumulation": 2, **extra}
        whole, losses, files = Training(**options), [], []
        for step in range(STEPS):
            files.append(save_training(whole.state(), tmp_path / f"{step}.safetensors"))
            losses.append(whole.step())
        for step, path in enumerate(files):
            resumed, state = Training(**options), load_training(path)
            resumed.trainer.restore(state.tensors, state.record)
            assert resumed.trainer.updates == step
            assert resumed.steps(STEPS - step) == losses[step:]
            assert_equal(resumed.bits(), whole.bits())
            assert_equal(resumed.trainer.state()[0], whole.trainer.state()[0])

    @pytest.mark.parametrize("missing", ["optimizer", "average", "updates"])
    def test_needs_every_part_of_the_state(self, missing):
        """So the test above can fail: without one part the training goes another way."""
        whole, other = (Training(schedule="cosine", ema_decay=0.9) for _ in range(2))
        whole.steps(3)
        tensors, record = whole.trainer.state()
        if missing == "optimizer":
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("optimizer.")}
        if missing == "average":
            tensors |= {name: torch.zeros_like(tensor) for name, tensor in tensors.items() if "average" in name}
        if missing == "updates":
            record = {**record, "updates": 0}
        other.trainer.restore(tensors, record)
        other.steps(3)
        whole.steps(3)
        assert any(not torch.equal(value, other.bits()[name]) for name, value in whole.bits().items())

    def test_twice_from_one_state_is_the_same(self):
        """The state belongs to whoever holds it: neither the trainer it is of nor one that goes on changes it."""
        whole = trained()
        tensors, record = whole.trainer.state()
        kept, text = {name: tensor.clone() for name, tensor in tensors.items()}, json.dumps(record)
        whole.steps(3)
        for _ in range(2):
            resumed = Training()
            resumed.trainer.restore(tensors, record)
            resumed.steps(3)
            assert_equal(resumed.bits(), whole.bits())
            assert_equal(tensors, kept)
            assert json.dumps(record) == text

    def test_replaces_all_that_was_there(self):
        """A trainer in the midst of another training goes on as the one restored."""
        whole, other = trained(), trained(count=5)
        other.trainer.restore(*whole.trainer.state())
        whole.steps(3)
        other.steps(3)
        assert_equal(other.bits(), whole.bits())


class TestStateOfAnotherTraining:
    @pytest.mark.parametrize(
        ("saved", "going"),
        [
            ({"paths": (PATHS[0], "other")}, {}),
            ({"paths": PATHS[:1], "ranks": (3,)}, {}),
            ({}, {"paths": PATHS[:1], "ranks": (3,)}),
            ({"ranks": (1, 2)}, {}),
            ({"ranks": (3, 1)}, {}),
            ({"ranks": (2, 3)}, {}),
            ({"variant": "full"}, {}),
            ({}, {"variant": "full"}),
            ({"variant": "qr"}, {}),
            ({}, {"variant": "qr"}),
            ({"ema_decay": 0.9}, {}),
            ({}, {"ema_decay": 0.9}),
            ({"optimizer": "prodigy"}, {}),
            ({}, {"optimizer": "prodigy"}),
        ],
    )
    def test_is_refused_and_changes_nothing(self, saved, going):
        if "prodigy" in (saved.get("optimizer"), going.get("optimizer")):
            pytest.importorskip("prodigyopt")
        state, training, untouched = trained(**saved).trainer.state(), trained(count=2, **going), trained(2, **going)
        with pytest.raises(TrainingError, match=r"does not fit this training"):
            training.trainer.restore(*state)
        training.step()
        untouched.step()
        assert_equal(training.bits(), untouched.bits())

    @pytest.mark.parametrize("missing", ["updates", "optimizer", "groups"])
    def test_with_a_part_missing_is_refused(self, missing):
        tensors, record = trained(5).trainer.state()
        training, untouched = trained(), trained()
        with pytest.raises(TrainingError, match=f"does not fit this training.*{missing}"):
            training.trainer.restore(tensors, {name: value for name, value in record.items() if name != missing})
        training.step()
        untouched.step()
        assert_equal(training.bits(), untouched.bits())

    def test_with_a_parameter_missing_names_it(self):
        tensors, record = trained().trainer.state()
        del tensors[f"parameter.{PATHS[1]}.delta_r"]
        with pytest.raises(TrainingError, match=f"{PATHS[1]}.delta_r"):
            Training().trainer.restore(tensors, record)

    def test_of_another_rank_names_both_shapes(self):
        state = trained(ranks=(1, 2)).trainer.state()
        with pytest.raises(TrainingError, match=rf"{PATHS[0]}.delta_r.*\(1, {WIDTH}\).*\(3, {WIDTH}\)"):
            Training().trainer.restore(*state)

    def test_bases_are_of_one_shape(self):
        """So that the refusals above are for what they name."""
        assert {tuple(layer.shape) for layer in trained().state().adapter.layers.values()} == {(OUT, WIDTH)}
