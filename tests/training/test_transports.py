"""What every transport must do, whoever hosts the replicas."""

import queue
import threading
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparkwright.training.transports._base import Transport, hosting
from sparkwright.training.transports.in_process import InProcess


class Threads(Transport):
    """Workers that are threads of one process, joined by queues."""

    def __init__(self, rank: int, hosts: tuple[range, ...], queues: dict[tuple[int, int], queue.Queue[Tensor]]) -> None:
        super().__init__(rank, hosts)
        self._queues = queues
        self.sent = 0

    def gather(self, message: str) -> list[str]:
        raise NotImplementedError

    def _send(self, tensor: Tensor, rank: int) -> None:
        self.sent += 1
        self._queues[self.rank, rank].put(tensor.clone())

    def _receive(self, like: Tensor, rank: int) -> Tensor:
        return self._queues[rank, self.rank].get(timeout=10)

    def _shared(self, tensor: Tensor) -> Tensor:
        if self.rank == 0:
            for rank in range(1, len(self.hosts)):
                self._queues[0, rank].put(tensor.clone())
            return tensor
        return self._queues[0, self.rank].get(timeout=10)


def sum_on_workers(parts: list[Tensor], workers: int) -> tuple[list[Tensor], list[Threads]]:
    hosts = hosting(len(parts), workers)
    queues = {(a, b): queue.Queue[Tensor]() for a in range(workers) for b in range(workers)}
    transports = [Threads(rank, hosts, queues) for rank in range(workers)]
    sums: list[Tensor | None] = [None] * workers

    def run(rank: int) -> None:
        sums[rank] = transports[rank].tree_sum([parts[replica].clone() for replica in hosts[rank]])

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    return [value for value in sums if value is not None], transports


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 13).flatmap(lambda r: st.tuples(st.just(r), st.integers(1, r))), st.integers(0, 1000))
def test_the_sum_has_the_same_bits_on_any_number_of_workers(sizes: tuple[int, int], seed: int) -> None:
    replicas, workers = sizes
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(17, generator=generator) * 10.0 ** (index % 7 - 3) for index in range(replicas)]
    expected = InProcess(replicas).tree_sum([part.clone() for part in parts])
    torch.testing.assert_close(expected, torch.stack(parts).sum(0), rtol=1e-4, atol=1e-3)
    sums, _ = sum_on_workers(parts, workers)
    assert len(sums) == workers
    assert all(torch.equal(value, expected) for value in sums)


def test_messages_do_not_grow_with_replicas_where_workers_host_whole_subtrees() -> None:
    _, transports = sum_on_workers([torch.ones(2)] * 16, 4)
    assert [transport.sent for transport in transports] == [0, 1, 1, 1]


@pytest.mark.parametrize(("replicas", "workers"), [(4, 1), (4, 3), (8, 5), (3, 3)])
def test_hosting_gives_every_replica_one_worker_and_every_worker_a_replica(replicas: int, workers: int) -> None:
    hosts = hosting(replicas, workers)
    assert [replica for hosted in hosts for replica in hosted] == list(range(replicas))
    assert len(hosts) == workers
    sizes = [len(hosted) for hosted in hosts]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


def test_in_process_gathers_its_own_message() -> None:
    gather: Callable[[str], list[str]] = InProcess(4).gather
    assert gather("hello") == ["hello"]
