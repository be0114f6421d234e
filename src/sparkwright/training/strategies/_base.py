"""What a strategy is: the way replicas combine, whatever carries their bytes."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparkwright.training.compression import PLAIN, Codec
from sparkwright.training.replica import Replica
from sparkwright.training.transports._base import Transport

__all__ = ["Apart", "Interval", "Strategy"]


@dataclass(frozen=True)
class Interval:
    """The steps between two syncs.

    Attributes:
        numbers: Which batches of the epoch, from 0.
        first_step: The first one's number over all epochs, from 1.
        rates: The learning rate of each.
        rows_R: How many rows each replica of the training trains on.
        last: Whether the epoch ends with it.
    """

    numbers: range
    first_step: int
    rates: Sequence[float]
    rows_R: NDArray[np.int64]
    last: bool

    def share(self, replica: int) -> float:
        """Return a replica's share of the rows."""
        return float(self.rows_R[replica] / self.rows_R.sum())


class Strategy(ABC):
    """Trains replicas from one sync to the next. Every process of a training calls it at the same steps.

    Args:
        every: Steps between two syncs.
        codec: Compresses what is sent.
    """

    def __init__(self, every: int = 1, codec: Codec = PLAIN) -> None:
        self.every = every
        self.codec = codec

    def intervals(self, steps: int, begun: int = 0) -> Iterator[range]:
        """Yield the batches between syncs of an epoch of `steps`, from number `begun` on; an epoch ends with a sync."""
        for start in range(begun, steps, self.every):
            yield range(start, min(start + self.every, steps))

    def start(self, replicas: Sequence[Replica], state: Mapping[str, Tensor] | None = None) -> None:  # noqa: B027
        """Take the hosted replicas before their first step, all equal; or as they were when `state` was taken."""

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint must hold beyond the replicas: the same in every process; by name, not copied."""
        return {}

    @abstractmethod
    def advance(self, replicas: Sequence[Replica], interval: Interval, transport: Transport) -> None:
        """Train the hosted replicas over an interval and combine them with all others; a collective call.

        After an epoch's last interval all replicas have the same weights: validated, and kept if best, are these.
        """


class Apart(Strategy):
    """Replicas that train apart between syncs, and meet at what they have in common.

    What is summed is each one's change since then, times its share of the rows: `meet` makes of it what all go on from.
    The change is that of weights and optimiser's state; or of the weights alone, and each replica keeps its optimiser's
    state, where a codec with error feedback sends it: a mean of squares that comes late or too small does harm.
    """

    def start(self, replicas: Sequence[Replica], state: Mapping[str, Tensor] | None = None) -> None:
        keeps = self.codec.feedback
        for replica in replicas:
            replica.differs = replica.differs or keeps
        sent = 1 if keeps else None
        self._common = (state or {}).get("common", replicas[0].flat.state_SN)[:sent].clone()
        self._changes = [torch.empty_like(self._common) for _ in replicas]

    def met(self, replica: Replica) -> Tensor:
        """Return the part of a replica's state that is common at a sync: a view."""
        return replica.flat.state_SN[: len(self._common)]

    def advance(self, replicas: Sequence[Replica], interval: Interval, transport: Transport) -> None:
        def train() -> list[Tensor]:
            for replica, change in zip(replicas, self._changes, strict=True):
                replica.train(interval.numbers, interval.first_step, interval.rates)
                torch.sub(self.met(replica), self._common, out=change).mul_(interval.share(replica.index))
            return self._changes

        self.meet(transport.sum_of(train, self.codec, replicas), replicas, last=interval.last)

    @abstractmethod
    def meet(self, change_SN: Tensor, replicas: Sequence[Replica], *, last: bool) -> None:
        """Move `_common` by the replicas' mean change, and the replicas to it."""
