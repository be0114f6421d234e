"""Calibrate a classifier: one factor for all logits, so that its probabilities are as sure as they should be.

Dropout and weight decay leave a head less sure than it is right, and many epochs surer. Dividing the logits by one
temperature (Guo et al. 2017) mends most of it and changes no label.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from sparkwright.training.replica import Shard
from sparkwright.training.transports._base import Transport

__all__ = ["find_temperature"]

_LARGEST = 20.0  # temperatures are looked for between its inverse and it
_PARTS, _TIMES = 4, 10  # of the logarithm of that range, again and again: six digits with few messages
_AT_ONCE = 1024  # rows in a forward pass; part of the result, as kernels may round by size
_ROWS = 16_384  # of a replica; one number needs no more. Orders go by hashes, so the first are any


@torch.no_grad()
def find_temperature(module: nn.Module, validation: Mapping[int, Shard], transport: Transport) -> float:
    """Return the temperature of the least log-loss on validation rows; a collective call.

    The log-loss is convex in the inverse of the temperature, so its slope's change of sign is closed in on. A row's
    worth of weight is spread over all classes beside the labels (as in Platt 1999), lest a few rows that are all right
    ask for certainty.

    Args:
        module: From features to logits, in inference mode; the same in every process.
        validation: The rows of each hosted replica.
        transport: Where the sums of replicas come together.
    """
    shards = [validation[replica] for replica in transport.hosted]
    measured: list[tuple[Tensor, Tensor, Tensor]] = []

    def rows() -> list[tuple[Tensor, Tensor, Tensor]]:
        if not measured:
            measured.extend(_measured(module, shard) for shard in shards)
        return measured

    total = float(transport.sum_of(lambda: [w_B.sum() for _, _, w_B in rows()]))
    if not total > 0:  # all validation rows weigh nothing
        return 1.0
    bounds = [-math.log(_LARGEST), math.log(_LARGEST)]
    for _ in range(_TIMES):
        bounds = np.linspace(bounds[0], bounds[1], _PARTS + 1).tolist()

        def slopes(inner: Sequence[float] = bounds[1:-1]) -> list[Tensor]:
            return [torch.stack([_slope(*of, math.exp(-middle), 1 / (total + 1)) for middle in inner]) for of in rows()]

        # Where the log-loss still falls as the logits grow, the temperature is lower.
        part = int((transport.sum_of(slopes) >= 0).sum())
        bounds = bounds[part : part + 2]
    return math.exp(sum(bounds) / 2)


def _measured(module: nn.Module, shard: Shard) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, classes and weights of a replica's rows, in float64."""
    rows = torch.from_numpy(shard.order[:_ROWS])
    logits_BC = torch.cat([module(shard.take(part)).double() for part in torch.split(rows, _AT_ONCE)])
    return logits_BC, shard.y_N.index_select(0, rows), shard.w_N.index_select(0, rows).double()


def _slope(logits_BC: Tensor, y_B: Tensor, w_B: Tensor, factor: float, spread: float) -> Tensor:
    """Return the slope of the summed log-loss in the factor of the logits: what is expected less what the label has."""
    expected_B = (logits_BC.mul(factor).softmax(1) * logits_BC).sum(1)
    labelled_B = logits_BC.gather(1, y_B[:, None])[:, 0]
    target_B = (1 - spread) * labelled_B + spread * logits_BC.mean(1)
    return (w_B * (expected_B - target_B)).sum()
