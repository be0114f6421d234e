"""Fetching ahead of decoding: threads that wait for files and servers, so that the engine's threads need not.

Rows are fetched in their order and taken in their order. Two things bound what waits in between: the caller, who
decides how many rows it submits, and `ahead_bytes`: while more than that lies here fetched but not taken, no further
row is begun. (A row is begun only after all earlier ones, and those that are begun end; so the one that is waited for
always comes.)
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from sparkwright.networks.preprocessing import ImageError

__all__ = ["Prefetch", "Ticket"]

_MOST_WAIT_S = 1.0  # to close: fetches end at once or, when a file system hangs, never


class Ticket:
    """One location's way through `Prefetch`."""

    __slots__ = ("content", "error", "location", "settled", "started")

    def __init__(self, location: str) -> None:
        self.location = location
        self.content = b""
        self.error: Exception | None = None
        self.started: float | None = None
        self.settled = False


class Prefetch:
    """Threads that fetch.

    Args:
        fetch: From a location to its bytes; called from several threads.
        threads: Most threads; they are started as they are needed.
        ahead_bytes: Most bytes that lie fetched, apart from fetches under way.
        patience: Seconds that a location may take; None where `fetch` itself sees to that. A thread that is stuck for
            longer, in a network file system that hangs, say, is given up and replaced.
    """

    def __init__(
        self,
        fetch: Callable[[str], bytes],
        *,
        threads: int,
        ahead_bytes: int,
        patience: Callable[[str], float | None],
    ) -> None:
        self._fetch, self._most, self._budget, self._patience = fetch, threads, ahead_bytes, patience
        self._queue: deque[Ticket] = deque()
        self._held = 0
        lock = threading.Lock()
        self._ready = threading.Condition(lock)  # fetching threads wait for it
        self._settled = threading.Condition(lock)  # those that take
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = False

    def submit(self, locations: Sequence[str | None]) -> list[Ticket | None]:
        """Have locations fetched, in this order; None for None."""
        tickets = [None if location is None else Ticket(location) for location in locations]
        with self._ready:
            self._queue.extend(ticket for ticket in tickets if ticket is not None)
            for _ in range(min(self._most - len(self._threads), len(self._queue) - self._idle)):
                self._start()
            self._ready.notify()
        return tickets

    def take(self, ticket: Ticket) -> bytes:
        """Wait for a location's bytes and hand them over; a ticket is good for one time.

        Raises:
            ImageError: it could not be fetched, or not in time.
        """
        patience_s = self._patience(ticket.location)
        with self._settled:
            while not ticket.settled:
                left = None
                if patience_s is not None and ticket.started is not None:
                    left = ticket.started + patience_s - time.monotonic()
                    if left <= 0:
                        ticket.error = ImageError("timeout", f"The file was not read after {patience_s:g} s.")
                        ticket.settled = True
                        self._start()  # its own thread may never come back
                        break
                self._settled.wait(left)
            content, ticket.content = ticket.content, b""
            self._held -= len(content)
            self._ready.notify()
        if ticket.error is not None:
            raise ticket.error
        return content

    def close(self) -> None:
        """Begin nothing more; tickets that were not begun fail."""
        with self._ready:
            self._closed = True
            for ticket in self._queue:
                ticket.error, ticket.settled = ImageError("network failure", "Scoring was stopped."), True
            self._queue.clear()
            self._ready.notify_all()
            self._settled.notify_all()
        deadline = time.monotonic() + _MOST_WAIT_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name="sparkwright-fetch", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _next(self) -> Ticket | None:
        """Wait for a ticket; None when there will be none."""
        with self._ready:
            self._idle += 1
            while not self._closed and (not self._queue or self._held >= self._budget):
                self._ready.wait()
            self._idle -= 1
            if self._closed:
                return None
            ticket = self._queue.popleft()
            ticket.started = time.monotonic()
            self._settled.notify_all()  # who waits for it counts from now
            self._ready.notify()  # each wakes the next: waking all for one row would cost more than the row
            return ticket

    def _work(self) -> None:
        while (ticket := self._next()) is not None:
            content, error = b"", None
            try:
                content = self._fetch(ticket.location)
            except Exception as raised:  # one row's failure, whatever it is; `take` raises it
                error = raised
            with self._settled:
                if ticket.settled:  # given up, and this thread replaced
                    return
                ticket.content, ticket.error, ticket.settled = content, error, True
                self._held += len(content)
                self._settled.notify_all()
            del ticket, content, error
