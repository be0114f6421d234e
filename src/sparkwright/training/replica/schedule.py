"""The learning rate over a training. It has no state: what it needs to know of the past, a training's history tells."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import cast

from sparkwright.events import EpochEnded
from sparkwright.training.config import TrainingConfig

__all__ = ["as_it_was", "plateau_drops", "rate_at"]

_CYCLE_RISE = 0.3  # of the epochs; this and the next two as torch's OneCycleLR
_CYCLE_START = 1 / 25
_CYCLE_END = 1e-4 / 25


def rate_at(config: TrainingConfig, epoch: float, steps: int, drops: int = 0) -> float:
    """Return the rate after `epoch` epochs (0 is the start, fractions lie inside an epoch).

    The schedule's length is ``config.epochs``, whether training stops earlier or not.

    Args:
        config: Of the training.
        epoch: When.
        steps: Of an epoch.
        drops: How often a plateau was reached: see `plateau_drops`.
    """
    warm = min(1.0, epoch / config.warmup) if config.warmup else 1.0
    if config.weight_average == "swa":
        epoch = min(epoch, config.swa_from * config.epochs)
    done = epoch / config.epochs
    match config.schedule:
        case "cosine":  # Loshchilov and Hutter 2017, eq. 5, without restarts
            factor = 0.5 * (1 + math.cos(math.pi * done))
        case "linear":
            factor = 1 - done
        case "step":
            factor = config.drop_factor ** sum(done >= share for share in config.drop_at)
        case "plateau":
            factor = config.drop_factor**drops
        case "one_cycle":
            return config.rate * _cycle(done, config.warmup / config.epochs or _CYCLE_RISE)
        case "table":
            return warm * _looked_up(config, round(epoch * steps) if config.rate_table_unit == "step" else epoch)
        case _:
            factor = 1.0
    return config.rate * warm * factor


def plateau_drops(config: TrainingConfig, history: Sequence[EpochEnded]) -> int:
    """Return how often the validation rows have shown no better `monitor` for `plateau_patience` looks.

    As torch's ``ReduceLROnPlateau``: counting begins anew with each drop, and only what is better than the best so far
    ends it. NaN is never better.
    """
    if config.schedule != "plateau":
        return 0
    sign = 1.0 if config.direction == "min" else -1.0
    best, worse, drops = math.inf, 0, 0
    for event in history:
        if not event.validation:  # of an epoch without a look
            continue
        value = sign * event.validation[config.monitored]
        best, worse = (value, 0) if value < best else (best, worse + 1)
        if worse >= config.plateau_patience:
            drops, worse = drops + 1, 0
    return drops


def as_it_was(config: TrainingConfig, history: Sequence[EpochEnded], epochs: int) -> TrainingConfig:
    """Return how to train again, without validation rows, for the epochs that these found to be the best.

    A plateau's rates, to which they led, become a table. Layers that were to begin later than that never do.

    Args:
        config: Of the training that `history` is of.
        history: All of its epochs.
        epochs: How many to train.
    """
    begins = {when: layer for when, layer in (config.unfreeze or {}).items() if when <= epochs}
    config = config.replace(epochs=epochs, unfreeze=begins or None)
    if config.schedule != "plateau":
        return config
    drops = [plateau_drops(config, history[:epoch]) for epoch in range(len(history))]
    table = [(float(epoch), config.rate * config.drop_factor**count) for epoch, count in enumerate(drops)]
    return config.replace(schedule="table", rate_table=table, rate_table_unit="epoch")


def _cycle(done: float, rise: float) -> float:
    """Return the share of the highest rate: up along a cosine during `rise`, then down."""
    if done <= rise:
        start, end, part = _CYCLE_START, 1.0, done / rise
    else:
        start, end, part = 1.0, _CYCLE_END, (done - rise) / (1 - rise)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * part))


def _looked_up(config: TrainingConfig, when: float) -> float:
    table = cast(Sequence[tuple[float, float]], config.rate_table)
    return table[bisect_right(table, when, key=lambda entry: entry[0]) - 1][1]
