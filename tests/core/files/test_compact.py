"""Compact files: their size, bases that are kept once, checked, rebuilt and aligned, and what is refused."""

import hashlib
import json
import math
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from comfyui_qr_lora.qrlora_core import (
    AdapterError,
    AdapterFileError,
    BasisStore,
    DecompositionError,
    Layer,
    QRLoRA,
    Term,
    decompose,
    load_adapter,
    merge,
    save_adapter,
)
from comfyui_qr_lora.qrlora_core.files.compact import BASIS_IDS
from comfyui_qr_lora.qrlora_core.functional.sketch import align, differs, fits, sketch
from comfyui_qr_lora.tests.support import oracle
from comfyui_qr_lora.tests.support.oracle import normal, orthonormal
from comfyui_qr_lora.tests.support.regression import assert_same_bits, stored

OUT, RANK, WIDTH = 48, 8, 40
PATH = "transformer.transformer_blocks.0.attn.to_q"
ROOT = Path(__file__).resolve().parents[3]


def weight(seed=1, out=OUT, width=WIDTH, zero_columns=0):
    """Singular values that fall off as those of trained layers do; optionally columns that are zero."""
    values = torch.arange(1, min(out, width) + 1).double() ** -0.5
    W = (orthonormal(out, len(values), seed=seed).double() * values) @ orthonormal(
        width, len(values), seed=seed + 1
    ).T.double()
    W[:, :zero_columns] = 0
    return W.float()


def trained(W, seed=5, *, rank=RANK, alpha=6.0, size=1.0, dtype=torch.float32, path=PATH, **metadata):
    """An adapter on the basis of W, as training leaves it."""
    factors = decompose(W, rank)
    delta_r = (size * normal(rank, W.shape[1], seed=seed).double()).to(dtype)
    return QRLoRA({path: Layer.single(factors.q, delta_r, alpha=alpha, base_r=factors.base_r)}, metadata)


def delta(adapter, path=PATH):
    return sum(oracle.delta_weight(term.q, term.delta_r, term.alpha) for term in adapter.layers[path].terms)


def error(found, original, path=PATH):
    return oracle.error(delta(found, path), delta(original, path))


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


@pytest.fixture
def bases(tmp_path):
    return BasisStore(tmp_path / "bases")


@pytest.fixture
def saved(tmp_path, bases):
    """Save an adapter as a compact file."""

    def save(adapter, name="a.safetensors", **options):
        return save_adapter(adapter, tmp_path / "adapters" / name, format="compact", bases=bases, **options)

    return save


class TestPruning:
    def test_keeps_what_was_used_last(self, tmp_path):
        store = BasisStore(tmp_path)
        bases = [Term(orthonormal(OUT, RANK, seed=seed), torch.ones(RANK, 2)) for seed in range(4)]
        for age, term in enumerate(bases):
            store.put(term.basis_id, term.q)
            (path,) = tmp_path.glob(f"rank_{RANK}/{term.basis_id}.safetensors")
            os.utime(path, (1e9 + age, 1e9 + age))
        size = path.stat().st_size
        assert store.find(bases[0].basis_id, sketch(bases[0].q)) is not None  # used now
        assert store.prune(2 * size) == 2
        there = [store.find(term.basis_id, sketch(term.q)) is not None for term in bases]
        assert there == [True, False, False, True]
        assert store.prune(2 * size) == 0
        assert store.prune(0) == 2

    def test_of_a_folder_that_is_not_there(self, tmp_path):
        assert BasisStore(tmp_path / "none").prune(0) == 0


class TestRoundTrip:
    @pytest.mark.parametrize(("dtype", "rounding"), [(None, 2**-11), (torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
    @pytest.mark.parametrize("size", [1e-30, 1e-9, 1e-5, 1.0, 1e6, 1e15])
    @pytest.mark.parametrize("alpha", [6.0, -0.001, 1e4])
    def test_keeps_the_relative_precision_of_the_dtype(self, saved, bases, dtype, rounding, size, alpha):
        original = trained(weight(), alpha=alpha, size=size)
        loaded = load_adapter(saved(original, dtype=dtype), bases=bases)
        assert loaded.layers[PATH].terms[0].delta_r.dtype == (dtype or torch.float16)
        assert error(loaded, original) < rounding

    @pytest.mark.parametrize(
        "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn]
    )
    def test_of_any_dtype(self, saved, bases, dtype):
        original = trained(weight(), dtype=dtype)
        assert error(load_adapter(saved(original), bases=bases), original) < 2**-11

    def test_of_a_change_that_is_nothing(self, saved, bases):
        loaded = load_adapter(saved(trained(weight(), size=0.0)), bases=bases)
        assert not bool(loaded.layers[PATH].delta_weight().any())

    def test_of_a_convolution(self, saved, bases):
        factors = decompose(weight(width=9 * 5), RANK)
        layer = Layer.single(factors.q, normal(RANK, 5, 3, 3, seed=1), base_r=factors.base_r.reshape(RANK, 5, 3, 3))
        loaded = load_adapter(saved(QRLoRA({PATH: layer})), bases=bases)
        assert loaded.layers[PATH].shape == (OUT, 5, 3, 3)
        assert error(loaded, QRLoRA({PATH: layer})) < 2**-11

    def test_keeps_the_basis_to_the_bit_and_so_merges_as_the_full_adapter(self, saved, bases):
        one, two = trained(weight(), 5), trained(weight(), 6)
        loaded = load_adapter(saved(one), bases=bases)
        assert loaded.layers[PATH].terms[0].basis_id == one.layers[PATH].terms[0].basis_id
        assert torch.equal(loaded.layers[PATH].terms[0].q, one.layers[PATH].terms[0].q)
        merged = merge([(loaded, 0.5), (two, 2.0)])
        assert len(merged.layers[PATH].terms) == 1
        assert oracle.error(delta(merged), 0.5 * delta(one) + 2.0 * delta(two)) < 2**-10

    def test_keeps_the_metadata_and_says_which_bases(self, saved, bases):
        original = trained(weight(), triggers="a cat")
        path = saved(original)
        tensors, metadata = stored(path)
        assert set(tensors) == {f"{PATH}.lora_compact.{name}" for name in ("delta_r.weight", "sketch", "alpha")}
        assert json.loads(metadata[BASIS_IDS]) == {PATH: original.layers[PATH].terms[0].basis_id}
        assert load_adapter(path, bases=bases).metadata["triggers"] == "a cat"

    def test_of_a_merge_on_one_basis(self, saved, bases):
        merged = merge([(trained(weight(), 5), 0.7), (trained(weight(), 6), -1.1)])
        assert error(load_adapter(saved(merged), bases=bases), merged) < 2**-11

    def test_loaded_and_saved_again_and_so_for_merges_of_such(self, saved, bases):
        """It has no base_r any more, but its basis is still that of the base."""
        loaded = [load_adapter(saved(trained(weight(), seed), f"{seed}.safetensors"), bases=bases) for seed in (5, 6)]
        again = load_adapter(saved(loaded[0], "again.safetensors"), bases=bases)
        assert_same_bits(again, loaded[0])
        merged = merge([(loaded[0], 0.7), (loaded[1], -1.1)])
        assert error(load_adapter(saved(merged, "merged.safetensors"), bases=bases), merged) < 2**-10

    def test_saved_in_full_is_a_file_of_its_own(self, saved, bases, tmp_path):
        loaded = load_adapter(saved(trained(weight())), bases=bases)
        full = save_adapter(loaded, tmp_path / "full.safetensors")
        assert BASIS_IDS not in stored(full)[1]
        assert_same_bits(load_adapter(full), loaded)

    def test_leaves_the_adapter_as_it_was(self, saved):
        original, same = trained(weight()), trained(weight())
        saved(original)
        assert_same_bits(original, same)


DOUBLE = [
    f"attn.{name}"
    for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
]
FLUX = {
    f"transformer.transformer_blocks.{block}.{name}": shape
    for block in range(19)
    for name, shape in (
        *((name, (3072, 3072)) for name in DOUBLE),
        *((f"{stream}.net.0.proj", (12288, 3072)) for stream in ("ff", "ff_context")),
        *((f"{stream}.net.2", (3072, 12288)) for stream in ("ff", "ff_context")),
    )
} | {
    f"transformer.single_transformer_blocks.{block}.attn.{name}": (3072, 3072)
    for block in range(38)
    for name in DOUBLE[:3]
}


class TestSize:
    @pytest.mark.slow
    def test_is_half_of_an_ordinary_lora_on_the_papers_targets(self, tmp_path, bases):
        """Real files of all 342 layers at their widths, header and metadata included; layers share their tensors."""
        layers = {}
        for out, width in set(FLUX.values()):
            q = torch.nn.functional.pad(torch.eye(64), (0, 0, 0, out - 64))
            layers[out, width] = Layer.single(q, torch.ones(64, width), base_r=torch.ones(64, width))
        adapter = QRLoRA({path: layers[shape] for path, shape in FLUX.items()})
        assert len(adapter.layers) == 19 * 12 + 38 * 3
        sizes = {}
        for format in ("compact", "lora"):
            path = save_adapter(adapter, tmp_path / "a.safetensors", format=format, dtype=torch.float16, bases=bases)
            sizes[format] = path.stat().st_size
            path.unlink()
        smallest = sum(64 * (out + width) * 2 for out, width in FLUX.values())  # of any LoRA of this rank and dtype
        assert smallest < sizes["lora"] < 1.001 * smallest
        assert sizes["compact"] <= 0.52 * smallest
        assert len(files(tmp_path / "bases")) == 2  # for 3072 and for 12288 rows

    def test_of_a_sketch_of_a_high_rank_stays_small(self, saved):
        path = saved(trained(weight(out=300, width=400), rank=128))
        tensors, _ = stored(path)
        assert tensors[f"{PATH}.lora_compact.sketch"].dtype == torch.float16
        path = saved(trained(weight(out=300, width=400), rank=64))
        assert stored(path)[0][f"{PATH}.lora_compact.sketch"].dtype == torch.float32


class TestSketch:
    def test_is_the_projection_on_seeded_normal_numbers(self):
        import numpy

        q = orthonormal(OUT, RANK, seed=1)
        gaussian = torch.from_numpy(numpy.random.RandomState(0).standard_normal((OUT, RANK)))
        assert oracle.error(sketch(q), q.double().T @ gaussian) < 1e-7

    @pytest.mark.parametrize("seed", range(30))
    def test_a_basis_with_one_direction_elsewhere_is_another(self, seed):
        rows, rank = 40 + 37 * seed, 1 + seed % 24
        q = orthonormal(rows, rank + 1, seed=seed)
        elsewhere = q[:, :rank].clone()
        elsewhere[:, seed % rank] = q[:, rank]
        assert fits(q[:, :rank], sketch(q[:, :rank]))
        assert not fits(elsewhere, sketch(q[:, :rank]))

    def test_is_frozen(self):
        """Files of today must be read by every later version, on every machine."""
        found = sketch(torch.eye(6)[:, :3])
        expected = [
            [1.7640523, 0.4001572, 0.978738],
            [2.2408931, 1.867558, -0.9772779],
            [0.9500884, -0.1513572, -0.1032189],
        ]
        assert torch.allclose(found, torch.tensor(expected), atol=1e-6)

    @pytest.mark.parametrize("change", [1e-6, 1e-4, 1e-2])
    def test_tells_how_far_another_basis_is(self, change):
        q = orthonormal(1000, 32, seed=1)
        other = q + change * normal(1000, 32, seed=2) / math.sqrt(1000)
        assert differs(other, sketch(q)) == pytest.approx(change, rel=0.25)

    def test_does_not_fit_what_is_no_number(self):
        stored = sketch(orthonormal(OUT, RANK, seed=1))
        for q in (
            torch.full((OUT, RANK), math.nan),
            torch.zeros(OUT, RANK),
            torch.zeros(OUT),
            torch.zeros(OUT, RANK + 1),
        ):
            assert not fits(q, stored)


def other_machine(W, rank, seed=None):
    """The basis in float64 by a full SVD and QR, with no care for signs; rotated at random where a seed is given."""
    U, S, Vh = torch.linalg.svd(W.double(), full_matrices=False)
    q = torch.linalg.qr(U[:, :rank] @ torch.diag(S[:rank]) @ Vh[:rank]).Q[:, :rank]
    return (q if seed is None else q @ orthonormal(rank, rank, seed=seed).double()).float()


# Shape of the weight, rank, and how many of its first columns are zero.
ALIGNED = [
    ((48, 40), 8, 0),
    ((48, 40), 8, 3),
    ((300, 700), 32, 0),
    ((700, 300), 32, 3),
    ((640, 640), 16, 3),
    ((300, 400), 96, 0),
]


class TestAlignment:
    """Bases of the same space, found otherwise, give the adapter's own deltas."""

    @pytest.mark.parametrize(("shape", "rank", "zero_columns"), ALIGNED)
    @pytest.mark.parametrize("kind", ["float64", "rotated", "signs", "order"])
    def test_of_a_rebuilt_basis(self, saved, tmp_path, shape, rank, zero_columns, kind):
        W = weight(out=shape[0], width=shape[1], zero_columns=zero_columns)
        original = trained(W, rank=rank)
        path = saved(original)
        signs = torch.where(torch.arange(rank) % 3 == 1, -1.0, 1.0)
        rebuilt = {
            "float64": other_machine(W, rank),
            "rotated": other_machine(W, rank, seed=7),
            "signs": decompose(W, rank).q * signs,
            "order": decompose(W, rank).q.flip(1),
        }[kind]
        unaligned = oracle.delta_weight(rebuilt, original.layers[PATH].terms[0].delta_r, 6.0)
        assert oracle.error(unaligned, delta(original)) > 0.1  # the test could fail
        empty = BasisStore(tmp_path / "elsewhere")
        asked = []
        loaded = load_adapter(path, bases=empty, rebuild=lambda *of: asked.append(of) or rebuilt)
        assert asked == [(PATH, rank)]
        assert error(loaded, original) < 1e-3
        q = loaded.layers[PATH].terms[0].q.double()
        assert torch.linalg.matrix_norm(q.T @ q - torch.eye(rank), 2) < 1e-5
        # Kept under the same name, so that the next one needs no model.
        assert_same_bits(load_adapter(path, bases=empty), loaded)

    def test_leading_columns_that_depend_on_each_other_need_it(self):
        """Three zero input columns: float32 and float64 agree on the space, and not on Q (method.md)."""
        W = weight(out=300, width=200, zero_columns=3)
        ours, theirs = decompose(W, 16).q, oracle.split(W, 16).Q
        space = torch.linalg.svdvals(ours.double().T @ theirs)
        assert float(1 - space.min()) < 1e-4
        assert oracle.error(ours, theirs) > 0.1
        assert oracle.error(align(theirs.float(), sketch(ours)), ours) < 1e-3

    @pytest.mark.process
    def test_of_another_thread_count(self, tmp_path, saved):
        weights = {str(zeros): weight(out=600, width=700, zero_columns=zeros) for zeros in (0, 3)}
        save_file(weights, tmp_path / "weights.safetensors")
        code = (
            "import sys, torch; torch.set_num_threads(int(sys.argv[1]))\n"
            "from safetensors.torch import load_file, save_file; from qrlora_core import decompose\n"
            "weights = load_file(sys.argv[2])\n"
            "save_file({name: decompose(W, 16).q.contiguous() for name, W in weights.items()}, sys.argv[3])"
        )
        threads = "1" if torch.get_num_threads() > 1 else "2"
        paths = [str(tmp_path / name) for name in ("weights.safetensors", "q.safetensors")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads}
        subprocess.run([sys.executable, "-c", code, threads, *paths], check=True, env=environment, cwd=tmp_path)
        for name, q in load_file(paths[1]).items():
            original = trained(weights[name], rank=16)
            path = saved(original, f"{name}.safetensors")
            loaded = load_adapter(path, bases=BasisStore(tmp_path / f"elsewhere_{name}"), rebuild=lambda *_, q=q: q)
            assert error(loaded, original) < 1e-3

    def test_without_a_store(self, saved):
        W = weight()
        original = trained(W)
        assert error(load_adapter(saved(original), rebuild=lambda *_: other_machine(W, RANK)), original) < 1e-3

    @pytest.mark.parametrize("rank", [2, 8, 64, 96])
    def test_is_refused_where_the_space_is_another(self, saved, tmp_path, rank):
        W = weight(out=300, width=400)
        path = saved(trained(W, rank=rank))
        U = torch.linalg.svd(W.double(), full_matrices=False).U
        swapped = U[:, : rank + 1].clone()
        swapped[:, rank - 1] = swapped[:, rank]
        wrong = {
            "another weight": decompose(weight(9, out=300, width=400), rank).q,
            "one direction swapped": swapped[:, :rank].float(),
            "the smallest": U[:, -rank:].float(),
            "zero": torch.zeros(300, rank),
        }
        empty = BasisStore(tmp_path / "elsewhere")
        for what, q in wrong.items():
            with pytest.raises(
                AdapterFileError, match=rf"a\.safetensors: layer {PATH}: the basis of this model spans"
            ) as caught:
                load_adapter(path, bases=empty, rebuild=lambda *_, q=q: q)
            assert "another base model" in str(caught.value), what
        assert not files(tmp_path / "elsewhere")

    @pytest.mark.parametrize("shape", [(OUT, RANK + 1), (OUT - 1, RANK), (OUT, RANK, 1), (OUT,), (2, RANK)])
    def test_of_another_shape_is_refused(self, saved, shape):
        with pytest.raises(AdapterFileError, match=rf"a\.safetensors: layer {PATH}: "):
            load_adapter(saved(trained(weight())), rebuild=lambda *_: normal(*shape, seed=1))

    @pytest.mark.parametrize("problem", [AdapterError("no such layer"), DecompositionError("no such layer")])
    def test_a_base_that_does_not_have_the_layer(self, saved, problem):
        def rebuild(path, rank):
            raise problem

        with pytest.raises(AdapterFileError, match=rf"a\.safetensors: layer {PATH}: no such layer"):
            load_adapter(saved(trained(weight())), rebuild=rebuild)

    def test_an_error_of_the_hosts_own_is_not_called_damage(self, saved):
        """Out of memory, or cancelled: nothing that another download would mend."""

        def rebuild(path, rank):
            raise RuntimeError("CUDA out of memory")

        with pytest.raises(RuntimeError, match="CUDA out of memory") as caught:
            load_adapter(saved(trained(weight())), rebuild=rebuild)
        assert not isinstance(caught.value, AdapterFileError)


def no_model(path, rank):
    raise AssertionError(f"{path} was rebuilt")


class TestBasisStore:
    def test_holds_one_basis_for_all_adapters_on_it(self, saved, bases, tmp_path):
        paths = [saved(trained(weight(), seed), f"{seed}.safetensors") for seed in range(3)]
        saved(trained(weight(9)), "other.safetensors")
        assert len(files(tmp_path / "bases")) == 2
        loaded = [load_adapter(path, bases=bases, rebuild=no_model) for path in paths]
        assert len({adapter.layers[PATH].terms[0].basis_id for adapter in loaded}) == 1

    def test_is_not_written_twice(self, saved, tmp_path):
        saved(trained(weight(), 1))
        (cached,) = (tmp_path / "bases").rglob("*.safetensors")
        before = cached.stat().st_mtime_ns, cached.stat().st_ino
        saved(trained(weight(), 2), "b.safetensors")
        assert (cached.stat().st_mtime_ns, cached.stat().st_ino) == before

    @staticmethod
    def spoil(cached, how):
        content = bytearray(cached.read_bytes())
        if how == "one bit":
            content[-4] ^= 1  # the last of a mantissa
        elif how == "one sign":
            content[-1] ^= 0x80
        elif how == "cut":
            content = content[: len(content) // 2]
        elif how == "empty":
            content = b""
        elif how == "pickle":
            content = b"\x80\x04N."
        cached.write_bytes(bytes(content))
        if how == "another name":
            save_file({"p": torch.ones(OUT, RANK)}, cached, metadata={"q": ""})
        q = {
            "another basis": decompose(weight(9), RANK).q,
            "zeros": torch.zeros(OUT, RANK),
            "nan": torch.full((OUT, RANK), math.nan),
            "whole numbers": torch.ones(OUT, RANK, dtype=torch.int64),
            "another shape": torch.ones(OUT, RANK + 1),
        }.get(how)
        if q is not None:  # stored as it should be, for another name
            elsewhere = cached.with_name("elsewhere")
            BasisStore(elsewhere).put("0" * 32, q)
            (stored_q,) = elsewhere.rglob("*.safetensors")
            stored_q.replace(cached)

    @pytest.mark.parametrize(
        "how",
        [
            *(
                "one bit",
                "one sign",
                "cut",
                "empty",
                "pickle",
                "folder",
                "another basis",
                "another shape",
                "another name",
            ),
            *("zeros", "nan", "whole numbers"),
        ],
    )
    def test_what_is_damaged_or_exchanged_is_rebuilt(self, saved, bases, tmp_path, how):
        original = trained(weight())
        path = saved(original)
        (cached,) = (tmp_path / "bases").rglob("*.safetensors")
        if how == "folder":
            cached.unlink()
        else:
            self.spoil(cached, how)
        with pytest.raises(AdapterFileError, match="not in the cache"):
            load_adapter(path, bases=bases)
        loaded = load_adapter(path, bases=bases, rebuild=lambda *_: other_machine(weight(), RANK))
        assert error(loaded, original) < 1e-3
        assert_same_bits(load_adapter(path, bases=bases, rebuild=no_model), loaded)
        # The one who has the adapter in full puts its own basis back by saving it again.
        self.spoil(cached, "cut")
        saved(original)
        assert torch.equal(load_adapter(path, bases=bases).layers[PATH].terms[0].q, original.layers[PATH].terms[0].q)

    def test_a_basis_in_low_precision_is_kept_as_it_is(self, saved, bases):
        original = trained(weight())
        (term,) = original.layers[PATH].terms
        rough = QRLoRA({PATH: Layer((replace(term, q=term.q.bfloat16()),))})
        loaded = load_adapter(saved(rough), bases=bases)
        assert loaded.layers[PATH].terms[0].basis_id == rough.layers[PATH].terms[0].basis_id

    def test_that_cannot_be_written(self, tmp_path):
        (tmp_path / "bases").touch()
        with pytest.raises(AdapterFileError, match="cannot be written"):
            save_adapter(
                trained(weight()), tmp_path / "a.safetensors", format="compact", bases=BasisStore(tmp_path / "bases")
            )
        assert files(tmp_path) == ["bases"]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize(("rows", "rank", "seed"), [(9, 2, 1), (700, 8, 2), (2100, 5, 3), (4096, 4, 4)])
    def test_a_flipped_bit_anywhere_is_damage(self, tmp_path, rows, rank, seed, dtype):
        store, q = BasisStore(tmp_path), orthonormal(rows, rank, seed=seed).to(dtype)
        store.put("a" * 32, q)
        (cached,) = tmp_path.rglob("*.safetensors")
        whole = cached.read_bytes()
        size = q.numel() * dtype.itemsize
        generator = random.Random(seed)
        places = [0, size - 1, *(generator.randrange(size) for _ in range(20))]
        assert torch.equal(store.find("a" * 32, sketch(q)), q)
        for place in places:
            damaged = bytearray(whole)
            damaged[len(whole) - size + place] ^= 1 << generator.randrange(8)
            cached.write_bytes(damaged)
            assert store.find("a" * 32, sketch(q)) is None, place

    def test_what_an_earlier_version_stored_is_found_and_checked(self, tmp_path):
        q, name = orthonormal(50, 4, seed=1), "b" * 32
        digest = hashlib.blake2b(q.contiguous().numpy().tobytes(), digest_size=16).hexdigest()
        path = tmp_path / "rank_4" / f"{name}.safetensors"
        path.parent.mkdir()
        save_file({"q": q.contiguous()}, path, metadata={"digest": digest})
        assert torch.equal(BasisStore(tmp_path).find(name, sketch(q)), q)
        save_file({"q": q.contiguous() + 1e-7}, path, metadata={"digest": digest})
        assert BasisStore(tmp_path).find(name, sketch(q)) is None


HOSTILE = [
    *("../../x", "../" * 9 + "etc/passwd", "/etc/passwd", "C:\\x", "..\\..\\x", "", ".", "0" * 32 + "/../../x"),
    *("0" * 31, "0" * 33, "A" * 32, "0" * 31 + "\n", "\0" * 32, "٣" * 32, "0" * 10**6, "a" * 31 + "g"),
]


class TestHostileFiles:
    @pytest.mark.parametrize("name", HOSTILE, ids=lambda name: repr(name[:12]))
    def test_names_of_bases_are_no_paths(self, saved, bases, tmp_path, name):
        path = saved(trained(weight()))
        q = trained(weight()).layers[PATH].terms[0].q
        # Where a path would lead, the very basis lies: it must not be used, nor anything be written.
        (cached,) = (tmp_path / "bases").rglob("*.safetensors")
        for place in (tmp_path / "x.safetensors", tmp_path / "bases" / "x.safetensors"):
            shutil.copy(cached, place)
        tensors, metadata = stored(path)
        save_file(tensors, path, metadata={**metadata, BASIS_IDS: json.dumps({PATH: name})})
        before = files(tmp_path)
        with pytest.raises(
            AdapterFileError, match=rf"a\.safetensors: layer {PATH}: expected the name of a basis"
        ) as caught:
            load_adapter(path, bases=bases, rebuild=lambda *_: q)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400
        assert files(tmp_path) == before

    @pytest.mark.parametrize(
        "text",
        [None, "", "{", "null", "[]", "5", '"x"', "{}", "[" * 10**5, '{"a": 1}', "1" * 5000, json.dumps({PATH: [1]})],
    )
    def test_nonsense_in_the_place_of_names(self, saved, bases, text):
        path = saved(trained(weight()))
        tensors, metadata = stored(path)
        del metadata[BASIS_IDS]
        save_file(tensors, path, metadata=metadata if text is None else {**metadata, BASIS_IDS: text})
        with pytest.raises(AdapterFileError, match=r"a\.safetensors: .*(missing or damaged|the name of a basis)"):
            load_adapter(path, bases=bases, rebuild=no_model)

    @pytest.mark.parametrize(
        ("part", "tensor", "words"),
        [
            ("delta_r.weight", None, "found no delta_r"),
            ("sketch", None, "found no sketch"),
            ("sketch", torch.ones(RANK, RANK + 1), "sketch: expected finite numbers of shape (8, 8), found (8, 9)"),
            ("sketch", torch.ones(()), "sketch: expected"),
            ("sketch", torch.full((RANK, RANK), math.nan), "sketch: expected finite"),
            ("sketch", torch.full((RANK, RANK), math.inf), "sketch: expected finite"),
            ("sketch", torch.ones(RANK, RANK, dtype=torch.int64), "sketch: expected a floating dtype"),
            ("delta_r.weight", torch.ones(()), "sketch: expected"),
            ("delta_r.weight", torch.ones(RANK), "expected q (out, rank)"),
            ("delta_r.weight", torch.ones(RANK, 0), "a dimension is zero"),
            ("delta_r.weight", torch.full((RANK, WIDTH), math.nan), "NaN or infinity"),
            ("delta_r.weight", torch.ones(RANK, WIDTH, dtype=torch.uint8), "delta_r: expected a floating dtype"),
            ("alpha", torch.ones(2), "alpha: expected one number"),
            ("alpha", torch.tensor(math.inf), "alpha: expected a finite number"),
        ],
    )
    def test_parts_that_do_not_fit(self, saved, bases, part, tensor, words):
        path = saved(trained(weight()))
        tensors, metadata = stored(path)
        tensors[f"{PATH}.lora_compact.{part}"] = tensor
        save_file({key: value for key, value in tensors.items() if value is not None}, path, metadata=metadata)
        with pytest.raises(AdapterFileError) as caught:
            load_adapter(path, bases=bases)
        assert f"a.safetensors: layer {PATH}: " in str(caught.value)
        assert words in str(caught.value)

    def test_a_sketch_of_zeros_fits_nothing(self, saved, bases):
        path = saved(trained(weight()))
        tensors, metadata = stored(path)
        tensors[f"{PATH}.lora_compact.sketch"] = torch.zeros(RANK, RANK)
        save_file(tensors, path, metadata=metadata)
        with pytest.raises(AdapterFileError, match="spans another space"):
            load_adapter(path, bases=bases, rebuild=lambda *_: other_machine(weight(), RANK))

    def test_tensors_of_another_kind_among_them(self, saved, bases):
        path = saved(trained(weight()))
        tensors, metadata = stored(path)
        save_file({**tensors, "x.lora_up.weight": torch.ones(2, 2)}, path, metadata=metadata)
        assert "tensor x.lora_up.weight" in load_adapter(path, bases=bases).origin.not_loaded


class TestMissing:
    def test_bases_say_what_to_connect(self, saved, tmp_path):
        adapter = trained(weight(), **{"qr_lora.base_model": "SD3"})
        layers = {**adapter.layers, "transformer.b": adapter.layers[PATH]}
        path = saved(QRLoRA(layers, adapter.metadata))
        for bases in (None, BasisStore(tmp_path / "elsewhere")):
            with pytest.raises(AdapterFileError) as caught:
                load_adapter(path, bases=bases)
            for words in (
                "a.safetensors: a compact file",
                "2 of its 2 layers",
                "transformer.b is",
                "base model (SD3)",
                "made again from its base model",
            ):
                assert words in str(caught.value)

    def test_a_base_model_named_to_mislead(self, saved):
        path = saved(trained(weight(), **{"qr_lora.base_model": "\u202e\n<b>" + "x" * 10**6}))
        with pytest.raises(AdapterFileError) as caught:
            load_adapter(path)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 800

    def test_one_of_several(self, saved, bases, tmp_path):
        one, two = trained(weight(1), path="a"), trained(weight(9), path="b")
        path = saved(QRLoRA({**one.layers, **two.layers}))
        gone = two.layers["b"].terms[0].basis_id
        next((tmp_path / "bases").rglob(f"{gone}.safetensors")).unlink()
        with pytest.raises(AdapterFileError, match=r"1 of its 2 layers.*b is the first"):
            load_adapter(path, bases=bases)
        asked = []
        load_adapter(path, bases=bases, rebuild=lambda *of: asked.append(of) or other_machine(weight(9), RANK))
        assert asked == [("b", RANK)]

    def test_a_folder_to_save_to(self, tmp_path):
        with pytest.raises(AdapterFileError, match="needs a folder for the bases"):
            save_adapter(trained(weight()), tmp_path / "a.safetensors", format="compact")
        assert not files(tmp_path)


class TestRefusesToSave:
    """What has no basis that the base model gives: the reader could not rebuild it."""

    @staticmethod
    def qr_variant():
        (term,) = trained(weight()).layers[PATH].terms
        moved = Term(0.1 * normal(OUT, RANK, seed=3), term.base_r + term.delta_r, term.alpha)
        return QRLoRA({PATH: Layer((term, moved))})

    @pytest.mark.parametrize("kind", ["lora", "qr", "concatenated", "published without base_r"])
    def test_says_so_and_leaves_nothing(self, tmp_path, bases, kind):
        if kind == "lora":
            tensors = {
                f"{PATH}.lora_B.weight": normal(OUT, 4, seed=1),
                f"{PATH}.lora_A.weight": normal(4, WIDTH, seed=2),
            }
            save_file(tensors, tmp_path / "l.safetensors")
            adapter, words = load_adapter(tmp_path / "l.safetensors"), "found a basis of its own"
        elif kind == "qr":
            adapter, words = self.qr_variant(), "found 2 terms"
        elif kind == "concatenated":
            adapter, words = merge([(trained(weight()), 1.0), (trained(weight(9)), 1.0)]), "found 2 terms"
        else:
            (term,) = trained(weight()).layers[PATH].terms
            adapter, words = QRLoRA({PATH: Layer((replace(term, base_r=None),))}), "found a basis of its own"
        before = files(tmp_path)
        with pytest.raises(AdapterError) as caught:
            save_adapter(adapter, tmp_path / "a.safetensors", format="compact", bases=bases)
        for part in (f"layer {PATH}:", words, "Save as full or lora"):
            assert part in str(caught.value)
        assert files(tmp_path) == before
