"""The learning rate over a training."""

import math

from sparkwright.training.config import TrainingConfig

__all__ = ["rate_at"]


def rate_at(config: TrainingConfig, epoch: float) -> float:
    """Return the rate after `epoch` epochs (0 is the start, fractions lie inside an epoch).

    The schedule's length is ``config.epochs``, whether training stops earlier or not.
    """
    done = epoch / config.epochs
    warm = min(1.0, epoch / config.warmup) if config.warmup else 1.0
    match config.schedule:
        case "cosine":  # Loshchilov and Hutter 2017, eq. 5, without restarts
            factor = 0.5 * (1 + math.cos(math.pi * done))
        case "linear":
            factor = 1 - done
        case "step":
            factor = 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01
        case _:
            factor = 1.0
    return config.rate * warm * factor
