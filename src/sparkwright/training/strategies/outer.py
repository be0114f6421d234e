"""An outer optimiser over the replicas' mean change.

DiLoCo (Douillard et al. 2023); elastic averaging (Zhang et al. 2015) is a special case.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sparkwright.training.compression import PLAIN, Codec
from sparkwright.training.replica.replica import Replica
from sparkwright.training.strategies._base import Apart

__all__ = ["Outer"]


class Outer(Apart):
    """The common weights take a step of Nesterov's momentum along the mean change; optimisers' states are averaged.

    With `momentum` 0 and `rate` 1 this is averaging. With `pull` below 1 it is elastic averaging: replicas move only
    that share of the way to the common weights, and explore on their own; at the end of an epoch they meet.

    Args:
        every: Steps between two syncs.
        rate: Of the outer step.
        momentum: Of the outer step.
        pull: Share of the way from a replica's weights to the common ones that it moves.
        codec: Compresses what is sent.
    """

    def __init__(
        self, every: int, rate: float = 0.7, momentum: float = 0.9, pull: float = 1.0, codec: Codec = PLAIN
    ) -> None:
        super().__init__(every, codec)
        self._rate, self._momentum, self._pull = rate, momentum, pull

    def start(self, replicas: Sequence[Replica], state: Mapping[str, Tensor] | None = None) -> None:
        super().start(replicas, state)
        for replica in replicas:
            replica.differs = replica.differs or self._pull < 1
        self._velocity_N = torch.zeros_like(self._common[0, : self._trained])
        if state:
            self._velocity_N.copy_(state["velocity"])

    def state(self) -> dict[str, Tensor]:
        common = {"common": self._common} if self._pull < 1 else {}  # else the replicas have it
        return {"velocity": self._velocity_N, **common, **super().state()}

    def meet(self, change_SN: Tensor, replicas: Sequence[Replica], *, last: bool) -> None:
        # Statistics are averaged: momentum could make a variance negative.
        weights_N, statistics_M = self._common[0, : self._trained], self._common[0, self._trained :]
        statistics_M.add_(change_SN[0, self._trained :])
        change_N = change_SN[0, : self._trained]
        self._velocity_N.mul_(self._momentum).add_(change_N)
        weights_N.add_(change_N, alpha=self._rate).add_(self._velocity_N, alpha=self._rate * self._momentum)
        self._common[1:].add_(change_SN[1:])
        for replica in replicas:
            self.met(replica)[1:].copy_(self._common[1:])
            replica.flat.weights_N[self._trained :].copy_(statistics_M)
            if last or self._pull == 1:
                replica.flat.weights_N[: self._trained].copy_(weights_N)
            else:
                replica.flat.weights_N[: self._trained].lerp_(weights_N, self._pull)
