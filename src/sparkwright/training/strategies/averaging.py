"""Parameter averaging: replicas train apart and meet every so many steps (local SGD, Stich 2019)."""

from collections.abc import Sequence

from torch import Tensor

from sparkwright.training.replica.replica import Replica
from sparkwright.training.strategies._base import Apart, Interval
from sparkwright.training.transports._base import Transport

__all__ = ["Averaging"]


class Averaging(Apart):
    """The mean of the replicas' weights and of their optimisers' states, weighted by the rows since the last sync.

    The optimiser's state is averaged too: momentum that is forgotten, or that belongs to weights of another replica,
    costs what the average gains.
    """

    def advance(self, replicas: Sequence[Replica], interval: Interval, transport: Transport) -> None:
        if transport.replicas > 1:
            return super().advance(replicas, interval, transport)
        # One replica alone keeps its bits: x - y + y need not be x.
        (replica,) = replicas

        def train() -> list[Tensor]:
            replica.train(interval.numbers, interval.first_step, interval.rates)
            return [replica.flat.state_SN.cpu()]

        replica.flat.state_SN.copy_(transport.sum_of(train, replicas=replicas))
        return None

    def meet(self, change_SN: Tensor, replicas: Sequence[Replica], *, last: bool) -> None:  # noqa: ARG002
        self._common.add_(change_SN)
        for replica in replicas:
            self.met(replica).copy_(self._common)
