"""Gradients are summed every step, so that all replicas take the same one: synchronous SGD (Chen et al. 2016)."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from sparkwright.training.replica.replica import Replica
from sparkwright.training.strategies._base import Interval, Strategy
from sparkwright.training.transports._base import Transport

__all__ = ["AllReduce"]


class AllReduce(Strategy):
    """The mean of the replicas' gradients, weighted by the rows of the step: R replicas are one with R times the batch.

    What BatchNorm's running statistics have changed by travels behind the gradient; if they are to stay apart, at the
    ends of epochs alone.

    Args:
        codec: Compresses the gradients.
    """

    def start(self, replicas: Sequence[Replica], state: Mapping[str, Tensor] | None = None) -> None:
        flat = replicas[0].flat
        self._apart = replicas[0].apart
        self._statistics_M = flat.weights_N[flat.trained :].clone()  # as of the last meeting
        if self._apart and state:
            self._statistics_M.copy_(state["statistics"])

    def state(self) -> dict[str, Tensor]:
        return {"statistics": self._statistics_M} if self._apart else {}

    def advance(self, replicas: Sequence[Replica], interval: Interval, transport: Transport) -> None:
        number, rate, trained = interval.numbers[0], interval.rates[0], replicas[0].flat.trained
        alone, meet = transport.replicas == 1, interval.last or not self._apart

        def gradients() -> list[Tensor]:
            parts = []
            for replica in replicas:
                replica.backward(number, interval.first_step)
                gradient_N, own_M = replica.flat.gradient_N, replica.flat.weights_N[trained:]
                if meet:  # one replica alone keeps its bits: x - y + y need not be x
                    gradient_N[trained:] = own_M if alone else own_M - self._statistics_M
                parts.append(gradient_N.cpu())  # a transport's tensors are the host's
            if not alone:
                for replica, part in zip(replicas, parts, strict=True):
                    part.mul_(interval.share(replica.index))
            return parts

        mean_N = transport.sum_of(gradients, self.codec, replicas).clone()
        moved_M = mean_N[trained:].to(self._statistics_M.device, copy=True)
        if not alone:
            moved_M += self._statistics_M
        mean_N[trained:].zero_()
        for replica in replicas:
            replica.flat.gradient_N.copy_(mean_N)
            if meet:
                replica.flat.weights_N[trained:].copy_(moved_M)
                self._keep_positive(replica.flat, replica.flat.weights_N)
            replica.update(rate, interval.first_step)
            if meet and self._apart:  # a mean of the weights too has followed statistics of its own
                replica.flat.statistics_SM.copy_(replica.flat.weights_N[trained:].clone())
        if meet:
            self._statistics_M.copy_(replicas[0].flat.weights_N[trained:])
