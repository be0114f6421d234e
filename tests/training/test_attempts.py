"""The driver submits a training again as long as that brings it further."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from sparkwright.errors import InputError, StorageError, WorkerError
from sparkwright.events import EpochEnded, Event, Warned
from sparkwright.training.cluster import attempts
from sparkwright.training.cluster.attempts import TellOnce, check_shared, repeat


def commit(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    (folder / name / "manifest.json").write_text("{}")


def test_what_gets_further_may_fail_again_and_what_does_not_ends_at_the_third_time(tmp_path: Path) -> None:
    events: list[Event] = []

    def attempt(number: int) -> str:
        if number in (2, 5):
            commit(tmp_path, f"selection-0000{number}-00000008")
        raise WorkerError(f"lost for the {number}. time\nTraceback")

    with pytest.raises(WorkerError, match=r"lost for the 8\. time") as caught:
        repeat(attempt, str(tmp_path), 3, events.append)
    assert caught.value.__notes__ == ["Attempt 8, the last of 3 that brought the training no further."]
    assert len(events) == 7
    assert events[0] == Warned(
        "Attempt 1 of the training failed and is followed by another, from the start: lost for the 1. time"
    )
    assert "from its checkpoint in the selection at epoch 5 after 8 batches: lost for the 6. time" in str(events[5])


def test_without_checkpoints_no_attempt_gets_further() -> None:
    numbers: list[int] = []

    def attempt(number: int) -> str:
        numbers.append(number)
        if number < 3:
            raise WorkerError("lost")
        return "done"

    assert repeat(attempt, None, 3, lambda event: None) == "done"
    assert numbers == [1, 2, 3]


def test_what_a_user_must_mend_is_never_tried_again() -> None:
    numbers: list[int] = []

    def attempt(number: int) -> str:
        numbers.append(number)
        raise InputError("no such class")

    with pytest.raises(InputError, match="no such class"):
        repeat(attempt, None, 3, lambda event: None)
    assert numbers == [1]


def test_no_epoch_is_told_twice() -> None:
    told: list[Event] = []
    emit = TellOnce(told.append)
    epochs = [EpochEnded(epoch, 5, 0.1, []) for epoch in (1, 2, 3, 2, 3, 4)]
    for event in epochs:
        emit(event)
    emit(Warned("x"))
    assert told == [*epochs[:3], epochs[-1], Warned("x")]


@pytest.mark.connect
def test_a_folder_that_workers_do_not_share_is_refused(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_shared(spark, str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    # As on a driver whose disk is its own: what it writes is not there for the workers.
    monkeypatch.setattr(attempts.storage, "write_bytes", lambda uri, data: None)
    with pytest.raises(StorageError, match=r"one that driver and workers share; .* a worker on .* does not find there"):
        check_shared(spark, str(tmp_path))
