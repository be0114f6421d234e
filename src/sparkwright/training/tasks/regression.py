"""Numbers."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparkwright.training.tasks._base import Task, ratio
from sparkwright.training.tasks.losses import ROW_LOSSES, RowLoss

__all__ = ["Poisson", "Quantiles", "Regression"]


class Regression(Task):
    """A number; by default squared error. The loss sees standardised targets, so that rates suit targets of any size.

    Args:
        mean: Of the training rows' targets.
        deviation: Of the training rows' targets.
        losses: Of outputs and standardised targets, both of shape (rows,).
    """

    outputs = 1
    sums = 6

    def __init__(self, mean: float, deviation: float, losses: RowLoss = ROW_LOSSES["squared_error"]) -> None:
        self._mean = mean
        self._deviation = deviation or 1.0
        self._row_loss = losses

    def loss(self, output_BO: Tensor, y_B: Tensor, w_B: Tensor) -> Tensor:
        return (w_B * self._losses(output_BO, self._standardised(y_B).to(output_BO.dtype))).mean()

    def _losses(self, output_BO: Tensor, z_B: Tensor) -> Tensor:
        """Return each row's loss, given standardised targets."""
        return self._row_loss(output_BO[:, 0], z_B)

    def _predicted(self, output_BO: Tensor) -> Tensor:
        """Return what is predicted, as standardised as the targets are."""
        return output_BO[:, 0]

    def measure(self, output_BO: Tensor, y_B: Tensor, w_B: Tensor) -> Tensor:
        w_B, output_BO = w_B.double(), output_BO.double()
        z_B = self._standardised(y_B)
        error_B = self._predicted(output_BO) - z_B
        terms = (self._losses(output_BO, z_B), error_B.square(), error_B.abs(), z_B, z_B.square())
        return torch.stack([*((w_B * term).sum() for term in terms), w_B.sum()])

    def metrics(self, sums: NDArray[np.float64]) -> dict[str, float]:
        loss, squares, absolutes, z, z_squares, weight = sums
        return {
            "loss": ratio(loss, weight),
            "rmse": float(np.sqrt(ratio(squares, weight))) * self._deviation,
            "mae": ratio(absolutes, weight) * self._deviation,
            "r2": 1 - ratio(squares, z_squares - z * ratio(z, weight)),
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


class Quantiles(Regression):
    """Quantiles of the target, an output each; pinball loss (Koenker and Bassett 1978).

    Errors other than the loss are those of the quantile nearest to the median.

    Args:
        mean: Of the training rows' targets.
        deviation: Of the training rows' targets.
        quantiles: Each above 0 and below 1.
    """

    def __init__(self, mean: float, deviation: float, quantiles: Sequence[float]) -> None:
        super().__init__(mean, deviation)
        self.outputs = len(quantiles)
        self._quantiles = torch.tensor(quantiles, dtype=torch.float64)
        self._middle = int(np.abs(np.array(quantiles) - 0.5).argmin())

    def _losses(self, output_BO: Tensor, z_B: Tensor) -> Tensor:
        below_BO = z_B[:, None] - output_BO
        quantiles = self._quantiles.to(output_BO.dtype)
        return torch.maximum(quantiles * below_BO, (quantiles - 1) * below_BO).mean(1)

    def _predicted(self, output_BO: Tensor) -> Tensor:
        return output_BO[:, self._middle]


class Poisson(Regression):
    """Counts: the output is the logarithm of the expected count; the Poisson distribution's negative log-likelihood.

    It is divided by the mean count and lacks what does not depend on the output, so that rates suit counts of any size.

    Args:
        mean: Of the training rows' counts.
    """

    def __init__(self, mean: float) -> None:
        super().__init__(0.0, mean)

    def _losses(self, output_BO: Tensor, z_B: Tensor) -> Tensor:
        return self._predicted(output_BO) - z_B * output_BO[:, 0]

    def _predicted(self, output_BO: Tensor) -> Tensor:
        return output_BO[:, 0].exp()

    def begin(self, output: nn.Linear) -> None:
        with torch.no_grad():
            output.bias.sub_(float(np.log(self._deviation)))

    def finish(self, output: nn.Linear) -> None:
        with torch.no_grad():
            output.bias.add_(float(np.log(self._deviation)))
