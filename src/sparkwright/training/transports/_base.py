"""What a transport is: it sums over replicas, wherever they are hosted, in one fixed order."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparkwright.training.compression import PLAIN, Codec

if TYPE_CHECKING:
    from sparkwright.training.replica.replica import Replica

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

    Compression, if any, is part of the tree: what a right half sends to its left one, and what the root sends to all,
    goes through the codec whether it leaves the process or not. So the bits stay those of the tree.

    Args:
        rank: This process's number among the workers.
        hosts: Which replicas each worker hosts, by rank.

    Attributes:
        seconds: Spent in sums so far, without the work that led to them.
        sent_bytes: By this process so far.
        saved_bytes: That compression spared it so far.
    """

    def __init__(self, rank: int, hosts: Sequence[range]) -> None:
        self.rank = rank
        self.hosts = tuple(hosts)
        self.replicas = sum(len(hosted) for hosted in hosts)
        self.seconds = 0.0
        self.sent_bytes = 0
        self.saved_bytes = 0
        self._trains: Sequence[Replica] = ()  # who did the last work
        self._host_of = {replica: rank for rank, hosted in enumerate(hosts) for replica in hosted}

    @property
    def hosted(self) -> range:
        """The replicas of this process."""
        return self.hosts[self.rank]

    @property
    def width(self) -> int:
        """How many replicas the tree's root has room for: a power of two."""
        return 1 << (self.replicas - 1).bit_length()

    def beat(self) -> None:  # noqa: B027  of interest where others wait
        """Say that this process gets on, where it takes no steps: its watchdog is patient only for so long."""

    def clock(self) -> float:
        """Return seconds since some moment: what an epoch took is their difference."""
        return time.perf_counter()

    def sum_of(
        self,
        local: Callable[[], Sequence[Tensor]],
        codec: Codec = PLAIN,
        replicas: "Sequence[Replica]" = (),
    ) -> Tensor:
        """Return the `tree_sum` of what `local` returns; a collective call.

        A transport that knows the sum already, from a process that was here before, does not call `local`: it gives the
        replicas the states that `local` left them in.

        Args:
            local: Does the work that leads to the sum; returns one tensor for each hosted replica.
            codec: Compresses what is sent.
            replicas: Those whose `Replica.carried` the work changes.
        """
        self._trains = replicas or self._trains
        parts = local()
        started = time.perf_counter()
        total = self.tree_sum(parts, codec)
        self.seconds += time.perf_counter() - started
        return total

    def tree_sum(self, parts: Sequence[Tensor], codec: Codec = PLAIN) -> Tensor:
        """Return the sum over all replicas, the same bits in every process; a collective call.

        Args:
            parts: One tensor for each hosted replica, in their order, all of one shape; they are overwritten.
            codec: Compresses what is sent.
        """
        return self.completed({(replica, 1): part for replica, part in zip(self.hosted, parts, strict=True)}, codec)

    def completed(self, nodes: dict[tuple[int, int], Tensor], codec: Codec = PLAIN) -> Tensor:
        """Return the sum over all replicas from nodes of the tree that are known, by first replica and width."""
        like = next(iter(nodes.values()))
        total = self._node(nodes, 0, self.width, like, codec)
        payload = codec.room(like) if total is None else codec.pack(total, 0)
        self._count(payload, like, len(self.hosts) - 1 if self.rank == 0 else 0)
        return codec.unpack(self._shared(payload), like)

    def _node(
        self, nodes: dict[tuple[int, int], Tensor], first: int, width: int, like: Tensor, codec: Codec
    ) -> Tensor | None:
        """Return the sum of a node if this process hosts its first replica; else None."""
        if width == 1 or (first, width) in nodes:
            return nodes.get((first, width))
        middle = first + width // 2
        left = self._node(nodes, first, width // 2, like, codec)
        if middle >= self.replicas:
            return left
        right = self._node(nodes, middle, width // 2, like, codec)
        adder, sender = self._host_of[first], self._host_of[middle]
        message = None if right is None else codec.pack(right, middle)
        if adder != sender and self.rank == adder:
            message = self._receive(codec.room(like), sender)
        elif adder != sender and self.rank == sender and message is not None:
            self._count(message, like)
            self._send(message, adder)
        if left is not None and message is not None and self.rank == adder:
            left.add_(codec.unpack(message, like))
        return left

    def _count(self, payload: Tensor, whole: Tensor, receivers: int = 1) -> None:
        self.sent_bytes += receivers * payload.nbytes
        self.saved_bytes += receivers * (whole.nbytes - payload.nbytes)

    def agree(self, word: int) -> int:
        """Return rank 0's word in every process; a collective call."""
        return int(self._shared(torch.tensor([word])).item())

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
