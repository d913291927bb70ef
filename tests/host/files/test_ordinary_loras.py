"""Ordinary LoRAs of every trainer: Load and Merge give what the stock LoRA loader gives, on every architecture."""

import itertools
import json
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.sd
import folder_paths
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import nodes as host_nodes
from comfyui_qr_lora.nodes.host.files.folders import adapter_path, register_folders
from comfyui_qr_lora.nodes.host.model.key_map import KeyMap
from comfyui_qr_lora.nodes.load import Load
from comfyui_qr_lora.nodes.merge import Merge
from comfyui_qr_lora.nodes.save import Save
from comfyui_qr_lora.qrlora_core import QRLoRA
from devtools import tiny_models
from devtools.stock import train_lora
from playground.text_encoder import weights

from ...support.adapters import merged, relative_error
from ...support.text_encoders import anima, encode

TOLERANCE = 1e-4  # relative to the LoRA's effect
MODES = ("live", "patch")
_numbers = itertools.count()
register_folders()  # as the host does when it loads the pack

# How trainers call a layer's two factors, and how they end the names.
KOHYA = (".lora_up.weight", ".lora_down.weight")
DIFFUSERS = (".lora.up.weight", ".lora.down.weight")
OLD_DIFFUSERS = ("_lora.up.weight", "_lora.down.weight")
TRANSFORMERS = (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight")
PEFT = (".lora_B.weight", ".lora_A.weight")
PEFT_NAMED = (".lora_B.default.weight", ".lora_A.default.weight")
BARE = (".lora_B", ".lora_A")

_FLUX_FUSED = r"lora_unet_(double_blocks_\d+_(img|txt)_attn_(qkv|proj)|single_blocks_\d+_linear[12])"
_SD15_CONVOLUTIONS = r"lora_unet_(down|mid|up)_.*(conv1|conv2|conv_shortcut|proj_in|to_q)"

# Trainer, the tiny model, the names of layers that it writes, endings, whether it writes alpha.
TRAINERS = [
    ("kohya", "flux", _FLUX_FUSED, KOHYA, True),
    ("kohya", "sdxl", r"lora_unet_(down|mid|up)_.*_(to_[qkv]|to_out_0|ff_net_0_proj|ff_net_2|proj_in)", KOHYA, True),
    ("kohya, original names", "sd15", r"lora_unet_(input|middle|output)_.*(to_[qkv]|to_out_0)", KOHYA, True),
    ("kohya with convolutions", "sd15", _SD15_CONVOLUTIONS, KOHYA, True),
    ("kohya", "sd3", r"lora_unet_joint_blocks_.*attn_(qkv|proj)", KOHYA, True),
    ("kohya", "wan", r"lora_unet_blocks_.*(self|cross)_attn_[qkvo]", KOHYA, True),
    ("diffusers", "flux", r"transformer\.(single_)?transformer_blocks\..*(to_[qkv]|add_[qkv]_proj)", PEFT, False),
    ("diffusers", "sd3", r"transformer\.transformer_blocks\..*(to_[qkv]|to_out\.0|ff\.net\.2)", DIFFUSERS, False),
    ("diffusers, old", "sd15", r"unet\..*processor\.(to_[qkv]|to_out)", OLD_DIFFUSERS, False),
    ("PEFT", "sd3", r"base_model\.model\.transformer_blocks\..*to_[qkv]", PEFT_NAMED, False),
    ("PEFT", "pixart", r"base_model\.model\.transformer_blocks\..*to_[qkv]", PEFT, False),
    ("ComfyUI", "flux", r"diffusion_model\.(double|single)_blocks\..*(qkv|proj|linear2)", KOHYA, True),
    ("ComfyUI", "qwen_image", r"diffusion_model\.transformer_blocks\..*to_[qkv]", PEFT, True),
    ("OneTrainer", "flux", r"lora_transformer_(single_)?transformer_blocks_.*(to_[qkv]|proj_mlp)", KOHYA, True),
    ("OneTrainer", "sd3", r"lora_transformer_transformer_blocks_.*to_[qkv]", KOHYA, True),
    ("SimpleTuner", "flux", r"lycoris_(single_)?transformer_blocks_.*(to_[qkv]|to_out_0)", KOHYA, True),
    ("SimpleTuner", "auraflow", r"transformer\..*attn\.to_[qkv]", PEFT, False),
    ("Mochi style, bare", "qwen_image", r"transformer_blocks\..*to_[qkv]", BARE, False),
    ("transformers", "qwen_image", r"transformer\.transformer_blocks\..*to_[qkv]", TRANSFORMERS, False),
    ("diffusion-pipe", "hunyuan_video", r"transformer\.double_blocks\..*attn_(qkv|proj)", PEFT, False),
]  # fmt: skip


@cache
def model(name: str) -> Any:
    return tiny_models.build(name)


def predict(name: str, patcher: Any) -> Tensor:
    return tiny_models.predict(patcher, tiny_models.sample_inputs(name, patcher))


def lora(
    names: dict[str, Any], shapes: Callable[[str], tuple[int, ...]], endings: tuple[str, str], alpha: bool,
    dtype: torch.dtype = torch.float32, size: float = 0.05,
) -> dict[str, Tensor]:  # fmt: skip
    """Random factors under a trainer's names: rank 4, alpha 6 where the trainer writes one."""
    generator = torch.Generator().manual_seed(len(names))
    tensors = {}
    for name in names:
        out, inner, *kernel = shapes(name)
        up, down = torch.randn(out, 4, generator=generator), torch.randn(4, inner, *kernel, generator=generator)
        tensors[name + endings[0]] = (size * up.reshape(out, 4, *(1 for _ in kernel))).to(dtype)
        tensors[name + endings[1]] = (down / down[0].numel() ** 0.5).to(dtype)
        if alpha:
            tensors[f"{name}.alpha"] = torch.tensor(6.0, dtype=dtype)
    return tensors


def saved(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    """A file in models/loras; its name there."""
    folder = Path(folder_paths.get_folder_paths("loras")[0])
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"ordinary_{next(_numbers)}.safetensors"
    save_file(tensors, file, metadata)
    return file.name


def load(name: str, **more: Any) -> QRLoRA:
    return Load.execute(f"loras/{name}", **more).args[0]


def of_model(patcher: Any, pattern: str, endings: tuple[str, str], alpha: bool, **more: Any) -> dict[str, Tensor]:
    """A LoRA on the layers whose names, in the host's own table, match."""
    key_map = KeyMap(patcher.model)
    table, weights = comfy.lora.model_lora_keys_unet(patcher.model, {}), patcher.model.state_dict().keys()
    there = [name for name, key in table.items() if (key if isinstance(key, str) else key[0]) in weights]
    names = {name: key_map.find(name) for name in there if re.fullmatch(pattern, name)}
    assert len(names) >= 2, "the pattern names no layers"
    assert None not in names.values()
    return lora(names, lambda name: names[name].shape, endings, alpha, **more)


@pytest.mark.parametrize(("trainer", "name", "pattern", "endings", "alpha"), TRAINERS)
def test_equals_the_stock_loader(trainer: str, name: str, pattern: str, endings: tuple[str, str], alpha: bool) -> None:
    base_model = model(name)
    file = saved(of_model(base_model, pattern, endings, alpha))
    base = predict(name, base_model)
    expected = predict(name, host_nodes.LoraLoaderModelOnly().load_lora_model_only(base_model, file, 0.7)[0])
    assert (expected - base).norm() > 1e-4 * base.norm()
    adapter = load(file)
    for mode in MODES:
        found = predict(name, merged(base_model, (adapter, 0.7), apply=mode))
        assert relative_error(found, expected, base) < TOLERANCE, mode


@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({"lora_alpha": 1}, 0.25),
        ({"lora_alpha": 3, "use_rslora": True, "r": 4}, 1.5),
        ({"alpha_pattern": {"(": 2}}, 1.0),
    ],
)
def test_settings_of_peft_and_how_the_stock_loader_differs_are_told(settings: dict[str, Any], factor: float) -> None:
    """By how much it does is what the note says: at that strength it draws the same."""
    base_model = model("sd3")
    tensors = of_model(base_model, r"transformer\..*to_[qkv]", PEFT, False)
    told = {f"transformer.{key}": value for key, value in settings.items()}
    file = saved(tensors, {"lora_adapter_metadata": json.dumps(told)})
    base = predict("sd3", base_model)
    expected = predict("sd3", host_nodes.LoraLoaderModelOnly().load_lora_model_only(base_model, file, factor)[0])
    loaded = Load.execute(f"loras/{file}")
    adapter, text = loaded.args[0], loaded.ui["text"][0]
    assert relative_error(predict("sd3", merged(base_model, (adapter, 1.0))), expected, base) < TOLERANCE
    layers = len(tensors) // 2
    words = "are not followed ('(')" if factor == 1 else f"scale {layers} of {layers} layers by {factor:g}, as PEFT and"
    report = Merge.execute(model=base_model, adapter_1=adapter).args[2]
    assert (text.count(words), report.count(words)) == (1, 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_factors_lose_nothing(dtype: torch.dtype) -> None:
    base_model = model("sd3")
    file = saved(of_model(base_model, r"transformer\..*to_[qkv]", PEFT, False, dtype=dtype))
    base = predict("sd3", base_model)
    expected = predict("sd3", host_nodes.LoraLoaderModelOnly().load_lora_model_only(base_model, file, 1.0)[0])
    assert relative_error(predict("sd3", merged(base_model, (load(file), 1.0))), expected, base) < TOLERANCE


def test_an_adapter_of_ours_and_loras_under_two_spellings_act_together() -> None:
    """Fused and split names of one weight in one merge, after a stock loader."""
    base_model = model("flux")
    fused = saved(of_model(base_model, r"lora_unet_double_blocks_\d+_img_attn_qkv", KOHYA, True))
    split = saved(of_model(base_model, r"transformer\.transformer_blocks\..*attn\.to_[qkv]", PEFT, False))
    base, stock = predict("flux", base_model), host_nodes.LoraLoaderModelOnly()
    expected = predict(
        "flux",
        stock.load_lora_model_only(stock.load_lora_model_only(base_model, fused, 0.6)[0], split, -0.8)[0],
    )
    for mode in MODES:
        found = predict("flux", merged(base_model, (load(fused), 0.6), (load(split), -0.8), apply=mode))
        assert relative_error(found, expected, base) < TOLERANCE, mode


def test_a_wan_fun_file_is_read_under_the_names_that_the_host_gives_it() -> None:
    base_model = model("wan")
    tensors = of_model(base_model, r"lora_unet_blocks_.*cross_attn_[qkvo]", KOHYA, True)
    file = saved({name.replace("lora_unet_", "lora_unet__", 1): tensor for name, tensor in tensors.items()})
    base = predict("wan", base_model)
    expected = predict("wan", host_nodes.LoraLoaderModelOnly().load_lora_model_only(base_model, file, 1.0)[0])
    assert (expected - base).norm() > 1e-4 * base.norm()
    assert relative_error(predict("wan", merged(base_model, (load(file), 1.0))), expected, base) < TOLERANCE


def test_rows_for_which_the_host_has_no_name_act_and_leave_as_the_whole_weight() -> None:
    """Lumina 2 under diffusers' names: keys and values are a third of the queries, and the host fuses all."""
    base_model = model("lumina2")
    path, key_map = "layers.1.attn", KeyMap(base_model.model)
    shapes = {f"transformer.{path}.to_{part}": (rows, 192) for part, rows in (("q", 192), ("k", 64), ("v", 64))}
    tensors = lora(shapes, shapes.__getitem__, PEFT, False)
    whole = torch.cat([tensors[name + PEFT[0]] @ tensors[name + PEFT[1]] for name in shapes])
    fused = saved({"diffusion_model.layers.1.attention.qkv.diff": whole})
    base, stock = predict("lumina2", base_model), host_nodes.LoraLoaderModelOnly()
    expected = predict("lumina2", stock.load_lora_model_only(base_model, fused, 0.7)[0])
    adapter = load(saved(tensors))
    for mode in MODES:
        merge = Merge.execute(model=base_model, apply=mode, adapter_1=adapter, scale_1=0.7).args
        assert relative_error(predict("lumina2", merge[0]), expected, base) < TOLERANCE, mode
        assert {key_map.name_of(key_map.named(key_map.find(name))) for name in shapes} == {*merge[1].layers}
        exported = copied_to_loras(Save.execute(merge[1], "rows", format="lora").args[0])
        again = predict("lumina2", stock.load_lora_model_only(base_model, exported, 1.0)[0])
        assert relative_error(again, expected, base) < TOLERANCE, mode


@pytest.mark.parametrize("name", ["sd3", "sd35", "sd15"])
def test_what_the_hosts_own_trainer_made(name: str) -> None:
    """Train LoRA trains biases and norms as well, and writes them as whole differences."""
    with torch.inference_mode(False):
        patcher = tiny_models.build(name)
        latent, caption = tiny_models.example(name, patcher)
        made = train_lora(
            patcher, [latent, latent], [caption], steps=3, learning_rate=1e-2, rank=4, training_dtype="fp32",
            lora_dtype="fp32", gradient_checkpointing=False,
        )["LORA_MODEL"]  # fmt: skip
    kinds = {key.rsplit(".", 1)[1] for key in made}
    assert {"diff_b", "alpha", "weight"} <= kinds
    assert ("diff" in kinds) == (name == "sd15")  # the others have no norms that it trains
    file = saved({key: value.detach().contiguous() for key, value in made.items()})
    base_model = model(name)
    base = predict(name, base_model)
    expected = predict(name, host_nodes.LoraLoaderModelOnly().load_lora_model_only(base_model, file, 0.7)[0])
    adapter = load(file)
    for mode in MODES:
        merge = Merge.execute(model=base_model, apply=mode, adapter_1=adapter, scale_1=0.7).args
        assert relative_error(predict(name, merge[0]), expected, base) < TOLERANCE, mode
    exported = load(copied_to_loras(Save.execute(merge[1], "trained", format="lora").args[0]))
    again = predict(name, merged(base_model, (exported, 1.0)))
    assert relative_error(again, expected, base) < TOLERANCE


def copied_to_loras(name: str) -> str:
    folder = Path(folder_paths.get_folder_paths("loras")[0])
    copy = folder / f"ordinary_{next(_numbers)}.safetensors"
    shutil.copy(adapter_path(name), copy)
    return copy.name


@pytest.mark.parametrize("mode", MODES)
def test_biases_and_norms_alone(mode: str) -> None:
    """Each kind of vector acts on its own: of a linear layer, a convolution, and norms of three kinds."""
    generator = torch.Generator().manual_seed(0)
    for name, keys in VECTORS.items():
        base_model = model(name)
        base = predict(name, base_model)
        for stem, ending in keys:
            size = base_model.model.get_parameter(stem + {".diff": ".weight", ".diff_b": ".bias"}[ending]).shape
            file = saved({stem + ending: 0.5 * torch.randn(size, generator=generator)})
            stock = host_nodes.LoraLoaderModelOnly().load_lora_model_only(base_model, file, 0.7)[0]
            expected = predict(name, stock)
            assert (expected - base).norm() > 1e-5 * base.norm(), (stem, ending)
            found = predict(name, merged(base_model, (load(file), 0.7), apply=mode))
            assert relative_error(found, expected, base) < 10 * TOLERANCE, (stem, ending)


def test_a_whole_difference_of_a_weight_is_exact() -> None:
    base_model = model("sd3")
    stem = "diffusion_model.joint_blocks.0.x_block.attn.proj"
    difference = 0.05 * torch.randn(128, 128, generator=torch.Generator().manual_seed(0))
    file = saved({f"{stem}.diff": difference})
    base = predict("sd3", base_model)
    expected = predict("sd3", host_nodes.LoraLoaderModelOnly().load_lora_model_only(base_model, file, 0.7)[0])
    for mode in MODES:
        found = predict("sd3", merged(base_model, (load(file), 0.7), apply=mode))
        assert relative_error(found, expected, base) < TOLERANCE, mode


def test_merge_modes_leave_biases_and_norms_as_they_are() -> None:
    base_model, generator = model("sd3"), torch.Generator().manual_seed(0)
    stem = "diffusion_model.joint_blocks.0.x_block.attn.proj"
    first, second = (saved({f"{stem}.diff_b": torch.randn(128, generator=generator)}) for _ in range(2))
    pairs = {"adapter_1": load(first), "adapter_2": load(second)}
    plain = predict("sd3", Merge.execute(model=base_model, **pairs).args[0])
    for mode in ("null_space", "ties"):
        found = predict("sd3", Merge.execute(model=base_model, mode=mode, mu=5.0, **pairs).args[0])
        assert torch.equal(found, plain), mode


VECTORS = {
    "sd15": [
        ("diffusion_model.input_blocks.1.0.in_layers.0", ".diff"),
        ("diffusion_model.input_blocks.1.0.in_layers.0", ".diff_b"),
        ("diffusion_model.out.2", ".diff_b"),
        ("diffusion_model.input_blocks.1.1.transformer_blocks.0.norm1", ".diff"),
        ("diffusion_model.input_blocks.1.1.transformer_blocks.0.norm1", ".diff_b"),
        ("diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_out.0", ".diff_b"),
    ],
    "sd35": [
        ("diffusion_model.joint_blocks.0.x_block.attn.ln_q", ".diff"),
        ("diffusion_model.joint_blocks.0.x_block.attn.qkv", ".diff_b"),
    ],
}

TEXT_NAMES = {
    "kohya": (r"lora_te1?_text_model_encoder_layers_\d+_(self_attn_[qkv]_proj|mlp_fc[12])", KOHYA),
    "diffusers": (r"text_encoder\.text_model\.encoder\.layers\.\d+\.self_attn\.[qkv]_proj", TRANSFORMERS),
    "ComfyUI": (r"text_encoders\.clip_l\.transformer\..*self_attn\.[qkv]_proj", KOHYA),
}


@pytest.fixture(scope="module")
def clip() -> Any:
    """CLIP-L with random weights."""
    state = {key: value.float() for key, value in weights().items()}
    with torch.inference_mode():
        return comfy.sd.load_text_encoder_state_dicts(
            [state], clip_type=comfy.sd.CLIPType.STABLE_DIFFUSION, model_options={"dtype": torch.float32}
        )


class TestTextEncoder:
    @staticmethod
    def encode(clip: Any) -> Tensor:
        return clip.encode_from_tokens(clip.tokenize("a red circle"))

    def file(self, clip: Any, kind: str) -> str:
        pattern, endings = TEXT_NAMES[kind]
        key_map, table = KeyMap(clip.cond_stage_model), comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
        once = {table[name]: name for name in table if re.fullmatch(pattern, name)}
        names = {name: key_map.find(name) for name in once.values()}
        assert len(names) >= 12
        text = lora(names, lambda name: names[name].shape, endings, True, size=0.2)
        pictures = of_model(model("sd15"), r"lora_unet_(down|mid|up)_.*to_[qk]", KOHYA, True)
        return saved(text | pictures)

    @pytest.mark.parametrize("kind", TEXT_NAMES)
    @pytest.mark.parametrize("mode", MODES)
    def test_equals_the_stock_loader_with_a_scale_of_its_own(self, clip: Any, kind: str, mode: str) -> None:
        base_model, file = model("sd15"), self.file(clip, kind)
        base, base_text = predict("sd15", base_model), self.encode(clip)
        stock_model, stock_clip = host_nodes.LoraLoader().load_lora(base_model, clip, file, 0.8, 0.8 * 0.5)
        expected, expected_text = predict("sd15", stock_model), self.encode(stock_clip)
        assert (expected_text - base_text).norm() > 1e-2 * base_text.norm()
        done = Merge.execute(
            model=base_model, apply=mode, adapter_1=load(file), scale_1=0.8, clip=clip, clip_scale=0.5
        ).args
        assert relative_error(self.encode(done[3]), expected_text, base_text) < TOLERANCE
        assert relative_error(predict("sd15", done[0]), expected, base) < TOLERANCE
        assert torch.equal(self.encode(clip), base_text)
        assert "in the text encoder at 0.40" in done[2]

    def test_without_clip_the_report_says_what_is_left_out(self, clip: Any) -> None:
        done = Merge.execute(model=model("sd15"), adapter_1=load(self.file(clip, "kohya")), scale_1=1.0).args
        assert done[3] is None
        assert "are for the text encoder and were left out; connect the input clip" in done[2]

    def test_two_merges_on_one_text_encoder_do_not_touch_each_other(self, clip: Any) -> None:
        adapter, base_text = load(self.file(clip, "kohya")), self.encode(clip)
        settings = {"model": model("sd15"), "adapter_1": adapter, "clip": clip}
        strong, weak = (Merge.execute(scale_1=scale, **settings).args[3] for scale in (1.0, 0.1))
        first = self.encode(strong)
        second = self.encode(weak)
        assert not torch.equal(first, second)
        assert torch.equal(self.encode(strong), first)
        del strong
        assert torch.equal(self.encode(weak), second)
        assert torch.equal(self.encode(clip), base_text)

    def test_a_saved_merge_gives_the_same_text_and_picture(self, clip: Any) -> None:
        base_model, file = model("sd15"), self.file(clip, "kohya")
        settings = {"model": base_model, "clip": clip}
        done = Merge.execute(adapter_1=load(file), scale_1=0.7, clip_scale=0.5, **settings).args
        again = Merge.execute(adapter_1=done[1], scale_1=1.0, **settings).args
        assert relative_error(self.encode(again[3]), self.encode(done[3]), self.encode(clip)) < TOLERANCE
        base, expected = predict("sd15", base_model), predict("sd15", done[0])
        assert relative_error(predict("sd15", again[0]), expected, base) < TOLERANCE


@pytest.mark.skipif(bool(tiny_models.lacking("anima")), reason=tiny_models.lacking("anima"))
@pytest.mark.parametrize("mode", MODES)
def test_kohyas_file_for_anima_reaches_the_picture_the_text_adapter_and_the_text_encoder(mode: str) -> None:
    """Its names for the encoder leave out what it is called within the host: `lora_te_layers_0_self_attn_q_proj`."""
    clip, base_model = anima(), model("anima")
    key_map = KeyMap(clip.cond_stage_model)
    layers = ("self_attn_q_proj", "self_attn_o_proj", "mlp_gate_proj", "mlp_down_proj")
    names = {name: key_map.find(name) for name in (f"lora_te_layers_{n}_{x}" for n in range(3) for x in layers)}
    text = lora(names, lambda name: names[name].shape, KOHYA, True, size=0.2)
    adapter = r"lora_unet_(llm_adapter_)?blocks_\d_(self|cross)_attn_(q|k|v|output|o)_proj"
    file = saved(text | of_model(base_model, adapter, KOHYA, True))
    base, base_text = predict("anima", base_model), encode(clip)
    stock_model, stock_clip = host_nodes.LoraLoader().load_lora(base_model, clip, file, 0.8, 0.4)
    expected, expected_text = predict("anima", stock_model), encode(stock_clip)
    assert (expected_text - base_text).norm() > 1e-2 * base_text.norm()
    done = Merge.execute(
        model=base_model, apply=mode, adapter_1=load(file), scale_1=0.8, clip=clip, clip_scale=0.5
    ).args
    assert relative_error(encode(done[3]), expected_text, base_text) < TOLERANCE
    assert relative_error(predict("anima", done[0]), expected, base) < TOLERANCE
    assert "left out" not in done[2]
