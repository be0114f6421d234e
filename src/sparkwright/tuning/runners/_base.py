"""What a runner is: it does the assignments of a search, and says nothing of which come next."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from sparkwright.training.rows.population import Population
from sparkwright.tuning.trials import Assignment, Measurement

__all__ = ["Runner"]


class Runner(ABC):
    """Trains trials of one search on one set of rows; runs on the driver, or without Spark in this process.

    What an assignment measures depends on its trial's values, the rows and the seed; never on which runner did it, on
    which worker, how many at a time, or how often it was tried.

    Attributes:
        population: What the search's rows are together.
        slots: Jobs that run at a time; more wait.
        together: Assignments that one job takes, at most; their heads then train in one process, over one stream of
            batches.
    """

    population: Population
    slots: int
    together: int = 1

    @abstractmethod
    def run(self, assignments: Sequence[Assignment]) -> list[Measurement]:
        """Do the assignments, at most `together` of them, as one job; return what each measured, in their order.

        Blocks; called from several threads at a time, at most `slots` of them. What is a trial's own fault (a loss that
        is not finite, too little memory, a configuration that cannot be used) is the `failure` of its measurement.

        Raises:
            WorkerError: The worker or its machine was lost; the same assignments may be tried again, and go on from
                where their trials were last kept.
            CancelledError: The runner was closed meanwhile.
        """

    @abstractmethod
    def parameters(self, values: Mapping[str, Any]) -> int:
        """Return how many weights the network of a trial of these values has, without training it.

        Raises:
            InputError: They are no configuration.
        """

    @abstractmethod
    def drop(self, trial: int) -> None:
        """Forget where a trial was paused: it will not go on. Safe to repeat."""

    @abstractmethod
    def close(self) -> None:
        """End what is at work and free what it holds; what a search needs to be resumed stays in the run's folder."""
