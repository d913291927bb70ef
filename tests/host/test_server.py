"""The whole way through a real server: train, save, load, merge, tweak, and what a user reads after a mistake."""

import asyncio
import copy
import io
import itertools
import json
import pickle
import shutil
import time
import urllib.error
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import torch
from PIL.Image import Image
from safetensors.torch import save_file

from comfyui_qr_lora.qrlora_core import load_adapter, save_adapter
from comfyui_qr_lora.qrlora_core.adapter import Layer, QRLoRA
from devtools.server import PromptError, Server
from generators.workflows import prompt_of, without_roles

from ..support.servers import BROKEN

_numbers = itertools.count()
pytestmark = pytest.mark.server
EXAMPLE = without_roles(prompt_of("compose_content_and_style"))
LOADER, TRAIN_CONTENT, TRAIN_STYLE, MERGE, LATENT, SAMPLER, DECODE, PICTURE = (
    "1",
    "8",
    "9",
    "10",
    "13",
    "14",
    "15",
    "16",
)
SAVE_CONTENT, SAVE_STYLE = "17", "18"


def test_what_could_not_be_loaded_is_found_in_the_log(server: Server) -> None:
    (line,) = server.import_errors
    assert BROKEN in line


def example(*, steps: int = 6, **merge: Any) -> dict[str, Any]:
    """The example workflow, shortened."""
    prompt = copy.deepcopy(EXAMPLE)
    for train in (TRAIN_CONTENT, TRAIN_STYLE):
        prompt[train]["inputs"] |= {"steps": steps, "batch_size": 1, "learning_rate": 0.003}
    prompt[LATENT]["inputs"]["batch_size"] = 1
    prompt[SAMPLER]["inputs"]["steps"] = 4
    prompt[MERGE]["inputs"] |= merge
    return prompt


def generate(**more: Any) -> dict[str, Any]:
    """The base model alone, or with nodes that take its place as the sampler's model."""
    kept = (LOADER, "11", "12", LATENT, SAMPLER, DECODE, PICTURE)
    prompt = {name: node for name, node in example().items() if name in kept}
    prompt[SAMPLER]["inputs"]["model"] = [LOADER, 0]
    return prompt | more


def with_adapter(name: str, scale: float = 1.0, apply: str = "live") -> dict[str, Any]:
    prompt = generate()
    prompt["20"] = {"class_type": "QRLoRA_Load", "inputs": {"adapter_name": name}}
    inputs = {"model": [LOADER, 0], "adapter_1": ["20", 0], "scale_1": scale, "apply": apply}
    prompt["21"] = {"class_type": "QRLoRA_Merge", "inputs": inputs}
    prompt[SAMPLER]["inputs"]["model"] = ["21", 0]
    return prompt


def picture(server: Server, prompt: dict[str, Any]) -> np.ndarray:
    prompt[PICTURE]["inputs"]["filename_prefix"] = f"picture_{next(_numbers)}"  # a cached output is not reported again
    (image,) = server.images(server.queue(prompt))
    return pixels(image)


def pixels(image: Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).astype(np.int16)


def executed(server: Server, prompt: dict[str, Any]) -> set[str]:
    """The nodes that ran, the others being cached."""
    history = server.queue(prompt)
    cached = [data["nodes"] for event, data in history["status"]["messages"] if event == "execution_cached"]
    return set(prompt) - set(cached[0])


@pytest.fixture(scope="module")
def trained(server: Server) -> dict[str, Any]:
    """The history of the example workflow, run once."""
    return server.queue(example())


def test_example_trains_merges_saves_and_draws(server: Server, trained: dict[str, Any]) -> None:
    assert len(server.images(trained)) == 1
    for node, prefix in ((SAVE_CONTENT, "content"), (SAVE_STYLE, "style")):
        name = trained["outputs"][node]["text"][0]
        assert name == f"output/qr_loras/{prefix}_00001_.safetensors"
        adapter = load_adapter(server.output_dir / "qr_loras" / f"{prefix}_00001_.safetensors")
        assert adapter.metadata["qr_lora.base_model"] == "SD3"
        assert all(term.rank == 16 for _, term in adapter.terms())


def test_a_changed_scale_trains_nothing_again_and_reloads_nothing(server: Server, trained: dict[str, Any]) -> None:
    start = len(server.log)
    ran = executed(server, example(scale_1=0.35))
    log = server.log[start:]
    assert ran <= {MERGE, SAMPLER, DECODE, PICTURE, SAVE_CONTENT, SAVE_STYLE}
    assert {MERGE, SAMPLER} <= ran
    assert "loaded completely" not in log
    assert "loaded partially" not in log


def test_saved_and_loaded_adapter_draws_the_same_picture(server: Server, trained: dict[str, Any]) -> None:
    kept = {"scale_1": 0.9, "scale_2": 0.0}
    before = picture(server, example(**kept))
    base = picture(server, generate())
    after = with_adapter("output/qr_loras/content_00001_.safetensors", 0.9)
    assert np.array_equal(picture(server, after), before)
    assert not np.array_equal(before, base)


def test_live_and_patch_draw_the_same_picture(server: Server, trained: dict[str, Any]) -> None:
    name = "output/qr_loras/style_00001_.safetensors"
    live, patch = (picture(server, with_adapter(name, 1.0, apply)) for apply in ("live", "patch"))
    base = picture(server, generate())
    assert np.abs(live - patch).max() <= 2  # of 255, after sampling and decoding
    assert np.abs(live - base).max() > 10


def test_scale_zero_draws_the_base_picture(server: Server, trained: dict[str, Any]) -> None:
    base = picture(server, generate())
    for apply in ("live", "patch"):
        found = picture(server, with_adapter("output/qr_loras/content_00001_.safetensors", 0.0, apply))
        assert np.array_equal(found, base)


def test_a_file_that_changed_on_disk_is_loaded_again(server: Server, trained: dict[str, Any]) -> None:
    folder = server.output_dir / "qr_loras"
    shutil.copy(folder / "content_00001_.safetensors", folder / "changing.safetensors")
    prompt = with_adapter("output/qr_loras/changing.safetensors")
    first = picture(server, prompt)
    shutil.copy(folder / "style_00001_.safetensors", folder / "changing.safetensors")
    assert not np.array_equal(picture(server, prompt), first)


def test_subfolders_and_folders_of_models_are_listed(server: Server, trained: dict[str, Any]) -> None:
    source = server.output_dir / "qr_loras" / "content_00001_.safetensors"
    for place in ("qr_loras/animals/cat.safetensors", "loras/cat.safetensors"):
        target = server.models_dir / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    listed = server.get("/object_info/QRLoRA_Load")["QRLoRA_Load"]["input"]["required"]["adapter_name"]
    names = listed[1]["options"] if listed[0] == "COMBO" else listed[0]
    assert {"qr_loras/animals/cat.safetensors", "loras/cat.safetensors"} <= set(names)
    assert picture(server, with_adapter("qr_loras/animals/cat.safetensors")).any()


def test_training_lowers_the_loss(server: Server) -> None:
    prompt = {name: node for name, node in example(steps=80).items() if name in (LOADER, "2", "3", "4", TRAIN_CONTENT)}
    prompt[SAVE_CONTENT] = {
        "class_type": "QRLoRA_Save",
        "inputs": {"adapter": [TRAIN_CONTENT, 0], "filename_prefix": "loss"},
    }
    prompt[TRAIN_CONTENT]["inputs"] |= {"batch_size": 2, "learning_rate": 0.002}
    (name,) = server.queue(prompt)["outputs"][SAVE_CONTENT]["text"]
    told = json.loads(load_adapter(server.output_dir.parent / name).metadata["qr_lora.training"])
    assert told["last_loss"] < 0.8 * told["first_loss"]


def test_two_images_and_two_captions_train_one_adapter(server: Server) -> None:
    prompt = example(steps=2)
    prompt["30"] = {"class_type": "ImageBatch", "inputs": {"image1": ["2", 0], "image2": ["5", 0]}}
    prompt["3"]["inputs"]["pixels"] = ["30", 0]
    captions = {"conditioning_1": ["4", 0], "conditioning_2": ["7", 0]}
    prompt["31"] = {"class_type": "ConditioningCombine", "inputs": captions}
    prompt[TRAIN_CONTENT]["inputs"]["positive"] = ["31", 0]
    prompt["32"] = {"class_type": "LossGraphNode", "inputs": {"loss": [TRAIN_CONTENT, 1], "filename_prefix": "loss"}}
    history = server.queue(prompt)
    assert history["outputs"]["32"]["images"]


def test_sweep_and_grid(server: Server, trained: dict[str, Any]) -> None:
    """A cell of the grid is exactly the single run with its scales."""
    prompt = generate()
    for node, prefix in (("20", "content"), ("22", "style")):
        name = f"output/qr_loras/{prefix}_00001_.safetensors"
        prompt[node] = {"class_type": "QRLoRA_Load", "inputs": {"adapter_name": name}}
    sweep = {
        "model": [LOADER, 0],
        "adapter_x": ["20", 0],
        "scales_x": "0, 1",
        "adapter_y": ["22", 0],
        "scales_y": "0, 0.5",
    }
    prompt["23"] = {"class_type": "QRLoRA_Sweep", "inputs": sweep}
    prompt[SAMPLER]["inputs"]["model"] = ["23", 0]
    prompt["24"] = {"class_type": "QRLoRA_Grid", "inputs": {"images": [DECODE, 0], "grid": ["23", 1]}}
    prompt["25"] = {"class_type": "SaveImage", "inputs": {"images": ["24", 0], "filename_prefix": "grid"}}
    prompt.pop(PICTURE)
    (grid,) = server.images(server.queue(prompt))
    single = with_adapter("output/qr_loras/content_00001_.safetensors", 1.0)
    single["22"] = prompt["22"]
    single["21"]["inputs"] |= {"adapter_2": ["22", 0], "scale_2": 0.5}
    cell = pixels(grid)[-128:, -128:]
    assert np.array_equal(cell, picture(server, single))


def test_schedule_and_blocks_nodes(server: Server, trained: dict[str, Any]) -> None:
    prompt = with_adapter("output/qr_loras/content_00001_.safetensors")
    plain = picture(server, prompt)
    scheduled = copy.deepcopy(prompt)
    curve = {"curve": "late", "start_percent": 0.0, "end_percent": 1.0}
    scheduled["40"] = {"class_type": "QRLoRA_Schedule", "inputs": curve}
    scheduled["21"]["inputs"]["schedule_1"] = ["40", 0]
    assert not np.array_equal(picture(server, scheduled), plain)
    blocks = copy.deepcopy(prompt)
    rules = {"adapter": ["20", 0], "rules": "joint_blocks.*: 0", "model": [LOADER, 0]}
    blocks["41"] = {"class_type": "QRLoRA_Blocks", "inputs": rules}
    blocks["21"]["inputs"]["adapter_1"] = ["41", 0]
    assert np.array_equal(picture(server, blocks), picture(server, generate()))


async def texts_on(server: Server, prompt: dict[str, Any], node_id: str) -> list[str]:
    """What the server puts on a node while a prompt runs, in order."""
    marker, texts = node_id.encode(), []
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{server.url}/ws?clientId=watcher") as socket:
        prompt_id = await asyncio.to_thread(server.submit, prompt, "watcher")
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY and message.data[8:].startswith(marker):
                texts.append(message.data.decode("utf-8", errors="replace"))
            elif message.type is aiohttp.WSMsgType.TEXT:
                event = json.loads(message.data)
                if event["type"] == "execution_success" and event["data"]["prompt_id"] == prompt_id:
                    return texts
    return texts


def test_what_did_nothing_is_told_on_the_node_after_sampling(server: Server, trained: dict[str, Any]) -> None:
    prompt = with_adapter("output/qr_loras/content_00001_.safetensors")
    curve = {"curve": "constant", "start_percent": 0.999, "end_percent": 1.0}
    prompt["22"] = {"class_type": "QRLoRA_Schedule", "inputs": curve}
    prompt["21"]["inputs"]["schedule_1"] = ["22", 0]
    before, after = asyncio.run(texts_on(server, prompt, "21"))
    assert "did nothing" not in before
    assert "did nothing: its schedule was at 0 in every step" in after
    assert "content_00001_.safetensors: " in after


def broken_files(folder: Path, good: Path) -> dict[str, str]:
    """File name to a part of the message that a user must read."""
    adapter = load_adapter(good)
    path, layer = next(iter(adapter.layers.items()))
    (term,) = layer.terms
    tensors = {f"{path}.lora.q.weight": term.q, f"{path}.lora.delta_r.weight": term.delta_r}
    key = f"{path}.lora.delta_r.weight"
    (folder / "truncated.safetensors").write_bytes(good.read_bytes()[:5000])
    (folder / "text.safetensors").write_text("not safetensors at all", encoding="utf-8")
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    (folder / "zip_pickle.safetensors").write_bytes(buffer.getvalue())
    (folder / "pickle.safetensors").write_bytes(pickle.dumps({"a": 1}, protocol=4))
    save_file(tensors | {key: term.delta_r[:4].contiguous()}, folder / "rank.safetensors")
    save_file(tensors | {key: torch.full_like(term.delta_r, float("nan"))}, folder / "nan.safetensors")
    half = {"lora_unet_x.lora_down.weight": torch.zeros(2, 2)}
    save_file(half, folder / "half_a_lora.safetensors")
    save_file({**half, "lora_unet_x.vera_lambda_b": torch.zeros(2)}, folder / "vera.safetensors")
    wrong_shape = Layer.single(torch.linalg.qr(torch.randn(64, 4)).Q, torch.randn(4, 32))
    save_adapter(QRLoRA({path: wrong_shape}), folder / "shape.safetensors")
    foreign = QRLoRA({"transformer.no.such.layer": layer}, {"qr_lora.base_model": "Flux"})
    save_adapter(foreign, folder / "foreign.safetensors")
    return {
        "missing.safetensors": "no such adapter file",
        "truncated.safetensors": "damaged, cut short",
        "text.safetensors": "not a readable safetensors file",
        "zip_pickle.safetensors": "pickle file",
        "pickle.safetensors": "pickle file",
        "rank.safetensors": "rank mismatch",
        "nan.safetensors": "NaN or infinity",
        "half_a_lora.safetensors": "layer lora_unet_x: expected up and down, found no up",
        "vera.safetensors": "this is a VeRA",
        "shape.safetensors": "the adapter is for (64, 32)",
        "foreign.safetensors": "It was made for Flux",
        "../../secret.safetensors": "leads out of the folder",
    }


def test_bad_files_say_what_to_do_and_leave_the_model_as_it_was(server: Server, trained: dict[str, Any]) -> None:
    base = picture(server, generate())
    folder = server.output_dir / "qr_loras"
    for name, message in broken_files(folder, folder / "content_00001_.safetensors").items():
        with pytest.raises(PromptError) as caught:
            server.queue(with_adapter(f"output/qr_loras/{name}"))
        assert message in str(caught.value), name
        assert Path(name).name in str(caught.value), name
    changed = generate()
    changed[SAMPLER]["inputs"]["seed"] = 2
    picture(server, changed)  # the picture of seed 1 is no longer cached
    assert np.array_equal(picture(server, generate()), base)


def test_partly_fitting_adapter_is_applied_and_reported(server: Server, trained: dict[str, Any]) -> None:
    folder = server.output_dir / "qr_loras"
    good = load_adapter(folder / "content_00001_.safetensors")
    extra = {"transformer.no.such.layer": next(iter(good.layers.values()))}
    save_adapter(QRLoRA({**good.layers, **extra}), folder / "partly.safetensors")
    prompt = with_adapter("output/qr_loras/partly.safetensors")
    prompt["50"] = {"class_type": "PreviewAny", "inputs": {"source": ["21", 2]}}
    history = server.queue(prompt)
    report = history["outputs"]["50"]["text"][0]
    assert f"partly.safetensors: {len(good.layers)} of {len(good.layers) + 1} layers, rank 16, scale 1.00" in report
    assert "transformer.no.such.layer" in report
    whole = with_adapter("output/qr_loras/content_00001_.safetensors")
    assert np.array_equal(pixels(server.images(history)[0]), picture(server, whole))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": "custom", "custom_targets": "no_such_layer"}, "no layer of this model matches"),
        ({"targets": "custom", "custom_targets": ""}, "found nothing"),
    ],
)
def test_bad_training_settings(server: Server, changes: dict[str, Any], message: str) -> None:
    prompt = example(steps=1)
    prompt[TRAIN_CONTENT]["inputs"] |= changes
    with pytest.raises(PromptError, match=message):
        server.queue(prompt)


def only_training(**settings: Any) -> dict[str, Any]:
    """The content training of the example, saved."""
    prompt = {name: node for name, node in example().items() if name in (LOADER, "2", "3", "4", TRAIN_CONTENT)}
    prompt[SAVE_CONTENT] = {
        "class_type": "QRLoRA_Save",
        "inputs": {"adapter": [TRAIN_CONTENT, 0], "filename_prefix": settings.get("run_name", "only")},
    }
    prompt[TRAIN_CONTENT]["inputs"] |= settings
    return prompt


def wait_for_step(server: Server, step: int) -> dict[str, Any]:
    """The report of the training that runs, once it has come so far."""
    while True:
        running = server.get("/qr_lora/training")["running"]
        if running and running[0]["step"] >= step:
            return running[0]
        queue = server.get("/queue")
        assert queue["queue_running"] or queue["queue_pending"], "no training came so far"
        time.sleep(0.1)


def test_stop_and_keep_by_the_api(server: Server) -> None:
    prompt = only_training(steps=100000, run_name="stopped")
    prompt_id = server.submit(prompt)
    report = wait_for_step(server, 2)
    assert report["node_id"] == TRAIN_CONTENT
    assert report["steps"] == 100000
    assert report["seconds_left"] > 0
    assert server.post("/qr_lora/training/stop", {"node_id": TRAIN_CONTENT}) == {"stopping": [TRAIN_CONTENT]}
    history = server.result(prompt_id, prompt)
    (name,) = history["outputs"][SAVE_CONTENT]["text"]
    told = json.loads(load_adapter(server.output_dir.parent / name).metadata["qr_lora.training"])
    assert 2 <= told["steps_done"] < 100000
    assert (
        server.output_dir / f"qr_loras/checkpoints/stopped_00001/step_{told['steps_done']:08}.safetensors"
    ).is_file()
    assert server.get("/qr_lora/training") == {"running": []}
    with pytest.raises(urllib.error.HTTPError, match="409"):
        server.post("/qr_lora/training/stop", {})


def test_an_interrupted_training_is_kept_and_goes_on(server: Server) -> None:
    prompt = only_training(steps=100000, run_name="interrupted", checkpoint_every=0)
    prompt_id = server.submit(prompt)
    wait_for_step(server, 2)
    server.post("/interrupt", {})
    with pytest.raises(PromptError, match="interrupted"):
        server.result(prompt_id, prompt)
    (checkpoint,) = (server.output_dir / "qr_loras" / "checkpoints" / "interrupted_00001").glob("*.safetensors")
    done = int(checkpoint.stem.removeprefix("step_"))
    again = only_training(
        steps=done + 2, run_name="interrupted", checkpoint_every=0, resume_from=f"interrupted_00001/{checkpoint.name}"
    )
    (name,) = server.queue(again)["outputs"][SAVE_CONTENT]["text"]
    resumed = load_adapter(server.output_dir.parent / name)
    whole = only_training(steps=done + 2, run_name="whole", checkpoint_every=0)
    (name,) = server.queue(whole)["outputs"][SAVE_CONTENT]["text"]
    expected = load_adapter(server.output_dir.parent / name)
    for path, layer in expected.layers.items():
        assert torch.equal(resumed.layers[path].terms[0].delta_r, layer.terms[0].delta_r), path


def test_a_checkpoint_that_is_not_there_is_refused_before_anything_runs(server: Server) -> None:
    with pytest.raises(PromptError, match=r"resume_from: no checkpoint 'gone_00001/step_00000002\.safetensors'"):
        server.queue(only_training(resume_from="gone_00001/step_00000002.safetensors"))


def test_every_option_of_a_training_through_the_api(server: Server) -> None:
    """All option nodes, samples with a VAE and guidance, a mask, class images; what comes out loads and acts."""
    prompt = only_training(
        steps=4, run_name="options", sample_every=2, sample_steps=2, sample_cfg=3.0, variant="qr", batch_size=2,
        vae=[LOADER, 2], negative=["41", 0], objective=["42", 0], optimizer=["43", 0], data=["44", 0],
    )  # fmt: skip
    prompt["41"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": [LOADER, 1], "text": ""}}
    objective = {"timesteps": "content", "weighting": "min_snr", "min_snr_gamma": 5.0, "loss": "huber"}
    prompt["42"] = {"class_type": "QRLoRA_Objective", "inputs": objective | {"huber_delta": 0.1}}
    optimizer = {"optimizer": "adamw", "schedule": "cosine", "warmup_steps": 1, "weight_decay": 0.0001}
    prompt["43"] = {"class_type": "QRLoRA_Optimizer", "inputs": optimizer | {"max_grad_norm": 1.0, "ema_decay": 0.9}}
    data = {"captions_per_image": 1, "repeats": "2", "caption_dropout": 0.5, "prior_weight": 0.5}
    prior = {"prior_latents": ["45", 0], "prior_positive": ["4", 0]}
    prompt["44"] = {"class_type": "QRLoRA_TrainingData", "inputs": data | prior}
    prompt["46"] = {"class_type": "LoadImage", "inputs": {"image": "style.png"}}
    prompt["45"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["46", 0], "vae": [LOADER, 2]}}
    prompt["47"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 128, "height": 128}}
    prompt["48"] = {"class_type": "SetLatentNoiseMask", "inputs": {"samples": ["3", 0], "mask": ["47", 0]}}
    prompt[TRAIN_CONTENT]["inputs"]["latents"] = ["48", 0]
    prompt["49"] = {"class_type": "SaveImage", "inputs": {"images": [TRAIN_CONTENT, 2], "filename_prefix": "view"}}
    history = server.queue(prompt)
    view = next(image for image in server.images(history) if image.width == 640)
    assert view.height > 300  # the curve and a strip of samples under it
    (name,) = history["outputs"][SAVE_CONTENT]["text"]
    adapter = load_adapter(server.output_dir.parent / name)
    told = json.loads(adapter.metadata["qr_lora.training"])
    assert told["timesteps"] == "content"
    assert told["schedule"] == "cosine"
    assert told["learning_rate"] == 0.003
    assert adapter.metadata["qr_lora.variant"] == "qr"
    assert np.abs(picture(server, with_adapter(name)) - picture(server, generate())).max() > 0


def test_a_role_through_the_api(server: Server) -> None:
    """The caption by way of the node, a mask, the VAE of the checkpoint; pixels without it are refused in words."""
    prompt = only_training(
        steps=2, run_name="role", role="content", role_settings=["71", 0], pixels=["2", 0], vae=[LOADER, 2]
    )
    caption = {"caption": "an orange house on grass", "drop_appearance": True}
    prompt["71"] = {"class_type": "QRLoRA_Role", "inputs": {"strength": "mild", "ground": "replaced", **caption}}
    prompt["72"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 128, "height": 128}}
    prompt["73"] = {"class_type": "SetLatentNoiseMask", "inputs": {"samples": ["3", 0], "mask": ["72", 0]}}
    prompt["4"]["inputs"]["text"] = ["71", 1]
    prompt[TRAIN_CONTENT]["inputs"]["latents"] = ["73", 0]
    (name,) = server.queue(prompt)["outputs"][SAVE_CONTENT]["text"]
    told = json.loads(load_adapter(server.output_dir.parent / name).metadata["qr_lora.training"])
    assert (told["role"], told["variants"], told["colour"], told["ground"]) == ("content", 32, 0.25, "replaced")
    del prompt[TRAIN_CONTENT]["inputs"]["vae"]
    with pytest.raises(PromptError, match="pixels are connected, and vae is not"):
        server.queue(prompt)


def test_the_hosts_own_data_set_nodes_are_sources(server: Server) -> None:
    prompt = only_training(steps=2, run_name="dataset")
    for name in ("2", "3", "4"):
        del prompt[name]
    folder = server.base / "input" / "pictures"
    folder.mkdir(exist_ok=True)
    for name in ("content", "style"):
        shutil.copy(server.base / "input" / f"{name}.png", folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a picture of {name}", encoding="utf-8")
    prompt["51"] = {"class_type": "LoadImageTextDataSetFromFolder", "inputs": {"folder": "pictures"}}
    made = {"images": ["51", 0], "texts": ["51", 1], "vae": [LOADER, 2], "clip": [LOADER, 1]}
    prompt["52"] = {"class_type": "MakeTrainingDataset", "inputs": made}
    prompt[TRAIN_CONTENT]["inputs"] |= {"latents": ["52", 0], "positive": ["52", 1]}
    (name,) = server.queue(prompt)["outputs"][SAVE_CONTENT]["text"]
    assert json.loads(load_adapter(server.output_dir.parent / name).metadata["qr_lora.training"])["images"] == 2


def test_captions_that_do_not_match(server: Server) -> None:
    prompt = example(steps=1)
    captions = {"conditioning_1": ["4", 0], "conditioning_2": ["7", 0]}
    prompt["31"] = {"class_type": "ConditioningCombine", "inputs": captions}
    prompt[TRAIN_CONTENT]["inputs"]["positive"] = ["31", 0]
    with pytest.raises(PromptError, match=r"one per image \(1\), found 2"):
        server.queue(prompt)


def test_saving_outside_the_output_folder_is_refused(server: Server, trained: dict[str, Any]) -> None:
    for prefix in ("../../escape", "/tmp/escape", ""):
        prompt = example()
        prompt[SAVE_CONTENT]["inputs"]["filename_prefix"] = prefix
        with pytest.raises(PromptError, match="filename_prefix"):
            server.queue(prompt)
    assert not list(server.base.parent.glob("escape*"))
