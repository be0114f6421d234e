"""Any number of labels a row."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparkwright.training.tasks._base import Task, ratio
from sparkwright.training.tasks.losses import RowLoss, sigmoid_cross_entropy

__all__ = ["MultiLabel", "label_factors"]


class MultiLabel(Task):
    """Each label is a question of its own: yes or no; binary cross-entropy, F1.

    Targets are uint8 of shape (rows, labels): 1 where a row has the label. A label is predicted where its logit is
    above 0.

    Args:
        label_weights: What the rows that have a label count of its loss, float32; one a label.
        gamma: Of the focal loss; 0 leaves it out.
        own: A loss of the user's own, of logits and targets (float) of shape (rows, labels).
    """

    def __init__(self, label_weights: NDArray[np.float32], *, gamma: float = 0.0, own: RowLoss | None = None) -> None:
        self.outputs = len(label_weights)
        self.sums = 3 + 3 * self.outputs
        self._factors_K = torch.from_numpy(label_weights) if bool((label_weights != 1).any()) else None
        self._gamma = gamma
        self._own = own

    def loss(self, output_BO: Tensor, y_B: Tensor, w_B: Tensor) -> Tensor:
        return (w_B * self._losses(output_BO, y_B.to(output_BO.dtype), self._factors_K)).mean()

    def _losses(self, output_BK: Tensor, y_BK: Tensor, factors_K: Tensor | None) -> Tensor:
        if self._own is not None:
            return self._own(output_BK, y_BK)
        return sigmoid_cross_entropy(output_BK, y_BK, factors_K, self._gamma)

    def measure(self, output_BO: Tensor, y_B: Tensor, w_B: Tensor) -> Tensor:
        w_B, y_BK = w_B.double(), y_B.double()
        losses_B = self._losses(output_BO.double(), y_BK, None)
        predicted_BK = (output_BO > 0).double()
        exact_B = (predicted_BK == y_BK).all(1).double()
        of_label = [w_B @ each_BK for each_BK in (y_BK, predicted_BK, y_BK * predicted_BK)]
        return torch.cat([torch.stack([(w_B * losses_B).sum(), (w_B * exact_B).sum(), w_B.sum()]), *of_label])

    def metrics(self, sums: NDArray[np.float64]) -> dict[str, float]:
        """Return the loss, the share of rows whose labels are all right, and F1: of all decisions, and of labels."""
        loss, exact, weight = sums[:3]
        true_K, predicted_K, hit_K = np.split(sums[3:], 3)
        either_K = true_K + predicted_K
        f1 = 2 * hit_K[either_K > 0] / either_K[either_K > 0]
        return {
            "loss": ratio(loss, weight),
            "subset_accuracy": ratio(exact, weight),
            "micro_f1": ratio(2 * hit_K.sum(), either_K.sum()),
            "macro_f1": ratio(f1.sum(), len(f1)),
        }


def label_factors(
    wanted: str | Mapping[str, float] | None, labels: tuple[str, ...], counts: Mapping[str, int], rows: int
) -> NDArray[np.float32]:
    """Return a weight for each label: 1, or as given, or rows without it / rows with it if ``"balanced"``."""
    if wanted is None:
        return np.ones(len(labels), np.float32)
    if isinstance(wanted, Mapping):
        return np.array([wanted.get(name, 1.0) for name in labels], np.float32)
    having = np.array([counts.get(name, 0) for name in labels])
    return np.where((having > 0) & (having < rows), (rows - having) / np.maximum(having, 1), 1.0).astype(np.float32)
