"""What a transport is: it sums over replicas, wherever they are hosted, in one fixed order."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

__all__ = ["Transport", "hosting"]


def hosting(replicas: int, workers: int) -> tuple[range, ...]:
    """Return which replicas each worker hosts: neighbours, as evenly as possible."""
    bounds = [worker * replicas // workers for worker in range(workers + 1)]
    return tuple(range(start, end) for start, end in pairwise(bounds))


class Transport(ABC):
    """Sums over replicas along a fixed binary tree, whose shape knows nothing of workers.

    A node covers ``[first, first + width)`` of the replicas, width a power of two; its sum is that of its left half
    plus that of its right half. The worker that hosts a node's first replica adds up the node, so a worker sums what it
    hosts before it sends anything, and no more than one message per level crosses between two workers.

    Args:
        rank: This process's number among the workers.
        hosts: Which replicas each worker hosts, by rank.
    """

    def __init__(self, rank: int, hosts: Sequence[range]) -> None:
        self.rank = rank
        self.hosts = tuple(hosts)
        self.replicas = sum(len(hosted) for hosted in hosts)
        self._host_of = {replica: rank for rank, hosted in enumerate(hosts) for replica in hosted}

    @property
    def hosted(self) -> range:
        """The replicas of this process."""
        return self.hosts[self.rank]

    def tree_sum(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the sum over all replicas, the same bits in every process; a collective call.

        Args:
            parts: One tensor for each hosted replica, in their order, all of one shape; they are overwritten.
        """
        width = 1
        while width < self.replicas:
            width *= 2
        total = self._node(dict(zip(self.hosted, parts, strict=True)), 0, width, like=parts[0])
        return self._shared(parts[0] if total is None else total)

    def _node(self, parts: dict[int, Tensor], first: int, width: int, like: Tensor) -> Tensor | None:
        """Return the sum of a node if this process hosts its first replica; else None."""
        if width == 1:
            return parts.get(first)
        middle = first + width // 2
        left = self._node(parts, first, width // 2, like)
        if middle >= self.replicas:
            return left
        right = self._node(parts, middle, width // 2, like)
        adder, sender = self._host_of[first], self._host_of[middle]
        if adder != sender and self.rank == adder:
            right = self._receive(like, sender)
        elif adder != sender and self.rank == sender and right is not None:
            self._send(right, adder)
        if left is not None and right is not None and self.rank == adder:
            left.add_(right)
        return left

    @abstractmethod
    def gather(self, message: str) -> list[str]:
        """Return the messages of all workers by rank; a collective call."""

    def _send(self, tensor: Tensor, rank: int) -> None:
        """Send `tensor` to another process."""
        raise NotImplementedError(f"Rank {rank} hosts nothing to which {tuple(tensor.shape)} could go.")

    def _receive(self, like: Tensor, rank: int) -> Tensor:
        """Receive a tensor of the shape and type of `like` from another process."""
        raise NotImplementedError(f"Rank {rank} hosts nothing from which {tuple(like.shape)} could come.")

    def _shared(self, tensor: Tensor) -> Tensor:
        """Return rank 0's tensor in every process; `tensor` may be overwritten."""
        return tensor
