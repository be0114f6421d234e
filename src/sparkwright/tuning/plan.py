"""What a search does next, and what it makes of a result: decisions alone, without threads, files or clocks.

Decisions follow from the results that were taken, in the order in which they were, and from nothing else.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sparkwright.errors import ErrorRateError, InputError
from sparkwright.events import Emit, TrialEnded, TrialMeasured, TrialStarted
from sparkwright.tuning.config import TuningConfig
from sparkwright.tuning.halving import Halving
from sparkwright.tuning.records import BEGIN_ANEW, Records, Result
from sparkwright.tuning.study import Study
from sparkwright.tuning.trials import Assignment, Job, Measurement, Trial

if TYPE_CHECKING:
    from sparkwright.tuning.trials import State

__all__ = ["Plan"]

_JUDGED_FROM = 10  # trials; before, failures end nothing
_REFUSED_IN_A_ROW = 100


class Plan:
    """The trials of a search and who of them goes on.

    Args:
        config: How is searched.
        parameters: From a trial's values to its number of weights; raises `InputError` for what cannot be trained.
        records: Where proposals are kept, and come from again.
        emit: What takes the events.

    Attributes:
        trials: All so far, by number.
        study: What proposes them.
    """

    def __init__(
        self, config: TuningConfig, parameters: Callable[[Mapping[str, Any]], int], records: Records, emit: Emit
    ) -> None:
        base = config.base
        self.trials: list[Trial] = []
        self.study = Study(
            config.searched,
            config.sampler,
            config.directions,
            seed=base.seed,
            limits=config.limits,
            first=config.searched.values_of(base),
        )
        self._config = config
        self._direction = config.direction
        self._halving = Halving(base.epochs, config.first_rung, config.eta, config.direction)
        self._parameters = parameters
        self._records = records
        self._emit = emit
        self._waiting: list[Assignment] = []  # of trials that go on, for a job
        self._working: list[Assignment] = []
        self._seconds = 0.0
        self._no_more = False  # trials may start

    def decide(self, together: int) -> list[Assignment]:
        """Return the next job: up to `together` assignments of one length and fold; none if there is none for now."""
        limit = self._config.time_limit_s
        if limit is not None and self._seconds >= limit:
            return []
        first = self._next(None)
        if first is None and not self._working and (last := self._halving.last_promotion()):
            self._send(*last)
            first = self._next(None)
        job = [] if first is None else [first]
        while job and len(job) < together and (more := self._next(first)):
            job.append(more)
        self._working += job
        return job

    def take(self, result: Result) -> None:
        """Take what a job gave.

        Raises:
            ErrorRateError: More than half of at least ten trials have failed.
        """
        self._seconds = max(self._seconds, result.seconds)
        for measurement, attempts in zip(result.measurements, result.attempts, strict=True):
            done = (measurement.trial, measurement.fold)
            self._working = [each for each in self._working if (each.trial, each.fold) != done]
            self._add(measurement, attempts, result.until)
        self._check_failures()

    def finish(self) -> None:
        """End the trials that are paused: nobody goes on."""
        for trial in self.trials:
            if trial.state == "paused":
                epoch, place, of = self._halving.place(trial.number)
                self._end(trial, "stopped", f"place {place} of {of} at epoch {epoch}")
            elif trial.state == "running":
                self._end(trial, "stopped", "the limit of the search was reached before it went on")

    def seconds_left(self, seconds: float) -> float | None:
        """Return about how long the search takes from now on, `seconds` after its beginning; None if nothing tells."""
        done = sum(trial.epochs for trial in self.trials)
        if not done:
            return None
        trials = len(self.trials) if self._no_more else self._config.trials
        wanted = min(trials * self._folds * self._halving.epochs, self._config.max_epochs or math.inf)
        left = seconds * max(0.0, wanted / done - 1)
        limit = self._config.time_limit_s
        return left if limit is None else min(left, max(0.0, limit - seconds))

    # What comes next

    def _epochs_left(self) -> float:
        """Return what trials may still train beyond what they have trained or are about to."""
        if self._config.max_epochs is None:
            return math.inf
        reached = {(trial.number, fold.fold): fold.epoch for trial in self.trials for fold in trial.folds}
        planned = [each.until - reached.get((each.trial, each.fold), 0) for each in [*self._waiting, *self._working]]
        return self._config.max_epochs - sum(reached.values()) - sum(planned)

    def _next(self, like: Assignment | None) -> Assignment | None:
        """Return the next assignment, of `like`'s length and fold if there is one to be like."""
        while True:
            fitting = [each for each in self._waiting if like is None or _together(each, like)]
            if fitting:
                self._waiting.remove(fitting[0])
                return fitting[0]
            if like is not None and like.fold > 0:  # what goes on or starts does so with all its folds
                return None
            most = self._epochs_left() / self._folds
            until = None if like is None else like.until
            may_start = self._may_start()
            promotion = self._halving.promotion(until, most, sparing=may_start)
            if promotion is not None:
                self._send(*promotion)
            elif until not in (None, self._halving.rungs[0]) or not may_start:
                return None
            else:
                self._start()  # or nobody starts any more, and all that are among the best go on

    def _send(self, number: int, until: int) -> None:
        """Let a trial go on until an epoch, on all folds that have not ended."""
        trial = self.trials[number]
        trial.state = "running"
        ended = {fold.fold for fold in trial.folds if fold.ended}
        epochs, costs = self._config.base.epochs, not trial.rungs
        self._waiting += [
            Assignment(number, trial.values, until, epochs, fold, costs=costs, limit_s=self._time_left(trial, fold))
            for fold in range(self._folds)
            if fold not in ended
        ]

    def _time_left(self, trial: Trial, fold: int) -> float | None:
        """Return for how many seconds more a trial may train on a fold."""
        limit = self._config.trial_time_limit_s
        if limit is None:
            return None
        return limit - sum(epoch.seconds for each in trial.folds if each.fold == fold for epoch in each.history)

    def _start(self) -> None:
        """Start a trial, if one may start and there is a configuration left."""
        refused = ""
        for _ in range(_REFUSED_IN_A_ROW):
            if not self._may_start():
                return
            number = len(self.trials)
            asked = self.study.ask(number, self.trials, self._records.asked.get(number))
            if asked is None:
                self._no_more = True
                return
            self._records.keep_asked(asked)
            trial = Trial(number, asked.values)
            self.trials.append(trial)
            self._emit(TrialStarted(number, asked.values))
            refused = self._refusal(trial)
            if not refused:
                self._send(number, self._halving.rungs[0])
                return
            self._end(trial, "rejected", refused)
        self._no_more = True
        if all(trial.state == "rejected" for trial in self.trials):
            raise InputError(
                f"None of {_REFUSED_IN_A_ROW} configurations of the space can be trained. The last one: {refused} "
                "Narrow the space, or raise the limits."
            )

    def _may_start(self) -> bool:
        """Whether one trial more may start, and one be trained to its end with the epochs that are left."""
        tried = sum(trial.state != "rejected" or bool(trial.folds) for trial in self.trials)
        length = self._config.base.epochs * self._folds
        return not self._no_more and tried < self._config.trials and self._epochs_left() >= length

    def _refusal(self, trial: Trial) -> str:
        """Return why a trial is not trained."""
        try:
            trial.metrics["parameters"] = float(self._parameters(trial.values))
        except InputError as error:
            return str(error)
        return self._excess(trial)

    def _excess(self, trial: Trial) -> str:
        """Return which limit a trial exceeds."""
        for name, most in self.study.limits.items():
            if trial.metrics.get(name, 0) > most:
                return f"`{name}` is {trial.metrics[name]:g}; it may be {most:g} at most."
        return ""

    # What has come of it

    def _add(self, measurement: Measurement, attempts: int, until: int) -> None:
        trial = self.trials[measurement.trial]
        trial.attempts += attempts
        trial.seconds += measurement.seconds
        if measurement.stopped:
            trial.jobs.append(Job(measurement.fold, until, measurement.where, measurement.started, measurement.stopped))
        if trial.state == "failed":  # on another fold
            return
        if measurement.failure:
            self._fail(trial, measurement.failure)
            return
        others = [fold for fold in trial.folds if fold.fold != measurement.fold]
        trial.folds = sorted([*others, measurement], key=lambda fold: fold.fold)
        busy = any(each.trial == trial.number for each in [*self._waiting, *self._working])
        if not busy:
            self._measure(trial, until)

    def _measure(self, trial: Trial, epoch: int) -> None:
        """Compare a trial that has come to a rung on all folds."""
        names = set.intersection(*({*fold.values} for fold in trial.folds))
        trial.metrics |= {name: fmean(fold.values[name] for fold in trial.folds) for name in sorted(names)}
        missing = [name for name in self.study.objectives if not math.isfinite(trial.metrics.get(name, math.nan))]
        if missing:
            self._fail(trial, f"`{missing[0]}` is {trial.metrics.get(missing[0], 'not measured')}")
            return
        value = trial.value = trial.metrics[next(iter(self.study.objectives))]
        trial.rungs[epoch] = value
        epochs = sum(each.epochs for each in self.trials)
        self._emit(TrialMeasured(trial.number, epoch, value, self._best(), self._seconds, epochs))
        if excess := self._excess(trial):
            self._halving.forget(trial.number)
            self._end(trial, "rejected", excess)
            return
        ended = epoch == self._config.base.epochs or all(fold.ended for fold in trial.folds)
        self._halving.note(trial.number, epoch, value, ended=ended)
        if ended:
            self._end(trial, "complete")
        else:
            trial.state = "paused"

    def _best(self) -> float:
        better = min if self._direction == "min" else max
        return better(trial.value for trial in self.trials if trial.value is not None)

    def _fail(self, trial: Trial, reason: str) -> None:
        self._halving.forget(trial.number)
        self._waiting = [each for each in self._waiting if each.trial != trial.number]
        self._end(trial, "failed", reason)

    def _end(self, trial: Trial, state: "State", reason: str = "") -> None:
        trial.state, trial.reason = state, reason
        self._emit(TrialEnded(trial.number, state, trial.value, reason, dict(trial.metrics)))

    def _check_failures(self) -> None:
        failed = [trial for trial in self.trials if trial.state == "failed"]
        known = len(failed) + sum(trial.value is not None and trial.state != "failed" for trial in self.trials)
        if known < _JUDGED_FROM or 2 * len(failed) <= known:
            return
        reasons = Counter(trial.reason.splitlines()[0] for trial in failed)
        listed = "".join(f"\n- {reason} ({count})" for reason, count in reasons.most_common(5))
        raise ErrorRateError(
            f"{len(failed)} of {known} trials failed, which is more than half of them, so the search stops. "
            f"Why:{listed}\nLeave out of the space what cannot be trained, or give trials what they lack. Going on "
            f"would end here again, so {BEGIN_ANEW}"
        )

    @property
    def _folds(self) -> int:
        return self._config.folds or 1


def _together(one: Assignment, other: Assignment) -> bool:
    return (one.until, one.fold) == (other.until, other.fold)
