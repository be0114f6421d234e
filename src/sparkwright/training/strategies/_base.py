"""What a strategy is: the way replicas combine, whatever carries their bytes."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparkwright.training.compression import PLAIN, Codec
from sparkwright.training.replica.flat import Flat
from sparkwright.training.replica.replica import Replica
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

    def _keep_positive(self, flat: Flat, weights_N: Tensor) -> None:
        """Bring variances that a lossy codec has made negative back to 0, in place."""
        if self.codec is not PLAIN:
            for part in flat.variances:
                weights_N[part].clamp_(min=0)

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
    BatchNorm's running statistics are among what is common; if they are to stay apart, at the ends of epochs alone.
    """

    def start(self, replicas: Sequence[Replica], state: Mapping[str, Tensor] | None = None) -> None:
        keeps = self.codec.feedback
        for replica in replicas:
            replica.differs = replica.differs or keeps
        sent = 1 if keeps else None
        own_SN = replicas[0].flat.state_SN
        self._common = (state or {}).get("common", own_SN)[:sent].to(own_SN.device, copy=True)
        self._trained, self._apart = replicas[0].flat.trained, replicas[0].apart
        if self._apart and state:
            self._common[:, self._trained :] = state["statistics"]
        self._changes = [torch.empty_like(self._common) for _ in replicas]

    def state(self) -> dict[str, Tensor]:
        # Replicas have what is common, but for statistics that are apart.
        return {"statistics": self._common[:, self._trained :]} if self._apart else {}

    def met(self, replica: Replica) -> Tensor:
        """Return the part of a replica's state that is common at a sync: a view."""
        return replica.flat.state_SN[: len(self._common)]

    def advance(self, replicas: Sequence[Replica], interval: Interval, transport: Transport) -> None:
        def train() -> list[Tensor]:
            for replica, change in zip(replicas, self._changes, strict=True):
                replica.train(interval.numbers, interval.first_step, interval.rates)
                torch.sub(self.met(replica), self._common, out=change).mul_(interval.share(replica.index))
                if replica.apart and not interval.last:
                    change[:, self._trained :].zero_()
            return [change.cpu() for change in self._changes]  # a transport's tensors are the host's

        change_SN = transport.sum_of(train, self.codec, replicas).to(self._common.device)
        own = [replica.flat.statistics_SM.clone() for replica in replicas]
        self.meet(change_SN, replicas, last=interval.last)
        for replica, own_SM in zip(replicas, own, strict=True):
            if replica.apart and not interval.last:
                replica.flat.statistics_SM.copy_(own_SM)
            else:
                self._keep_positive(replica.flat, replica.flat.weights_N)
        self._keep_positive(replicas[0].flat, self._common[0])

    @abstractmethod
    def meet(self, change_SN: Tensor, replicas: Sequence[Replica], *, last: bool) -> None:
        """Move `_common` by the replicas' mean change, and the replicas to it."""
