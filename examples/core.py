"""QR-LoRA on any torch module, without ComfyUI: decompose, train, merge, save, load, compare.

In a clone of the repository: `pip install ".[core]"`, then `python examples/core.py`.
"""

from dataclasses import replace

import torch
from torch.nn import GELU, Linear, Sequential
from torch.nn.functional import mse_loss

import qrlora_core as core

torch.manual_seed(0)
model = Sequential(Linear(32, 64), GELU(), Linear(64, 32)).requires_grad_(False)
linears = {path: module for path, module in model.named_modules() if isinstance(module, Linear)}
factors = {path: core.decompose(linear.weight, rank=8, layer=path) for path, linear in linears.items()}
x = torch.randn(256, 32)


def train(name: str, wanted: torch.Tensor, steps: int = 100) -> core.QRLoRA:
    """Train dR until the model gives what is wanted; Q, R and the weights of the model stay as they are."""
    deltas = {path: core.TrainableDelta(factors[path], variant="full") for path in linears}
    hooks = [linears[p].register_forward_hook(lambda _, args, y, d=d: y + d(*args)) for p, d in deltas.items()]
    trainer = core.Trainer(deltas, core.OptimizerSettings(learning_rate=3e-2), steps=steps)
    losses = [trainer.step([lambda: mse_loss(model(x), wanted)]) for _ in range(steps)]
    for hook in hooks:
        hook.remove()
    print(f"{name}: loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    return replace(trainer.adapter({}), name=name)


flip, roll = train("flip", x.flip(1)), train("roll", x.roll(8, dims=1))
mixed = core.merge([(flip, 0.8), (roll, 0.5)])  # both stand on one basis, so their dR are summed
loaded = core.load_adapter(core.save_adapter(mixed, "mixed.safetensors"))
print(core.as_table(core.compare(flip, roll)))

for path, layer in loaded.layers.items():  # the merge, in the weights of the model
    linears[path].weight += layer.delta_weight()
