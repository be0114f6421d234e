"""From which probability on a label is predicted: chosen on the validation rows."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparkwright.training.replica.replica import Shard
from sparkwright.training.rows.readers import forward
from sparkwright.training.transports._base import Transport

__all__ = ["best_thresholds", "find_thresholds"]

_LOG_ODDS = np.arange(-160, 161) * 0.05
"""What is tried: log-odds, so that rare labels find theirs; probabilities from 0.0003 to 0.9997."""


@torch.no_grad()
def find_thresholds(
    module: nn.Module,
    validation: Mapping[int, Shard],
    transport: Transport,
    metric: str,
    link: str,
    temperature: float = 1.0,
) -> tuple[float, ...]:
    """Return the threshold of each label, or of the second of two classes; a collective call.

    Args:
        module: In inference mode; the same in every process.
        validation: The rows of each hosted replica.
        transport: Where the sums of replicas come together.
        metric: ``"f1"`` or ``"balanced_accuracy"``.
        link: How outputs become probabilities.
        temperature: What the outputs will be divided by.
    """
    shards = [validation[replica] for replica in transport.hosted]
    edges = torch.from_numpy(_LOG_ODDS)

    def counted() -> list[Tensor]:
        return [_count(module, shard, link, edges * temperature) for shard in shards]

    without, having = transport.sum_of(counted).numpy()
    return tuple(best_thresholds(without, having, metric).tolist())


def _count(module: nn.Module, shard: Shard, link: str, edges: Tensor) -> Tensor:
    """Return a replica's weight without and with each label, by how many of the thresholds its rows reach."""
    labels, bins = shard.y_N.shape[1] if shard.y_N.ndim > 1 else 1, len(edges) + 1
    counts = torch.zeros(2 * labels * bins, dtype=torch.float64)
    for rows in torch.split(torch.from_numpy(shard.order), shard.reader.rows_at_once):
        output_BO, y_B = forward(module, shard.batch(rows)).double(), shard.y_N.index_select(0, rows)
        # Of two classes the log-odds of the second; with one output that is it.
        odds_BK = output_BO[:, 1:] - output_BO[:, :1] if link == "softmax" else output_BO
        has_BK = y_B.view(len(y_B), -1).long()
        place_BK = (has_BK * labels + torch.arange(labels)) * bins + torch.bucketize(odds_BK, edges, right=True)
        weight_BK = shard.w_N.index_select(0, rows).double()[:, None].expand_as(odds_BK)
        counts.index_add_(0, place_BK.reshape(-1), weight_BK.reshape(-1))
    return counts.view(2, labels, bins)


def best_thresholds(without_KB: NDArray[np.float64], with_KB: NDArray[np.float64], metric: str) -> NDArray[np.float64]:
    """Return each label's best threshold as a probability; of equally good ones that nearest to one half.

    Args:
        without_KB: Weight of the rows without a label, by how many of the thresholds they reach.
        with_KB: Of the rows with it.
        metric: ``"f1"`` or ``"balanced_accuracy"``.
    """
    hits_KT = with_KB[:, ::-1].cumsum(1)[:, ::-1][:, 1:]
    false_KT = without_KB[:, ::-1].cumsum(1)[:, ::-1][:, 1:]
    having, lacking = with_KB.sum(1, keepdims=True), without_KB.sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        if metric == "f1":
            score_KT = 2 * hits_KT / (hits_KT + false_KT + having)
        else:
            score_KT = hits_KT / having - false_KT / lacking
    # A label that no row has, or all have, has nothing to choose by.
    score_KT = np.where((having > 0) & (lacking > 0), score_KT, 0.0)
    nearest_first = np.argsort(np.abs(_LOG_ODDS), kind="stable")
    best_K = nearest_first[score_KT[:, nearest_first].argmax(1)]
    best: NDArray[np.float64] = 1 / (1 + np.exp(-_LOG_ODDS[best_K]))
    return best
