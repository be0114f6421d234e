"""A job is ended from another thread than the one that waits for it."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from sparkwright.session import cancellable

SLOW_S = 60.0


def slow(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        time.sleep(SLOW_S)
        yield batch


@pytest.mark.connect
@pytest.mark.timeout(120)
def test_a_job_that_another_thread_cancels_ends_then_and_the_next_one_runs(spark: Any) -> None:
    one_row = spark.range(0, 1, 1, 1)
    ended, started = threading.Event(), time.monotonic()

    def until_it_ends(cancel: Any) -> None:  # a job that has not begun yet cannot be cancelled
        while not ended.wait(1):
            cancel()

    with cancellable(spark) as cancel:
        thread = threading.Thread(target=until_it_ends, args=(cancel,))
        thread.start()
        try:
            with pytest.raises(Exception, match=r"(?i)cancel"):
                one_row.mapInArrow(slow, "id long").collect()
        finally:
            ended.set()
            thread.join()
    assert time.monotonic() - started < SLOW_S
    assert one_row.count() == 1
