"""What the driver does while the workers of a training have not started, and what it says when one is lost."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from sparkwright.errors import ColumnError, WorkerError
from sparkwright.events import Event, Progress, StageStarted, TrainingRefused, Warned, WorkerLost
from sparkwright.training.cluster import starting
from sparkwright.training.cluster.starting import Workers


@pytest.fixture
def spark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has two slots, and ends the stage that is interrupted."""
    monkeypatch.setattr(starting, "_LOOK_S", 0.02)
    monkeypatch.setattr(starting, "_WARN_S", 0.05)
    monkeypatch.setattr(starting, "slots", lambda spark, again: 2)
    tags: list[str] = []
    interrupted = threading.Event()

    def interrupt(tag: str) -> None:
        assert tag in tags
        interrupted.set()

    context = SimpleNamespace(addJobTag=tags.append, removeJobTag=tags.remove, cancelJobsWithTag=interrupt)
    return SimpleNamespace(sparkContext=context, interrupted=interrupted)


def fails(workers: Workers, count: int, error: Exception, *events: Event, until: Any = None) -> None:
    """A stage that ends with an error, after some events."""
    with workers.expected(count):
        for event in events:
            workers(event)
        assert until is None or until.wait(10)
        raise error


def test_a_stage_that_has_too_few_slots_ends_at_once_and_says_so(spark: Any) -> None:
    workers = Workers(spark, lambda event: None)
    with pytest.raises(WorkerError, match="needs 3 slots at once, but the cluster has 2 now"):
        fails(workers, 3, RuntimeError("Job 7 was cancelled"), until=spark.interrupted)


def test_slots_that_are_there_but_not_free_are_waited_for_and_the_user_is_told_once(spark: Any) -> None:
    events: list[Event] = []
    told = threading.Event()

    def emit(event: Event) -> None:
        events.append(event)
        if isinstance(event, Warned):
            told.set()

    with Workers(spark, emit).expected(2):
        assert told.wait(10)
        assert not spark.interrupted.wait(0.2)
    assert events[0] == StageStarted("rows")
    (warned,) = events[1:]
    assert "the 2 slots that they need at once are not free" in str(warned)


def test_nothing_is_said_once_a_worker_has_started(spark: Any) -> None:
    events: list[Event] = []
    workers = Workers(spark, events.append)
    with workers.expected(3):
        workers(Progress("rows", "0", 0))
        assert not spark.interrupted.wait(0.2)
    assert events == [StageStarted("rows"), Progress("rows", "0", 0)]


def test_an_error_that_names_no_worker_is_given_the_name_that_the_others_know(spark: Any) -> None:
    events: list[Event] = []
    error, lost = WorkerError("A Spark job failed"), WorkerLost("Rank 1 of 3 (b) is gone")
    with pytest.raises(WorkerError, match=r"^Rank 1 of 3 \(b\) is gone\nA Spark job failed$"):
        fails(Workers(spark, events.append), 2, error, Progress("rows", "0", 0), lost, lost)
    assert events.count(lost) == 1


def test_an_error_that_names_its_worker_stays_as_it_is(spark: Any) -> None:
    error, lost = WorkerError("Rank 1 failed: RuntimeError"), WorkerLost("Rank 1 failed")
    with pytest.raises(WorkerError, match=r"^Rank 1 failed: RuntimeError$"):
        fails(Workers(spark, lambda event: None), 2, error, Progress("rows", "0", 0), lost)


def test_a_stage_whose_workers_refuse_the_rows_does_not_run_again(spark: Any) -> None:
    events: list[Event] = []
    refused = TrainingRefused("ColumnError", "3 rows cannot be trained on")
    with pytest.raises(ColumnError, match=r"^3 rows cannot be trained on$"):
        fails(
            Workers(spark, events.append),
            2,
            RuntimeError("Job 7 was cancelled"),
            Progress("rows", "0", 0),
            refused,
            until=spark.interrupted,
        )
    assert refused not in events


def test_a_session_that_ends_while_slots_are_counted_is_no_error(spark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counting, stopped = threading.Event(), threading.Event()

    def count(spark: Any, again: bool) -> int:
        counting.set()
        stopped.wait(10)
        raise RuntimeError("the session was stopped")

    monkeypatch.setattr(starting, "slots", count)
    with Workers(spark, lambda event: None).expected(2):
        assert counting.wait(10)
    stopped.set()
    for thread in threading.enumerate():
        if thread.name == "sparkwright-slots":
            thread.join(10)
