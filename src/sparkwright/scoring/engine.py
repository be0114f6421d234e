"""The scoring engine: decode and forward overlapped, memory bounded, every row answered.

One pool of threads does all the work of a scoring process. The calling thread hands out rows; each is decoded straight
into its slot of a micro-batch, and the thread that decodes a micro-batch's last row runs the network on it, on itself
alone. So every core is busy as long as there is work, none waits for another inside the network, and decoded rows go
to the network while they are in the processor's cache. Micro-batches are small for the same reason: on CPUs a fast
network is slower in large ones.

Micro-batches cross the borders of the blocks in which rows arrive; blocks leave in the order in which they came, each
when its rows are done. Memory: ``threads + 2`` micro-batches, the blocks that those touch, and one block read ahead.

Numpy alone: the adapters (`arrow`, `predictor`) know where rows come from and where results go.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sparkwright.networks.preprocessing import ImageError

__all__ = ["Block", "Forward", "Matrix", "Result", "RowError", "Scored", "score", "score_matrix"]

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
            ImageError: the row cannot be used.
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
        except ImageError as error:
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


def score(
    blocks: Iterable[B],
    forward: Forward,
    shape: tuple[int, ...],
    *,
    batch_size: int,
    threads: int,
    settled: Settled | None = None,
) -> Iterator[Scored[B]]:
    """Run the network over blocks whose rows must be decoded one by one.

    Args:
        blocks: Pulled from the calling thread, as late as the look-ahead allows.
        forward: The network.
        shape: Of one row's input.
        batch_size: Rows of a micro-batch.
        threads: Threads that decode and run the network.
        settled: Told of each micro-batch's results.

    Yields:
        Each block's results, in the blocks' order.

    Raises:
        Exception: what `forward` raised; rows that cannot be decoded raise nothing.
    """
    free = [np.empty((batch_size, *shape), np.float32) for _ in range(threads + 2)]
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

    pool = ThreadPoolExecutor(threads, thread_name_prefix="sparkwright-score")
    try:
        for block in blocks:
            scored = Scored(block, _left=len(block))
            pending.append(scored)
            for row in range(len(block)):
                if not running or running[-1].full:
                    if not free:
                        yield from settle()
                    running.append(_MicroBatch(free.pop(), forward))
                batch = running[-1]
                batch.places.append((scored, row))
                pool.submit(batch.decode, len(batch.places) - 1)
            # What is done leaves at once, so that a block waits in memory no longer than it must.
            while running and running[0].results.done():
                yield from settle()
        if running and not running[-1].full:
            last = running[-1]
            pool.submit(last.count_down, len(last.x) - len(last.places))
        while running:
            yield from settle()
        yield from pending  # empty blocks at the end
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


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
