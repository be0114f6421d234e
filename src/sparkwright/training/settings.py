"""What the settings of a training may be: names to choose from, and ranges of numbers."""

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, Literal, cast

__all__ = [
    "ACTIVATIONS",
    "BATCH_NORMS",
    "CALIBRATED_LOSS",
    "COMPRESSIONS",
    "DEVICES",
    "INSTEAD",
    "LINKS",
    "LOSSES",
    "METRICS",
    "MULTITASK",
    "NOT_FINITE",
    "OPTIMIZERS",
    "OUTPUT_SETTINGS",
    "PRECISIONS",
    "RANGES",
    "RATE_TABLE_UNITS",
    "SAMPLINGS",
    "SCHEDULES",
    "STRATEGIES",
    "TASKS",
    "THRESHOLD_METRICS",
    "WEIGHT_AVERAGES",
    "WHOLE",
    "WITH_FEEDBACK",
    "is_number",
    "metrics_of",
]

TASKS = ("classification", "multilabel", "regression")
MULTITASK = "multitask"
"""The task of a training of several outputs, each of which has one of `TASKS`."""
OUTPUT_SETTINGS = ("loss", "focal_gamma", "huber_delta", "quantiles", "class_weights", "label_smoothing")
"""What each of several outputs is told for itself, beside its task and its weight."""
ACTIVATIONS = ("relu", "gelu", "leaky_relu", "elu", "sigmoid", "silu", "tanh")
OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop", "adadelta", "adagrad", "lamb", "lars")
SCHEDULES = ("constant", "cosine", "linear", "step", "plateau", "one_cycle", "table")
RATE_TABLE_UNITS = ("epoch", "step")
WEIGHT_AVERAGES = ("ema", "swa")
BATCH_NORMS = ("averaged", "local", "frozen")
DEVICES = ("cpu", "cuda")
PRECISIONS = ("float32", "bfloat16")
STRATEGIES = ("averaging", "all_reduce", "outer")
COMPRESSIONS = ("float16", "bfloat16", "int8", "topk", "threshold")
WITH_FEEDBACK = ("int8", "topk", "threshold")
NOT_FINITE = ("stop", "retry")
SAMPLINGS = ("shuffled", "balanced")
THRESHOLD_METRICS = ("f1", "balanced_accuracy")

# Task → losses, the first of which is the default.
LOSSES = {
    "classification": ("cross_entropy", "focal", "binary_cross_entropy", "ordinal"),
    "multilabel": ("binary_cross_entropy", "focal"),
    "regression": ("squared_error", "absolute_error", "huber", "quantile", "poisson"),
    MULTITASK: ("weighted_sum",),
}
# Task and loss → how outputs become probabilities or values, where it is not the task's usual way.
LINKS = {
    ("classification", "binary_cross_entropy"): "sigmoid",
    ("classification", "ordinal"): "sequential",
    ("regression", "poisson"): "exp",
}

CALIBRATED_LOSS = "calibrated_loss"
"""The log-loss of a classifier's validation rows with the logits divided by the one number that makes it least."""

# Task → metric of the validation rows → whether less or more of it is better.
METRICS: dict[str, dict[str, Literal["min", "max"]]] = {
    "classification": {
        "loss": "min",
        CALIBRATED_LOSS: "min",
        "accuracy": "max",
        "balanced_accuracy": "max",
        "macro_f1": "max",
    },
    "multilabel": {"loss": "min", "subset_accuracy": "max", "micro_f1": "max", "macro_f1": "max"},
    "regression": {"loss": "min", "rmse": "min", "mae": "min", "r2": "max"},
    MULTITASK: {"loss": "min"},  # and the metrics of its outputs
}


def metrics_of(task: str, outputs: Mapping[str, Any] | None = None) -> dict[str, Literal["min", "max"]]:
    """Return what is measured of the validation rows → whether less or more of it is better.

    Args:
        task: One of `METRICS`.
        outputs: Several outputs: name → what is said of it, its ``task`` among that.
    """
    found = dict(METRICS[task])
    for name, told in (outputs or {}).items():
        own = METRICS[told["task"]]  # several outputs are not calibrated
        found |= {f"{name}.{metric}": better for metric, better in own.items() if metric != CALIBRATED_LOSS}
    return found


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number, of Python or numpy; booleans are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


_Check = Callable[[float], bool]
# Setting, what it must be in words, and whether a number is that.
RANGES: tuple[tuple[str, str, _Check], ...] = (
    ("dropout", "at least 0 and below 1", lambda v: 0 <= v < 1),
    ("learning_rate", "above 0", lambda v: v > 0),
    ("momentum", "at least 0 and below 1", lambda v: 0 <= v < 1),
    ("beta2", "None, or at least 0 and below 1", lambda v: 0 <= v < 1),
    ("epsilon", "None or above 0", lambda v: v > 0),
    ("weight_decay", "at least 0", lambda v: v >= 0),
    ("rate_decay", "above 0 and at most 1", lambda v: 0 < v <= 1),
    ("clip_norm", "None or above 0", lambda v: v > 0),
    ("clip_value", "None or above 0", lambda v: v > 0),
    ("accumulate", "a whole number of at least 1", lambda v: v >= 1),
    ("warmup", "at least 0 epochs", lambda v: v >= 0),
    ("drop_factor", "above 0 and below 1", lambda v: 0 < v < 1),
    ("plateau_patience", "a whole number of at least 1", lambda v: v >= 1),
    ("ema_decay", "at least 0 and below 1", lambda v: 0 <= v < 1),
    ("swa_from", "at least 0 and below 1", lambda v: 0 <= v < 1),
    ("label_smoothing", "at least 0 and below 1", lambda v: 0 <= v < 1),
    ("focal_gamma", "above 0", lambda v: v > 0),
    ("huber_delta", "above 0", lambda v: v > 0),
    ("epochs", "a whole number of at least 1", lambda v: v >= 1),
    ("batch_size", "a whole number of at least 1", lambda v: v >= 1),
    ("replicas", "a whole number of at least 1", lambda v: v >= 1),
    ("sync_every", "'auto' or a whole number of at least 1", lambda v: v >= 1),
    ("sync_share", "above 0 and below 1", lambda v: 0 < v < 1),
    ("outer_rate", "above 0", lambda v: v > 0),
    ("outer_momentum", "at least 0 and below 1", lambda v: 0 <= v < 1),
    ("pull", "above 0 and at most 1", lambda v: 0 < v <= 1),
    ("compression_share", "above 0 and at most 1", lambda v: 0 < v <= 1),
    ("validation_fraction", "at least 0 and below 1", lambda v: 0 <= v < 1),
    ("patience", "None or a whole number of at least 1", lambda v: v >= 1),
    ("validate_every", "a whole number of at least 1", lambda v: v >= 1),
    ("health_every", "None or a whole number of at least 1", lambda v: v >= 1),
    ("time_limit_s", "None or above 0", lambda v: v > 0),
    ("seed", "a whole number from 0 to 2**63-1", lambda v: 0 <= v < 2**63),
    ("threads", "a whole number of at least 1", lambda v: v >= 1),
)
# Setting → what may stand there instead of a number.
INSTEAD = {
    "dropout": None,
    "learning_rate": None,
    "beta2": None,
    "epsilon": None,
    "weight_decay": None,
    "clip_norm": None,
    "clip_value": None,
    "patience": None,
    "health_every": None,
    "sync_every": "auto",
    "time_limit_s": None,
}
WHOLE = cast(
    frozenset[str],
    frozenset(name for name, wanted, _ in RANGES if "whole number" in wanted),
)
