"""Gradients are summed every step, so that all replicas take the same one: synchronous SGD (Chen et al. 2016)."""

from collections.abc import Sequence

from torch import Tensor

from sparkwright.training.replica import Replica
from sparkwright.training.strategies._base import Interval, Strategy
from sparkwright.training.transports._base import Transport

__all__ = ["AllReduce"]


class AllReduce(Strategy):
    """The mean of the replicas' gradients, weighted by the rows of the step: R replicas are one with R times the batch.

    Args:
        codec: Compresses the gradients.
    """

    def advance(self, replicas: Sequence[Replica], interval: Interval, transport: Transport) -> None:
        number, rate = interval.numbers[0], interval.rates[0]

        def gradients() -> list[Tensor]:
            for replica in replicas:
                replica.backward(number, interval.first_step)
            parts = [replica.flat.gradient_N for replica in replicas]
            if transport.replicas > 1:
                for replica, part in zip(replicas, parts, strict=True):
                    part.mul_(interval.share(replica.index))
            return parts

        mean_N = transport.sum_of(gradients, self.codec, replicas).clone()
        for replica in replicas:
            replica.flat.gradient_N.copy_(mean_N)
            replica.update(rate, interval.first_step)
