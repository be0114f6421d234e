import threading
import time
from collections.abc import Iterator

import pytest

from sparkwright.networks.preprocessing import ImageError
from sparkwright.scoring.inputs.prefetch import Prefetch, Ticket

pytestmark = pytest.mark.timeout(20)


@pytest.fixture
def opened() -> Iterator[list[Prefetch]]:
    """What is put here is closed in the end."""
    prefetches: list[Prefetch] = []
    yield prefetches
    for prefetch in prefetches:
        prefetch.close()


def start(
    opened: list[Prefetch], fetch: object, threads: int = 4, budget: int = 1000, patience: object = None
) -> Prefetch:
    prefetch = Prefetch(fetch, threads=threads, ahead_bytes=budget, patience=lambda location: patience)
    opened.append(prefetch)
    return prefetch


def take_all(prefetch: Prefetch, tickets: list[Ticket | None]) -> list[bytes]:
    return [prefetch.take(ticket) for ticket in tickets if ticket]


def test_everything_arrives_at_its_own_ticket(opened: list[Prefetch]) -> None:
    def fetch(location: str) -> bytes:
        time.sleep(int(location) % 3 / 1000)
        return location.encode()

    prefetch = start(opened, fetch, threads=7, budget=10)
    tickets = prefetch.submit([str(n) for n in range(500)]) + prefetch.submit(["500", None, "501"])
    assert take_all(prefetch, tickets) == [str(n).encode() for n in range(502)]
    assert tickets[501] is None


def test_fetches_overlap_as_far_as_there_are_threads(opened: list[Prefetch]) -> None:
    now, most, lock = [0], [0], threading.Lock()

    def fetch(location: str) -> bytes:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        with lock:
            now[0] -= 1
        return b"x"

    prefetch = start(opened, fetch, threads=5)
    assert take_all(prefetch, prefetch.submit(["x"] * 40)) == [b"x"] * 40
    assert most[0] == 5


def test_no_further_row_is_begun_while_too_many_bytes_wait(opened: list[Prefetch]) -> None:
    begun = []

    def fetch(location: str) -> bytes:
        begun.append(location)
        return bytes(100)

    prefetch = start(opened, fetch, threads=2, budget=500)
    tickets = prefetch.submit([str(n) for n in range(50)])
    time.sleep(0.2)
    assert 5 <= len(begun) <= 6  # and one a thread that was under way
    assert [len(content) for content in take_all(prefetch, tickets)] == [100] * 50


def test_a_row_larger_than_all_that_may_wait_still_comes(opened: list[Prefetch]) -> None:
    prefetch = start(opened, lambda location: bytes(10_000), threads=3, budget=10)
    assert sum(map(len, take_all(prefetch, prefetch.submit(["x"] * 20)))) == 200_000


def test_a_failure_belongs_to_its_own_ticket(opened: list[Prefetch]) -> None:
    def fetch(location: str) -> bytes:
        if location == "bad":
            raise ImageError("not found", "There is none.")
        return b"good"

    prefetch = start(opened, fetch)
    good, bad, last = prefetch.submit(["good", "bad", "good"])
    assert None not in (good, bad, last)
    assert prefetch.take(good) == prefetch.take(last) == b"good"
    with pytest.raises(ImageError, match=r"There is none\."):
        prefetch.take(bad)


def test_files_that_hang_are_given_up_and_the_rest_goes_on(opened: list[Prefetch]) -> None:
    hang = threading.Event()

    def fetch(location: str) -> bytes:
        if location == "hangs":
            hang.wait(10)
        return b"good"

    prefetch = start(opened, fetch, threads=2, patience=0.2)
    tickets = prefetch.submit(["hangs", "good", "hangs", "hangs", "good", "good"])
    kinds = []
    for ticket in tickets:
        assert ticket
        try:
            kinds.append(prefetch.take(ticket).decode())
        except ImageError as error:
            kinds.append(f"{error.kind}: {error}")
    late = "timeout: The file was not read after 0.2 s."
    assert kinds == [late, "good", late, late, "good", "good"]
    hang.set()


def test_closing_fails_what_was_not_begun(opened: list[Prefetch]) -> None:
    go = threading.Event()

    def fetch(location: str) -> bytes:
        go.wait(10)
        return b"good"

    prefetch = start(opened, fetch, threads=1)
    first, second = prefetch.submit(["first", "second"])
    assert None not in (first, second)
    time.sleep(0.05)
    threading.Timer(0.1, go.set).start()
    prefetch.close()
    assert prefetch.take(first) == b"good"
    with pytest.raises(ImageError, match="stopped"):
        prefetch.take(second)
