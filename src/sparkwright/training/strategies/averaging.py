"""Parameter averaging: replicas train apart and meet every so many steps (local SGD, Stich 2019)."""

from collections.abc import Sequence

import torch

from sparkwright.training.replica import Replica
from sparkwright.training.strategies._base import Strategy
from sparkwright.training.transports._base import Transport

__all__ = ["Averaging"]


class Averaging(Strategy):
    """The mean of the replicas' weights and of their optimisers' states, weighted by the rows since the last sync.

    The optimiser's state is averaged too: momentum that is forgotten, or that belongs to weights of another replica,
    costs what the average gains.

    Args:
        every: Steps between two syncs.
    """

    def __init__(self, every: int) -> None:
        self._every = every

    def due(self, number: int, steps: int) -> bool:
        return (number + 1) % self._every == 0 or number + 1 == steps

    def combine(self, replicas: Sequence[Replica], transport: Transport) -> None:
        if transport.replicas > 1:  # x · n / n need not be x
            parts = [_weighted(replica) for replica in replicas]
            total = transport.tree_sum(parts)
            average = total[:-1].div_(total[-1].item()).view_as(replicas[0].flat.state_SN)
            for replica in replicas:
                replica.flat.state_SN.copy_(average)
        for replica in replicas:
            replica.rows = 0


def _weighted(replica: Replica) -> torch.Tensor:
    """Return the replica's state times its rows, and behind it the rows: what is summed."""
    state = replica.flat.state_SN
    part = torch.empty(state.numel() + 1)
    torch.mul(state.view(-1), replica.rows, out=part[:-1])
    part[-1] = replica.rows
    return part
