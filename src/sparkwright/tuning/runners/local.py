"""Trials in this process, one after the other, without Spark."""

from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

from sparkwright import storage
from sparkwright.data.local import column_names, to_arrow
from sparkwright.tuning.costs import count_parameters
from sparkwright.tuning.runners._base import Runner
from sparkwright.tuning.setup import Setup
from sparkwright.tuning.trial_rows import read_local
from sparkwright.tuning.trial_task import TRIALS, TrialSetting, train_trials
from sparkwright.tuning.trials import Assignment, Measurement

if TYPE_CHECKING:
    from sparkwright.data.local import LocalTable

__all__ = ["LocalRunner"]


class LocalRunner(Runner):
    """Trains in this process.

    Args:
        table: As `fit_table` takes it; rows of the test side are left alone.
        setup: What trains on what.
        folder: Of the search in the run, a path or URI; paused trials are kept there.

    Attributes:
        population: What the rows are together, with the first fold's sides.

    Raises:
        ColumnError: A column is missing or of another type; rows that cannot be trained on.
        InputError: Nothing validates; too few rows.
    """

    slots = 1

    def __init__(self, table: "LocalTable", setup: Setup, folder: str) -> None:
        types = to_arrow(table, setup.columns.names).schema
        plan, self._subject = setup.plan(types, column_names(table))
        self._rows = read_local(table, plan, self._subject.reader)
        self.population = self._rows.population
        self.together = setup.heads_together(self.population, self._subject)
        trials = storage.join(storage.to_uri(folder), TRIALS)
        self._setting = TrialSetting(setup.base, trials, tuple(setup.costs), shared=self.together > 1)
        self._lock = Lock()  # the number of torch's threads is the process's
        self._over = Event()

    def run(self, assignments: Sequence[Assignment]) -> list[Measurement]:
        with self._lock:
            if self._over.is_set():
                raise CancelledError("The search is over.")
            return train_trials(assignments, self._rows, self._setting, self._subject, self._over)

    def parameters(self, values: Mapping[str, Any]) -> int:
        with self._lock:  # a network is made of the random numbers that a training's dropout draws from, too
            return count_parameters(self._setting.config(values), self.population, self._subject)

    def drop(self, trial: int) -> None:
        self._setting.drop(trial)

    def close(self) -> None:
        """End the job that trains, after its epoch; wait for it, as it keeps its trials in the search's folder."""
        self._over.set()
        with self._lock:
            pass
