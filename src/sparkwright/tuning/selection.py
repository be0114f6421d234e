"""Which configuration a search gives: the best few are trained again with other seeds, and mean and spread decide.

The best trial of a search is lucky as well as good: of many noisy figures it is the highest. So the best few are
trained again, each with the same seeds, none of which is the search's. The rule: **the highest mean minus its standard
error wins** (of a metric to minimise the lowest mean plus it); among equals the one with fewer parameters, then the
one that was tried earlier. A candidate that fails with any seed is not chosen.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from math import sqrt
from statistics import fmean, stdev
from typing import Any, Literal

from sparkwright.errors import InputError
from sparkwright.evaluation.metrics import wilson_interval
from sparkwright.tuning.trials import Assignment, Measurement, Trial

__all__ = ["Candidate", "best_trials", "choose", "optimism", "retrain"]

Direction = Literal["min", "max"]


@dataclass(frozen=True)
class Candidate:
    """One of the best configurations, trained again.

    Attributes:
        trial: Its number in the search.
        values: What it sets.
        searched: Its figure in the search.
        scores: Its figure with each of the other seeds; of several folds their mean.
        epochs: The best epoch of each of those trainings; of several folds their mean.
        metrics: Metric → mean over the seeds.
        parameters: Weights of its network.
        failure: Why it failed with one of the seeds.
    """

    trial: int
    values: dict[str, Any]
    searched: float | None = None
    scores: tuple[float, ...] = ()
    epochs: tuple[int, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    parameters: int = 0
    failure: str = ""

    @property
    def mean(self) -> float:
        """Of the scores."""
        return fmean(self.scores)

    @property
    def spread(self) -> float:
        """Standard deviation of the scores; 0 of a single one."""
        return stdev(self.scores) if len(self.scores) > 1 else 0.0

    def cautious(self, direction: Direction) -> float:
        """Return what is compared: the mean, worse by its standard error."""
        error = self.spread / sqrt(len(self.scores))
        return self.mean - error if direction == "max" else self.mean + error

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        figures = {"mean": self.mean, "spread": self.spread} if self.scores else {}
        return asdict(self) | {"scores": list(self.scores), "epochs": list(self.epochs)} | figures


def best_trials(trials: Sequence[Trial], direction: Direction, count: int) -> list[Trial]:
    """Return the best trials that are trained to their end, each configuration once, the best first.

    Where none is, because the search was stopped early, those that got furthest are compared.
    """


def retrain(
    trials: Sequence[Trial],
    seeds: Sequence[int],
    folds: int,
    epochs: int,
    run: Callable[[Sequence[Assignment]], list[Measurement]],
) -> list[Candidate]:
    """Train trials again, to their end, with each of the seeds."""


def choose(candidates: Sequence[Candidate], direction: Direction) -> Candidate:
    """Return the candidate that the rule of this module takes.

    Raises:
        InputError: All of them failed; with the reasons.
    """


def optimism(validation: float, rows: int, test: float, test_rows: int) -> dict[str, Any]:
    """Return by how much a share of right validation rows was higher than that of the test rows, with a 95 % interval."""
