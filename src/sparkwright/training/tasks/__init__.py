"""What is learnt: targets, loss, and the metrics of the validation rows; `_base` is the contract, a file a kind."""

from collections.abc import Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from sparkwright.training.config import TrainingConfig
from sparkwright.training.rows.moments import Moments
from sparkwright.training.tasks._base import Task
from sparkwright.training.tasks.classification import Classification, class_factors
from sparkwright.training.tasks.losses import ROW_LOSSES, is_own, own_loss
from sparkwright.training.tasks.multilabel import MultiLabel, label_factors
from sparkwright.training.tasks.regression import Poisson, Quantiles, Regression
from sparkwright.training.tasks.several import Several, Weighted

__all__ = [
    "Classification",
    "MultiLabel",
    "Poisson",
    "Quantiles",
    "Regression",
    "Several",
    "Task",
    "Weighted",
    "class_factors",
    "label_factors",
    "make_factors",
    "make_task",
]


def make_factors(
    config: TrainingConfig, classes: tuple[str, ...], counts: Mapping[str, int], rows: int
) -> NDArray[np.float32]:
    """Return the weight of each class, or of each label where a row has several; empty in a regression.

    Args:
        config: `task` and `class_weights`.
        classes: In the order of the outputs.
        counts: Training rows that have each.
        rows: All training rows.
    """
    if config.task == "multilabel":
        return label_factors(config.class_weights, classes, counts, rows)
    return class_factors(config.class_weights, classes, counts)


def make_task(config: TrainingConfig, factors: NDArray[np.float32], moments: Moments) -> Task:
    """Return the task that `config` names.

    Args:
        config: `task`, `loss`, and what the loss knows besides.
        factors: What `make_factors` gives.
        moments: Of the training rows' targets.

    Raises:
        InputError: An own loss cannot be imported here.
    """
    name = config.objective
    own = own_loss(name) if is_own(name) else None
    gamma = config.focal_gamma if name == "focal" else 0.0
    if config.task == "classification":
        return Classification(factors, config.label_smoothing, gamma=gamma, link=config.link, own=own)
    if config.task == "multilabel":
        return MultiLabel(factors, gamma=gamma, own=own)
    if name == "poisson":
        return Poisson(moments.target_mean)
    if name == "quantile":
        return Quantiles(moments.target_mean, moments.target_deviation, config.quantiles)
    losses = own or (partial(ROW_LOSSES[name], delta=config.huber_delta) if name == "huber" else ROW_LOSSES[name])
    return Regression(moments.target_mean, moments.target_deviation, losses)
