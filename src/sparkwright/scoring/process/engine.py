"""The scoring engine: decode and forward overlapped, memory bounded, every row answered.

One pool of threads does all the work of a scoring process. The calling thread hands out rows; each is decoded straight
into its slot of a micro-batch, and the thread that decodes a micro-batch's last row runs the network on it, on itself
alone. So every core is busy as long as there is work, none waits for another inside the network, and decoded rows go
to the network while they are in the processor's cache. Micro-batches are small for the same reason: on CPUs a fast
network is slower in large ones.

Micro-batches cross the borders of the blocks in which rows arrive; blocks leave in the order in which they came, each
when its rows are done. Memory: two micro-batches more than threads, the blocks that those touch, and one block read
ahead.

Numpy alone: the adapters (`arrow`, `predictor`) know where rows come from and where results go.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sparkwright.errors import ContentError
from sparkwright.scoring.process.cores import Cores

__all__ = [
    "Block",
    "Forward",
    "Matrix",
    "Result",
    "RowError",
    "Scored",
    "crew_size",
    "held_back",
    "score",
    "score_matrix",
]

# Spare threads of a process, and how long one sleeps between two looks for a free core: on an executor with many busy
# cores, looking must cost nothing.
_MOST_SPARE = 3
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.005, 0.1

Forward = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From inputs, float32 of shape (rows, …), to outputs, float32 of shape (rows, …). Called from several threads."""

Settled = Callable[[Sequence["Result"]], None]
"""Told of the results as they come, from the calling thread; what it raises ends the scoring."""


@dataclass(frozen=True)
class RowError:
    """Why a row has no result: `kind` groups errors (``unreadable``, ``too large`` …), `message` says what happened."""

    kind: str
    message: str


Result = NDArray[np.float32] | RowError


class Block(Protocol):
    """Rows that arrived together and leave together."""

    def __len__(self) -> int: ...

    def read(self, row: int, out: NDArray[np.float32]) -> None:
        """Write the network's input for `row` into `out`; called from any thread.

        Raises:
            ContentError: the row cannot be used.
        """


B = TypeVar("B", bound=Block)


@dataclass
class Scored(Generic[B]):
    """A block's results.

    Attributes:
        block: The block that they belong to.
        outputs: float32 of shape (rows, …); zero for rows that failed. None if the block has no row that succeeded.
        errors: The rows that failed.
    """

    block: B
    outputs: NDArray[np.float32] | None = None
    errors: dict[int, RowError] = field(default_factory=dict)
    _left: int = 0

    def put(self, row: int, result: Result) -> None:
        """Store one row's result."""
        self._left -= 1
        if isinstance(result, RowError):
            self.errors[row] = result
            return
        if self.outputs is None:
            self.outputs = np.zeros((len(self.block), *result.shape), np.float32)
        self.outputs[row] = result

    @property
    def complete(self) -> bool:
        """Whether every row has its result."""
        return self._left == 0


class _MicroBatch(Generic[B]):
    """Slots for decoded rows; whoever fills the last one runs the network."""

    def __init__(self, x: NDArray[np.float32], forward: Forward) -> None:
        self.x = x
        self.places: list[tuple[Scored[B], int]] = []
        self.results: Future[list[Result]] = Future()
        self._forward = forward
        self._errors: dict[int, RowError] = {}
        self._left = len(x)
        self._lock = threading.Lock()

    @property
    def full(self) -> bool:
        return len(self.places) == len(self.x)

    def decode(self, slot: int) -> None:
        """Fill a slot (in a thread of the pool)."""
        scored, row = self.places[slot]
        try:
            scored.block.read(row, self.x[slot])
        except ContentError as error:
            self._errors[slot] = RowError(error.kind, str(error))
        except Exception as error:  # decoders fail in more ways than they document; one photo must not end the job
            self._errors[slot] = RowError("unreadable", f"{type(error).__name__}: {error}")
        self.count_down(1)

    def count_down(self, slots: int) -> None:
        """Note that `slots` more are settled; run the network if they were the last."""
        with self._lock:
            self._left -= slots
            if self._left:
                return
        try:
            self.results.set_result(self._run())
        except BaseException as error:
            self.results.set_exception(error)

    def _run(self) -> list[Result]:
        good = [slot for slot in range(len(self.places)) if slot not in self._errors]
        results: dict[int, Result] = dict(self._errors)
        if good:
            # A slot that failed, or was not used, holds another row's remains: it never reaches the network.
            x = self.x[good] if self._errors else self.x[: len(good)]
            results.update(zip(good, _checked(self._forward(x)), strict=True))
        return [results[slot] for slot in range(len(self.places))]


def _checked(outputs: NDArray[np.float32]) -> list[Result]:
    """Split outputs into rows; one that is not finite becomes an error."""
    finite = np.asarray(np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1))
    return [
        y if ok else RowError("not finite", "The network's output is not finite (NaN or infinity).")
        for y, ok in zip(outputs, finite, strict=True)
    ]


def crew_size(threads: int, cores: int | None) -> int:
    """Return how many threads a scoring process has, spare ones with them, on an executor with so many cores."""
    return threads + max(0, min(_MOST_SPARE, (cores or threads) - threads))


def held_back(batch_size: int, threads: int) -> int:
    """Return how many rows `score` may hold back until it gets more, or None, or the end."""
    return batch_size * (threads + _MOST_SPARE + 2)


def score(
    blocks: Iterable[B | None],
    forward: Forward,
    shape: tuple[int, ...],
    *,
    batch_size: int,
    threads: int,
    cores: Cores | None = None,
    settled: Settled | None = None,
) -> Iterator[Scored[B]]:
    """Run the network over blocks whose rows must be decoded one by one.

    Args:
        blocks: Pulled from the calling thread, as late as the look-ahead allows. None says that no more come until
            those before are answered.
        forward: The network.
        shape: Of one row's input.
        batch_size: Rows of a micro-batch.
        threads: Threads that decode and run the network.
        cores: Those of the executor; where one is free, a spare thread uses it.
        settled: Told of each micro-batch's results.

    Yields:
        Each block's results, in the blocks' order.

    Raises:
        Exception: what `forward` raised; rows that cannot be decoded raise nothing.
    """
    crew = _Crew(threads, cores)
    free = [np.empty((batch_size, *shape), np.float32) for _ in range(crew.size + 2)]
    running: deque[_MicroBatch[B]] = deque()  # the last one may still have empty slots
    pending: deque[Scored[B]] = deque()

    def settle() -> Iterator[Scored[B]]:
        """Wait for the oldest micro-batch; yield the blocks that it completes."""
        batch = running.popleft()
        results = batch.results.result()
        for (scored, row), result in zip(batch.places, results, strict=True):
            scored.put(row, result)
        free.append(batch.x)
        if settled is not None:
            settled(results)
        while pending and pending[0].complete:
            yield pending.popleft()

    def finish() -> Iterator[Scored[B]]:
        """Run the last micro-batch as it is, and yield all blocks."""
        if running and not running[-1].full:
            last = running[-1]
            crew.submit(partial(last.count_down, len(last.x) - len(last.places)))
        while running:
            yield from settle()
        while pending:  # empty blocks
            yield pending.popleft()

    try:
        for block in blocks:
            if block is None:
                yield from finish()
                continue
            scored = Scored(block, _left=len(block))
            pending.append(scored)
            for row in range(len(block)):
                if not running or running[-1].full:
                    if not free:
                        yield from settle()
                    running.append(_MicroBatch(free.pop(), forward))
                batch = running[-1]
                batch.places.append((scored, row))
                crew.submit(partial(batch.decode, len(batch.places) - 1))
            # What is done leaves at once, so that a block waits in memory no longer than it must.
            while running and running[0].results.done():
                yield from settle()
        yield from finish()
    finally:
        crew.close()


class _Crew:
    """The threads of a scoring process: its own, which always work, and spare ones, which need a free core to.

    Args:
        threads: Its own.
        cores: Of the executor; None for no spare threads.
    """

    def __init__(self, threads: int, cores: Cores | None) -> None:
        self._cores = cores
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        spare = crew_size(threads, cores.count if cores else None) - threads
        works = [self._work] * threads + [self._help] * spare
        self._threads = [threading.Thread(target=work, name="sparkwright-score", daemon=True) for work in works]
        self._own = threads
        for thread in self._threads:
            thread.start()

    @property
    def size(self) -> int:
        """How many threads there are."""
        return len(self._threads)

    def submit(self, task: Callable[[], None]) -> None:
        """Have a task done; it must not raise."""
        self._tasks.put(task)

    def close(self) -> None:
        """Drop what has not begun, and wait for the rest."""
        self._closed.set()
        for _ in range(self._own):
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        """Do tasks. Who waits for them gives his core back, so that others' spare threads may use it."""
        while (task := self._tasks.get()) is not None:
            core = None
            while task is not None:
                if core is None and self._cores:
                    core = self._cores.take()  # without one too: Spark gave this thread a core, and gets it back soon
                if not self._closed.is_set():
                    task()
                task = self._next()
            if self._cores:
                self._cores.give(core)

    def _help(self) -> None:
        """Do a task whenever there are both a task and a free core."""
        assert self._cores is not None
        pause_s = _SHORTEST_PAUSE_S
        while not self._closed.is_set():
            core = None if self._tasks.empty() else self._cores.take()
            if core is None:
                self._closed.wait(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            pause_s = _SHORTEST_PAUSE_S
            task = self._next()
            if task is not None:
                task()
            self._cores.give(core)

    def _next(self) -> Callable[[], None] | None:
        """Return a task that is there now; None if there is none, and at the end."""
        try:
            task = self._tasks.get_nowait()
        except queue.Empty:
            return None
        if task is None:
            self._tasks.put(None)  # one for each thread that waits
        return task


class Matrix(Block, Protocol):
    """Rows of numbers, ready for the network."""

    def matrix(self) -> tuple[NDArray[np.float32], dict[int, RowError]]:
        """Return inputs, float32 of shape (rows, …), and the rows that cannot be used."""


M = TypeVar("M", bound=Matrix)


def score_matrix(blocks: Iterable[M], forward: Forward, *, settled: Settled | None = None) -> Iterator[Scored[M]]:
    """Run the network over blocks of numbers, a block at a time, in the calling thread.

    Yields:
        Each block's results, in the blocks' order.
    """
    for block in blocks:
        x, errors = block.matrix()
        scored = Scored(block, _left=len(block))
        good = [row for row in range(len(block)) if row not in errors]
        results: dict[int, Result] = dict(errors)
        if good:
            results.update(zip(good, _checked(forward(x[good] if errors else x)), strict=True))
        for row, result in results.items():
            scored.put(row, result)
        if settled is not None:
            settled(list(results.values()))
        yield scored
