"""Mean and deviation of features and targets over all replicas, reduced over their fixed tree."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparkwright.training.rows.store import Rows
from sparkwright.training.transports._base import Transport

__all__ = ["Moments", "measure_moments"]

_BLOCK = 1 << 16  # values added up at a time, few enough for a cache; part of the result, because sums round


@dataclass(frozen=True)
class Moments:
    """Moments of the training rows.

    Attributes:
        rows: How many there are.
        weight: Sum of their weights.
        mean_F: Of each feature, float64.
        deviation_F: Of each feature, float64 (of the population: divided by rows).
        target_mean: Of the targets.
        target_deviation: Of the targets.
        outputs: Of several outputs: name → the moments of the rows that have a label of it; without features.
    """

    rows: int
    weight: float
    mean_F: NDArray[np.float64]
    deviation_F: NDArray[np.float64]
    target_mean: float
    target_deviation: float
    outputs: "Mapping[str, Moments]" = field(default_factory=dict)

    def to_notes(self) -> dict[str, Any]:
        """Return plain data for a checkpoint; numbers keep their bits in JSON."""
        outputs = {name: own.to_notes() for name, own in self.outputs.items()}
        arrays = {"mean_F": self.mean_F.tolist(), "deviation_F": self.deviation_F.tolist()}
        return {**dataclasses.asdict(self), **arrays, "outputs": outputs}

    @staticmethod
    def from_notes(notes: Mapping[str, Any]) -> "Moments":
        """Rebuild from `to_notes`."""
        arrays = {name: np.array(notes[name]) for name in ("mean_F", "deviation_F")}
        outputs = {name: Moments.from_notes(own) for name, own in notes["outputs"].items()}
        return Moments(**{**notes, **arrays, "outputs": outputs})

    @property
    def scale_F(self) -> NDArray[np.float64]:
        """What standardises: 1 / deviation; 0 for a constant feature, so that weights never trained never count."""
        return np.divide(1.0, self.deviation_F, out=np.zeros_like(self.deviation_F), where=self.deviation_F > 1e-12)


def measure_moments(
    rows: Mapping[int, Rows],
    sides: Sequence[int],
    weights: Mapping[int, NDArray[np.float32]],
    transport: Transport,
    features: bool = True,
) -> Moments:
    """Return the moments of some sides' rows of all replicas; a collective call.

    Two passes, in float64: deviations are taken from the mean, because the difference of sums of squares cancels.

    Args:
        rows: Of each hosted replica.
        sides: Sides that count.
        weights: Of each hosted replica's rows.
        transport: Where the sums of replicas come together.
        features: Whether the features' are wanted; else they are empty, and features are not read.
    """
    orders = {replica: own.order(sides) for replica, own in rows.items()}

    def total(term: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> NDArray[np.float64]:
        def parts() -> list[torch.Tensor]:
            return [torch.from_numpy(_sum(rows[r], orders[r], weights[r], term, features)) for r in transport.hosted]

        return transport.sum_of(parts).numpy()

    count, weight, *sums = total(lambda values: values)
    mean = np.array(sums) / count
    _, _, *squares = total(lambda values: np.square(values - mean))
    deviation = np.sqrt(np.array(squares) / count)
    return Moments(int(count), float(weight), mean[:-1], deviation[:-1], float(mean[-1]), float(deviation[-1]))


def _sum(
    rows: Rows,
    order: NDArray[np.int64],
    weight: NDArray[np.float32],
    term: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    features: bool,
) -> NDArray[np.float64]:
    """Return rows, weight, and the sums of `term` of features and target, over one replica's rows."""
    width = rows.x.values.shape[1] if features else 0
    sums = np.zeros(3 + width)
    count = max(1, _BLOCK // len(sums))
    for start in range(0, len(order), count):
        block = order[start : start + count]
        values = np.empty((len(block), width + 1))
        if features:
            values[:, :-1] = rows.x.take(block)
        values[:, -1] = rows.target[block]
        sums[0] += len(block)
        sums[1] += weight[block].sum(dtype=np.float64)
        sums[2:] += term(values).sum(axis=0)
    return sums
