"""Train what stands beside the layers, and nothing of the model, on any loss."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..adapter import QRLoRA
from ..errors import Reason, TrainingError
from . import distributed
from .optimizers import MovingAverage, OptimizerSettings, make_optimizer, rate_factor
from .trainable import Trainable


class Trainer:
    """Steps the optimizer over the dR, or other factors, of many layers.

    Args:
        deltas: module path to its `TrainableDelta` or `TrainableLoRA`.
        settings: see `OptimizerSettings`.
        steps: updates in all, for the schedule of the learning rate.

    Raises:
        TrainingError: no layer, or settings out of range.
    """

    def __init__(
        self, deltas: Mapping[str, Trainable], settings: OptimizerSettings | None = None, *, steps: int = 1
    ) -> None:
        self.settings, self.steps = settings or OptimizerSettings(), steps
        if not deltas:
            raise TrainingError("there is no layer to train.")
        self.deltas = dict(deltas)
        self.updates = 0
        self._parameters = {
            f"{path}.{name}": parameter
            for path, delta in self.deltas.items()
            for name, parameter in delta.named_parameters()
        }
        self.optimizer = make_optimizer(list(self._parameters.values()), self.settings)
        decay = self.settings.ema_decay
        self._average = MovingAverage(self._parameters, decay) if decay else None

    def step(self, losses: Iterable[Callable[[], Tensor]]) -> float:
        """One update from ``grad_accumulation`` losses; returns their mean, over all processes.

        Args:
            losses: callables that run the model and return a scalar loss; evaluated and differentiated one by one.

        Raises:
            TrainingError: another number of losses, or a loss or gradient that is not finite. dR is left as it
                was before the step.
        """
        self.optimizer.zero_grad(set_to_none=True)
        values: list[Tensor] = []
        for compute_loss in losses:
            loss = compute_loss() / self.settings.grad_accumulation
            values.append(loss.detach())
            loss.backward()
        if len(values) != self.settings.grad_accumulation:
            raise TrainingError(f"expected {self.settings.grad_accumulation} losses per update, found {len(values)}.")
        mean, norm = self._gather(torch.stack(values).float().sum())
        _require_finite("loss", mean)
        _require_finite("gradient", norm)
        self._update(norm)
        return mean

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self._parameters.values() if parameter.grad is not None]

    def _gather(self, loss: Tensor) -> tuple[float, float]:
        """Average over processes; the loss and the gradients' total norm in a single read from the device."""
        gradients = self._gradients()
        distributed.average([loss, *gradients])
        norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
        mean, total = torch.stack([loss, norm.to(loss)]).tolist()
        return mean, total

    def _update(self, norm: float) -> None:
        limit = self.settings.max_grad_norm
        if limit and norm > limit:
            torch._foreach_mul_(self._gradients(), limit / norm)
        factor = rate_factor(self.settings, self.updates, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * factor
        self.optimizer.step()
        if self._average is not None:
            self._average.update(self.updates)
        self.updates += 1

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the context, the moving average stands in the place of what is trained, where there is one."""
        with self._holding({} if self._average is None else self._average.means):
            yield

    @contextlib.contextmanager
    def zeroed(self) -> Iterator[None]:
        """Within the context, all that is trained is zero, so that every layer gives what the base gives, exactly."""
        with self._holding({name: torch.zeros_like(value.data) for name, value in self._parameters.items()}):
            yield

    @contextlib.contextmanager
    def _holding(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        before = {name: self._parameters[name].data for name in values}
        try:
            for name, value in values.items():
                self._parameters[name].data = value
            yield
        finally:
            for name, data in before.items():
                self._parameters[name].data = data

    def adapter(self, metadata: Mapping[str, str]) -> QRLoRA:
        """What is trained so far, or its moving average, as an adapter on the CPU."""
        values: Mapping[str, Tensor] = self._parameters if self._average is None else self._average.means
        layers = {
            path: delta.layer({name: values[f"{path}.{name}"] for name, _ in delta.named_parameters()})
            for path, delta in self.deltas.items()
        }
        return QRLoRA(layers, metadata)

    def _kind(self) -> str:
        return f"{'+'.join(sorted({delta.variant for delta in self.deltas.values()}))} by {self.settings.optimizer}"

    def _own_tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {f"parameter.{name}": value for name, value in self._parameters.items()}
        if self._average is not None:
            tensors |= {f"average.{name}": mean for name, mean in self._average.means.items()}
        return tensors

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the next update depends on: tensors by name, on the CPU, and numbers that fit into JSON."""
        tensors = self._own_tensors()
        numbers: dict[str, dict[str, Any]] = {}
        # Not from the optimizer's `state_dict`, which that of bitsandbytes nests.
        for index, parameter in enumerate(self._parameters.values()):
            for name, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{index}.{name}"] = value
                else:
                    numbers.setdefault(str(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        record = {"updates": self.updates, "kind": self._kind(), "optimizer": numbers, "groups": groups}
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}, record

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, exactly.

        Raises:
            TrainingError: the state is not of this training.
        """
        try:
            own = self._own_tensors()
            self._require_fit(own, tensors, record)
            updates = int(record["updates"])
            state: dict[int, dict[str, Any]] = {int(i): dict(values) for i, values in record["optimizer"].items()}
            for key, tensor in tensors.items():
                kind, _, rest = key.partition(".")
                if kind == "optimizer":
                    index, _, name = rest.partition(".")
                    state.setdefault(int(index), {})[name] = tensor.clone()  # which the optimizer would change
            self.optimizer.load_state_dict({"state": state, "param_groups": record["groups"]})
            self.updates = updates
            for name, tensor in own.items():
                tensor.copy_(tensors[name])
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise TrainingError(
                f"the training state does not fit this training ({error}).", Reason.OTHER_TRAINING
            ) from error

    def _require_fit(self, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """`copy_` would broadcast a tensor of another rank, and one optimizer load the state of another."""
        if record["kind"] != self._kind():
            raise ValueError(f"it trains {record['kind']}, not {self._kind()}")
        saved = {name: tensor for name, tensor in tensors.items() if name.startswith(("parameter.", "average."))}
        if others := saved.keys() ^ own.keys():
            raise ValueError(f"only one of them has {min(others)}")
        for name, tensor in own.items():
            if saved[name].shape != tensor.shape:
                raise ValueError(f"{name} has shape {tuple(saved[name].shape)}, not {tuple(tensor.shape)}")


def _require_finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise TrainingError(
            f"the {name} became {value}. What was trained is kept as it was before this step; lower learning_rate.",
            Reason.DIVERGED,
        )
