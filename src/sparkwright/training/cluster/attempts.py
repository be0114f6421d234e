"""Attempts: the driver submits a training again as long as that brings it further.

Spark runs a failed stage again by itself a few times in a cluster, not at all in a local session, and it gives up for
good. Here only progress counts: what has reached a new checkpoint may fail again.
"""

import logging
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from sparkwright import storage
from sparkwright.errors import StorageError, WorkerError
from sparkwright.events import Emit, EpochEnded, Event, Warned
from sparkwright.session import slots, worker_errors
from sparkwright.training.checkpoints import age, newest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["ATTEMPTS", "TellOnce", "check_shared", "repeat"]

log = logging.getLogger(__name__)
T = TypeVar("T")

ATTEMPTS = 3
"""Attempts in a row without progress that end a training."""


def repeat(attempt: Callable[[int], T], checkpoints: str | None, limit: int, emit: Emit) -> T:
    """Return what an attempt gives; runs on the driver.

    Args:
        attempt: Takes the attempt's number, from 1.
        checkpoints: Folder of the checkpoints that tell progress; without one no attempt brings any.
        limit: Attempts in a row without progress that end it.
        emit: What is told of each new attempt.

    Raises:
        WorkerError: The last attempt's error. Errors of another kind, which would come again, end it at once.
    """
    number, vain, furthest = 1, 0, age(newest(checkpoints) if checkpoints else None)
    while True:
        try:
            return attempt(number)
        except (WorkerError, StorageError) as error:
            begin = newest(checkpoints) if checkpoints else None
            vain = 0 if age(begin) > furthest else vain + 1
            furthest = max(furthest, age(begin))
            if vain >= limit:
                error.add_note(f"Attempt {number}, the last of {vain} that brought the training no further.")
                raise
            cause = next(iter(str(error).splitlines()), "")
            log.info("Attempt %d of the training failed", number, exc_info=True)
            emit(Warned(f"Attempt {number} of the training failed and is followed by another, {_from(begin)}: {cause}"))
            number += 1


def _from(begin: str | None) -> str:
    if begin is None:
        return "from the start"
    phase, epoch, *_, batches = begin.split("-")
    return f"from its checkpoint in the {phase} at epoch {int(epoch)} after {int(batches)} batches"


class TellOnce:
    """Passes events on, but no epoch twice: attempts repeat some, to the same bits."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._last = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, EpochEnded):
            if event.epoch <= self._last:
                return
            self._last = event.epoch
        self._emit(event)


def check_shared(spark: "SparkSession", folder: str) -> None:
    """Check that the driver and all workers read and write one and the same folder, by a small job.

    Raises:
        StorageError: They don't; with what one of them met.
    """
    token = uuid.uuid4().hex
    probes = storage.join(folder, f"probe-{token}")
    storage.write_bytes(storage.join(probes, "driver"), token.encode())
    count = slots(spark)
    try:
        with worker_errors():
            answers = spark.range(0, count, 1, count).mapInArrow(_Probe(probes, token), "answer string").collect()
        problems = [row["answer"] for row in answers if row["answer"]]
        missing = count + 1 - len(storage.list_files(probes))
        if missing > 0 and not problems:
            problems = [f"what {missing} of {count} workers wrote is not to be seen from the driver"]
    finally:
        storage.remove(probes)
    if problems:
        raise StorageError(
            f"The run folder must be one that driver and workers share; {folder} is not: {problems[0]}. Choose one on "
            "a file system that all of them reach, such as hdfs:, s3: or a mounted share."
        )


@dataclass(frozen=True)
class _Probe:
    """Reads what the driver wrote and leaves a file of its own. Runs on executors."""

    folder: str
    token: str

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import socket

        for batch in batches:
            for number in batch.column(0).to_pylist():
                yield pa.RecordBatch.from_pylist([{"answer": self._problem(number, socket.gethostname())}])

    def _problem(self, number: int, host: str) -> str:
        try:
            found = storage.read_bytes(storage.join(self.folder, "driver")).decode()
            if found != self.token:
                return f"a worker on {host} finds other content there"
            storage.write_bytes(storage.join(self.folder, f"worker-{number}"), b"")
        except FileNotFoundError:
            return f"a worker on {host} does not find there what the driver wrote"
        except Exception as error:
            return f"a worker on {host} meets {type(error).__name__}: {error}"
        return ""
