"""A gang of workers: the tasks of one barrier stage, alive together, that talk over gloo.

The rendezvous needs no fixed port: rank 0 opens a store on a free one and tells the others through Spark. No wait is
endless. When one worker fails the others lose contact; they hold their own complaint back for a moment, so that what
reaches the driver is the cause.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sparkwright.errors import WorkerError
from sparkwright.training.transports._base import Transport

if TYPE_CHECKING:
    from pyspark import BarrierTaskContext

__all__ = ["Gang"]

T = TypeVar("T")

_COURTESY_S = 10.0
"""How long a worker that lost contact lets the one that failed speak first; Spark ends it sooner as a rule."""


class Gang(Transport):
    """This worker's end. A context manager; leaving it closes all connections.

    Args:
        context: The barrier task's.
        hosts: Which replicas each worker hosts, by rank.
        limit_s: How long one collective call may wait for the others.
        start_limit_s: How long the first one may: workers may be ready at different times.

    Raises:
        WorkerError: Another worker did not come, or is gone.
    """

    def __init__(
        self, context: "BarrierTaskContext", hosts: Sequence[range], limit_s: float = 300, start_limit_s: float = 3600
    ) -> None:
        super().__init__(context.partitionId(), hosts)
        self._context = context
        self._limit = timedelta(seconds=limit_s)
        self._start_limit_s = start_limit_s
        self._store: Any = None
        self._names = [info.address.rpartition(":")[0] for info in context.getTaskInfos()]
        self._group: Any = None
        if len(hosts) > 1:
            self._connect()

    def _connect(self) -> None:
        """Meet the other workers."""
        own = self._names[self.rank]
        store: Any = None
        if self.rank == 0:
            store = _store(own, 0, self._limit, is_master=True)
        ports = self.gather(json.dumps(store.port if store is not None else None))
        with self._contact("the rendezvous"):
            if store is None:
                port = json.loads(ports[0])
                store = _store(self._names[0], port, self._limit, is_master=False)
            # gloo would bind to what the machine's name resolves to, which may be loopback; Spark knows better.
            options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
            options._devices = [dist.ProcessGroupGloo.create_device(hostname=own)]
            options._timeout = self._limit
            self._group = dist.ProcessGroupGloo(store, self.rank, len(self.hosts), options)
        self._store = store

    def gather(self, message: str) -> list[str]:
        with self._contact("a message"):
            return _within(self._start_limit_s, lambda: self._context.allGather(message))

    def _send(self, tensor: Tensor, rank: int) -> None:
        with self._contact(f"rank {rank} on {self._names[rank]}"):
            self._joined.send([tensor], rank, 0).wait()

    def _receive(self, like: Tensor, rank: int) -> Tensor:
        received = torch.empty_like(like)
        with self._contact(f"rank {rank} on {self._names[rank]}"):
            self._joined.recv([received], rank, 0).wait()
        return received

    def _shared(self, tensor: Tensor) -> Tensor:
        if self._group is not None:
            with self._contact("rank 0's sum"):
                self._joined.broadcast(tensor, 0).wait()
        return tensor

    @property
    def _joined(self) -> Any:
        if self._group is None:
            raise WorkerError(f"Rank {self.rank} is no longer connected.")
        return self._group

    @contextlib.contextmanager
    def _contact(self, whom: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.close()
            time.sleep(_COURTESY_S)
            raise WorkerError(
                f"Rank {self.rank} of {len(self.hosts)} (host {self._names[self.rank]}) lost contact while waiting for "
                f"{whom}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
            ) from error

    def close(self) -> None:
        """Close all connections; the others notice at once."""
        if self._group is not None:
            with contextlib.suppress(Exception):
                self._group.abort()
        self._group = self._store = None

    def __enter__(self) -> "Gang":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _store(host: str, port: int, limit: timedelta, *, is_master: bool) -> Any:
    return dist.TCPStore(host, port, is_master=is_master, timeout=limit, wait_for_workers=False)  # type: ignore[attr-defined]


def _within(limit_s: float, call: Callable[[], T]) -> T:
    """Return what `call` returns, or raise `TimeoutError` after `limit_s`; it then goes on in a thread of its own."""
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(call())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True, name="sparkwright-gather")
    thread.start()
    thread.join(limit_s)
    if failed:
        raise failed[0]
    if not done:
        raise TimeoutError(f"nothing came within {limit_s:g} s")
    return done[0]
