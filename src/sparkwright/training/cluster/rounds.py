"""Train in rounds: the driver's part. One ordinary Spark job after another, each of which ends with a sum."""

import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from sparkwright.errors import SparkwrightError, WorkerError
from sparkwright.events import Emit, Event, Sender, StageEnded, StageStarted, ignore
from sparkwright.session import worker_errors
from sparkwright.training.checkpoints import newest
from sparkwright.training.cluster.placement import Placement
from sparkwright.training.cluster.worker import RESULT, RESULT_DDL, TrainingJob, outcome_pieces, report_failure
from sparkwright.training.compression import make_codec
from sparkwright.training.fitting import train_rows
from sparkwright.training.rows.files import RowFiles
from sparkwright.training.rows.population import Population, examine
from sparkwright.training.subject import load_subject
from sparkwright.training.transports._base import hosting
from sparkwright.training.transports.rounds import (
    Log,
    RoundCheckpoints,
    Rounds,
    Suspended,
    complete,
    drop_old_logs,
    find_log,
    forget_logs,
)

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["RoundsDriver"]

_SUSPENDED, _COMMITTED, _ROWS_GONE = "suspended", "committed", "rows gone"


class RoundsDriver:
    """Runs the rounds of one training, in as many attempts as it takes. A context manager; leaving it removes files.

    Args:
        placed: Gives the encoded rows for a number of workers, those of worker i in partition i.
        emit: What takes the events.
    """

    def __init__(self, placed: "Callable[[int], DataFrame]", emit: Emit) -> None:
        self._placed = placed
        self._emit = emit
        self._placement: Placement | None = None
        self._took: dict[str, float] = {}  # folder of a sum → seconds of its round
        self._phases: dict[str, float] = defaultdict(float)

    def attempt(self, job: TrainingJob) -> Sequence[Any]:
        """Return the rows of the outcome, as a gang gives them.

        Raises:
            WorkerError: A round failed; those before it count.
        """
        if job.checkpoints is None:
            raise ValueError("rounds without a run folder")
        placement = self._place(job)
        population = examine(placement.census, job.config, job.columns, job.kind, job.classes, job.invalid)
        if newest(job.checkpoints) is None and not self._took:
            forget_logs(job.checkpoints)
        while True:
            log = find_log(job.checkpoints, job.fingerprint(population), self._took)
            drop_old_logs(log)
            rows = self._round(RoundJob(job, population, placement.key, log), placement)
            if rows is not None:
                return self._timed(rows)

    def _place(self, job: TrainingJob) -> Placement:
        if self._placement is not None and self._placement.workers == job.workers:
            return self._placement
        self.close()
        started = time.monotonic()
        self._emit(StageStarted("rows"))
        self._placement = Placement(
            self._placed(job.workers), job.config.replicas, job.workers, job.channel, job.subject
        )
        census = self._placement.census
        self._emit(StageEnded("rows", time.monotonic() - started, census.rows.total(), census.problems.total()))
        return self._placement

    def _round(self, job: "RoundJob", placement: Placement) -> list[Any] | None:
        """Run one job; return the outcome's rows, None if the training is not over."""
        started = time.monotonic()
        tasks = placement.df.mapInArrow(job, RESULT_DDL)
        with worker_errors():
            rows = tasks.repartition(1).mapInArrow(RoundEnd(job), RESULT_DDL).collect()
        seconds = time.monotonic() - started
        self._phases[(job.log.begin or "selection").partition("-")[0]] += seconds
        parts = {row["part"] for row in rows}
        if _ROWS_GONE in parts:
            self.close()
            raise WorkerError("A task ran where its rows are not, so the rows are placed again.")
        if parts != {_COMMITTED}:
            return rows
        self._took[rows[0]["content"].decode()] = seconds
        return None

    def _timed(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """Return the outcome with this driver's seconds: a task knows its own alone."""
        timed = [row.asDict() for row in rows]
        for row in timed:
            if row["part"] == "summary":
                row["content"] = json.dumps(json.loads(row["content"]) | {"seconds": self._phases}).encode()
        return timed

    def close(self) -> None:
        """Remove the rows from the executors."""
        placement, self._placement = self._placement, None
        if placement is not None:
            with contextlib.suppress(SparkwrightError):  # Spark removes them when the application ends
                placement.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(frozen=True)
class RoundJob:
    """What a worker does in one round; small and picklable.

    Args:
        job: The training.
        population: What all rows are together.
        key: Of the rows' files.
        log: Where the training is.
    """

    job: TrainingJob
    population: Population
    key: str
    log: Log

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Go on to the next sum and give what is known of it, or the outcome. Runs on executors."""
        for rank in [rank for batch in batches for rank in batch["worker"].to_pylist()]:
            hosts = hosting(self.job.config.replicas, self.job.workers)
            try:
                yield from self._work(rank, hosts)
            except SparkwrightError:
                raise
            except Exception as error:
                raise WorkerError(report_failure(error, rank, hosts)) from error

    def _work(self, rank: int, hosts: tuple[range, ...]) -> Iterator[pa.RecordBatch]:
        job = self.job
        subject = load_subject(job.subject)
        files = RowFiles(self.key, rank, reader=subject.reader)
        rows = files.load(hosts[rank], self.population.width, job.memory_bytes)
        if rows is None:
            yield _row(_ROWS_GONE, rank, "")
            return
        transport = Rounds(rank, hosts, self.log)
        with Sender(job.channel if rank == 0 else None) as sender:

            def emit(event: Event) -> None:
                if transport.replayed:  # else it was told when it was news
                    sender.emit(event)

            try:
                outcome = train_rows(
                    job.config,
                    self.population,
                    rows,
                    transport,
                    emit if rank == 0 else ignore,
                    RoundCheckpoints(transport, self.log),
                    subject,
                )
            except Suspended as suspended:
                yield _row(_SUSPENDED, rank, json.dumps(suspended.part))
                return
        if rank == 0:
            yield from outcome_pieces(outcome, self.population)


@dataclass(frozen=True)
class RoundEnd:
    """Ends a round: completes the sum of what all workers left, or passes the outcome on. Runs in one task."""

    job: RoundJob

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        job, parts, others = self.job.job, list[dict[str, Any]](), list[pa.RecordBatch]()
        for batch in batches:
            suspended = pc.equal(batch["part"], _SUSPENDED)
            parts += [json.loads(content) for content in batch["content"].filter(suspended).to_pylist()]
            others.append(batch.filter(pc.invert(suspended)))
        if len(parts) == job.workers:
            codec = make_codec(job.config.compression, job.config.compression_share)
            folder = complete(parts, job.config.replicas, codec, self.job.log)
            yield _row(_COMMITTED, 0, folder)
        yield from others


def _row(part: str, number: int, content: str) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([v]) for v in (part, number, content.encode())], schema=RESULT)
