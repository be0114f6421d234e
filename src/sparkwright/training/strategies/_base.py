"""What a strategy is: the way replicas combine, whatever carries their bytes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from sparkwright.training.replica import Replica
from sparkwright.training.transports._base import Transport

__all__ = ["Strategy"]


class Strategy(ABC):
    """Combines replicas. Every process of a training calls it at the same steps, each with the replicas it hosts."""

    @abstractmethod
    def due(self, number: int, steps: int) -> bool:
        """Whether replicas combine after step `number` (from 0) of an epoch of `steps`; true for the last.

        After an epoch all replicas must be equal, because validation and the best weights are taken then.
        """

    @abstractmethod
    def combine(self, replicas: Sequence[Replica], transport: Transport) -> None:
        """Combine all replicas of the training and set `Replica.rows` to 0; a collective call."""
