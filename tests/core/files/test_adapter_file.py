"""Adapter files: exact round trips, the published layout, atomic writes, and a clear word on every bad file."""

import json
import math
import os
import pickle
import re
import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from comfyui_qr_lora.qrlora_core import (
    AdapterError,
    AdapterFileError,
    Layer,
    QRLoRA,
    Term,
    load_adapter,
    merge,
    save_adapter,
)
from comfyui_qr_lora.qrlora_core.files import safetensors_io as file_module
from comfyui_qr_lora.qrlora_core.files.adapter_file import describe
from comfyui_qr_lora.qrlora_core.files.safetensors_io import shown
from comfyui_qr_lora.tests.support import oracle
from comfyui_qr_lora.tests.support.oracle import normal, orthonormal
from comfyui_qr_lora.tests.support.regression import assert_same_bits, stored

OUT, RANK, WIDTH = 9, 4, 7
MODULE = "transformer.transformer_blocks.0.attn.to_q"


def term(seed, *, q=None, dtype=torch.float32, kernel=(), alpha=float(RANK), base_r=True):
    q = orthonormal(OUT, RANK, seed=seed) if q is None else q
    delta_r, fixed = (normal(RANK, WIDTH, *kernel, seed=seed + i, dtype=dtype) for i in (100, 200))
    return Term(q.to(dtype), delta_r, alpha, fixed if base_r else None)


def adapter(*terms, **metadata):
    return QRLoRA({MODULE: Layer(terms or (term(1),))}, metadata)


def published(dtype=torch.float32, module=MODULE):
    """Tensors under the published names: no alpha."""
    source = term(1, dtype=dtype)
    parts = {"q": source.q, "delta_r": source.delta_r, "base_r": source.base_r}
    return {f"{module}.lora.{name}.weight": tensor.contiguous() for name, tensor in parts.items()}


def header_length(path):
    return int.from_bytes(path.read_bytes()[:8], "little")


def saved(tmp_path, tensors, name="bad.safetensors", metadata=None):
    path = tmp_path / name
    save_file(tensors, path, metadata=metadata)
    return path


def refuses(path, *words):
    """Loading raises our error, which says each of these words."""
    with pytest.raises(AdapterFileError) as caught:
        load_adapter(path)
    for word in (path.name, *words):
        assert word in str(caught.value)
    return str(caught.value)


class TestRoundTrip:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
    @pytest.mark.parametrize("kernel", [(), (3, 3)])
    @pytest.mark.parametrize("base_r", [True, False])
    def test_is_exact_to_the_bit(self, tmp_path, dtype, kernel, base_r):
        parts = {"dtype": dtype, "kernel": kernel, "base_r": base_r}
        original = QRLoRA(
            {
                MODULE: Layer((term(1, alpha=0.1, **parts),)),
                "lora_unet_double_blocks_1": Layer((term(2, alpha=-3.0, **parts), term(3, alpha=1 / 3, **parts))),
                "a.lora": Layer(tuple(term(seed, **parts) for seed in range(12))),
            }
        )
        assert_same_bits(load_adapter(save_adapter(original, tmp_path / "a.safetensors")), original)

    def test_keeps_terms_of_different_ranks_and_dtypes_in_order(self, tmp_path):
        narrow = Term(orthonormal(OUT, 2, seed=5), normal(2, WIDTH, seed=6), 7.0)
        original = adapter(term(1), narrow, term(2, dtype=torch.bfloat16))
        assert_same_bits(load_adapter(save_adapter(original, tmp_path / "a.safetensors")), original)

    def test_a_perturbed_basis_survives(self, tmp_path):
        """q that belongs to no weight: a loader that recomputes it, or makes it orthonormal, cannot pass."""
        W = normal(OUT, WIDTH, seed=3)
        q = oracle.split(W, RANK).Q.float() + 0.05 * normal(OUT, RANK, seed=4)
        original = adapter(term(1, q=q))
        loaded = load_adapter(save_adapter(original, tmp_path / "a.safetensors"))
        assert torch.equal(loaded.layers[MODULE].terms[0].q, q)
        expected = oracle.delta_weight(q, original.layers[MODULE].terms[0].delta_r)
        assert oracle.error(loaded.layers[MODULE].delta_weight(), expected) < 1e-6

    def test_of_views_and_of_one_basis_in_many_layers(self, tmp_path):
        q = orthonormal(OUT, RANK, seed=1)
        assert not q.is_contiguous()
        both = normal(2 * RANK, WIDTH, seed=2).requires_grad_()
        original = QRLoRA({path: Layer.single(q, both[i * RANK : (i + 1) * RANK]) for i, path in enumerate("ab")})
        loaded = load_adapter(save_adapter(original, tmp_path / "a.safetensors"))
        assert_same_bits(loaded, original)
        assert not any(part.delta_r.requires_grad for _, part in loaded.terms())

    def test_of_a_merge(self, tmp_path):
        """What is saved is what was seen before saving."""
        one, two = term(1), term(2)
        merged = merge([(adapter(one), 0.7), (adapter(two), -0.1), (adapter(term(3, q=one.q, alpha=0.3)), 1.3)])
        loaded = load_adapter(save_adapter(merged, tmp_path / "a.safetensors"))
        assert len(loaded.layers[MODULE].terms) == 2
        assert_same_bits(loaded, merged)
        names = ["unsaved adapter"] * 3
        assert json.loads(loaded.metadata["qr_lora.merge"]) == {
            "sources": [{"name": n, "scale": s} for n, s in zip(names, (0.7, -0.1, 1.3), strict=True)],
            "shared": [],
            "concatenated": [MODULE],
            "single": [],
        }

    def test_keeps_the_metadata_as_text(self, tmp_path):
        metadata = {"triggers": 'a <c> dog, Füße 猫\n"quoted"', "empty": "", "name": "old"}
        loaded = load_adapter(save_adapter(adapter(**metadata), tmp_path / "cat.safetensors"))
        assert loaded.name == "cat.safetensors"
        added = {"qr_lora.format_version": "1", "modelspec.title": "cat"}
        assert loaded.metadata == {**metadata, **added}

    def test_saved_twice_holds_the_same(self, tmp_path):
        first = save_adapter(adapter(triggers="x"), tmp_path / "a.safetensors")
        second = save_adapter(load_adapter(first), tmp_path / "sub" / "a.safetensors")
        (tensors, metadata), (again, same_metadata) = stored(first), stored(second)
        assert metadata == same_metadata
        assert tensors.keys() == again.keys()
        assert all(torch.equal(tensors[key], again[key]) for key in tensors)

    def test_of_what_was_loaded_into_its_own_file(self, tmp_path):
        path = save_adapter(adapter(), tmp_path / "a.safetensors")
        assert_same_bits(load_adapter(save_adapter(load_adapter(path), path)), adapter())


class TestPublishedLayout:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_without_alpha_means_alpha_is_the_rank(self, tmp_path, dtype):
        tensors = published(dtype)
        loaded = load_adapter(saved(tmp_path, tensors, "published.safetensors"))
        (only,) = loaded.layers[MODULE].terms
        assert (only.alpha, only.scaling) == (RANK, 1.0)
        q, delta_r = (tensors[f"{MODULE}.lora.{name}.weight"] for name in ("q", "delta_r"))
        assert oracle.error(only.delta_weight(), oracle.delta_weight(q, delta_r)) < 1e-6
        assert torch.equal(only.base_r, tensors[f"{MODULE}.lora.base_r.weight"])

    def test_base_r_may_be_missing(self, tmp_path):
        tensors = {key: value for key, value in published().items() if "base_r" not in key}
        assert load_adapter(saved(tmp_path, tensors)).layers[MODULE].terms[0].base_r is None

    def test_is_what_is_written_plus_alpha(self, tmp_path):
        original = term(1, alpha=2.5)
        tensors, metadata = stored(save_adapter(adapter(original), tmp_path / "a.safetensors"))
        expected = {**published(), f"{MODULE}.lora.alpha": torch.tensor(2.5, dtype=torch.float64)}
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[key], expected[key]) for key in expected)
        assert metadata["format"] == "pt"

    def test_further_terms_are_numbered(self, tmp_path):
        tensors, _ = stored(save_adapter(adapter(term(1), term(2, base_r=False)), tmp_path / "a.safetensors"))
        names = ["q.weight", "delta_r.weight", "base_r.weight", "alpha"]
        first, second = (f"{MODULE}.lora.{name}" for name in names), (f"{MODULE}.lora.1.{name}" for name in names)
        assert tensors.keys() == {*first, *second} - {f"{MODULE}.lora.1.base_r.weight"}

    def test_alpha_may_be_of_any_number_type(self, tmp_path):
        for alpha in (torch.tensor([2], dtype=torch.int32), torch.tensor(2.0, dtype=torch.bfloat16)):
            path = saved(tmp_path, {**published(), f"{MODULE}.lora.alpha": alpha})
            assert load_adapter(path).layers[MODULE].terms[0].alpha == 2.0


class TestWriting:
    def test_makes_folders_and_returns_the_path(self, tmp_path):
        path = tmp_path / "animals" / "cats" / "a.safetensors"
        assert save_adapter(adapter(), str(path)) == path
        assert path.is_file()

    def test_other_users_can_read_the_file_as_any_other(self, tmp_path):
        (tmp_path / "usual").touch()
        path = save_adapter(adapter(), tmp_path / "a.safetensors")
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)

    @pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), KeyboardInterrupt()])
    @pytest.mark.parametrize("existing", [True, False])
    def test_that_fails_halfway_leaves_nothing_behind(self, tmp_path, monkeypatch, problem, existing):
        path = tmp_path / "a.safetensors"
        if existing:
            save_adapter(adapter(), path)
        before = {file: file.read_bytes() for file in tmp_path.iterdir()}

        def full_disk(tensors, filename, metadata=None):
            Path(filename).write_bytes(b"half a file")
            raise problem

        monkeypatch.setattr(file_module, "save_file", full_disk)
        expected = KeyboardInterrupt if isinstance(problem, KeyboardInterrupt) else AdapterFileError
        with pytest.raises(expected) as caught:
            save_adapter(adapter(term(5)), path)
        assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
        if expected is AdapterFileError:
            assert str(path) in str(caught.value)
            assert "No space left" in str(caught.value)

    def test_the_file_appears_only_when_it_is_whole(self, tmp_path, monkeypatch):
        path = tmp_path / "a.safetensors"

        def observed(tensors, filename, metadata=None):
            assert not path.exists()
            assert Path(filename).parent == path.parent  # a rename is atomic within one file system
            assert not str(filename).endswith(".safetensors")  # no loader lists it
            save_file(tensors, filename, metadata=metadata)
            load_adapter(filename)

        monkeypatch.setattr(file_module, "save_file", observed)
        save_adapter(adapter(), path)
        assert list(tmp_path.iterdir()) == [path]

    def test_where_a_folder_cannot_be(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(AdapterFileError, match="cannot be written"):
            save_adapter(adapter(), tmp_path / "file" / "a.safetensors")

    def test_where_a_folder_has_that_name(self, tmp_path):
        (tmp_path / "a.safetensors").mkdir()
        with pytest.raises(AdapterFileError, match="cannot be written"):
            save_adapter(adapter(), tmp_path / "a.safetensors")
        assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]

    def test_a_long_name(self, tmp_path):
        assert save_adapter(adapter(), tmp_path / f"{'n' * 240}.safetensors").is_file()

    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            (
                "a.safetensors",
                {"format": "tiny"},
                "a.safetensors: unknown format 'tiny'; expected one of full, compact, lora",
            ),
            ("a.pt", {}, "a.pt: an adapter file ends in .safetensors"),
            ("a", {}, "a: an adapter file ends in .safetensors"),
            ("a.safetensors.tmp", {}, "a.safetensors.tmp: an adapter file ends in .safetensors"),
        ],
    )
    def test_refuses_unknown_kinds(self, tmp_path, name, options, message):
        with pytest.raises(AdapterFileError, match=re.escape(message)):
            save_adapter(adapter(), tmp_path / name, **options)
        assert not list(tmp_path.iterdir())

    def test_refuses_an_empty_adapter(self, tmp_path):
        with pytest.raises(AdapterFileError, match=r"a\.safetensors: the adapter has no layers"):
            save_adapter(merge([(adapter(), 0.0)]), tmp_path / "a.safetensors")

    @pytest.mark.parametrize("poison", [math.nan, math.inf])
    def test_refuses_what_is_not_finite(self, tmp_path, poison):
        bad = term(1)
        bad.delta_r[0, 0] = poison
        with pytest.raises(AdapterError, match=re.escape(f"layer {MODULE}: NaN or infinity")):
            save_adapter(adapter(bad), tmp_path / "sub" / "a.safetensors")
        assert not list(tmp_path.iterdir())


class TestFilesThatAreNone:
    def test_missing(self, tmp_path):
        refuses(tmp_path / "none.safetensors", str(tmp_path), "no such file")

    def test_a_folder(self, tmp_path):
        refuses(tmp_path, "no such file")

    def test_not_allowed_to_read(self, tmp_path, monkeypatch):
        path = saved(tmp_path, published())

        def denied(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", denied)
        refuses(path, "Permission denied")

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.9, 0.99, 0.9999])
    def test_cut_short(self, tmp_path, share):
        whole = save_adapter(adapter(term(1), term(2)), tmp_path / "whole.safetensors").read_bytes()
        path = tmp_path / "cut.safetensors"
        path.write_bytes(whole[: int(share * len(whole))])
        refuses(path, "not a readable safetensors file", "cut short")

    def test_cut_anywhere_in_the_header(self, tmp_path):
        original = save_adapter(adapter(), tmp_path / "whole.safetensors")
        whole, path = original.read_bytes(), tmp_path / "cut.safetensors"
        for length in range(0, header_length(original) + 9, 7):
            path.write_bytes(whole[:length])
            refuses(path)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\0" * 64,
            b"\xff" * 64,
            b"<html>404 not found</html>",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00",
        ],
    )
    def test_not_safetensors(self, tmp_path, content):
        path = tmp_path / "bad.safetensors"
        path.write_bytes(content)
        refuses(path, "not a readable safetensors file")

    def test_random_bytes(self, tmp_path):
        path = tmp_path / "bad.safetensors"
        for seed in range(20):
            noise = torch.randint(0, 256, (500,), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
            path.write_bytes(bytes(noise.tolist()))
            refuses(path)


class TestMemory:
    @staticmethod
    def overwrite(path):
        """Zeros in the place of all tensors, in the same file."""
        length = header_length(path)
        with path.open("r+b") as file:
            file.seek(8 + length)
            file.write(bytes(path.stat().st_size - 8 - length))

    def test_what_was_loaded_is_no_view_of_the_file(self, tmp_path):
        """Users copy files over those in use. A mapped file would change what was loaded, or end the process."""
        path = save_adapter(adapter(), tmp_path / "a.safetensors")
        loaded = load_adapter(path)
        self.overwrite(path)
        assert_same_bits(loaded, adapter())
        assert not bool(load_adapter(path).layers[MODULE].delta_weight().any())

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float8_e4m3fn])
    def test_is_read_the_same_by_a_safetensors_that_tells_no_order(self, tmp_path, monkeypatch, dtype):
        path = saved(tmp_path, {key: value.to(dtype) for key, value in published().items()})
        expected = load_adapter(path)

        class Older:
            def __init__(self, *args, **kwargs):
                self._file = safe_open(*args, **kwargs)

            def __enter__(self):
                self._file.__enter__()
                return self

            def __exit__(self, *problem):
                self._file.__exit__(*problem)

            def __getattr__(self, name):
                if name == "offset_keys":
                    raise AttributeError(name)
                return getattr(self._file, name)

        monkeypatch.setattr(file_module, "safe_open", Older)
        loaded = load_adapter(path)
        self.overwrite(path)
        assert_same_bits(loaded, expected)
        assert expected.layers[MODULE].terms[0].q.dtype == dtype

    def test_a_file_that_is_cut_short_while_it_is_read(self, tmp_path):
        path = saved(tmp_path, published())
        with file_module.reading(path) as file:
            os.truncate(path, header_length(path) + 20)
            with pytest.raises(AdapterFileError, match=r"bad\.safetensors.*cut short while"):
                file.get_tensor(f"{MODULE}.lora.q.weight")

    def test_a_tensor_of_many_dimensions(self, tmp_path):
        tensors = published()
        tensors[f"{MODULE}.lora.q.weight"] = tensors[f"{MODULE}.lora.q.weight"].reshape(OUT, RANK, *[1] * 60)
        assert len(refuses(saved(tmp_path, tensors), "a tensor has 62 dimensions", f"{MODULE}.lora.q.weight")) < 400

    def test_a_header_longer_than_any(self, tmp_path):
        longest, other = 32 * 2**20, header_length(saved(tmp_path, published(), metadata={"note": ""}))
        path = saved(tmp_path, published(), metadata={"note": "x" * (longest - other)})
        assert header_length(path) == longest
        assert load_adapter(path).layers
        path = saved(tmp_path, published(), metadata={"note": "x" * (longest - other + 8)})  # it is filled up to eights
        told = refuses(path, "its header, which holds", "32.0 MB long; expected at most 32 MB", "no damage")
        assert "damaged" not in told
        os.truncate(path, longest)
        refuses(path, f"its header says that it is {longest + 8} bytes long", "damaged")

    def test_too_many_tensors(self, tmp_path):
        most = 2**15
        tensors = {str(number): torch.zeros(1, dtype=torch.uint8) for number in range(most + 1)}
        told = refuses(saved(tmp_path, tensors), f"holds {most + 1} tensors; expected at most {most}")
        assert "damaged" not in told
        del tensors["0"]
        with file_module.reading(saved(tmp_path, tensors)) as file:
            assert len(file.keys()) == most


class TestNames:
    @pytest.mark.parametrize(
        "module", ["a\0b", "a\nb", "a\x1b[31mb", "a\u202eb", "a\u2028b", "x" * 501, "x" * 10**6, "\ue000"]
    )
    def test_that_cannot_be_shown_are_refused(self, tmp_path, module):
        for tensors in (published(module=module), {f"{module}.lora_up.weight": torch.ones(2, 2)}):
            message = refuses(saved(tmp_path, tensors), "the name of a tensor is too long or cannot be shown")
            assert message.isprintable()
            assert len(message) < 600

    @pytest.mark.parametrize("module", ["../../x", "/etc/passwd", "C:\\x", "..", "Füße.猫", "a b", "<img src=x>"])
    def test_are_names_of_layers_and_no_paths(self, tmp_path, module):
        loaded = load_adapter(saved(tmp_path, published(module=module)))
        assert list(loaded.layers) == [module]
        path = save_adapter(loaded, tmp_path / "again" / "a.safetensors")
        assert_same_bits(load_adapter(path), loaded)
        assert {file.name for file in tmp_path.rglob("*") if file.is_file()} == {"bad.safetensors", "a.safetensors"}


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class TestPickles:
    @pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.ckpt", "a.bin"])
    @pytest.mark.parametrize("zipped", [True, False])
    def test_of_torch_are_never_opened(self, tmp_path, zipped, name):
        torch.save({"bomb": Bomb(tmp_path / "boom")}, tmp_path / name, _use_new_zipfile_serialization=zipped)
        refuses(tmp_path / name, "pickle", "Convert it to safetensors")
        assert not (tmp_path / "boom").exists()

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_of_any_protocol_are_never_opened(self, tmp_path, protocol):
        path = tmp_path / "a.safetensors"
        path.write_bytes(pickle.dumps({"bomb": Bomb(tmp_path / "boom")}, protocol=protocol))
        message = refuses(path)
        assert protocol < 2 or "pickle" in message
        assert not (tmp_path / "boom").exists()

    @pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".pkl"])
    def test_their_suffixes_are_refused(self, tmp_path, suffix):
        refuses(saved(tmp_path, published(), f"a{suffix}"), "pickle")

    @pytest.mark.parametrize("length", [640, 896, 1152, 1408])
    def test_a_header_whose_length_looks_like_one_is_read(self, tmp_path, length):
        """The file's first bytes are its header's length; 640 is ``80 02``, as a pickle begins."""
        bare = header_length(saved(tmp_path, published(), metadata={"note": ""}))
        path = saved(tmp_path, published(), metadata={"note": "x" * (length - bare)})
        assert header_length(path) == length
        assert path.read_bytes()[0] == 0x80
        assert MODULE in load_adapter(path).layers


def changed(**parts):
    """The published tensors with some replaced, or with None removed."""
    tensors = published()
    for name, tensor in parts.items():
        key = f"{MODULE}.lora.alpha" if name == "alpha" else f"{MODULE}.lora.{name}.weight"
        tensors[key] = tensor
    return {key: tensor for key, tensor in tensors.items() if tensor is not None}


def poisoned(name, value):
    tensor = published()[f"{MODULE}.lora.{name}.weight"].clone()
    tensor[1, 1] = value
    return changed(**{name: tensor})


class TestTensorsThatDoNotFit:
    @pytest.mark.parametrize(
        ("tensors", "words"),
        [
            (changed(delta_r=torch.ones(3, WIDTH)), ["rank mismatch", "(9, 4)", "(3, 7)"]),
            (changed(q=torch.ones(OUT, 5)), ["rank mismatch", "(9, 5)", "(4, 7)"]),
            (changed(q=torch.ones(OUT)), ["expected q (out, rank)", "(9,)"]),
            (changed(q=torch.ones(OUT, RANK, 1)), ["expected q (out, rank)", "(9, 4, 1)"]),
            (changed(delta_r=torch.tensor(1.0)), ["expected q (out, rank)", "delta_r ()"]),
            (changed(base_r=torch.ones(RANK, WIDTH + 1)), ["base_r (4, 8)", "delta_r (4, 7)"]),
            (changed(base_r=torch.ones(RANK)), ["base_r (4,)", "delta_r (4, 7)"]),
            (changed(q=torch.ones(OUT, 0), delta_r=torch.ones(0, WIDTH), base_r=None), ["a dimension is zero"]),
            (changed(q=None), ["found no q"]),
            (changed(delta_r=None), ["found no delta_r"]),
            (changed(q=None, delta_r=None), ["found no q and no delta_r"]),
            (changed(q=torch.ones(OUT, RANK, dtype=torch.int8)), ["q: expected a floating dtype", "torch.int8"]),
            (changed(delta_r=torch.ones(RANK, WIDTH, dtype=torch.int64)), ["delta_r: expected a floating dtype"]),
            (changed(alpha=torch.ones(2)), ["alpha: expected one number", "(2,)"]),
            (changed(alpha=torch.ones(0)), ["alpha: expected one number", "(0,)"]),
            (changed(alpha=torch.tensor(math.nan)), ["alpha: expected a finite number", "nan"]),
            (changed(alpha=torch.tensor(-math.inf)), ["alpha: expected a finite number", "-inf"]),
            *(
                (poisoned(name, value), ["NaN or infinity"])
                for name in ("q", "delta_r", "base_r")
                for value in (math.nan, math.inf)
            ),
        ],
    )
    def test_the_message_names_file_and_layer(self, tmp_path, tensors, words):
        refuses(saved(tmp_path, tensors), f"layer {MODULE}:", *words)

    @pytest.mark.parametrize(
        ("tensors", "word"), [(changed(q=None), "found no q"), (poisoned("delta_r", math.nan), "NaN or infinity")]
    )
    def test_stop_no_other_layer(self, tmp_path, tensors, word):
        good = published(module="transformer.other.to_k")
        loaded = load_adapter(saved(tmp_path, {**good, **tensors}))
        assert list(loaded.layers) == ["transformer.other.to_k"]
        assert f"layer {MODULE} (" in loaded.origin.not_loaded
        assert word in loaded.origin.not_loaded

    def test_a_gap_in_the_numbers_of_the_terms(self, tmp_path):
        second = {key.replace(".lora.", ".lora.2."): value for key, value in published().items()}
        refuses(saved(tmp_path, {**published(), **second}), f"layer {MODULE}:", "[0, 2]", "without a gap")

    def test_no_first_term(self, tmp_path):
        tensors = {key.replace(".lora.", ".lora.1."): value for key, value in published().items()}
        refuses(saved(tmp_path, tensors), f"layer {MODULE}:", "[1]", "without a gap")

    def test_terms_for_different_weights(self, tmp_path):
        second = {key.replace(".lora.", ".lora.1."): value for key, value in published().items()}
        second[f"{MODULE}.lora.1.q.weight"] = torch.ones(OUT + 1, RANK)
        refuses(saved(tmp_path, {**published(), **second}), f"layer {MODULE}:", "different shapes", "(9, 7)", "(10, 7)")


class TestOtherKinds:
    @pytest.mark.parametrize(
        "names",
        [
            ("lora_unet_blocks_0_attn_qkv.lora_down.weight", "lora_unet_blocks_0_attn_qkv.lora_up.weight"),
            ("transformer.blocks.0.to_q.lora_A.weight", "transformer.blocks.0.to_q.lora_B.weight"),
            ("unet.blocks.0.to_q_lora.down.weight", "unet.blocks.0.to_q_lora.up.weight"),
        ],
    )
    def test_an_ordinary_lora_is_loaded(self, tmp_path, names):
        """Its deltas are in test_lora, its names in test_lora_layout."""
        down, up = normal(2, WIDTH, seed=1), normal(OUT, 2, seed=2)
        path = saved(tmp_path, dict(zip(names, (down, up), strict=True)))
        (layer,) = load_adapter(path).layers.values()
        assert oracle.error(layer.delta_weight(), up.double() @ down.double()) < 1e-6
        refuses(saved(tmp_path, {names[0]: down}), "expected up and down, found no up")

    @pytest.mark.parametrize("key", ["x.lora_down.weight", "x.lora_compact.sketch"])
    def test_two_layouts_in_one_file(self, tmp_path, key):
        path = saved(tmp_path, {**published(), key: torch.ones(2, 2)})
        if "down" in key:
            assert f"tensor {key}" in load_adapter(path).origin.not_loaded
        else:
            refuses(path, "compact")

    def test_the_companion_file_of_residuals(self, tmp_path):
        refuses(saved(tmp_path, {f"{MODULE}.residual.weight": torch.ones(2, 2)}), "residuals", "not needed")

    def test_a_checkpoint(self, tmp_path):
        tensors = {f"model.diffusion_model.block.{i}.weight": torch.ones(1) for i in range(9)}
        message = refuses(
            saved(tmp_path, tensors), "not an adapter", "ordinary LoRA", "model.diffusion_model.block.0.weight"
        )
        assert len(message) < 400

    def test_no_tensors(self, tmp_path):
        refuses(saved(tmp_path, {}), "not an adapter", "found no tensors")

    def test_an_unknown_tensor_among_known_ones_is_named(self, tmp_path):
        for key in (f"{MODULE}.lora.dora_scale", "emb.0", "x" * 501, "a\u202e"):
            loaded = load_adapter(saved(tmp_path, {**published(), key: torch.ones(1)}))
            assert list(loaded.layers) == [MODULE]
            assert shown(key) in loaded.origin.not_loaded
            assert loaded.origin.not_loaded.isprintable()

    @pytest.mark.parametrize("number", ["0", "01", "-1", "x"])
    def test_a_term_with_an_odd_number_is_named(self, tmp_path, number):
        odd = {key.replace(".lora.", f".lora.{number}."): value for key, value in published().items()}
        assert f".lora.{number}." in load_adapter(saved(tmp_path, {**published(), **odd})).origin.not_loaded


class TestDescribe:
    metadata = describe(
        base_model="SD3",
        architecture="stable-diffusion-v3-medium",
        rank=16,
        alpha=8.5,
        variant="triu",
        training={"steps": 100, "learning_rate": 1e-4},
        base_fingerprint={MODULE: "0123abcd"},
        triggers="a <c> cat",
    )

    def test_other_tools_find_their_keys(self, tmp_path):
        _, found = stored(save_adapter(QRLoRA(adapter().layers, self.metadata), tmp_path / "a cat.safetensors"))
        modelspec = {key.removeprefix("modelspec."): value for key, value in found.items() if "modelspec" in key}
        assert modelspec["title"] == "a cat"
        assert modelspec["trigger_phrase"] == "a <c> cat"
        assert modelspec["architecture"] == "stable-diffusion-v3-medium/qr-lora"
        assert {"sai_model_spec", "implementation"} <= modelspec.keys()

    def test_an_ordinary_lora_claims_to_be_nothing_else(self, tmp_path):
        path = save_adapter(QRLoRA(adapter().layers, self.metadata), tmp_path / "a.safetensors", format="lora")
        found = stored(path)[1]
        assert found["modelspec.architecture"] == "stable-diffusion-v3-medium/lora"
        assert not {"qr_lora.variant", "qr_lora.format_version"} & found.keys()
        assert found["qr_lora.triggers"] == "a <c> cat"

    def test_our_keys_survive_the_file(self, tmp_path):
        path = save_adapter(QRLoRA(adapter().layers, self.metadata), tmp_path / "a.safetensors")
        found = load_adapter(path).metadata
        assert self.metadata.items() <= found.items()
        expected = {"base_model": "SD3", "rank": "16", "alpha": "8.5", "variant": "triu", "triggers": "a <c> cat"}
        assert {key: found[f"qr_lora.{key}"] for key in expected} == expected
        assert json.loads(found["qr_lora.training"]) == {"steps": 100, "learning_rate": 1e-4}
        assert json.loads(found["qr_lora.base_fingerprint"]) == {MODULE: "0123abcd"}
