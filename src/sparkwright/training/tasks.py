"""What is learnt: targets, loss, and the metrics of the validation rows, for classification and regression."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name

__all__ = ["Classification", "Regression", "Task"]


class Task(ABC):
    """Targets, loss and metrics; the same object serves all replicas of a process."""

    outputs: int
    """Width of the network's output."""
    sums: int
    """How many sums `measure` gives."""

    @abstractmethod
    def loss(self, output_BO: Tensor, y_B: Tensor, w_B: Tensor) -> Tensor:
        """Return the mean over rows of weight times loss: a scalar to differentiate."""

    @abstractmethod
    def measure(self, output_BO: Tensor, y_B: Tensor, w_B: Tensor) -> Tensor:
        """Return float64 sums over rows, which add up over batches and replicas to what `metrics` needs."""

    @abstractmethod
    def metrics(self, sums: NDArray[np.float64]) -> dict[str, float]:
        """Return metrics by name from the sums over all rows; NaN where the rows weigh nothing."""

    def begin(self, output: nn.Linear) -> None:  # noqa: B027  nothing to do is the default
        """Undo `finish`, in place, in an output layer that training goes on from."""

    def finish(self, output: nn.Linear) -> None:  # noqa: B027  nothing to do is the default
        """Change the trained output layer, in place, so that it gives the target's own units."""


class Classification(Task):
    """One of several classes; cross-entropy (optionally smoothed), accuracy.

    Targets are class indices (int64). The weight of a row is multiplied with its class's in the loss; metrics take the
    row's own, and know no smoothing.

    Args:
        class_weights: A factor for each class, float32; its length is the number of classes.
        label_smoothing: Share of the target spread over all classes.
    """

    sums = 3

    def __init__(self, class_weights: NDArray[np.float32], label_smoothing: float) -> None:
        self.outputs = len(class_weights)
        self._factors = torch.from_numpy(class_weights)
        self._weighted = bool((class_weights != 1).any())
        self._smoothing = label_smoothing

    def loss(self, output_BO: Tensor, y_B: Tensor, w_B: Tensor) -> Tensor:
        losses_B = F.cross_entropy(output_BO, y_B, reduction="none", label_smoothing=self._smoothing)
        weights_B = w_B * self._factors[y_B] if self._weighted else w_B
        return (losses_B * weights_B).mean()

    def measure(self, output_BO: Tensor, y_B: Tensor, w_B: Tensor) -> Tensor:
        w_B = w_B.double()
        losses_B = F.cross_entropy(output_BO.double(), y_B, reduction="none")
        right_B = (output_BO.argmax(1) == y_B).double()
        return torch.stack([(w_B * losses_B).sum(), (w_B * right_B).sum(), w_B.sum()])

    def metrics(self, sums: NDArray[np.float64]) -> dict[str, float]:
        loss, right, weight = sums
        return {"loss": _ratio(loss, weight), "accuracy": _ratio(right, weight)}


class Regression(Task):
    """A number; squared error of the standardised target, so that rates suit targets of any size.

    Args:
        mean: Of the training rows' targets.
        deviation: Of the training rows' targets.
    """

    outputs = 1
    sums = 5

    def __init__(self, mean: float, deviation: float) -> None:
        self._mean = mean
        self._deviation = deviation or 1.0

    def loss(self, output_BO: Tensor, y_B: Tensor, w_B: Tensor) -> Tensor:
        return (w_B * (output_BO[:, 0] - self._standardised(y_B).float()).square()).mean()

    def measure(self, output_BO: Tensor, y_B: Tensor, w_B: Tensor) -> Tensor:
        w_B = w_B.double()
        z_B = self._standardised(y_B)
        error_B = output_BO[:, 0].double() - z_B
        terms = (error_B.square(), error_B.abs(), z_B, z_B.square())
        return torch.stack([*((w_B * term).sum() for term in terms), w_B.sum()])

    def metrics(self, sums: NDArray[np.float64]) -> dict[str, float]:
        squares, absolutes, z, z_squares, weight = sums
        loss = _ratio(squares, weight)
        return {
            "loss": loss,
            "rmse": float(np.sqrt(loss)) * self._deviation,
            "mae": _ratio(absolutes, weight) * self._deviation,
            "r2": 1 - _ratio(squares, z_squares - z * _ratio(z, weight)),
        }

    def begin(self, output: nn.Linear) -> None:
        with torch.no_grad():
            output.weight.div_(self._deviation)
            output.bias.sub_(self._mean).div_(self._deviation)

    def finish(self, output: nn.Linear) -> None:
        with torch.no_grad():
            output.weight.mul_(self._deviation)
            output.bias.mul_(self._deviation).add_(self._mean)

    def _standardised(self, y_B: Tensor) -> Tensor:
        return (y_B - self._mean) / self._deviation


def class_factors(
    wanted: str | Mapping[str, float] | None, classes: tuple[str, ...], counts: Mapping[str, int]
) -> NDArray[np.float32]:
    """Return a weight for each class: 1, or as given, or rows / (classes · the class's rows) if ``"balanced"``."""
    if wanted is None:
        return np.ones(len(classes), np.float32)
    if isinstance(wanted, Mapping):
        return np.array([wanted.get(name, 1.0) for name in classes], np.float32)
    rows, present = sum(counts.values()), sum(count > 0 for count in counts.values())
    return np.array([rows / (present * counts[name]) if counts.get(name) else 1.0 for name in classes], np.float32)


def _ratio(value: float, by: float) -> float:
    return float(value / by) if by > 0 else float("nan")
