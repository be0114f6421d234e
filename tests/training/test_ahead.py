"""Batches made ahead of the step that takes them, and the memory that steps free."""

import resource
import threading
import time
from pathlib import Path

import pytest
import torch

from sparkwright.training.replica.allocation import freed_memory_kept
from sparkwright.training.rows.ahead import Ahead

pytestmark = pytest.mark.timeout(60)


def test_all_come_in_order_each_made_once() -> None:
    made = []

    def make(number: int) -> int:
        time.sleep(0.001 * (number % 3))
        made.append(number)
        return number**2

    ahead = Ahead(make, 50, 3)
    assert [ahead.take(number) for number in range(50)] == [number**2 for number in range(50)]
    assert sorted(made) == list(range(50))


def test_those_after_it_are_made_while_one_is_used() -> None:
    started = [threading.Event() for _ in range(4)]
    ahead = Ahead(lambda number: started[number].set(), 4, 2)
    ahead.take(0)
    assert started[1].wait(10)
    assert started[2].wait(10)
    assert not started[3].wait(0.05)  # no more than two wait


def test_one_may_begin_anywhere_and_go_back() -> None:
    ahead = Ahead(lambda number: number, 10, 2)
    assert [ahead.take(number) for number in (7, 8, 3, 9, 0)] == [7, 8, 3, 9, 0]


def test_what_goes_wrong_is_raised_where_it_is_wanted() -> None:
    def make(number: int) -> int:
        if number == 1:
            raise OSError("the file is too short")
        return number

    ahead = Ahead(make, 3, 2)
    assert ahead.take(0) == 0
    with pytest.raises(OSError, match="the file is too short"):
        ahead.take(1)
    assert ahead.take(2) == 2


def test_its_threads_end_with_it() -> None:
    ahead = Ahead(lambda number: number, 5, 2)
    ahead.take(0)
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("batches")]
    assert threads
    del ahead
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_memory_is_kept_inside_the_block_and_given_back_behind_it() -> None:
    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(40):  # the heap may grow a few times before there is always room
            torch.ones(16 << 20)  # 64 MiB, of 16,384 pages
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    outside = faults()
    if outside < 400_000:
        pytest.skip("the system does not map page by page, or the C library keeps memory by itself")
    resident = resident_mib()
    with freed_memory_kept():
        assert faults() < outside / 2
        assert resident_mib() > resident + 50
    assert resident_mib() < resident + 10


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)
