"""Batches that are made while the network is busy with those before them."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

__all__ = ["Ahead"]

T = TypeVar("T")


class Ahead(Generic[T]):
    """Gives what `make` makes of 0, 1, 2 …, each made in a thread before it is wanted.

    What is made depends on its number alone, so that threads change no bits. At most `depth` results wait at a time.

    Args:
        make: Called in threads, for several numbers at once.
        count: How many there are.
        depth: Threads, and results that wait.
    """

    def __init__(self, make: Callable[[int], T], count: int, depth: int) -> None:
        self._make = make
        self._count = count
        self._depth = depth
        self._threads = ThreadPoolExecutor(depth, "batches")  # they end when nobody holds it any more
        self._coming: dict[int, Future[T]] = {}

    def take(self, number: int) -> T:
        """Return one, waiting for it if it is not ready, and have those after it made.

        Raises:
            Exception: What `make` raised.
        """
        wanted = range(number, min(number + self._depth + 1, self._count))
        for past in [known for known in self._coming if known not in wanted]:
            self._coming.pop(past).cancel()
        for each in wanted:
            if each not in self._coming:
                self._coming[each] = self._threads.submit(self._make, each)
        return self._coming.pop(number).result()
