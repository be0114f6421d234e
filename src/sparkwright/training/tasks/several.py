"""Several outputs, each with a task of its own, trained at once (multi-task learning: Caruana 1997)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparkwright.training.tasks._base import Task
from sparkwright.training.tasks.classification import Classification
from sparkwright.training.tasks.multilabel import MultiLabel

__all__ = ["Several", "Weighted"]


@dataclass(frozen=True)
class Weighted:
    """One of several outputs.

    Attributes:
        task: What is learnt; its targets are as it has them, but float64.
        weight: What its loss is multiplied with in the sum.
        share: What it is multiplied with besides in training, so that rows without a label do not make it smaller.
    """

    task: Task
    weight: float
    share: float

    @property
    def columns(self) -> int:
        """How many columns of the targets are its own."""
        return self.task.outputs if isinstance(self.task, MultiLabel) else 1


class Several(Task):
    """Outputs that lie behind one another in the network's vector; the sum of their weighted losses.

    Targets are float64 of shape (rows, columns of all outputs), NaN in all columns of an output whose label a row
    lacks: there the row weighs nothing, in the loss as in the metrics.

    Args:
        parts: The outputs by name, in their order.
    """

    def __init__(self, parts: Mapping[str, Weighted]) -> None:
        self.parts = dict(parts)
        self.outputs = sum(part.task.outputs for part in self.parts.values())
        self.sums = sum(part.task.sums for part in self.parts.values())

    def loss(self, output_BO: Tensor, y_B: Tensor, w_B: Tensor) -> Tensor:
        losses = [
            part.task.loss(own_BO, own_B, own_w_B) * (part.weight * part.share)
            for part, own_BO, own_B, own_w_B in self._split(output_BO, y_B, w_B)
        ]
        return torch.stack(losses).sum()

    def measure(self, output_BO: Tensor, y_B: Tensor, w_B: Tensor) -> Tensor:
        split = self._split(output_BO, y_B, w_B)
        return torch.cat([part.task.measure(own_BO, own_B, own_w_B) for part, own_BO, own_B, own_w_B in split])

    def metrics(self, sums: NDArray[np.float64]) -> dict[str, float]:
        """Return the sum of the weighted losses, and each output's metrics under its name: ``kind.accuracy``."""
        own = np.split(sums, np.cumsum([part.task.sums for part in self.parts.values()])[:-1])
        of = {name: part.task.metrics(mine) for (name, part), mine in zip(self.parts.items(), own, strict=True)}
        loss = sum(part.weight * of[name]["loss"] for name, part in self.parts.items())
        return {"loss": loss} | {f"{name}.{metric}": v for name, found in of.items() for metric, v in found.items()}

    def begin(self, output: nn.Linear) -> None:
        for part, own in self._layers(output):
            part.task.begin(own)

    def finish(self, output: nn.Linear) -> None:
        for part, own in self._layers(output):
            part.task.finish(own)

    def _split(self, output_BO: Tensor, y_B: Tensor, w_B: Tensor) -> Iterator[tuple[Weighted, Tensor, Tensor, Tensor]]:
        """Yield each output's part of a batch; where a row has no label of it the target is 0, and so is the weight."""
        parts = list(self.parts.values())
        outputs = torch.split(output_BO, [part.task.outputs for part in parts], dim=1)
        targets = torch.split(y_B, [part.columns for part in parts], dim=1)
        for part, own_BO, own_BT in zip(parts, outputs, targets, strict=True):
            there_B = ~own_BT[:, 0].isnan()
            own_BT = own_BT.nan_to_num(0.0)
            own_B = own_BT if isinstance(part.task, MultiLabel) else own_BT[:, 0]
            if isinstance(part.task, Classification):
                own_B = own_B.long()
            yield part, own_BO, own_B, w_B * there_B

    def _layers(self, output: nn.Linear) -> Iterator[tuple[Weighted, nn.Linear]]:
        """Yield views of the layer that gives all outputs, one for each of them."""
        start = 0
        for part in self.parts.values():
            own = slice(start, start + part.task.outputs)
            yield part, _View(output.weight[own], output.bias[own])  # type: ignore[misc]
            start = own.stop


@dataclass(frozen=True)
class _View:
    """Some outputs of a layer: what is done to its tensors in place is done to the layer's."""

    weight: Tensor
    bias: Tensor
