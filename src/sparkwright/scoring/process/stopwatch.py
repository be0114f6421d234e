"""Where a task's time goes: seconds of each step, added up over its threads."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

__all__ = ["Stopwatch"]

A = TypeVar("A")
B = TypeVar("B")


class Stopwatch:
    """Adds up the seconds of steps. Threads may use it at once: each has its own sums."""

    def __init__(self) -> None:
        self._sums: dict[int, defaultdict[str, float]] = {}

    def add(self, step: str, since: float) -> float:
        """Add the time since `since` (`time.perf_counter`) to a step; return the time now."""
        now = time.perf_counter()
        self._sums.setdefault(threading.get_ident(), defaultdict(float))[step] += now - since
        return now

    def each(self, step: str, values: Iterable[A]) -> Iterator[A]:
        """Yield `values`; the time that they take to come counts for `step`."""
        iterator = iter(values)
        while True:
            start = time.perf_counter()
            try:
                value = next(iterator)
            except StopIteration:
                return
            finally:
                self.add(step, start)
            yield value

    def taken(self, step: str, values: Iterable[A]) -> Iterator[A]:
        """Yield `values`; the time until the next one is asked for counts for `step`."""
        for value in values:
            start = time.perf_counter()
            yield value
            self.add(step, start)

    def calls(self, step: str, function: Callable[[A], B]) -> Callable[[A], B]:
        """Return `function`, whose time counts for `step`."""

        def timed(argument: A) -> B:
            start = time.perf_counter()
            try:
                return function(argument)
            finally:
                self.add(step, start)

        return timed

    def seconds(self, *steps: str) -> dict[str, float]:
        """Return the sums over all threads, in this order; steps without any are left out."""
        sums = list(self._sums.values())
        totals = {step: sum(own.get(step, 0.0) for own in sums) for step in steps}
        return {step: round(total, 4) for step, total in totals.items() if total}
