"""The evidence on a model of one's own: shown on the embedded model, judged by hand, and by other people's encoders."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from csv import DictReader
from pathlib import Path
from typing import Any
from unittest import mock

import comfy.clip_vision
import folder_paths
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, Dinov2Config, Dinov2Model

from benchmarks.evidence import statistics
from benchmarks.evidence.real import command, models
from benchmarks.evidence.real.embeddings import KINDS, encoder, weights_of
from benchmarks.evidence.real.errors import InputError
from benchmarks.evidence.real.example import write_example
from benchmarks.evidence.real.judges import Bench, Judge, judges_named
from benchmarks.evidence.real.options import build_parser
from benchmarks.evidence.real.pictures import Subject, as_bytes, read_folder, save_picture
from benchmarks.evidence.real.plan import Cell, Drawing, Plan
from benchmarks.evidence.real.report import Report
from benchmarks.evidence.real.run import Run
from comfyui_qr_lora.qrlora_core import load_adapter
from devtools.environment import ROOT
from playground import assemble
from playground.generate import Playground

from ...support.adapters import merged, with_stock_lora

SIZE, STEPS, CFG, PICTURES = 64, 3, 3.0, 2
METHODS = ("qr_full", "lora", "none")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two contents, two styles and the embedded model."""
    folder = tmp_path_factory.mktemp("given")
    write_example(folder, 2)
    assemble.assemble(folder / "models")
    return folder


def options(given: Path, more: str = "") -> Namespace:
    """The command line on the embedded model."""
    checkpoint = given / "models" / "checkpoints" / assemble.NAME
    arguments = (
        f"--checkpoint {checkpoint} --contents {given}/contents --styles {given}/styles --out {given}/out "
        f"--judge stand-in --steps 2 --rate 0.01 --rank 4 --dtype fp32 --size {SIZE} --pictures {PICTURES} "
        f"--sampling-steps {STEPS} --cfg {CFG} --cpu {more}"
    )
    return build_parser(None).parse_args(arguments.split())


@pytest.fixture(scope="module")
def out(given: Path) -> Path:
    """What a run leaves."""
    command.measure(options(given))
    return given / "out"


def rows_of(out: Path, method: str, kind: str = "cells") -> list[dict[str, str]]:
    with gzip.open(out / kind / f"{method}.sum.csv.gz", "rt", encoding="utf-8") as file:
        return list(DictReader(file))


def drawn(out: Path, method: str, content: int, style: int) -> NDArray[np.uint8]:
    return drawn_at(out, f"{method}.sum.{'0' if method == 'none' else '1'}.0", content, style)


def drawn_at(out: Path, name: str, content: int, style: int) -> NDArray[np.uint8]:
    folder = out / "pictures" / name
    return np.stack([np.asarray(Image.open(folder / f"{content}_{style}_{n}.png")) for n in range(PICTURES)])


def prompt(given: Path, content: int, style: int) -> str:
    """The second lines of both, by their places in the alphabet."""
    texts = [sorted((given / role).glob("*.txt"))[place] for role, place in (("contents", content), ("styles", style))]
    return " ".join(text.read_text("utf-8").splitlines()[1] for text in texts)


class ByHand:
    """The stand-in judge of pictures that are 64 pixels wide, in numpy."""

    def __init__(self, folder: Path) -> None:
        self._given = {
            role: [np.asarray(Image.open(path).resize((SIZE, SIZE), Image.Resampling.LANCZOS))
                   for path in sorted((folder / role).glob("*.png"))]
            for role in ("contents", "styles")
        }  # fmt: skip

    def nearest(self, role: str, picture: NDArray[np.uint8]) -> tuple[int, list[float]]:
        """Which of the given ones, and the cosines with all."""
        seen = self.edges if role == "contents" else self.look
        cosines = [self.cosine(seen(picture), seen(other)) for other in self._given[role]]
        return int(np.argmax(cosines)), cosines

    @staticmethod
    def cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    @staticmethod
    def steepness(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
        grey = picture.astype(np.float64).mean(2) / 255
        return np.hypot(grey[:-1, 1:] - grey[:-1, :-1], grey[1:, :-1] - grey[:-1, :-1])

    def edges(self, picture: NDArray[np.uint8]) -> NDArray[np.float64]:
        steep = self.steepness(picture)
        ends = [(int(np.floor(i * 63 / 16)), int(np.ceil((i + 1) * 63 / 16))) for i in range(16)]
        cells = np.array([steep[a:b, c:d].mean() for a, b in ends for c, d in ends])
        return cells - cells.mean()

    def look(self, picture: NDArray[np.uint8]) -> NDArray[np.float64]:
        levels = [np.floor(np.float32(picture[..., c] / np.float32(255)) * np.float32(3.999)) for c in range(3)]
        colours = np.histogram(levels[0] * 16 + levels[1] * 4 + levels[2], bins=np.arange(65))[0] / SIZE**2
        steep = np.minimum(np.floor(self.steepness(picture) * 32), 7)
        return np.sqrt(np.concatenate([colours, np.histogram(steep, bins=np.arange(9))[0] / 63**2]))


@pytest.mark.parametrize("method", METHODS)
def test_the_counts_are_those_of_the_pictures(given: Path, out: Path, method: str) -> None:
    judge = ByHand(given)
    rows, similar = rows_of(out, method), rows_of(out, method, "similarity")
    assert [(row["content"], row["style"]) for row in rows] == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
    for row, similarity in zip(rows, similar, strict=True):
        content, style = int(row["content"]), int(row["style"])
        seen = [
            (judge.nearest("contents", one), judge.nearest("styles", one)) for one in drawn(out, method, content, style)
        ]
        kept = [(c == content, s == style) for (c, _), (s, _) in seen]
        assert int(row["stand-in_content"]) == sum(c for c, _ in kept)
        assert int(row["stand-in_style"]) == sum(s for _, s in kept)
        assert int(row["stand-in_both"]) == sum(c and s for c, s in kept)
        cosines = [float(similarity[f"stand-in_{role}"]) for role in ("content", "style")]
        expected = [np.mean([c[content] for (_, c), _ in seen]), np.mean([s[style] for _, (_, s) in seen])]
        assert cosines == pytest.approx(expected, abs=2e-3)


def test_the_cells_are_read_as_all_evidence_is(out: Path) -> None:
    outcome = statistics.outcomes(out / "cells" / "lora.sum.csv.gz", PICTURES)["1"]
    shares = [int(row["stand-in_style"]) / PICTURES for row in rows_of(out, "lora")]
    assert outcome.shares["stand-in"]["style"].tolist() == [[shares[:2], shares[2:]]]
    text = (out / "evidence.md").read_text("utf-8")
    assert f"| LoRA, equal rank | {outcome.mean('stand-in', 'content'):.2f} | {np.mean(shares):.2f} |" in text
    assert "No evidence: the judge `stand-in` is a stand-in" in text
    assert assemble.NAME in text


def test_a_pair_without_adapters_is_what_the_model_draws(given: Path, out: Path) -> None:
    model = Playground(given / "models" / "checkpoints" / assemble.NAME)
    expected = model.generate(prompt(given, 1, 0), seed=1009, count=PICTURES, steps=STEPS, cfg=CFG, size=SIZE)
    assert np.abs(drawn(out, "none", 1, 0).astype(int) - expected).max() <= 1


def test_a_model_in_parts_is_the_same_model(given: Path, out: Path, tmp_path: Path) -> None:
    """As FLUX comes: a diffusion model, a text encoder and a VAE, each in a file."""
    whole = load_file(given / "models" / "checkpoints" / assemble.NAME)
    for name, prefix in (("clip_l", "text_encoders.clip_l.transformer."), ("vae", "first_stage_model.")):
        part = {key.removeprefix(prefix): value for key, value in whole.items() if key.startswith(prefix)}
        save_file(part, tmp_path / f"{name}.safetensors")
    files = models.Files(
        diffusion_model=str(given / "models" / "diffusion_models" / assemble.NAME), clip_type="sd3",
        text_encoders=(str(tmp_path / "clip_l.safetensors"),), vae=str(tmp_path / "vae.safetensors"),
    )  # fmt: skip
    model, subject = models.load(files), read_folder(given / "contents", SIZE)[0]
    drawing = Drawing(size=SIZE, steps=STEPS, cfg=CFG)
    found = as_bytes(model.draw(model.patcher, prompt(given, 1, 0), subject, drawing, PICTURES, 1009))
    assert np.abs(found.astype(int) - drawn(out, "none", 1, 0)).max() <= 1


def test_a_merge_is_what_comfyuis_own_loader_draws(given: Path, out: Path) -> None:
    model = Playground(given / "models" / "checkpoints" / assemble.NAME)
    patched = model.model
    for name in ("content_1", "style_0"):
        patched = with_stock_lora(patched, load_adapter(out / "adapters" / "lora.0" / f"{name}.safetensors"), 1.0)
    expected = model.generate(
        prompt(given, 1, 0), seed=1009, count=PICTURES, steps=STEPS, cfg=CFG, size=SIZE, model=patched
    )
    found, alone = (drawn(out, method, 1, 0).astype(int) for method in ("lora", "none"))
    assert np.abs(expected - alone).mean() > 1
    assert np.abs(found - expected).mean() < 0.1 * np.abs(expected - alone).mean()


def test_what_is_done_is_not_done_again(given: Path, out: Path) -> None:
    before = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    with mock.patch.object(models, "load", side_effect=AssertionError("the model was loaded")):
        command.measure(options(given))
    assert {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()} == before


def test_what_is_lost_is_made_again_as_it_was(given: Path, out: Path) -> None:
    adapter = out / "adapters" / "qr_full.0" / "style_1.safetensors"
    picture = out / "pictures" / "qr_full.sum.1.0" / "0_1_1.png"
    before = load_adapter(adapter), picture.read_bytes()
    adapter.unlink()
    picture.unlink()
    with mock.patch.object(models, "train_adapter", wraps=models.train_adapter) as trained:
        command.measure(options(given))
    assert trained.call_count == 1
    assert picture.read_bytes() == before[1]
    for path, layer in load_adapter(adapter).layers.items():
        assert torch.equal(layer.terms[0].delta_r, before[0].layers[path].terms[0].delta_r)


# What the node QR-LoRA Merge is asked for; content is its first adapter.
AT_THE_NODE: dict[str, dict[str, Any]] = {
    "sum": {},
    "null_space_content": {"mode": "null_space", "protect": 1},
    "null_space_style": {"mode": "null_space", "protect": 2},
    "ties": {"mode": "ties"},
}


@pytest.fixture(scope="module")
def more(given: Path, out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with other points and merges, which trains nothing."""
    folder = Path(shutil.copytree(out, tmp_path_factory.mktemp("more") / "out"))
    asked = f"--methods lora --merges {' '.join(AT_THE_NODE)} --scales 1 0.5,1 --out {folder}"
    with mock.patch.object(models, "train_adapter", side_effect=AssertionError("trained again")):
        command.measure(options(given, asked))
    return folder


@pytest.mark.parametrize("merge", AT_THE_NODE)
def test_other_points_and_merges_are_added_as_the_node_makes_them(given: Path, more: Path, merge: str) -> None:
    assert read_points(more / "cells" / f"lora.{merge}.csv.gz") == {"1": 4, "0.5,1": 4}
    model = Playground(given / "models" / "checkpoints" / assemble.NAME)
    adapters = [load_adapter(more / "adapters" / "lora.0" / f"{name}.safetensors") for name in ("content_1", "style_0")]
    merged_by_node = merged(model.model, (adapters[0], 0.5), (adapters[1], 1.0), **AT_THE_NODE[merge])
    expected = model.generate(
        prompt(given, 1, 0), seed=1009, count=PICTURES, steps=STEPS, cfg=CFG, size=SIZE, model=merged_by_node
    )
    found = {name: drawn_at(more, f"lora.{name}.0.5,1.0", 1, 0) for name in AT_THE_NODE}
    assert np.abs(found[merge].astype(int) - expected).max() <= 1
    others = [other for name, other in found.items() if name != merge]
    assert all(np.abs(found[merge].astype(int) - other).max() > 3 for other in others)


def read_points(path: Path) -> dict[str, int]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        points = [row["point"] for row in DictReader(file)]
    return {point: points.count(point) for point in points}


def test_a_judge_takes_the_most_similar() -> None:
    """Embeddings are the pictures' own numbers: two contents and two styles, and three pictures of a pair."""
    known = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).reshape(2, 1, 1, 2)
    pictures = torch.tensor([[3.0, 1.0], [1.0, 2.0], [-1.0, 5.0]]).reshape(3, 1, 1, 2)
    judge = Judge("own", dict.fromkeys(("content", "style"), lambda pixels: pixels.flatten(1)))
    seen = Bench([judge], {"content": known, "style": known.flip(0)}).look(pictures, content=0, style=0)["own"]
    assert seen.counts() == [1, 2, 0]  # the second style is what the first content is
    content = [3 / 10**0.5, 1 / 5**0.5, -1 / 26**0.5]
    style = [1 / 10**0.5, 2 / 5**0.5, 5 / 26**0.5]
    assert seen.similarities() == pytest.approx([np.mean(content), np.mean(style)], abs=1e-4)


def reported(folder: Path, kept: dict[str, list[int]]) -> str:
    """The report of two methods, of which each keeps everything or nothing, as each judge says: 1 or 0 for either."""
    plan = Plan(methods=("qr_full", "lora"), seeds=2, pictures=1)
    subjects = [Subject(name, name, name, torch.zeros(1, 8, 8, 3)) for name in "ab"]
    run = Run(plan, subjects, subjects, folder)
    judges = [Judge(name, {}, ("file",)) for name in kept]
    for row, method in enumerate(plan.methods):
        places = [[seed, "1", c, s] for seed in range(2) for c in range(2) for s in range(2)]
        for kind, columns in (("cells", ("content", "style", "both")), ("similarity", ("content", "style"))):
            names = [
                "seed",
                "point",
                "content",
                "style",
                *(f"{judge}_{column}" for judge in kept for column in columns),
            ]
            told = [numbers[row] for numbers in kept.values() for _ in columns]
            statistics.write(run.cell_of(Cell(method), kind), names, [[*place, *told] for place in places])
    return Report(run, judges, "a model", "a machine").text()


def test_better_takes_all_judges(tmp_path: Path) -> None:
    line = "| QR-LoRA `full` less LoRA, equal rank | 1.00 [1.00, 1.00] |"
    assert f"{line} 1.00 [1.00, 1.00] | better |" in reported(tmp_path / "both", {"clip": [1, 0], "dino+csd": [1, 0]})
    one = reported(tmp_path / "one", {"clip": [1, 0], "dino+csd": [1, 1]})
    assert f"{line} 0.00 [0.00, 0.00] | no difference shown |" in one
    assert "stand-in" not in one


NARROW = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "projection_dim": 16}


@pytest.fixture
def clip_vision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host's folder of image encoders; the host reads the layout of ViT-L and of DINOv2 large at a small width."""
    theirs, ours = Path(comfy.clip_vision.__file__).parent, tmp_path / "host"
    for name, narrow in (("clip_vision_config_vitl.json", NARROW), ("image_encoders/dino2_large.json", NARROW)):
        settings = json.loads((theirs / name).read_text("utf-8"))
        (ours / name).parent.mkdir(parents=True, exist_ok=True)
        (ours / name).write_text(json.dumps({**settings, **narrow}), "utf-8")
    monkeypatch.setattr(comfy.clip_vision, "__file__", str(ours / "clip_vision.py"))
    folder = tmp_path / "clip_vision"
    folder.mkdir()
    kinds = folder_paths.folder_names_and_paths["clip_vision"][1]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "clip_vision", ([str(folder)], kinds))
    return folder


def randomized(model: torch.nn.Module) -> torch.nn.Module:
    """Weights that a file of half precision holds exactly."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = 0.2 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_((noise + 1 if "norm" in name and "weight" in name else noise).half().float())
    return model.eval()


def clip_model() -> Any:
    config = CLIPVisionConfig(num_hidden_layers=24, image_size=224, patch_size=14, hidden_act="quick_gelu", **NARROW)
    return randomized(CLIPVisionModelWithProjection(config))


def dino_model() -> Any:
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=24, num_attention_heads=2, image_size=518, patch_size=14, mlp_ratio=4
    )
    return randomized(Dinov2Model(config))


def published(model: Any, folder: Path) -> dict[str, Tensor]:
    """The weights of a model of transformers under the names that it writes, which are not those that it runs with."""
    model.save_pretrained(folder)
    return {key: value.half() for key, value in load_file(folder / "model.safetensors").items()}


OPENAI = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2",
          "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}  # fmt: skip


def as_csd(weights: dict[str, Tensor], module: str = "module.") -> dict[str, Tensor]:
    """The names of OpenAI's CLIP, as CSD has published it: q, k and v in one, the projection (in, out) for styles."""
    whole = {
        "class_embedding": weights["vision_model.embeddings.class_embedding"],
        "conv1.weight": weights["vision_model.embeddings.patch_embedding.weight"],
        "positional_embedding": weights["vision_model.embeddings.position_embedding.weight"],
        **{f"ln_{ours}.{part}": weights[f"vision_model.{theirs}.{part}"]
           for ours, theirs in (("pre", "pre_layrnorm"), ("post", "post_layernorm")) for part in ("weight", "bias")},
    }  # fmt: skip
    for number in range(24):
        theirs, ours = f"vision_model.encoder.layers.{number}", f"transformer.resblocks.{number}"
        for part in ("weight", "bias"):
            inputs = [weights[f"{theirs}.self_attn.{name}_proj.{part}"] for name in "qkv"]
            whole[f"{ours}.attn.in_proj_{part}"] = torch.cat(inputs)
            for name, other in OPENAI.items():
                whole[f"{ours}.{name}.{part}"] = weights[f"{theirs}.{other}.{part}"]
    style = weights["visual_projection.weight"].T.contiguous()
    named = {f"{module}backbone.{key}": value for key, value in whole.items()}
    return named | {f"{module}last_layer_style": style, f"{module}last_layer_content": torch.ones_like(style)}


def pictures_for(size: int, mean: list[float], std: list[float]) -> tuple[Tensor, Tensor]:
    """Three pictures that need no scaling, for us and as transformers takes them."""
    seeds = torch.Generator().manual_seed(1)
    coarse = F.interpolate(torch.rand(3, 3, 8, 8, generator=seeds), size=(size, size), mode="bilinear")
    steps = (coarse * 255).round() / 255
    normal = (steps - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    return steps.movedim(1, -1), normal


OF_CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
OF_DINO = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def assert_same_embedding(found: Tensor, expected: Tensor) -> None:
    """Compared with how far pictures are apart."""
    assert found.shape == expected.shape
    assert (found - expected).norm() < 1e-2 * (expected - expected.mean(0)).norm()


@pytest.mark.parametrize(
    ("kind", "named"),
    [("clip", lambda weights: weights), ("csd", as_csd), ("csd", lambda weights: as_csd(weights, ""))],
    ids=["clip", "csd as published", "csd without module"],
)
def test_clip_and_csd_embed_as_transformers_does(clip_vision: Path, kind: str, named: Callable[[Any], Any]) -> None:
    model = clip_model()
    save_file(named(published(model, clip_vision.with_name("published"))), clip_vision / f"my_{kind}.safetensors")
    pictures, normal = pictures_for(224, *OF_CLIP)
    found = encoder(KINDS[kind], weights_of(KINDS[kind]))(pictures)
    assert_same_embedding(found, model(normal).image_embeds)


def test_dino_embeds_as_transformers_does(clip_vision: Path) -> None:
    model = dino_model()
    save_file(published(model, clip_vision.with_name("published")), clip_vision / "dinov2_large.safetensors")
    pictures, normal = pictures_for(518, *OF_DINO)
    found = encoder(KINDS["dino"], weights_of(KINDS["dino"]))(pictures)
    assert_same_embedding(found, model(normal).pooler_output)


def test_judges_are_those_that_are_installed(clip_vision: Path) -> None:
    weights = published(clip_model(), clip_vision.with_name("published"))
    save_file(weights, clip_vision / "clip_vision_l.safetensors")
    told: list[str] = []
    assert [judge.name for judge in judges_named([], {}, told.append)] == ["clip"]
    assert len(told) == 1
    assert told[0].startswith("not taken: judge dino: expected one file with dino in its name")
    save_file(as_csd(weights), clip_vision / "csd_clip.safetensors")
    dino = published(dino_model(), clip_vision.with_name("other"))
    save_file(dino, clip_vision / "dinov2_large.safetensors")
    both = judges_named([], {}, pytest.fail)
    assert [judge.name for judge in both] == ["clip", "dino+csd"]
    assert both[1].files == ("dinov2_large.safetensors", "csd_clip.safetensors")
    (named,) = judges_named(["clip+csd"], {"csd": str(clip_vision / "csd_clip.safetensors")}, pytest.fail)
    pictures = pictures_for(224, *OF_CLIP)[0]
    assert torch.equal(named.seen["content"](pictures), both[0].seen["content"](pictures))
    assert torch.equal(named.seen["style"](pictures), both[1].seen["style"](pictures))


@pytest.mark.parametrize(
    ("names", "files", "message"),
    [
        (
            [],
            {},
            r"no judge is installed.*judge clip: expected one file with clip in its name in .*clip_vision, found none",
        ),
        (["dino+csd"], {}, "judge dino: .* Put DINOv2 large or giant .* or name a file with --judge-file dino=FILE"),
        (["clip"], {"clip": "no.safetensors"}, "judge clip: expected a file no.safetensors in .*, found none"),
        (["dino"], {}, "--judge dino: dino sees content, not style. Name one for contents and one for styles"),
        (["csd+clip"], {}, "--judge csd.clip: csd sees style, not content"),
        (["vgg"], {}, "--judge vgg: expected stand-in, clip, or two of dino, clip, csd"),
        (["clip+dino+csd"], {}, "expected stand-in, clip, or two of"),
        (["clip"], {"vgg": "x"}, "--judge-file vgg: expected one of dino, clip, csd before the ="),
    ],
)
def test_a_judge_that_is_not_there_is_told(
    clip_vision: Path, names: list[str], files: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=f"(?s){message}"):
        judges_named(names, files, pytest.fail)


def test_files_that_are_no_judges_are_told(clip_vision: Path) -> None:
    weights = published(clip_model(), clip_vision.with_name("published"))
    for name in ("clip_a", "clip_b"):
        save_file(weights, clip_vision / f"{name}.safetensors")
    with pytest.raises(InputError, match=r"found clip_a.safetensors, clip_b.safetensors"):
        judges_named(["clip"], {}, pytest.fail)
    with pytest.raises(InputError, match="expected the keys of CSD"):
        judges_named(["clip+csd"], {"clip": "clip_a.safetensors", "csd": "clip_b.safetensors"}, pytest.fail)
    weights.pop("vision_model.post_layernorm.weight")
    save_file(weights, clip_vision / "part.safetensors")
    with pytest.raises(InputError, match=r"1 lack, such as vision_model.post_layernorm.weight"):
        judges_named(["clip"], {"clip": "part.safetensors"}, pytest.fail)
    save_file({"x": torch.zeros(1)}, clip_vision / "other.safetensors")
    with pytest.raises(InputError, match="knows no image encoder with these layers"):
        judges_named(["clip"], {"clip": "other.safetensors"}, pytest.fail)
    (clip_vision / "old.pth").write_bytes(b"")
    with pytest.raises(InputError, match=r"expected a safetensors file, found .pth"):
        judges_named(["clip"], {"clip": str(clip_vision / "old.pth")}, pytest.fail)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures with captions."""
    for name in ("one", "two"):
        save_picture(np.zeros((9, 7, 3), np.uint8), tmp_path / "given" / f"{name}.png")
        (tmp_path / "given" / f"{name}.txt").write_text(f"{name}\n", "utf-8")
    return tmp_path / "given"


def test_without_a_second_line_the_caption_stands_for_itself(folder: Path) -> None:
    (folder / "notes.txt").write_text("beside no picture")
    subjects = read_folder(folder, 4)
    assert [(one.name, one.caption, one.phrase) for one in subjects] == [("one", "one", "one"), ("two", "two", "two")]
    assert subjects[0].pixels.shape == (1, 4, 4, 3)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "one.txt").unlink(), r"one.txt: expected a text file with the picture's caption"),
        (lambda folder: (folder / "one.txt").write_text("\n"), r"one.txt: expected one or two lines.*found 0"),
        (lambda folder: (folder / "one.txt").write_text("a\nb\nc"), r"one.txt: expected one or two lines.*found 3"),
        (lambda folder: (folder / "two.png").write_bytes(b"no"), r"two.png: expected a picture"),
        (lambda folder: (folder / "two.png").unlink(), r"given: expected at least 2 pictures .*found 1"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], r"expected at least 2 pictures .*found 0"),
        (lambda folder: folder.rename(folder.with_name("gone")), r"given: expected a folder of pictures, found none"),
    ],
)
def test_a_picture_that_cannot_serve_is_named(folder: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(folder)
    with pytest.raises(InputError, match=message):
        read_folder(folder, 4)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (models.Files(checkpoint="gone.safetensors"), r"gone.safetensors: expected a path, or a file in .*checkpoints"),
        (models.Files(diffusion_model="{diffusion}"), r"with its text encoder and its VAE; name also --text-encoder"),
        (
            models.Files(checkpoint="{checkpoint}", text_encoders=("{checkpoint}",), clip_type="t6"),
            "--clip-type t6: expected",
        ),
    ],
)
def test_a_model_that_cannot_serve_is_told(given: Path, files: models.Files, message: str) -> None:
    places = {name: str(given / "models" / folder / assemble.NAME)
              for name, folder in (("checkpoint", "checkpoints"), ("diffusion", "diffusion_models"))}  # fmt: skip
    encoders = tuple(name.format(**places) for name in files.text_encoders)
    named = models.Files(
        files.checkpoint.format(**places), files.diffusion_model.format(**places), encoders, files.clip_type
    )
    with pytest.raises(InputError, match=message):
        models.load(named)


def test_other_settings_do_not_mix_with_what_is_there(given: Path, out: Path) -> None:
    message = r"other settings: training rank \(4 there, 5 here\); rate of lora \(0.01 there, 0.02 here\)"
    with pytest.raises(InputError, match=message):
        command.measure(options(given, "--rank 5 --rate 0.01 lora=0.02"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--rate dora=1", "dora=1: expected one of qr_full, qr_triu, qr, lora, lora_half before the ="),
        ("--scales 1,2,3", "1,2,3: expected one number, or two"),
        ("--judge-file dino", "dino: expected a kind of weights and a file"),
        ("--prompt hello", "hello: expected {content} and {style} in it"),
        ("--pictures 0", "0: expected at least 1"),
        ("--diffusion-model x", "not allowed with argument --checkpoint"),
    ],
)
def test_an_option_that_cannot_be_is_told(
    given: Path, capsys: pytest.CaptureFixture[str], more: str, message: str
) -> None:
    with pytest.raises(SystemExit):
        options(given, more)
    assert message in capsys.readouterr().err


@pytest.mark.process
@pytest.mark.slow
def test_the_command_says_what_lacks(given: Path) -> None:
    """In a process of its own, which boots a host with the models of a folder."""
    arguments = f"--checkpoint {assemble.NAME} --contents {given}/contents --styles {given}/styles --base {given} --cpu"
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.evidence", *arguments.split()], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert (
        "error: no judge is installed, and none was named with --judge.\njudge clip: expected one file" in ended.stderr
    )
    assert str(given / "models" / "clip_vision") in ended.stderr
