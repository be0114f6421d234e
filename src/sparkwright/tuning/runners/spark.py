"""Trials on Spark: each job of a search is a job of Spark with one task, which finds its rows on its executor.

Spark gives a job's task to whatever slot is free, tries it again where a worker is lost, and knows nothing of a search.
Threads of the driver submit jobs next to one another; that works alike on a session of its own, on YARN and through
Spark Connect.
"""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkwright import session, storage
from sparkwright.errors import InputError, StorageError, WorkerError
from sparkwright.session import cancellable, worker_errors
from sparkwright.training.cluster.attempts import check_shared
from sparkwright.training.cluster.imports import check_imports
from sparkwright.training.rows.columns import arrow_schema
from sparkwright.training.rows.population import examine
from sparkwright.training.rows.store import Census
from sparkwright.training.subject import Subject, load_subject
from sparkwright.tuning.costs import count_parameters
from sparkwright.tuning.runners._base import Runner
from sparkwright.tuning.setup import Setup
from sparkwright.tuning.shared_rows import SharedRows, write_shared
from sparkwright.tuning.trial_rows import TrialRows
from sparkwright.tuning.trial_task import TRIALS, TrialSetting, train_trials
from sparkwright.tuning.trials import Assignment, Measurement

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["SparkRunner", "TrialJob"]

_ROWS = "rows"
_DDL = "answer string"

_AGAIN_S = 0.5
"""Seconds between two attempts to end a job: one that has not begun cannot be ended."""

_END_S = 30.0
"""Seconds after which jobs that do not end are left to the cluster."""

_GRACE_S = 60.0
"""Seconds that a job may take, beside twice its trials' limits, for its slot, its rows and its checkpoints."""


class SparkRunner(Runner):
    """Trains in tasks of a Spark session.

    The rows are encoded into the run's folder by one job, and copied from there to each executor once, by a second one
    that also makes sure that all workers see the folder. Both run when it is made.

    Args:
        df: Holds the columns of `setup`; rows of the test side are not read.
        setup: What trains on what.
        folder: Of the search in the run, a path or URI that driver and workers share. Rows that an earlier search left
            there are taken as they are.

    Attributes:
        population: What the rows are together; with folds, all of them.

    Raises:
        ColumnError: A column is missing or of another type; rows that cannot be trained on.
        InputError: Nothing validates; too few rows; more `threads` than a task has cores.
        StorageError: The folder is not one that driver and workers share.
    """

    def __init__(self, df: "DataFrame", setup: Setup, folder: str) -> None:
        self._spark, base, folder = df.sparkSession, setup.base, storage.to_uri(folder)
        self._ends: list[Callable[[], Any]] = []  # of the jobs at work, under the lock of what tells that one has ended
        self._ended = threading.Condition()
        self._over = False
        plan, self._subject = setup.plan(arrow_schema(df.schema, setup.columns), df.columns)
        cores = session.threads_per_task(self._spark)
        if base.threads > cores:
            raise InputError(
                f"`threads` is {base.threads}, and a task of this session has {cores}: trials side by side would take "
                f"one another's cores. Lower `threads`, or start the session with spark.task.cpus={base.threads} "
                "(a local one with fewer slots)."
            )
        self.slots = session.slots(self._spark)
        session.ship_library(self._spark)
        check_imports(self._spark, self._subject.specs, setup.losses)
        check_shared(self._spark, folder)
        shipped = self._subject.ship(self._spark)
        rows = write_shared(df, plan, self._subject.reader, storage.join(folder, _ROWS))
        setting = TrialSetting(base, storage.join(folder, TRIALS), tuple(setup.costs))
        self._job = TrialJob(rows, setting, shipped)
        try:
            (census, *_) = self._ask(_OpenRows(self._job), self.slots)
            self.population = examine(
                Census.from_json(census), base, plan.columns, plan.kind, plan.classes, plan.invalid
            )
            self.together = setup.heads_together(self.population, self._subject)
        except BaseException:
            with contextlib.suppress(Exception):  # what went wrong is to be told, not what cannot be tidied up after it
                self.close()
            raise
        self._job = replace(self._job, setting=replace(setting, shared=self.together > 1))

    def run(self, assignments: Sequence[Assignment]) -> list[Measurement]:
        job = replace(self._job, assignments=tuple(assignments))
        limits = [each.limit_s for each in assignments if each.limit_s is not None]
        with self._at_work(2 * sum(limits) + _GRACE_S if len(limits) == len(assignments) else None):
            return [Measurement.from_dict(json.loads(answer)) for answer in self._ask(job)]

    def parameters(self, values: Mapping[str, Any]) -> int:
        return count_parameters(self._job.setting.config(values), self.population, self._subject)

    def drop(self, trial: int) -> None:
        self._job.setting.drop(trial)

    def close(self) -> None:
        """End the jobs at work, and delete the executors' copies of the rows."""
        with self._ended:
            self._over = True
            for _ in range(round(_END_S / _AGAIN_S)):
                for end in self._ends:
                    end()
                if self._ended.wait_for(lambda: not self._ends, _AGAIN_S):
                    break
        self._ask(_RemoveRows(self._job.rows), self.slots)

    @contextlib.contextmanager
    def _at_work(self, limit_s: float | None) -> Iterator[None]:
        """Submit a job of trials inside, from this thread; `close` ends it, and so does its time.

        Raises:
            CancelledError: The runner was closed.
            WorkerError: The job has taken too long; trials themselves look at the clock where they can.
        """
        with cancellable(self._spark) as end, _after(limit_s, end) as late:
            with self._ended:
                if self._over:
                    raise CancelledError("The search is over.")
                self._ends.append(end)
            try:
                yield
            except Exception as error:
                if self._over:  # no worker is to blame
                    raise CancelledError("The search is over.") from error
                if late.is_set():
                    raise WorkerError(
                        f"A job of trials took more than {limit_s:g} s, twice what they may take, and was ended: its "
                        "worker hangs, or the cluster has no slot for it."
                    ) from error
                raise
            finally:
                with self._ended:
                    self._ends.remove(end)
                    self._ended.notify_all()

    def _ask(self, task: "TrialJob | _OpenRows | _RemoveRows", tasks: int = 1) -> list[str]:
        """Run a job of tasks and return their answers."""
        try:
            with worker_errors():
                frame = self._spark.range(0, tasks, 1, tasks).mapInArrow(task, _DDL)
                return [row["answer"] for row in frame.collect()]
        except StorageError as error:  # which may pass
            raise WorkerError(f"A worker cannot use the search's folder: {error}") from error


@contextlib.contextmanager
def _after(seconds: float | None, end: Callable[[], Any]) -> Iterator[threading.Event]:
    """End a job that takes longer than some seconds; the event tells whether it did."""
    late = threading.Event()
    if seconds is None:
        yield late
        return

    def stop() -> None:
        late.set()
        end()

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


@dataclass(frozen=True)
class TrialJob:
    """The function of a job's only task; small and picklable.

    Args:
        rows: Of the search.
        setting: What all trials have in common.
        subject: What `Subject.ship` called what is trained.
        assignments: What to do.
    """

    rows: SharedRows
    setting: TrialSetting
    subject: str | None = None
    assignments: tuple[Assignment, ...] = field(default=(), repr=False)

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Train, and give a measurement for each assignment. Runs on executors."""
        for _ in batches:  # Spark's row says only that there is something to do
            pass
        rows, subject = self.opened()
        for measured in train_trials(self.assignments, rows, self.setting, subject):
            yield _answer(json.dumps(measured.to_dict()))

    def opened(self) -> tuple[TrialRows, Subject]:
        """Return the rows and what is trained, which stay with the process until it trains for another search."""
        key = (self.rows.key, self.subject)
        if key not in _held:
            _held.clear()
            subject = load_subject(self.subject)
            _held[key] = (self.rows.open(subject.reader), subject)
        return _held[key]


_held: dict[tuple[str, str | None], tuple[TrialRows, Subject]] = {}


@dataclass(frozen=True)
class _OpenRows:
    """Opens the rows in a worker's process before the first trial, and gives their counts. Runs on executors."""

    job: TrialJob

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            yield _answer(self.job.opened()[0].census.to_json())


@dataclass(frozen=True)
class _RemoveRows:
    """Lets go of the rows and deletes an executor's copy. Runs on executors."""

    rows: SharedRows

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            _held.clear()
            self.rows.remove()
        yield from ()


def _answer(text: str) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"answer": [text]})
