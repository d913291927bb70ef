"""LoRA loaders, a Power Lora Loader and prompts with tags as a Mixer, and a Mixer as LoRA loaders."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from playwright.sync_api import Page, expect
from safetensors.torch import load_file, save_file

from devtools.server import Server

from ..support.desk import in_page, look_at, undo
from ..support.pages import in_one_renderer

pytestmark = [pytest.mark.web, pytest.mark.server]

Load = Callable[[dict[str, Any]], None]
Prompt = dict[str, Any]

TO_MIXER, TO_LOADERS = "QRLoRA.ConvertToMixer", "QRLoRA.ConvertToLoaders"
CAT, DOG = "convert/cat.safetensors", "convert/deep/dog.safetensors"
SAMPLER, POSITIVE, NEGATIVE, CHECKPOINT = "14", "11", "12", "1"

RUN = """async ([id, command]) => {
  const { canvas } = app; canvas.deselectAll(); canvas.selectItems([canvas.graph.getNodeById(id)]);
  await app.extensionManager.command.execute(command);
}"""
HEAR = """() => { const { toast } = app.extensionManager, { add } = toast, told = [];
  toast.add = (message) => { told.push(`${message.severity}: ${message.detail}`) };
  window.heard = () => { toast.add = add; return told } }"""
TOLD = "() => window.heard()"
POWER = "Power Lora Loader (rgthree)"
# A node as that pack makes it: rows are widgets whose values are objects, and of the rest some have values, too.
REGISTER_POWER = """name => {
  class Power extends LiteGraph.LGraphNode {
    constructor() {
      super(name); this.serialize_widgets = true; this.properties = { 'Show Strengths': 'Single Strength' };
      this.addInput('model', 'MODEL'); this.addInput('clip', 'CLIP');
      this.addOutput('MODEL', 'MODEL'); this.addOutput('CLIP', 'CLIP');
    }
    configure(info) {
      super.configure(info);
      const rows = info.widgets_values.filter(value => value?.lora !== undefined);
      const look = { type: 'custom', options: {}, y: 0, draw() {}, computeSize: () => [100, 20] };
      this.widgets = [{}, { type: 'PowerLoraLoaderHeaderWidget' }, ...rows, {}, '']
        .map((value, place) => ({ ...look, name: `lora_${place}`, value }));
    }
  }
  Power.title = name; Power.comfyClass = name;
  LiteGraph.registerNodeType(name, Power);
}"""


@pytest.fixture(scope="module", autouse=True)
def files(web_server: Server) -> Iterator[None]:
    """Two ordinary LoRAs, one of them with layers of a text encoder."""
    folder = web_server.models_dir / "loras"
    neon = load_file(folder / "playground_neon.safetensors")
    generator = torch.Generator().manual_seed(3)
    encoder = {}
    for layer in range(2):
        name = f"lora_te1_text_model_encoder_layers_{layer}_self_attn_q_proj"
        for end, shape in (("lora_up", (768, 4)), ("lora_down", (4, 768))):
            encoder[f"{name}.{end}.weight"] = 0.1 * torch.randn(shape, generator=generator)
    made = [folder / CAT, folder / DOG]
    for path, tensors in zip(made, ({**neon, **encoder}, {key: -value for key, value in neon.items()}), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)
    yield
    for path in made:
        path.unlink()


def loader(model: list[Any], clip: list[Any] | None, file: str, scale: float, ofEncoder: float = 1.0) -> Prompt:
    if clip is None:
        inputs = {"model": model, "lora_name": file, "strength_model": scale}
        return {"class_type": "LoraLoaderModelOnly", "inputs": inputs}
    inputs = {"model": model, "clip": clip, "lora_name": file, "strength_model": scale, "strength_clip": ofEncoder}
    return {"class_type": "LoraLoader", "inputs": inputs}


def picture(model: list[Any], clip: list[Any], words: str = "an orange house") -> Prompt:
    """From a model and a text encoder to a picture."""
    sampler = {
        "model": model, "positive": [POSITIVE, 0], "negative": [NEGATIVE, 0], "latent_image": ["13", 0], "seed": 5,
        "steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
    }  # fmt: skip
    return {
        CHECKPOINT: {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "qrlora_playground.safetensors"}},
        POSITIVE: {"class_type": "CLIPTextEncode", "inputs": {"text": words, "clip": clip}},
        NEGATIVE: {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": clip}},
        "13": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        SAMPLER: {"class_type": "KSampler", "inputs": sampler},
        "15": {"class_type": "VAEDecode", "inputs": {"samples": [SAMPLER, 0], "vae": [CHECKPOINT, 2]}},
        "16": {"class_type": "SaveImage", "inputs": {"images": ["15", 0], "filename_prefix": "converted"}},
    }


def chain() -> Prompt:
    """Three loaders, of which the one in the middle has no text encoder; the last is bypassed on the page."""
    return {
        **picture(["4", 0], ["4", 1]),
        "2": loader([CHECKPOINT, 0], [CHECKPOINT, 1], CAT, 0.8125, 0.60001),
        "3": loader(["2", 0], None, DOG, -0.333333333),
        "4": loader(["3", 0], ["2", 1], CAT, 0.25, 0.25),
    }


ROWS = [
    {"file": f"loras/{CAT}", "scale": 0.8125, "clip_scale": 0.60001},
    {"file": f"loras/{DOG}", "scale": -0.333333333, "clip_scale": 0},
    {"file": f"loras/{CAT}", "on": False, "scale": 0.25},
]


def sent_prompt(page: Page) -> Prompt:
    return page.evaluate("async () => (await app.graphToPrompt()).output")  # type: ignore[no-any-return]


def mixer(prompt: Prompt) -> tuple[str, dict[str, Any]]:
    ((key, node),) = [(key, node) for key, node in prompt.items() if node["class_type"] == "QRLoRA_Mixer"]
    return key, node["inputs"]


def rows(inputs: dict[str, Any]) -> list[dict[str, Any]]:
    """Without what the panel notes of the files."""
    told = json.loads(inputs["mix"])["rows"]
    return [{name: value for name, value in row.items() if name not in ("size", "sha256")} for row in told]


def shape(prompt: Prompt) -> list[str]:
    """What is run, whatever the nodes are numbered: each that feeds no other, with all that it comes from."""

    def tree(key: str) -> Any:
        told = {
            name: [tree(value[0]), value[1]] if isinstance(value, list) else value
            for name, value in prompt[key]["inputs"].items()
        }
        return [prompt[key]["class_type"], told]

    used = {value[0] for node in prompt.values() for value in node["inputs"].values() if isinstance(value, list)}
    return sorted(json.dumps(tree(key), sort_keys=True) for key in prompt.keys() - used)


def convert(page: Page, node: str, command: str = TO_MIXER) -> list[str]:
    """Run a command on a node; returns what the page told of it."""
    in_page(page, HEAR)
    in_page(page, RUN, [node, command])
    return in_page(page, TOLD)  # type: ignore[no-any-return]


SET_MODE = "([id, mode]) => { app.graph.getNodeById(id).mode = mode }"
CONNECT = """([from, slot, to, name]) => { const [a, b] = [from, to].map(id => app.graph.getNodeById(id));
  a.connect(slot, b, b.findInputSlot(name)) }"""
RECORD = "() => app.extensionManager.workflow.activeWorkflow.changeTracker.checkState()"


def arrange(page: Page, script: str, argument: Any) -> None:
    """Change the workflow, as a step of undo."""
    in_page(page, script, argument)
    in_page(page, RECORD)


def set_mode(page: Page, node: str, mode: int) -> None:
    arrange(page, SET_MODE, [node, mode])


def types(page: Page) -> list[str]:
    return page.evaluate("() => app.canvas.graph.nodes.map(node => node.type).sort()")  # type: ignore[no-any-return]


def open_menu(page: Page, node: str, renderer: str) -> None:
    look_at(page, node)
    page.wait_for_timeout(500)
    if renderer == "vue":
        box = page.locator(f"[data-node-id='{node}']").bounding_box()
        assert box
        place = [box["x"] + 60, box["y"] + 12]
    else:
        place = in_page(
            page,
            "id => { const [x, y] = app.graph.getNodeById(id).pos; return app.canvasPosToClientPos([x + 60, y - 12]) }",
            node,
        )
    page.mouse.click(*place, button="right")
    page.wait_for_timeout(500)


def test_a_chain_by_the_menu_of_any_of_its_nodes(page: Page, load: Load, renderer: str) -> None:
    """One step of undo; values, links, title and place are kept."""
    load(chain())
    set_mode(page, "4", 4)
    arrange(page, "title => { app.graph.getNodeById(3).title = title }", "Looks")
    before, place = sent_prompt(page), in_page(page, "() => [...app.graph.getNodeById(2).pos]")
    open_menu(page, "3", renderer)
    entry = page.get_by_text("Convert to Mixer", exact=True)
    if not entry.count():  # that renderer's menu has no place for it on this host
        page.keyboard.press("Escape")
        entry = page.locator(".selection-toolbox button:has(.pi-sliders-h), button:has(.pi-sliders-h)")
    entry.first.click()
    expect(page.locator(".qr-lora-merge-rows, .qr-lora-desk-rows").first).to_be_visible()

    after = sent_prompt(page)
    key, inputs = mixer(after)
    assert rows(inputs) == ROWS
    assert (inputs["model"], inputs["clip"], inputs["apply"]) == ([CHECKPOINT, 0], [CHECKPOINT, 1], "live")
    told = in_page(page, "id => { const node = app.graph.getNodeById(id); return [node.title, ...node.pos] }", key)
    assert told == ["Looks", *(pytest.approx(at, abs=0.01) for at in place)]  # one renderer rounds
    expected = json.loads(json.dumps({name: node for name, node in before.items() if name not in ("2", "3", "4")}))
    expected[SAMPLER]["inputs"]["model"] = [key, 0]
    for encoder in (POSITIVE, NEGATIVE):
        expected[encoder]["inputs"]["clip"] = [key, 1]
    assert {name: node for name, node in after.items() if name != key} == expected

    undo(page)
    assert sent_prompt(page) == before
    assert in_page(page, "() => app.graph.getNodeById(4).mode") == 4


def test_there_and_back_is_the_same_prompt(page: Page, load: Load) -> None:
    load(chain())
    set_mode(page, "4", 4)
    before = sent_prompt(page)
    assert convert(page, "2") == []
    assert "LoraLoader" not in types(page)
    assert convert(page, mixer(sent_prompt(page))[0], TO_LOADERS) == []
    assert "QRLoRA_Mixer" not in types(page)
    assert shape(sent_prompt(page)) == shape(before)
    modes = "() => app.graph.nodes.filter(node => /LoraLoader/.test(node.type)).map(node => [node.type, node.mode])"
    assert sorted(in_page(page, modes)) == [["LoraLoader", 0], ["LoraLoader", 4], ["LoraLoaderModelOnly", 0]]
    undo(page)
    assert rows(mixer(sent_prompt(page))[1]) == ROWS
    undo(page)
    assert sent_prompt(page) == before


def test_models_alone(page: Page, load: Load) -> None:
    """Without a text encoder no row tells of one."""
    prompt = {**picture(["3", 0], [CHECKPOINT, 1]), "2": loader([CHECKPOINT, 0], None, CAT, 0.5)}
    load({**prompt, "3": loader(["2", 0], None, DOG, 1.0)})
    before = sent_prompt(page)
    convert(page, "3")
    key, inputs = mixer(sent_prompt(page))
    assert "clip" not in inputs
    assert rows(inputs) == [{"file": f"loras/{CAT}", "scale": 0.5}, {"file": f"loras/{DOG}"}]
    convert(page, key, TO_LOADERS)
    assert shape(sent_prompt(page)) == shape(before)


def test_the_picture_is_the_same(page: Page, load: Load, web_server: Server) -> None:
    """Pixel for pixel where the Mixer patches, as stock loaders do."""
    prompt = chain()
    prompt["4"]["inputs"]["lora_name"] = "playground_neon.safetensors"
    load(prompt)
    by_loaders = sent_prompt(page)
    convert(page, "2")
    by_mixer = sent_prompt(page)
    key, _ = mixer(by_mixer)
    by_mixer[key]["inputs"]["apply"] = "patch"
    plain = picture([CHECKPOINT, 0], [CHECKPOINT, 1])
    runs = [web_server.images(web_server.queue(prompt)) for prompt in (by_loaders, by_mixer, plain)]
    stock, mixed, bare = (image.tobytes() for (image,) in runs)
    assert mixed == stock
    assert mixed != bare


LONG = {
    **picture(["5", 0], ["5", 1]),
    "2": loader([CHECKPOINT, 0], [CHECKPOINT, 1], CAT, 0.1, 0.1),
    "3": loader(["2", 0], ["2", 1], CAT, 0.2, 0.2),
    "4": loader(["3", 0], ["3", 1], CAT, 0.3, 0.3),
    "5": loader(["4", 0], ["4", 1], CAT, 0.4, 0.4),
}


def test_a_chain_ends_where_something_else_is_connected(page: Page, load: Load) -> None:
    """A branch of the model, or of the text encoder."""
    load(LONG)
    arrange(page, CONNECT, ["3", 1, NEGATIVE, "clip"])
    convert(page, "3")
    _, inputs = mixer(sent_prompt(page))
    assert [row["scale"] for row in rows(inputs)] == [0.1, 0.2]
    undo(page)
    convert(page, "5")
    _, inputs = mixer(sent_prompt(page))
    assert [row["scale"] for row in rows(inputs)] == [0.3, 0.4]
    assert (inputs["model"], inputs["clip"]) == (["3", 0], ["3", 1])

    sampler = {"class_type": "KSampler", "inputs": {**LONG[SAMPLER]["inputs"], "model": ["4", 0]}}
    load({**LONG, "20": sampler})
    convert(page, "2")
    prompt = sent_prompt(page)
    key, inputs = mixer(prompt)
    assert [row["scale"] for row in rows(inputs)] == [0.1, 0.2, 0.3]
    assert prompt["20"]["inputs"]["model"] == prompt["5"]["inputs"]["model"] == [key, 0]


def test_a_chain_ends_at_what_is_muted_or_linked(page: Page, load: Load) -> None:
    load({**LONG, "30": {"class_type": "PrimitiveFloat", "inputs": {"value": 0.5}}})
    arrange(page, CONNECT, ["30", 0, "4", "strength_model"])
    (told,) = convert(page, "2")
    assert "strength_model comes from a link" in told
    assert [row["scale"] for row in rows(mixer(sent_prompt(page))[1])] == [0.1, 0.2]
    before = sent_prompt(page)
    (told,) = convert(page, "4")
    assert told.startswith("error: ")
    assert sent_prompt(page) == before

    load(LONG)
    set_mode(page, "3", 2)
    (told,) = convert(page, "4")
    assert "it is muted" in told
    assert [row["scale"] for row in rows(mixer(page.evaluate("() => app.graphToPrompt().then(p => p.output)"))[1])] == [
        0.3,
        0.4,
    ]


def test_nothing_changes_where_a_link_is_refused(page: Page, load: Load) -> None:
    load(chain())
    before = sent_prompt(page)
    in_page(page, "id => { app.graph.getNodeById(id).onConnectInput = () => false }", SAMPLER)
    (told,) = convert(page, "2")
    assert told.startswith("error: ")
    assert "model" in told
    in_page(page, "id => { delete app.graph.getNodeById(id).onConnectInput }", SAMPLER)
    assert "QRLoRA_Mixer" not in types(page)
    assert sent_prompt(page) == before


def power_workflow(page: Page, load: Load, values: list[Any], strengths: str, known: bool = True) -> Prompt:
    """A chain of one loader, whose node then is a Power Lora Loader in the workflow."""
    if known:
        in_page(page, REGISTER_POWER, POWER)
    load({**picture(["2", 0], ["2", 1]), "2": loader([CHECKPOINT, 0], [CHECKPOINT, 1], CAT, 1.0)})
    workflow = page.evaluate("() => app.graph.serialize()")
    (node,) = [node for node in workflow["nodes"] if node["type"] == "LoraLoader"]
    node.update(type=POWER, title="Powers", widgets_values=values)
    node["properties"] = {"Show Strengths": strengths}
    node["inputs"] = [entry for entry in node["inputs"] if not entry.get("widget")]
    in_page(page, "workflow => app.loadGraphData(workflow)", workflow)
    page.wait_for_timeout(300)
    return sent_prompt(page)


def power_row(lora: Any, strength: float = 1, two: float | None = None, on: bool = True) -> dict[str, Any]:
    return {"on": on, "lora": lora, "strength": strength, "strengthTwo": two}


POWER_VALUES = [
    {},
    {"type": "PowerLoraLoaderHeaderWidget"},
    power_row("convert\\deep\\dog.safetensors", 0.75, 0.5),
    power_row("cat", -1.5, None, on=False),
    power_row("None"),
    power_row(None),
    power_row("convert/gone.safetensors", 0.1, 0.1),
    {},
    "",
]


@pytest.mark.parametrize("known", [True, False], ids=["installed", "missing"])
def test_a_power_lora_loader(page: Page, load: Load, known: bool) -> None:
    """Also where its pack is not there and only the workflow tells of it."""
    power_workflow(page, load, POWER_VALUES, "Separate Model & Clip", known)
    assert convert(page, "2") == []
    prompt = sent_prompt(page)
    key, inputs = mixer(prompt)
    assert rows(inputs) == [
        {"file": f"loras/{DOG}", "scale": 0.75, "clip_scale": 0.5},
        {"file": f"loras/{CAT}", "on": False, "scale": -1.5, "clip_scale": 1},
        {"file": "loras/convert/gone.safetensors", "scale": 0.1},
    ]
    assert (inputs["model"], inputs["clip"]) == ([CHECKPOINT, 0], [CHECKPOINT, 1])
    assert (prompt[SAMPLER]["inputs"]["model"], prompt[POSITIVE]["inputs"]["clip"]) == ([key, 0], [key, 1])
    assert in_page(page, "id => app.graph.getNodeById(id).title", key) == "Powers"
    undo(page)
    assert POWER in types(page)
    assert "QRLoRA_Mixer" not in types(page)

    power_workflow(page, load, POWER_VALUES, "Single Strength", known)
    convert(page, "2")
    _, inputs = mixer(sent_prompt(page))
    assert [row.get("clip_scale") for row in rows(inputs)] == [None, None, None], "the first strength is both"


PARTED = [
    ("a cat, <lora:x:0.8:0.6>, sitting", [("x", 0.8, 0.6)], "a cat, sitting"),
    ("<lora:x>", [("x", 1, None)], ""),
    ("<lora:x:.5> a cat", [("x", 0.5, None)], "a cat"),
    ("a cat <lora:x:-1>", [("x", -1, None)], "a cat"),
    (
        "a cat, <lora:x:1.>\n<LORA:y z/w.safetensors:2:0>\na dog",
        [("x", 1, None), ("y z/w.safetensors", 2, 0)],
        "a cat\na dog",
    ),
    ("a <lora:x:1>,<lora:y:1>, b", [("x", 1, None), ("y", 1, None)], "a, b"),
    ("a <lora:x:0.5:lbw=1> b <lora:> <lora:x:y>", [], "a <lora:x:0.5:lbw=1> b <lora:> <lora:x:y>"),
    ("a <lora:<b>:1>", [], "a <lora:<b>:1>"),
]


@in_one_renderer
def test_tags_in_a_text(page: Page) -> None:
    parted = """async texts => {
      const style = document.querySelector('link[href*="qr-lora"][href$="/style.css"]');
      const { partedTags } = await import(style.href.replace('style.css', 'mixer/convert/tags.js'));
      return texts.map(text => { const { tags, rest } = partedTags(text); return [tags.map(Object.values), rest] });
    }"""
    told = in_page(page, parted, [text for text, _, _ in PARTED])
    assert told == [[[list(tag) for tag in tags], rest] for _, tags, rest in PARTED]


TAGGED = "an orange house, <lora:dog:0.8:0.6>, at night <lora:convert/cat> <lora:dog:-0.5>"


def test_a_prompt_with_tags(page: Page, load: Load, web_server: Server) -> None:
    """Between the loader and all that uses its model and its text encoder, through whatever lies between."""
    skip = {"class_type": "CLIPSetLastLayer", "inputs": {"clip": [CHECKPOINT, 1], "stop_at_clip_layer": -2}}
    load({**picture([CHECKPOINT, 0], ["2", 0], TAGGED), "2": skip})
    before = sent_prompt(page)
    assert convert(page, POSITIVE) == []
    after = sent_prompt(page)
    key, inputs = mixer(after)
    assert rows(inputs) == [
        {"file": f"loras/{DOG}", "scale": 0.8, "clip_scale": 0.6},
        {"file": f"loras/{CAT}"},
        {"file": f"loras/{DOG}", "scale": -0.5},
    ]
    assert (inputs["model"], inputs["clip"]) == ([CHECKPOINT, 0], ["2", 0])
    assert after[POSITIVE]["inputs"] == {"text": "an orange house, at night", "clip": [key, 1]}
    assert after[NEGATIVE]["inputs"]["clip"] == [key, 1]
    assert after[SAMPLER]["inputs"]["model"] == [key, 0]
    in_page(page, RECORD)  # the host looks when keys are let go: what it numbered to send the prompt is no step
    undo(page)
    assert sent_prompt(page) == before


def test_a_prompt_whose_model_is_not_plain(page: Page, load: Load) -> None:
    """A text encoder by itself belongs to the only model; of two models nobody knows which is meant."""
    unet = {
        "class_type": "UNETLoader",
        "inputs": {"unet_name": "qrlora_playground.safetensors", "weight_dtype": "default"},
    }
    clip = {"class_type": "CLIPLoader", "inputs": {"clip_name": "none.safetensors", "type": "sd3"}}
    prompt = {**picture(["2", 0], ["3", 0], TAGGED), "2": unet, "3": clip}
    load(prompt)
    convert(page, POSITIVE)
    _, inputs = mixer(sent_prompt(page))
    assert (inputs["model"], inputs["clip"]) == (["2", 0], ["3", 0])

    sampler = {"class_type": "KSampler", "inputs": {**prompt[SAMPLER]["inputs"], "model": ["20", 0]}}
    load({**prompt, "20": unet, "21": sampler})
    before = sent_prompt(page)
    (told,) = convert(page, POSITIVE)
    assert "several models" in told
    assert sent_prompt(page) == before

    words = {"class_type": "PrimitiveStringMultiline", "inputs": {"value": TAGGED}}
    prompt = {**picture([CHECKPOINT, 0], [CHECKPOINT, 1]), "2": words}
    load(prompt)
    arrange(page, CONNECT, ["2", 0, POSITIVE, "text"])
    convert(page, "2")
    after = sent_prompt(page)
    assert after["2"]["inputs"]["value"] == "an orange house, at night"
    assert after[POSITIVE]["inputs"]["clip"] == [mixer(after)[0], 1]


FULL_MIX = {
    "version": 1,
    "rows": [
        {"file": f"loras/{CAT}", "scale": 0.5, "blocks": "*: 0.5"},
        {"file": "qr_loras/playground_style.safetensors", "scale": 0.7},
        {"file": f"loras/{DOG}", "schedule": "early"},
    ],
}


def mixed(mix: Any, **more: Any) -> Prompt:
    inputs = {"model": [CHECKPOINT, 0], "clip": [CHECKPOINT, 1], "mix": json.dumps(mix), **more}
    return {**picture(["2", 0], ["2", 1]), "2": {"class_type": "QRLoRA_Mixer", "inputs": inputs}}


def test_back_asks_for_what_would_be_lost(page: Page, load: Load) -> None:
    """Nothing changes before somebody agrees."""
    save = {"class_type": "QRLoRA_Save", "inputs": {"adapter": ["2", 2], "filename_prefix": "x"}}
    load({**mixed(FULL_MIX, mode="ties"), "20": save})
    before = types(page)
    dialog = page.get_by_role("dialog")
    for name, expected in (("Cancel", before), ("Confirm", None)):
        page.evaluate(f"argument => {{ ({RUN})(argument) }}", ["2", TO_LOADERS])  # it waits for an answer
        for told in ("its block rules", "the whole row", "its schedule", "The merge mode ties", "The output merged"):
            expect(dialog).to_contain_text(told)
        dialog.get_by_role("button", name=name).click()
        expect(dialog).to_have_count(0)
        if expected:
            assert types(page) == expected
    page.wait_for_function("() => !app.graph.nodes.some(node => node.type === 'QRLoRA_Mixer')")
    prompt = sent_prompt(page)
    (second,) = [node for node in prompt.values() if node["inputs"].get("lora_name") == DOG]
    (first,) = [node for node in prompt.values() if node["inputs"].get("lora_name") == CAT]
    assert (first["inputs"]["strength_model"], first["inputs"]["strength_clip"]) == (0.5, 0.5)
    assert (second["inputs"]["strength_model"], second["class_type"]) == (1, "LoraLoader")


def test_rows_that_are_silent_are_bypassed(page: Page, load: Load) -> None:
    """Off, or beside one that is soloed; a text encoder that no loader changes goes past them."""
    rows = [{"file": f"loras/{CAT}", "solo": True, "clip_scale": 0}, {"file": f"loras/{DOG}", "clip_scale": 0}]
    load(mixed({"version": 1, "rows": rows}))
    assert convert(page, "2", TO_LOADERS) == []
    modes = "() => app.graph.nodes.filter(node => node.type === 'LoraLoaderModelOnly').map(node => node.mode)"
    assert in_page(page, modes) == [0, 4]
    assert sent_prompt(page)[POSITIVE]["inputs"]["clip"] == [CHECKPOINT, 1]


ENCLOSE = """ids => {
  const { canvas, graph } = app; canvas.deselectAll(); canvas.selectItems(ids.map(id => graph.getNodeById(id)));
  const { node } = graph.convertToSubgraph(canvas.selectedItems); canvas.openSubgraph(node.subgraph, node);
}"""


def test_within_a_subgraph(page: Page, load: Load) -> None:
    """Links to its edge, on both sides, and back."""
    load(chain())
    before = sent_prompt(page)
    in_page(page, ENCLOSE, ["2", "3", "4"])
    page.wait_for_timeout(300)
    assert shape(sent_prompt(page)) == shape(before)
    inner = "() => String(app.canvas.graph.nodes[0].id)"
    assert convert(page, in_page(page, inner)) == []
    assert types(page) == ["QRLoRA_Mixer"]
    prompt = sent_prompt(page)
    key, inputs = mixer(prompt)
    assert (inputs["model"], inputs["clip"]) == ([CHECKPOINT, 0], [CHECKPOINT, 1])
    assert (prompt[SAMPLER]["inputs"]["model"], prompt[POSITIVE]["inputs"]["clip"]) == ([key, 0], [key, 1])
    assert convert(page, in_page(page, inner), TO_LOADERS) == []
    assert shape(sent_prompt(page)) == shape(before)


def test_names_from_a_workflow_are_text(page: Page, load: Load) -> None:
    markup = "<img src=x onerror='window.pwned=1'>"
    load({**picture(["2", 0], ["2", 1]), "2": loader([CHECKPOINT, 0], [CHECKPOINT, 1], markup, 0.5, 0.5)})
    convert(page, "2")
    key, inputs = mixer(sent_prompt(page))
    assert rows(inputs) == [{"file": f"loras/{markup}", "scale": 0.5}]
    page.wait_for_timeout(300)
    assert page.evaluate("() => window.pwned ?? null") is None
    in_page(
        page, "id => { app.graph.getNodeById(id).widgets.find(w => w.name === 'mix').value = '{\"version\": 7}' }", key
    )
    (told,) = convert(page, key, TO_LOADERS)
    assert "cannot be read" in told
