"""Losses of single rows, and losses of the user's own by their importable name."""

import importlib
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  its usual name

from sparkwright.errors import InputError, did_you_mean

__all__ = ["ROW_LOSSES", "RowLoss", "cross_entropy", "is_own", "own_loss", "sigmoid_cross_entropy"]

RowLoss = Callable[[Tensor, Tensor], Tensor]
"""From outputs and targets of a batch to one loss a row, float of shape (rows,)."""

_CERTAIN = 1e-6  # the least that focal loss takes a row's error for: its root has no slope at 0


def cross_entropy(logits_BC: Tensor, y_B: Tensor, smoothing: float = 0.0, gamma: float = 0.0) -> Tensor:
    """Return the cross-entropy of class indices, times ``(1 - p)**gamma`` of the class's probability p.

    With `gamma` rows that are right already count less (focal loss: Lin et al. 2017, equation 4).
    """
    losses_B = F.cross_entropy(logits_BC, y_B, reduction="none", label_smoothing=smoothing)
    if not gamma:
        return losses_B
    p_B = logits_BC.softmax(1).gather(1, y_B[:, None])[:, 0]
    return losses_B * (1 - p_B).clamp_min(_CERTAIN) ** gamma


def sigmoid_cross_entropy(
    logits_BK: Tensor, y_BK: Tensor, factors_K: Tensor | None = None, gamma: float = 0.0
) -> Tensor:
    """Return the mean over labels of each one's binary cross-entropy; `gamma` as in `cross_entropy`.

    Args:
        logits_BK: One a label.
        y_BK: 1 where a row has the label, else 0; of the logits' type.
        factors_K: What the rows that have a label count of its loss; None: 1.
        gamma: Of the focal loss; 0 leaves it out.
    """
    losses_BK = F.binary_cross_entropy_with_logits(logits_BK, y_BK, reduction="none", pos_weight=factors_K)
    if gamma:
        wrong_BK = (y_BK - logits_BK.sigmoid()).abs()
        losses_BK = losses_BK * wrong_BK.clamp_min(_CERTAIN) ** gamma
    return losses_BK.mean(1)


def _huber(output_B: Tensor, y_B: Tensor, delta: float = 1.0) -> Tensor:
    return F.huber_loss(output_B, y_B, reduction="none", delta=delta)


ROW_LOSSES: dict[str, Callable[..., Tensor]] = {
    "squared_error": lambda output_B, y_B: (output_B - y_B).square(),
    "absolute_error": lambda output_B, y_B: (output_B - y_B).abs(),
    "huber": _huber,
}
"""Of a regression with one output: name → loss of each row."""


def is_own(name: str) -> bool:
    """Whether a loss is named as ``package.module:function``."""
    return ":" in name


def own_loss(name: str) -> RowLoss:
    """Import a loss of the user's own, ``package.module:function``.

    Raises:
        InputError: There is no such module or function here; what it returns later is not one number a row.
    """
    module, _, function = name.partition(":")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"`loss` {name!r} cannot be imported: {error}. It must be importable on the driver and on every worker: "
            "install its package there, or send its file with spark.addArtifacts(…, pyfile=True)."
        ) from error
    losses = getattr(found, function, None)
    if not callable(losses):
        near = did_you_mean(function, [each for each in dir(found) if callable(getattr(found, each))])
        raise InputError(f"`loss` {name!r}: the module `{module}` has no function `{function}`.{near}")

    def checked(output: Tensor, y: Tensor) -> Tensor:
        per_row = losses(output, y)
        if not isinstance(per_row, Tensor) or per_row.shape != y.shape[:1]:
            got = f"shape {tuple(per_row.shape)}" if isinstance(per_row, Tensor) else type(per_row).__name__
            raise InputError(
                f"`loss` {name!r} must return one loss for each of {len(y)} rows, a tensor of shape ({len(y)},); it "
                f"returned {got}. Do not average over rows: weights and replicas do."
            )
        if torch.is_grad_enabled() and output.requires_grad and not per_row.requires_grad:
            raise InputError(f"`loss` {name!r} returned a tensor without a gradient: compute it with torch throughout.")
        return per_row

    return checked
