"""Live application under the host's clones, loads, errors and interrupts: never a silent no-op, never a trace."""

import copy
import gc
import logging
import weakref
from pathlib import Path
from typing import Any, ClassVar

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.sd
import folder_paths
import pytest
import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor

import nodes as host_nodes
from comfyui_qr_lora.nodes.sweep import Sweep
from comfyui_qr_lora.qrlora_core import QRLoRA, QRLoRAError, ScheduleError
from comfyui_qr_lora.qrlora_core.schedule import make_curve
from devtools import tiny_models

from ...support.adapters import merged, random_adapter, relative_error, with_stock_lora
from ...support.sampling import STEPS, conditioning, sample


def forward_hooks(patcher: Any) -> int:
    return sum(len(module._forward_hooks) for module in patcher.model.modules())


def snapshot(patcher: Any) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in patcher.model.state_dict().items()}


def addresses(patcher: Any) -> dict[str, int]:
    return {name: parameter.data_ptr() for name, parameter in patcher.model.named_parameters()}


def test_sampling_live_equals_stock_and_leaves_weights_alone(model: Any, adapter: QRLoRA, other: QRLoRA) -> None:
    base, before, places = sample(model), snapshot(model), addresses(model)
    live = merged(model, (adapter, 0.8), (other, 0.4))
    found = sample(live)
    assert addresses(model) == places
    assert live.patches_uuid == model.patches_uuid
    assert all(torch.equal(value, before[key]) for key, value in model.model.state_dict().items())
    expected = sample(with_stock_lora(with_stock_lora(model, adapter, 0.8), other, 0.4))
    assert relative_error(found, expected, base) < 1e-4
    assert torch.equal(sample(model), base)
    assert forward_hooks(model) == 0


def test_dropping_a_clone_in_mid_sampling_changes_nothing(model: Any, adapter: QRLoRA) -> None:
    live = merged(model, (adapter, 1.0))
    expected = sample(live)
    clones: list[Any] = []

    def clone_and_drop(step: int, *_: Any) -> None:
        clones.append(live.clone())  # copies the flag is_injected while hooks are in place
        if step == 1:
            clones.clear()  # runs detach, which ejects
            gc.collect()

    assert torch.equal(sample(live, callback=clone_and_drop), expected)
    clones.clear()
    gc.collect()
    assert torch.equal(sample(live), expected)


def test_a_clone_by_another_node_works_while_the_first_is_loaded(model: Any, adapter: QRLoRA) -> None:
    live = merged(model, (adapter, 1.0))
    expected = sample(live)
    clone = live.clone()
    assert torch.equal(sample(clone), expected)
    del live
    gc.collect()
    assert torch.equal(sample(clone), expected)


def test_a_dropped_live_model_leaves_no_hook(model: Any, adapter: QRLoRA) -> None:
    base = sample(model)
    live = merged(model, (adapter, 1.0))
    sample(live)
    del live
    gc.collect()
    assert forward_hooks(model) == 0
    assert torch.equal(sample(model), base)


def test_a_merge_that_another_node_has_taken_away_does_not_come_back(
    model: Any, adapter: QRLoRA, other: QRLoRA
) -> None:
    base, alone = sample(model), sample(merged(model, (other, 0.7)))
    clone = merged(model, (adapter, 1.0)).clone()
    for key in list(clone.injections):
        clone.remove_injections(key)
    assert torch.equal(sample(clone), base)
    assert torch.equal(sample(merged(clone, (other, 0.7))), alone)


def test_branches_in_one_graph_keep_their_own_scales(model: Any, adapter: QRLoRA) -> None:
    weak, strong = merged(model, (adapter, 0.3)), merged(model, (adapter, 0.9))
    first, second = sample(weak), sample(strong)
    assert not torch.equal(first, second)
    for _ in range(2):
        assert torch.equal(sample(weak), first)
        assert torch.equal(sample(strong), second)


def test_merges_in_series_add(model: Any, adapter: QRLoRA, other: QRLoRA) -> None:
    base = sample(model)
    together = sample(merged(model, (adapter, 0.5), (other, 0.7)))
    in_series = sample(merged(merged(model, (adapter, 0.5)), (other, 0.7)))
    assert relative_error(in_series, together, base) < 1e-4


@pytest.mark.parametrize("stock_first", [True, False])
def test_stock_lora_before_and_after(model: Any, adapter: QRLoRA, other: QRLoRA, stock_first: bool) -> None:
    base = sample(model)
    expected = sample(with_stock_lora(with_stock_lora(model, adapter, 0.5), other, 0.7))
    if stock_first:
        mixed = merged(with_stock_lora(model, other, 0.7), (adapter, 0.5))
    else:
        mixed = with_stock_lora(merged(model, (adapter, 0.5)), other, 0.7)
    assert relative_error(sample(mixed), expected, base) < 1e-4


def test_an_adapter_live_on_a_model_it_is_patched_into_adds_up(model: Any, adapter: QRLoRA) -> None:
    base = sample(model)
    expected = sample(with_stock_lora(model, adapter, 1.0))
    both = merged(merged(model, (adapter, 0.6), apply="patch"), (adapter, 0.4))
    assert relative_error(sample(both), expected, base) < 1e-4


def test_interrupt_in_mid_sampling_leaves_a_clean_model(model: Any, adapter: QRLoRA) -> None:
    base, live = sample(model), merged(model, (adapter, 1.0))
    expected = sample(live)

    def interrupt(step: int, *_: Any) -> None:
        if step == 1:
            raise comfy.model_management.InterruptProcessingException

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(live, callback=interrupt)
    assert torch.equal(sample(model), base)
    assert torch.equal(sample(live), expected)


def test_error_inside_a_layer_leaves_a_clean_model(model: Any, adapter: QRLoRA) -> None:
    base, live = sample(model), merged(model, (adapter, 1.0))

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory, say")

    handle = model.model.get_submodule("diffusion_model.joint_blocks.1.x_block.mlp.fc1").register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        sample(live)
    handle.remove()
    assert torch.equal(sample(model), base)
    assert forward_hooks(model) == 0


def test_batched_latents_and_several_conditionings(model: Any, adapter: QRLoRA) -> None:
    positive = [*conditioning(1), *conditioning(3)]
    base = sample(model, positive=positive)
    expected = sample(with_stock_lora(model, adapter, 1.0), positive=positive)
    assert relative_error(sample(merged(model, (adapter, 1.0)), positive=positive), expected, base) < 1e-4


def test_unloading_everything_and_loading_again(model: Any, adapter: QRLoRA) -> None:
    live = merged(model, (adapter, 1.0))
    expected = sample(live)
    comfy.model_management.unload_all_models()
    assert forward_hooks(model) == 0
    assert torch.equal(sample(live), expected)


def test_low_vram_casting(adapter: QRLoRA) -> None:
    model = tiny_models.build("sd3")
    base = sample(model)
    expected = sample(merged(model, (adapter, 1.0)))
    live = merged(model, (adapter, 1.0))
    comfy.model_management.unload_all_models()
    live.load(torch.device("cpu"), lowvram_model_memory=1000)  # nearly every layer is cast for each use
    assert any(getattr(module, "comfy_cast_weights", False) for module in model.model.modules())
    assert relative_error(sample(live), expected, base) < 1e-4


def test_a_tweak_moves_no_weight_and_loads_nothing(
    model: Any, adapter: QRLoRA, other: QRLoRA, caplog: pytest.LogCaptureFixture
) -> None:
    sample(merged(model, (adapter, 1.0), (other, 0.5)))
    places = addresses(model)
    with caplog.at_level(logging.INFO):
        tweaked = sample(merged(model, (adapter, 1.0), (other, 0.75)))
    assert addresses(model) == places
    assert "loaded completely" not in caplog.text
    assert "loaded partially" not in caplog.text
    assert not torch.equal(tweaked, sample(model))


def test_many_tweaks_leave_nothing_behind(model: Any, adapter: QRLoRA) -> None:
    def tensors() -> int:
        gc.collect()
        return sum(isinstance(item, Tensor) for item in gc.get_objects())

    inputs = tiny_models.sample_inputs("sd3", model)
    before_hooks, counts = forward_hooks(model), []
    for index in range(60):
        tiny_models.predict(merged(model, (adapter, 0.01 * (index + 1))), inputs)
        if index in (9, 59):
            counts.append(tensors())
    assert counts[0] == counts[1]
    assert forward_hooks(model) == before_hooks


def test_an_adapter_that_is_gone_is_not_kept_by_those_that_it_was_merged_with(model: Any, adapter: QRLoRA) -> None:
    other = random_adapter(model, seed=5)
    tensors = [weakref.ref(tensor) for _, term in other.terms() for tensor in (term.q, term.delta_r)]
    sample(merged(model, (adapter, 1.0), (other, 1.0)))
    sample(model)
    del other
    gc.collect()
    assert not [one for one in tensors if one() is not None]


def test_a_sweep_holds_scales_not_tensors(model: Any, adapter: QRLoRA, other: QRLoRA) -> None:
    sample(merged(model, (adapter, 1.0), (other, 1.0)))  # what is made once per adapter is there now

    def tensors() -> int:
        gc.collect()
        return sum(isinstance(item, Tensor) for item in gc.get_objects())

    before = tensors()
    scales = "0.1, 0.2, 0.3, 0.4, 0.5"
    cells = Sweep.execute(model, adapter, scales, other, scales).args[0]
    assert len(cells) == 25
    assert tensors() == before
    assert torch.equal(sample(cells[7]), sample(merged(model, (adapter, 0.3), (other, 0.2))))


def test_schedule_follows_the_sampling(model: Any, adapter: QRLoRA) -> None:
    base, full = sample(model), sample(merged(model, (adapter, 0.8)))
    constant = make_curve("constant")
    assert torch.equal(sample(merged(model, (adapter, 0.8), schedule_1=constant)), full)
    never = make_curve("constant", 0.999, 1.0)
    assert torch.equal(sample(merged(model, (adapter, 0.8), schedule_1=never)), base)


def test_scheduled_run_equals_switching_models_by_hand(model: Any, adapter: QRLoRA) -> None:
    """Full strength in the first half of the sampling, off in the second: two stock runs, one after the other."""
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", STEPS)
    half = sampling.percent_to_sigma(0.5)
    split = sum(float(sigma) > half for sigma in sigmas[:-1])
    noise = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    arguments = (3.0, "euler", "simple", conditioning(1), conditioning(2))
    patched = with_stock_lora(model, adapter, 1.0)

    def part(patcher: Any, latent: Tensor, start: int, stop: int) -> Tensor:
        own_noise = noise if start == 0 else torch.zeros_like(noise)
        return comfy.sample.sample(
            patcher, own_noise, STEPS, *arguments, latent, disable_noise=start > 0, start_step=start,
            last_step=stop, force_full_denoise=stop == STEPS, disable_pbar=True, seed=0,
        )  # fmt: skip

    by_hand = part(model, part(patched, torch.zeros_like(noise), 0, split), split, STEPS)
    curve = make_curve("constant", 0.0, 0.5)
    scheduled = sample(merged(model, (adapter, 1.0), schedule_1=curve))
    assert 0 < split < STEPS
    assert relative_error(scheduled, by_hand, sample(model)) < 1e-4


def test_schedule_with_patch_is_refused(model: Any, adapter: QRLoRA) -> None:
    with pytest.raises(ScheduleError, match="apply = live"):
        merged(model, (adapter, 1.0), apply="patch", schedule_1=make_curve("early"))


def test_saving_a_checkpoint_from_a_live_model_is_refused(model: Any, adapter: QRLoRA, tmp_path: Path) -> None:
    base = sample(model)
    live = merged(model, (adapter, 1.0))
    sample(live)
    file = tmp_path / "model.safetensors"
    with pytest.raises(QRLoRAError, match="apply to patch"):
        comfy.sd.save_checkpoint(str(file), live)
    assert not file.exists()
    assert torch.equal(sample(model), base)


def test_saving_a_checkpoint_from_a_patched_model_holds_the_adapter(
    model: Any, adapter: QRLoRA, tmp_path: Path
) -> None:
    file = tmp_path / "model.safetensors"
    path = "transformer.transformer_blocks.0.attn.to_q"
    key = "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"
    before = model.model.state_dict()["diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"].clone()
    comfy.sd.save_checkpoint(str(file), merged(model, (adapter, 0.7), apply="patch"))
    saved = comfy.utils.load_torch_file(str(file))[key].float()
    delta = 0.7 * adapter.layers[path].delta_weight()
    assert torch.allclose((saved - before)[: delta.shape[0]], delta, atol=1e-2 * float(delta.abs().max()))


def test_hooks_that_a_failed_load_leaves_do_not_act_for_others(model: Any, adapter: QRLoRA) -> None:
    base = sample(model)
    live = merged(model, (adapter, 1.0))

    def run_out_of_memory(*_: Any) -> None:
        raise RuntimeError("out of memory while loading")

    live.add_callback_with_key(CallbacksMP.ON_LOAD, "failing", run_out_of_memory)
    comfy.model_management.unload_all_models()
    with pytest.raises(RuntimeError, match="while loading"):
        sample(live)
    assert torch.equal(sample(model), base)
    live.remove_callbacks_with_key(CallbacksMP.ON_LOAD, "failing")
    assert not torch.equal(sample(live), base)


def test_a_failed_load_of_another_packs_patcher_leaves_no_adapters(model: Any, adapter: QRLoRA) -> None:
    """GGUF's has a class of its own, and so may its methods be."""
    base, failing = sample(model), [True]

    class Own(type(model)):  # type: ignore[misc]
        def partially_load(self, *args: Any, **kwargs: Any) -> Any:
            with self.use_ejected(skip_and_inject_on_exit_only=True):
                if failing:
                    raise RuntimeError("out of memory while loading")
            return super().partially_load(*args, **kwargs)

    patcher = model.clone()
    patcher.__class__ = Own
    live = merged(patcher, (adapter, 1.0))
    comfy.model_management.unload_all_models()
    with pytest.raises(RuntimeError, match="while loading"):
        sample(live)
    assert forward_hooks(model) == 0
    assert torch.equal(sample(model), base)
    failing.clear()
    assert torch.equal(sample(live), sample(merged(model, (adapter, 1.0))))


def test_a_merge_whose_layers_never_run_is_an_error(model: Any, adapter: QRLoRA) -> None:
    live = merged(model, (adapter, 1.0))

    def replace_network(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        return args[0] * 0.5

    live.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "elsewhere", replace_network)
    with pytest.raises(QRLoRAError, match="no effect"):
        sample(live)


def test_a_copy_of_a_model_that_is_in_use_has_no_adapters(model: Any, adapter: QRLoRA) -> None:
    base, copies = sample(model), list[Any]()
    names = model.model.diffusion_model.state_dict().keys()
    live = merged(model, (adapter, 1.0))
    expected = sample(live, callback=lambda *_: copies.append(copy.deepcopy(live.model.diffusion_model)))
    other = tiny_models.build("sd3")
    other.model.diffusion_model = copies[0]
    assert torch.equal(sample(other), base)
    assert copies[0].state_dict().keys() == names  # which may be saved
    assert torch.equal(sample(live), expected)


def test_layers_that_get_another_dtype_are_served_in_it_and_named_once(
    adapter: QRLoRA, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_models.build("sd3", dtype=torch.bfloat16, compute_dtype=torch.float32)
    module = model.model.get_submodule("diffusion_model.joint_blocks.0.x_block.mlp.fc1")
    handle = module.register_forward_pre_hook(lambda _, given: (given[0].bfloat16(),))
    back = module.register_forward_hook(lambda _, given, output: output.float())
    base = sample(model)
    live = merged(model, (adapter, 1.0))
    with caplog.at_level(logging.INFO):
        found = sample(live)
        sample(live)
    expected = sample(with_stock_lora(model, adapter, 1.0))
    for one in (handle, back):
        one.remove()
    assert relative_error(found, expected, base) < 0.05
    assert caplog.text.count("1 layer(s) get torch.bfloat16 where the model computes in torch.float32") == 1
    assert "joint_blocks.0.x_block.mlp.fc1" in caplog.text


def test_a_trainer_gets_gradients_through_buffers_that_the_host_has_moved(model: Any, adapter: QRLoRA) -> None:
    """To its device, say, which it does in inference mode."""
    live = merged(model, (adapter, 0.7))
    comfy.model_management.load_models_gpu([live, *live.get_nested_additional_models()])
    for held in live.get_nested_additional_models():
        held.model.double().float()
    layer = adapter.layers["transformer.transformer_blocks.0.ff.net.2"]
    module = model.model.get_submodule("diffusion_model.joint_blocks.0.x_block.mlp.fc2")
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.randn(3, 512, requires_grad=True)
        module(x).sum().backward()
        weight = module.weight.detach().clone().double() + 0.7 * layer.delta_weight().double()
    assert x.grad is not None
    expected = weight.sum(0).expand(3, -1)
    effect = 0.7 * layer.delta_weight().double().sum(0).expand(3, -1)
    assert (x.grad - expected).norm() < 1e-4 * effect.norm()


def test_an_error_in_hand_elsewhere_is_no_failed_load(model: Any, adapter: QRLoRA) -> None:
    """Somebody tries again after running out of memory, say."""
    expected = sample(merged(model, (adapter, 1.0)))
    comfy.model_management.unload_all_models()
    try:
        raise RuntimeError("out of memory")
    except RuntimeError:
        assert torch.equal(sample(merged(model, (adapter, 1.0))), expected)


def test_callbacks_of_other_nodes_still_run(model: Any, adapter: QRLoRA) -> None:
    live, seen = merged(model, (adapter, 1.0)), []
    live.add_callback_with_key(CallbacksMP.ON_PREPARE_STATE, "someone", lambda *_: seen.append(1))
    sample(live)
    assert len(seen) == STEPS


def test_live_memory_is_counted_by_the_host(model: Any, adapter: QRLoRA) -> None:
    live = merged(model, (adapter, 1.0))
    counted = sum(patcher.model_size() for patcher in live.get_nested_additional_models())
    tensors = sum(term.q.nbytes + term.delta_r.nbytes for _, term in adapter.terms())
    assert counted >= tensors


def test_adapters_on_a_shared_basis_hold_it_once(model: Any, adapter: QRLoRA, other: QRLoRA) -> None:
    """One adapter takes its own size; with a second one, both deltas are there to be summed anew."""

    def size(*pairs: tuple[QRLoRA, float], **more: Any) -> int:
        patchers = merged(model, *pairs, **more).get_nested_additional_models()
        return sum(p.nbytes for patcher in patchers for p in patcher.model.parameters())

    basis = sum(term.q.nbytes for _, term in adapter.terms())
    deltas = sum(term.delta_r.nbytes for _, term in adapter.terms())
    assert size((adapter, 1.0)) == basis + deltas
    assert size((adapter, 1.0), schedule_1=make_curve("early")) == basis + 2 * deltas
    assert size((adapter, 1.0), (other, 1.0)) == basis + 3 * deltas


def test_controlnet_runs_beside(model: Any, adapter: QRLoRA) -> None:
    """A real ControlNet needs its weights; its place in the host is a `control` output added to the blocks."""
    live, seen = merged(model, (adapter, 1.0)), []

    class Control:
        def get_control(self, x: Tensor, *_: Any) -> dict[str, Any]:
            seen.append(x.shape)
            return {"output": [torch.ones(x.shape[0], 16, 128)]}

        extra_hooks = previous_controlnet = None
        multigpu_clones: ClassVar = {}
        get_models = get_extra_hooks = lambda self: []
        inference_memory_requirements = lambda self, _: 0  # noqa: E731
        pre_run = cleanup = lambda self, *_: None

    positive = conditioning(1)
    positive[0][1]["control"] = Control()
    base = sample(model, positive=positive)
    expected = sample(with_stock_lora(model, adapter, 1.0), positive=positive)
    assert relative_error(sample(live, positive=positive), expected, base) < 1e-4
    assert seen


def test_lora_folder_is_the_temporary_one() -> None:
    assert "qrlora-" in folder_paths.get_folder_paths("loras")[0]
    assert "LoraLoaderModelOnly" in host_nodes.NODE_CLASS_MAPPINGS
