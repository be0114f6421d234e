"""A job whose worker is lost is tried again, and nothing of that is lost silently."""

import dataclasses
from collections.abc import Callable, Sequence

from sparkwright.errors import WorkerError
from sparkwright.events import Emit, Warned
from sparkwright.tuning.trials import Assignment, Measurement

__all__ = ["ATTEMPTS", "Tried", "is_lost", "try_job"]

ATTEMPTS = 3
"""How often an assignment is tried whose worker is lost."""

Tried = list[tuple[Measurement, int]]
"""What came of the assignments of a job, with the number of attempts at each."""


def try_job(run: Callable[[Sequence[Assignment]], list[Measurement]], job: Sequence[Assignment], emit: Emit) -> Tried:
    """Run a job. If its worker is lost, run each of its assignments alone: one of them may be why.

    An assignment that loses all its workers has a measurement that says so (`is_lost`).

    Args:
        run: As `Runner.run`.
        job: What to do.
        emit: Is warned of each worker that is lost.
    """
    if len(job) == 1:
        return [_try_alone(run, job[0], 1, emit)]
    try:
        return [(measurement, 1) for measurement in run(job)]
    except WorkerError as error:
        _warn(job, error, emit)
    return [_try_alone(run, assignment, 2, emit) for assignment in job]


def is_lost(measurement: Measurement) -> bool:
    """Whether it stands for nothing but lost workers, which may be no fault of the trial."""
    return measurement.failure.startswith(WorkerError.__name__)


def _try_alone(
    run: Callable[[Sequence[Assignment]], list[Measurement]], assignment: Assignment, first: int, emit: Emit
) -> tuple[Measurement, int]:
    lost = ""
    for attempt in range(first, ATTEMPTS + 1):
        try:
            [measurement] = run([dataclasses.replace(assignment, attempt=attempt)])
        except WorkerError as error:
            _warn([assignment], error, emit)
            lost = _first_line(error)
        else:
            return measurement, attempt
    return Measurement(assignment.trial, assignment.fold, failure=f"{WorkerError.__name__}: {lost}"), ATTEMPTS


def _warn(job: Sequence[Assignment], error: WorkerError, emit: Emit) -> None:
    numbers = ", ".join(dict.fromkeys(str(assignment.trial) for assignment in job))
    emit(Warned(f"A job of the search (trial {numbers}) lost its worker: {_first_line(error)}"))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
