"""One class a row."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  its usual name

from sparkwright.training.settings import CALIBRATED_LOSS
from sparkwright.training.tasks._base import Task, ratio
from sparkwright.training.tasks.losses import RowLoss, cross_entropy

__all__ = ["Classification", "class_factors", "outputs_of_link"]

# Of the logits, each twice the one before the last: temperatures from 8 to 1/4.
_FACTORS = 2.0 ** (np.arange(-6, 5) / 2)


class Classification(Task):
    """One of several classes; cross-entropy and its kin, accuracy, and metrics that show imbalance.

    Targets are class indices (int64). The weight of a row is multiplied with its class's in the loss; metrics take the
    row's own, and know no smoothing.

    Args:
        class_weights: A factor for each class, float32; its length is the number of classes.
        label_smoothing: Share of the target spread over all classes.
        gamma: Of the focal loss; 0 leaves it out.
        link: How outputs become probabilities: ``"softmax"`` (one output a class), ``"sigmoid"`` (one output, the
            log-odds of the second of two classes) or ``"sequential"`` (see `sequential_logits`).
        own: A loss of the user's own, of logits and class indices.
    """

    def __init__(
        self,
        class_weights: NDArray[np.float32],
        label_smoothing: float = 0.0,
        *,
        gamma: float = 0.0,
        link: str = "softmax",
        own: RowLoss | None = None,
    ) -> None:
        self.classes = len(class_weights)
        self.outputs = outputs_of_link(link, self.classes)
        self.sums = 3 + 3 * self.classes
        self.validation_sums = 0 if link == "sequential" else len(_FACTORS)
        self._link = link
        self._factors = torch.from_numpy(class_weights)
        self._weighted = bool((class_weights != 1).any())
        self._smoothing = label_smoothing
        self._gamma = gamma
        self._own = own

    def logits(self, output_BO: Tensor) -> Tensor:
        """Return one logit a class; their softmax are the probabilities."""
        if self._link == "sigmoid":
            return F.pad(output_BO, (1, 0))
        return sequential_logits(output_BO) if self._link == "sequential" else output_BO

    def loss(self, output_BO: Tensor, y_B: Tensor, w_B: Tensor) -> Tensor:
        losses_B = self._losses(self.logits(output_BO), y_B, self._smoothing)
        return (losses_B * self._weights(y_B, w_B)).mean()

    def _weights(self, y_B: Tensor, w_B: Tensor) -> Tensor:
        return w_B * self._factors[y_B] if self._weighted else w_B

    @torch.no_grad()
    def loss_and_gradient(self, output_BO: Tensor, y_B: Tensor, w_B: Tensor) -> tuple[float, Tensor]:
        if self._own is not None or self._gamma or self._link != "softmax":
            return super().loss_and_gradient(output_BO, y_B, w_B)
        # Of the plain cross-entropy: softmax less the targets. With few outputs it takes half of autograd's time.
        weights_B, spread = self._weights(y_B, w_B) / len(y_B), self._smoothing
        log_p_BC, index_BI = output_BO.log_softmax(1), y_B[:, None]
        losses_B = log_p_BC.gather(1, index_BI)[:, 0] * (spread - 1)
        if spread:
            losses_B -= log_p_BC.mean(1) * spread
        gradient_BC = log_p_BC.exp_()
        if spread:
            gradient_BC -= spread / self.classes
        gradient_BC.scatter_add_(1, index_BI, torch.full((1, 1), spread - 1.0).expand_as(index_BI))
        return torch.dot(losses_B, weights_B).item(), gradient_BC.mul_(weights_B[:, None])

    def _losses(self, logits_BC: Tensor, y_B: Tensor, smoothing: float) -> Tensor:
        if self._own is not None:
            return self._own(logits_BC, y_B)
        return cross_entropy(logits_BC, y_B, smoothing, self._gamma)

    def measure(self, output_BO: Tensor, y_B: Tensor, w_B: Tensor) -> Tensor:
        w_B = w_B.double()
        logits_BC = self.logits(output_BO.double())
        losses_B = self._losses(logits_BC, y_B, smoothing=0.0)
        predicted_B = torch.from_numpy(logits_BC.numpy().argmax(1))  # five times as fast as torch's
        hit_B = w_B * (predicted_B == y_B)
        of_class = [
            torch.zeros(self.classes, dtype=torch.float64).index_add_(0, index_B, weight_B)
            for index_B, weight_B in ((y_B, w_B), (predicted_B, w_B), (y_B, hit_B))
        ]
        return torch.cat([torch.stack([(w_B * losses_B).sum(), hit_B.sum(), w_B.sum()]), *of_class])

    def measure_validation(self, output_BO: Tensor, y_B: Tensor, w_B: Tensor) -> Tensor:
        if not self.validation_sums:
            return super().measure_validation(output_BO, y_B, w_B)
        return scaled_losses(self.logits(output_BO.double()), y_B, w_B.double())

    def metrics(self, sums: NDArray[np.float64]) -> dict[str, float]:
        loss, right, weight = sums[:3]
        true_C, predicted_C, hit_C = np.split(sums[3 : self.sums], 3)
        scaled_F = sums[self.sums :]
        occurs_C, either_C = true_C > 0, true_C + predicted_C > 0
        recall = hit_C[occurs_C] / true_C[occurs_C]
        f1 = 2 * hit_C[either_C] / (true_C + predicted_C)[either_C]
        return {
            "loss": ratio(loss, weight),
            **({CALIBRATED_LOSS: ratio(least(scaled_F), weight)} if len(scaled_F) else {}),
            "accuracy": ratio(right, weight),
            "balanced_accuracy": ratio(recall.sum(), len(recall)),
            "macro_f1": ratio(f1.sum(), len(f1)),
        }


def outputs_of_link(link: str, classes: int) -> int:
    """Return how many outputs tell one of so many classes."""
    return {"softmax": classes, "sigmoid": 1, "sequential": classes - 1}[link]


def scaled_losses(logits_BC: Tensor, y_B: Tensor, w_B: Tensor) -> Tensor:
    """Return the weighted sums of the rows' log-losses when the logits are multiplied with each of `_FACTORS`.

    Two exponentials a logit are enough for all of them: the square of a power is that of twice the factor.
    """
    below_BC = logits_BC - logits_BC.amax(1, keepdim=True)
    labelled_B = below_BC.gather(1, y_B[:, None])[:, 0]
    powers = [(below_BC * factor).exp_() for factor in _FACTORS[:2]]
    losses = []
    for place, factor in enumerate(_FACTORS.tolist()):
        power_BC = powers[place % 2]
        losses.append((w_B * (power_BC.sum(1).log_() - factor * labelled_B)).sum())
        power_BC.mul_(power_BC)
    return torch.stack(losses)


def least(scaled_F: NDArray[np.float64]) -> float:
    """Return the least loss, between the factors too: that of a parabola through the lowest and its neighbours.

    So it is what `sparkwright.training.calibration` gives, to some thousandths, in sums that add up over workers.
    """
    place = int(scaled_F.argmin())
    if not 0 < place < len(scaled_F) - 1:
        return float(scaled_F[place])
    before, lowest, after = scaled_F[place - 1 : place + 2]
    bend = before - 2 * lowest + after
    return float(lowest - (after - before) ** 2 / (8 * bend)) if bend > 0 else float(lowest)


def sequential_logits(output_BO: Tensor) -> Tensor:
    """Return the log-probability of each of K ordered classes from K - 1 outputs (continuation ratios).

    Output k is the log-odds that a row of class k or higher is higher than k (Fienberg 1980, section 6.6; Shi et al.
    2021 for networks). So probabilities are never negative, and a row's error counts once for each class on the way.
    """
    higher_BO = F.logsigmoid(output_BO)
    reached_BC = F.pad(higher_BO.cumsum(1), (1, 0))
    return reached_BC + F.pad(higher_BO - output_BO, (0, 1))  # log(1 - sigmoid(z)) = log sigmoid(z) - z


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
