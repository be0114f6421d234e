"""A gang of workers: the tasks of one barrier stage, alive together, that talk over gloo.

The rendezvous needs no fixed port: rank 0 opens a store on a free one and tells the others through Spark. No wait is
endless: `heartbeat` notices the worker that is gone, stopped or stuck, and ends the waits for it. When one worker fails
with an error of its own the others hold their complaint back for a moment: the cause is to reach the driver first.
"""

import contextlib
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from sparkwright.errors import WorkerError
from sparkwright.training.compression import PLAIN, Codec
from sparkwright.training.transports._base import Transport
from sparkwright.training.transports.heartbeat import Address, Heartbeat, Pulse, Watch
from sparkwright.training.transports.in_process import InProcess

__all__ = ["Gang", "Meeting"]

T = TypeVar("T")

_PIECE_BYTES = 1 << 22  # of a slice

_SLICE_BYTES = 1 << 16
"""From which size of a slice on it pays to cut a tensor: below, messages cost more than their bytes."""

_COURTESY_S = 10.0
"""How long the others let a worker that failed with an error speak first; Spark ends them sooner as a rule."""

_NEWS_S = 5.0
"""How long a worker that lost contact waits for news of why."""

_START_LIMIT_S = 300.0
"""How long workers wait for each other at the start: Spark starts their tasks together, but not their Pythons."""

_MESSAGE_LIMIT = timedelta(days=1)
"""gloo's own limit of a wait: out of the way, because a worker may be slow; `heartbeat` ends what is over."""


class Meeting(Protocol):
    """What a gang needs of Spark's barrier task: ``BarrierTaskContext`` has it."""

    def partitionId(self) -> int:  # noqa: N802
        """Return this worker's rank."""

    def getTaskInfos(self) -> Sequence[Any]:
        """Return a thing with an `address` (``host:port``) for each rank."""

    def allGather(self, message: str) -> list[str]:  # noqa: N802
        """Return the messages of all ranks."""


class Gang(Transport):
    """This worker's end. A context manager; leaving it closes all connections.

    Args:
        context: The barrier task's.
        hosts: Which replicas each worker hosts, by rank.
        stall_limit_s: How long a worker may be silent, or neither get on nor wait for another, before all give up.

    Raises:
        WorkerError: Another worker did not come, is gone, silent or stuck, or failed.
    """

    def __init__(self, context: Meeting, hosts: Sequence[range], stall_limit_s: float = 120) -> None:
        super().__init__(context.partitionId(), hosts)
        self._context = context
        self._addresses = [info.address.rpartition(":")[0] for info in context.getTaskInfos()]
        self._names = [
            f"Rank {rank} of {len(hosts)} (host {address}, replicas {', '.join(map(str, hosted))})"
            for rank, (address, hosted) in enumerate(zip(self._addresses, hosts, strict=True))
        ]
        self._limit_s = stall_limit_s
        self._store: Any = None
        self._group: Any = None
        self._sockets: set[int] = set()
        self._watch: Watch | None = None
        self._heartbeat: Heartbeat | None = None
        self._lock = threading.Lock()
        self._beats = 0
        self._waits: str | None = None
        self._subtrees = [list(_subtrees(hosted, 0, self.width, self.replicas)) for hosted in hosts]
        if len(hosts) > 1:
            try:
                self._connect()
            except BaseException as error:
                self.close(error)
                raise

    def _connect(self) -> None:
        """Meet the other workers."""
        own, limit = self._addresses[self.rank], timedelta(seconds=_START_LIMIT_S)
        opened = None
        if self.rank == 0:
            self._store = _store(own, 0, limit, is_master=True)
            self._watch = Watch(own, self._names, self._limit_s)
            opened = [self._store.port, asdict(self._watch.address)]
        told = self.gather(json.dumps(opened))
        with self._contact("the rendezvous"):
            port, address = json.loads(told[0])
            if self._store is None:
                self._store = _store(self._addresses[0], port, limit, is_master=False)
            self._heartbeat = Heartbeat(
                self.rank, self._names, Address(**address), self._pulse, self._hang_up, self._limit_s
            )
            # gloo would bind to what the machine's name resolves to, which may be loopback; Spark knows better.
            options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
            options._devices = [dist.ProcessGroupGloo.create_device(hostname=own)]
            options._timeout = limit
            before = _sockets()
            self._group = dist.ProcessGroupGloo(self._store, self.rank, len(self.hosts), options)
            self._group.set_timeout(_MESSAGE_LIMIT)
            opened_since = _sockets() - before
            # Meanwhile others may have come to the watch; hanging up must leave them the verdict.
            self._sockets = opened_since - (self._watch.connections() if self._watch is not None else set())

    def beat(self) -> None:
        self._beats += 1

    def gather(self, message: str) -> list[str]:
        if len(self.hosts) == 1:
            return [message]
        with self._contact("all others"):
            if self._group is None:
                return self._interruptible(lambda: self._context.allGather(message))
            return self._gathered(message.encode())

    def _gathered(self, message: bytes) -> list[str]:
        """Do what Spark's `allGather` does, which takes a second each time."""
        sizes = torch.empty(len(self.hosts), dtype=torch.int64)
        self._joined._allgather_base(sizes, torch.tensor([len(message)])).wait()
        room = int(sizes.max())
        all_messages = torch.empty(len(self.hosts) * room, dtype=torch.uint8)
        own = torch.frombuffer(bytearray(message.ljust(room)), dtype=torch.uint8) if room else all_messages
        self._joined._allgather_base(all_messages, own).wait()
        parts = zip(all_messages.view(len(self.hosts), room), sizes.tolist(), strict=True)
        return [part[:size].numpy().tobytes().decode() for part, size in parts]

    def completed(self, nodes: dict[tuple[int, int], Tensor], codec: Codec = PLAIN) -> Tensor:
        """Return the sum over all replicas; see `Transport.completed`.

        Large tensors are cut into as many slices as there are workers. Each worker gets its slice of all, adds it up
        along the tree, and gives the result to the others: all links carry their share at once, where the tree's root
        would carry everything.
        """
        like = next(iter(nodes.values()))
        if self._group is None or codec is not PLAIN or like.nbytes < len(self.hosts) * _SLICE_BYTES:
            return super().completed(nodes, codec)
        own = [self._node(nodes, *node, like, codec) for node in self._subtrees[self.rank]]
        flat = [node.contiguous().view(-1) for node in own if node is not None]
        # Piece by piece: room for all of it at once would cost more than the transfer, in page faults alone.
        step = len(self.hosts) * _PIECE_BYTES // like.element_size()
        with self._contact("all others"):
            for pieces in zip(*(torch.split(node, step) for node in flat), strict=True):
                pieces[0].copy_(self._sum_of_slices(pieces))
        return flat[0].view(like.shape)

    def _sum_of_slices(self, own: Sequence[Tensor]) -> Tensor:
        """Return the sum of a vector over all replicas, given those nodes that this worker adds up alone."""
        workers, length = len(self.hosts), len(own[0])
        size = -(-length // workers)
        sent_KN = torch.stack([functional.pad(node, (0, workers * size - length)) for node in own])
        sent = sent_KN.view(-1, workers, size).transpose(0, 1).contiguous().flatten()
        sizes = [len(subtrees) * size for subtrees in self._subtrees]
        received, result = sent.new_empty(sum(sizes)), sent.new_empty(workers * size)
        self._joined.alltoall_base(received, sent, sizes, [len(own) * size] * workers).wait()
        roots = [root for subtrees in self._subtrees for root in subtrees]
        slices = dict(zip(roots, received.view(-1, size), strict=True))
        self._joined._allgather_base(result, InProcess(self.replicas).completed(slices)).wait()
        self.sent_bytes += (workers - 1) * (len(own) + 1) * size * sent.element_size()
        return result[:length]

    def _send(self, tensor: Tensor, rank: int) -> None:
        with self._contact(f"rank {rank}"):
            self._joined.send([tensor], rank, 0).wait()

    def _receive(self, like: Tensor, rank: int) -> Tensor:
        received = torch.empty_like(like)
        with self._contact(f"rank {rank}"):
            self._joined.recv([received], rank, 0).wait()
        return received

    def _shared(self, tensor: Tensor) -> Tensor:
        if self._group is not None:
            with self._contact("rank 0"):
                self._joined.broadcast(tensor, 0).wait()
        return tensor

    @property
    def _joined(self) -> Any:
        if self._group is None:
            raise WorkerError(f"Rank {self.rank} is no longer connected.")
        return self._group

    def _pulse(self) -> Pulse:
        """Say how this worker is; called by the heartbeat's thread."""
        trains = self._trains
        steps = [replica.step for replica in trains]
        if not any(steps):
            return Pulse(self._beats, self._waits)
        # They train one after the other: the last one that is further than those that are still to come.
        now = max((at for at, step in enumerate(steps) if step > steps[-1]), default=len(steps) - 1)
        return Pulse(self._beats + sum(steps), self._waits, f"in step {steps[now]} of replica {trains[now].index}")

    @contextlib.contextmanager
    def _contact(self, whom: str) -> Iterator[None]:
        self._waits = whom
        try:
            yield
        except Exception as error:
            raise self._explained(whom, error) from error
        self._waits = None
        self._beats += 1

    def _explained(self, whom: str, error: Exception) -> WorkerError:
        """Return what to raise when a wait ended badly, once the cause had time to speak."""
        heartbeat = self._heartbeat
        verdict = heartbeat.wait(_NEWS_S) if heartbeat is not None else None
        speaks = heartbeat is None or heartbeat.speaks
        self.close(error)
        if speaks:
            time.sleep(_COURTESY_S)
        if verdict is None:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            verdict = f"{self._names[self.rank]} lost contact while waiting for {whom}: {first}"
        return WorkerError(verdict)

    def _interruptible(self, call: Callable[[], T]) -> T:
        """Return what `call` returns; before that, raise when the gang ends, or the start takes too long."""
        done: list[T] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                done.append(call())
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run, daemon=True, name="sparkwright-gather")
        thread.start()
        started = time.monotonic()
        while thread.is_alive():
            thread.join(1.0)
            if self._heartbeat is not None and self._heartbeat.verdict is not None:
                raise WorkerError(self._heartbeat.verdict)
            if self._heartbeat is None and time.monotonic() - started > _START_LIMIT_S:
                raise TimeoutError(f"not all workers started within {_START_LIMIT_S:g} s")
        if failed:
            raise failed[0]
        return done[0]

    def _hang_up(self) -> None:
        """End all waits of this worker and, as its sockets close, those for it; called by the heartbeat's thread."""
        with self._lock:
            for number in self._sockets:
                _shut(number)
            self._sockets = set()

    def close(self, error: BaseException | None = None) -> None:
        """Close all connections; the others notice at once.

        Args:
            error: With which this worker leaves; the others are told.
        """
        if self._heartbeat is not None:
            self._heartbeat.close(error)
        if self._watch is not None:
            self._watch.close()
        self._hang_up()
        self._group = self._store = self._watch = self._heartbeat = None

    def __enter__(self) -> "Gang":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        self.close(error)


def _subtrees(hosted: range, first: int, width: int, replicas: int) -> Iterator[tuple[int, int]]:
    """Yield the largest nodes of the sums' tree, by first replica and width, that a worker can add up alone."""
    last = min(first + width, replicas) - 1
    if first in hosted and last in hosted:
        yield first, width
    elif last >= first and (hosted.start <= last and first < hosted.stop):
        yield from _subtrees(hosted, first, width // 2, replicas)
        yield from _subtrees(hosted, first + width // 2, width // 2, replicas)


def _store(host: str, port: int, limit: timedelta, *, is_master: bool) -> Any:
    return dist.TCPStore(host, port, is_master=is_master, timeout=limit, wait_for_workers=False)  # type: ignore[attr-defined]


def _sockets() -> set[int]:
    """Return the file descriptors of this process that are sockets."""
    found = set()
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # the listing's own is closed by now
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                found.add(int(name))
    return found


def _shut(number: int) -> None:
    """Shut a connection down, if it is one; gloo has no call that ends a wait (its `abort` does not)."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as sock:
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):  # gloo ends the process when its listener ends
            sock.shutdown(socket.SHUT_RDWR)
