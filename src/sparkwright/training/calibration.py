"""Calibrate a classifier: one factor for all logits, so that its probabilities are as sure as they should be.

Dropout and weight decay leave a head less sure than it is right, and many epochs surer. Dividing the logits by one
temperature (Guo et al. 2017) mends most of it and changes no label.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name

from sparkwright.training.replica.replica import Shard
from sparkwright.training.rows.readers import forward
from sparkwright.training.transports._base import Transport

__all__ = ["find_temperature"]

_LARGEST = 20.0  # temperatures are looked for between its inverse and it
_PARTS, _TIMES = 4, 10  # of the logarithm of that range, again and again: six digits with few messages
_ROWS = 16_384  # of a replica; one number needs no more. Orders go by hashes, so the first are any


@torch.no_grad()
def find_temperature(
    module: nn.Module, validation: Mapping[int, Shard], transport: Transport, link: str = "softmax"
) -> float:
    """Return the temperature of the least log-loss on validation rows; a collective call.

    The log-loss is convex in the inverse of the temperature, so its slope's change of sign is closed in on. A row's
    worth of weight is spread over all classes beside the labels (as in Platt 1999), lest a few rows that are all right
    ask for certainty.

    Args:
        module: From features to logits, in inference mode; the same in every process.
        validation: The rows of each hosted replica.
        transport: Where the sums of replicas come together.
        link: How outputs become probabilities: ``"softmax"`` or ``"sigmoid"``.
    """
    shards = [validation[replica] for replica in transport.hosted]
    measured: list[tuple[Tensor, Tensor, Tensor]] = []

    def rows() -> list[tuple[Tensor, Tensor, Tensor]]:
        if not measured:
            measured.extend(_measured(module, shard, link) for shard in shards)
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


def _measured(module: nn.Module, shard: Shard, link: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, classes (or which labels there are) and weights of a replica's rows, in float64."""
    rows = torch.from_numpy(shard.order[:_ROWS])
    parts = torch.split(rows, shard.reader.rows_at_once)
    logits_BC = torch.cat([forward(module, shard.batch(part)).double() for part in parts])
    y_B = shard.y_N.index_select(0, rows)
    if link == "sigmoid" and y_B.ndim == 1:  # one output: the log-odds of the second of two classes
        logits_BC = F.pad(logits_BC, (1, 0))
    return logits_BC, y_B, shard.w_N.index_select(0, rows).double()


def _slope(logits_BC: Tensor, y_B: Tensor, w_B: Tensor, factor: float, spread: float) -> Tensor:
    """Return the slope of the summed log-loss in the factor of the logits: what is expected less what the label has."""
    if y_B.ndim > 1:
        excess_BK = logits_BC.mul(factor).sigmoid() - ((1 - spread) * y_B + spread / 2)
        return (w_B * (excess_BK * logits_BC).sum(1)).sum()
    expected_B = (logits_BC.mul(factor).softmax(1) * logits_BC).sum(1)
    labelled_B = logits_BC.gather(1, y_B[:, None])[:, 0]
    target_B = (1 - spread) * labelled_B + spread * logits_BC.mean(1)
    return (w_B * (expected_B - target_B)).sum()
