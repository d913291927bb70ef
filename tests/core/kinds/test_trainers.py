"""Files of every kind as the packages themselves write them, LyCORIS and PEFT, against what these packages compute.

LyCORIS' layers are asked for their output, as in training, too: `get_merged_weight` of its LoHa and LoKr (4.1.3) counts
alpha twice.
"""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from comfyui_qr_lora.qrlora_core import load_adapter
from comfyui_qr_lora.tests.support import oracle
from comfyui_qr_lora.tests.support.oracle import normal

pytestmark = pytest.mark.usefixtures("one_thread")

EXACT = 1e-5
LAYERS = {
    "linear": lambda: nn.Linear(12, 16, bias=False),
    "square": lambda: nn.Linear(16, 16, bias=False),
    "convolution": lambda: nn.Conv2d(8, 16, 3, padding=1, bias=False),
    "kernel of one": lambda: nn.Conv2d(8, 16, 1, bias=False),
}
NAMES = ("lora_unet_blocks_0_attn_qkv", "lycoris_blocks_0_attn_qkv")


@pytest.fixture(autouse=True)
def same_numbers():
    """What packages draw for their parameters is drawn from torch's own generator."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def randomized(module):
    """Every parameter at random: most start at zero."""
    for parameter in module.parameters():
        parameter.data = torch.randn_like(parameter) + (2.0 if parameter.data.eq(1).all() else 0.0)
    return module


def inputs(layer):
    is_linear = isinstance(layer, nn.Linear)
    return normal(20, layer.in_features, seed=7) if is_linear else normal(4, layer.in_channels, 6, 6, seed=7)


def output_change(layer, delta, x):
    """What a changed weight adds to the output, in float64."""
    if isinstance(layer, nn.Linear):
        return x.double() @ delta.double().T
    return nn.functional.conv2d(x.double(), delta.double(), padding=layer.padding)


def loaded_delta(path, weight):
    """The delta of the one layer of a file for this weight, in float64."""
    loaded = load_adapter(path)
    assert loaded.origin.not_loaded == ""
    (layer,) = loaded.layers.values()
    return layer.in_shape(tuple(weight.shape)).delta_weight(weight.detach().double())


# LyCORIS: the class and what it is called with.
MODULES = {
    "LoKr": ("LokrModule", {"lora_dim": 2, "alpha": 1, "factor": 4}),
    "LoKr, square factors": ("LokrModule", {"lora_dim": 1, "alpha": 3}),
    "LoKr, both decomposed": ("LokrModule", {"lora_dim": 1, "alpha": 3, "decompose_both": True}),
    "LoKr, Tucker": ("LokrModule", {"lora_dim": 1, "alpha": 3, "use_tucker": True, "factor": 4}),
    "LoKr, full matrix": ("LokrModule", {"lora_dim": 4, "alpha": 1, "full_matrix": True}),
    "LoKr, a large rank": ("LokrModule", {"lora_dim": 100, "alpha": 1}),
    "LoKr, unbalanced": ("LokrModule", {"lora_dim": 1, "alpha": 3, "factor": 4, "unbalanced_factorization": True}),
    "LoKr of rsLoRA": ("LokrModule", {"lora_dim": 2, "alpha": 3, "factor": 2, "rs_lora": True}),
    "LoKr, a scalar": ("LokrModule", {"lora_dim": 2, "alpha": 3, "factor": 2, "use_scalar": True}),
    "LoHa": ("LohaModule", {"lora_dim": 2, "alpha": 1}),
    "LoHa, Tucker": ("LohaModule", {"lora_dim": 2, "alpha": 1, "use_tucker": True}),
    "LoHa, a large rank": ("LohaModule", {"lora_dim": 12, "alpha": 1}),
    "LoHa of rsLoRA": ("LohaModule", {"lora_dim": 2, "alpha": 1, "rs_lora": True}),
    "LoHa, a scalar": ("LohaModule", {"lora_dim": 2, "alpha": 1, "use_scalar": True}),
    "LoCon": ("LoConModule", {"lora_dim": 2, "alpha": 1}),
    "LoCon, Tucker": ("LoConModule", {"lora_dim": 2, "alpha": 1, "use_tucker": True}),
    "LoCon, DoRA by input": ("LoConModule", {"lora_dim": 2, "alpha": 1, "weight_decompose": True, "wd_on_out": False}),
    "LoKr, DoRA by input": (
        "LokrModule",
        {"lora_dim": 1, "alpha": 3, "factor": 4, "weight_decompose": True, "wd_on_out": False},
    ),
    "LoHa, DoRA by input": ("LohaModule", {"lora_dim": 2, "alpha": 1, "weight_decompose": True, "wd_on_out": False}),
    "OFT": ("DiagOFTModule", {"lora_dim": 4}),
    "OFT, rescaled": ("DiagOFTModule", {"lora_dim": 4, "rescaled": True}),
    "BOFT": ("ButterflyOFTModule", {"lora_dim": 4}),
    "BOFT, rescaled": ("ButterflyOFTModule", {"lora_dim": 2, "rescaled": True}),
    "GLoRA": ("GLoRAModule", {"lora_dim": 2, "alpha": 3}),
    "IA3 on output": ("IA3Module", {}),
    "IA3 on input": ("IA3Module", {"train_on_input": True}),
    "full": ("FullModule", {}),
}
BY_ROW = {
    "LoCon": ("LoConModule", {"lora_dim": 2, "alpha": 1}),
    "LoKr": ("LokrModule", {"lora_dim": 1, "alpha": 3, "factor": 4}),
    "LoHa": ("LohaModule", {"lora_dim": 2, "alpha": 1}),
}
CONSTRAINED = {"OFT": ("DiagOFTModule", {"lora_dim": 4}), "BOFT": ("ButterflyOFTModule", {"lora_dim": 4})}


def trained(name, kind, settings, layer):
    """A layer of LyCORIS with numbers as after training."""
    from lycoris.modules import boft, diag_oft, full, glora, ia3, locon, loha, lokr  # takes seconds

    homes = (boft, diag_oft, full, glora, ia3, locon, loha, lokr)
    made = next(getattr(home, kind) for home in homes if hasattr(home, kind))
    module = made(name, copy.deepcopy(layer), **settings).eval()
    if kind == "FullModule":
        module.apply_to()  # from then on it holds whole weights
    randomized(module)
    if settings.get("weight_decompose"):
        module.dora_scale.data.abs_().add_(1.0)
    return module


def saved(module, folder):
    """As LyCORIS' networks save their layers."""
    tensors = {f"{module.lora_name}.{key}": tensor.detach() for key, tensor in module.state_dict().items()}
    save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, folder / "a.safetensors")
    return folder / "a.safetensors"


def computed_change(module, layer, x):
    """What its layer adds to the output of the original one."""
    with torch.no_grad():
        return module(x).double() - layer(x).double()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", MODULES)
def test_what_lycoris_trains_is_what_is_loaded(tmp_path, kind, layer, name):
    original = LAYERS[layer]()
    module = trained(name, *MODULES[kind], original)
    x = inputs(original)
    expected = computed_change(module, original, x)
    found = output_change(original, loaded_delta(saved(module, tmp_path), original.weight), x)
    assert oracle.error(found, expected) < EXACT


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", [kind for kind in MODULES if not kind.startswith(("LoHa", "LoKr"))])
def test_what_lycoris_merges_is_what_is_loaded(tmp_path, kind, layer):
    original = LAYERS[layer]()
    module = trained(NAMES[0], *MODULES[kind], original)
    merged = module.get_merged_weight(1, original.weight.shape)[0].detach().double()
    found = loaded_delta(saved(module, tmp_path), original.weight)
    assert oracle.error(found, merged - original.weight.detach().double()) < EXACT


def test_a_bias_that_lycoris_trained_in_full_is_a_layer_of_its_own(tmp_path):
    original = nn.Linear(12, 16)
    module = trained(NAMES[0], *MODULES["full"], original)
    loaded = load_adapter(saved(module, tmp_path))
    found = loaded.layers[f"{NAMES[0]}.bias"].delta_weight().flatten()
    assert oracle.error(found, module.bias.detach() - original.bias.detach()) < EXACT


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", BY_ROW)
def test_dora_scale_by_row_is_divided_by_the_norms_of_the_base_alone_as_comfyui_does(tmp_path, kind, layer):
    """LyCORIS divides by those of W + D. Without the change of norms that it makes, both are the same."""
    original = LAYERS[layer]()
    name, settings = BY_ROW[kind]
    module = trained(NAMES[0], name, settings | {"weight_decompose": True, "wd_on_out": True}, original)
    x = inputs(original)
    W = original.weight.detach().double()
    found = W + loaded_delta(saved(module, tmp_path), original.weight)
    trained_output = computed_change(module, original, x) + output_change(original, W, x)

    scale = module.dora_scale.detach().double().flatten()
    assert oracle.error(output_change(original, _with_norms(found, scale), x), trained_output) < EXACT
    sums = found * (W.flatten(1).norm(dim=1) / scale).reshape(-1, *(1 for _ in W.shape[1:]))  # W + D
    plain = copy.deepcopy(module)
    plain.wd = False
    assert oracle.error(output_change(original, sums - W, x), computed_change(plain, original, x)) < EXACT


def _with_norms(weight, norms):
    """The rows of a weight, brought to these norms."""
    factors = norms / weight.flatten(1).norm(dim=1)
    return weight * factors.reshape(-1, *(1 for _ in weight.shape[1:]))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", CONSTRAINED)
def test_a_constraint_bounds_all_blocks_together_as_comfyui_counts_it(tmp_path, kind, layer):
    """LyCORIS bounds them by the constraint times the outputs, of which its files do not tell."""
    original = LAYERS[layer]()
    name, settings = CONSTRAINED[kind]
    module = trained(NAMES[0], name, settings | {"constraint": 0.5}, original)
    found = loaded_delta(saved(module, tmp_path), original.weight)
    module.constraint = 0.5
    merged = module.get_merged_weight(1, original.weight.shape)[0].detach().double()
    assert oracle.error(found, merged - original.weight.detach().double()) < EXACT


class Network(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.blocks = nn.ModuleList([nn.ModuleDict({"to_q": layer})])

    def forward(self, x):
        return self.blocks[0]["to_q"](x)


# PEFT: the configuration and what it is called with. What tells alpha stands beside its files, so that it is the rank.
CONFIGURATIONS = {
    "LoKr": ("LoKrConfig", {"r": 2, "alpha": 2, "decompose_factor": 4}),
    "LoKr, both decomposed": ("LoKrConfig", {"r": 1, "alpha": 1, "decompose_both": True}),
    "LoKr, effective convolution": (
        "LoKrConfig",
        {"r": 1, "alpha": 1, "use_effective_conv2d": True, "decompose_factor": 4},
    ),
    "LoKr, a large rank": ("LoKrConfig", {"r": 16, "alpha": 16}),
    "LoHa": ("LoHaConfig", {"r": 2, "alpha": 2}),
    "LoHa, effective convolution": ("LoHaConfig", {"r": 2, "alpha": 2, "use_effective_conv2d": True}),
    "LoRA": ("LoraConfig", {"r": 2, "lora_alpha": 2}),
    "DoRA": ("LoraConfig", {"r": 2, "lora_alpha": 2, "use_dora": True}),
}


def of_peft(kind, layer):
    import peft  # takes seconds

    name, settings = CONFIGURATIONS[kind]
    config = getattr(peft, name)(target_modules=["to_q"], **settings)
    model = peft.get_peft_model(Network(layer), config)
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            size = parameter.data.abs() if "magnitude" in key else torch.zeros_like(parameter)
            parameter.data = size + torch.randn_like(parameter)
    return model.eval()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_what_peft_merges_is_what_is_loaded(tmp_path, kind, layer):
    original = LAYERS[layer]()
    before = original.weight.detach().double().clone()
    model = of_peft(kind, original)
    model.save_pretrained(tmp_path, safe_serialization=True)
    found = loaded_delta(tmp_path / "adapter_model.safetensors", original.weight)
    merged = model.merge_and_unload().blocks[0]["to_q"].weight.detach().double()
    assert oracle.error(found, merged - before) < EXACT


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_what_peft_gives_by_name_is_what_is_loaded(tmp_path, kind):
    """As diffusers saves it: names without the adapter's, under a prefix of the part of a pipeline."""
    import peft

    original = LAYERS["linear"]()
    model = of_peft(kind, original)
    tensors = peft.get_peft_model_state_dict(model)
    named = {key.replace("base_model.model", "transformer"): one.detach().clone() for key, one in tensors.items()}
    save_file(named, tmp_path / "a.safetensors")
    assert list(load_adapter(tmp_path / "a.safetensors").layers) == ["transformer.blocks.0.to_q"]
    found = loaded_delta(tmp_path / "a.safetensors", original.weight)
    model.save_pretrained(tmp_path, safe_serialization=True)
    assert load_file(tmp_path / "adapter_model.safetensors").keys() == tensors.keys()
    assert torch.equal(found, loaded_delta(tmp_path / "adapter_model.safetensors", original.weight))
