"""What a task must offer."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["Task", "ratio"]


class Task(ABC):
    """Targets, loss and metrics; the same object serves all replicas of a process."""

    outputs: int
    """Width of the network's output."""
    sums: int
    """How many sums `measure` gives."""
    validation_sums = 0
    """How many sums `measure_validation` gives."""

    @abstractmethod
    def loss(self, output_BO: Tensor, y_B: Tensor, w_B: Tensor) -> Tensor:
        """Return the mean over rows of weight times loss: a scalar to differentiate."""

    def loss_and_gradient(self, output_BO: Tensor, y_B: Tensor, w_B: Tensor) -> tuple[float, Tensor]:
        """Return `loss` and its gradient by the outputs, of their shape: for who writes the backward pass out."""
        with torch.enable_grad():
            output_BO = output_BO.detach().requires_grad_()
            loss = self.loss(output_BO, y_B, w_B)
        return loss.item(), torch.autograd.grad(loss, output_BO)[0]

    @abstractmethod
    def measure(self, output_BO: Tensor, y_B: Tensor, w_B: Tensor) -> Tensor:
        """Return float64 sums over rows, which add up over batches and replicas to what `metrics` needs."""

    def measure_validation(self, output_BO: Tensor, y_B: Tensor, w_B: Tensor) -> Tensor:  # noqa: ARG002
        """Return such sums of what would cost too much in every step, and is measured on validation rows alone."""
        return torch.zeros(0, dtype=torch.float64)

    @abstractmethod
    def metrics(self, sums: NDArray[np.float64]) -> dict[str, float]:
        """Return metrics by name from the sums over all rows; NaN where the rows weigh nothing.

        Args:
            sums: Those of `measure`; of validation rows, behind them, those of `measure_validation`.
        """

    def begin(self, output: nn.Linear) -> None:  # noqa: B027  nothing to do is the default
        """Undo `finish`, in place, in an output layer that training goes on from."""

    def finish(self, output: nn.Linear) -> None:  # noqa: B027  nothing to do is the default
        """Change the trained output layer, in place, so that it gives the target's own units."""


def ratio(value: float, by: float) -> float:
    """Return the quotient; NaN where nothing weighs."""
    return float(value / by) if by > 0 else float("nan")
