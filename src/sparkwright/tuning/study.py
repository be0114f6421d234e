"""Where a search's configurations come from: Optuna's samplers, asked one configuration at a time.

What a sampler knows is made for each ask: a study in memory with what has come of the trials until then, and a sampler
with a seed of its own, derived from the search's and the trial's number. So nothing but the trials is state, and a
search that goes on after its driver died asks as it would have asked.

Trials are known to a sampler by what they had reached at one and the same rung, the highest to which enough of them
have come; those that have not are not shown. (Shown with what each has reached so far, those that went on first look
like the best whatever comes later, because they have trained longer, and a sampler stays where they are.) Source:
Falkner et al. 2018, *BOHB*, section 3.3. A trial that failed or was refused is shown as one without a value.

Optuna is loaded on first use.
"""

import contextlib
import importlib.util
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sparkwright.errors import EnvironmentNotReadyError, InputError
from sparkwright.tuning.space import Space
from sparkwright.tuning.trials import Trial

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

__all__ = ["Asked", "Study", "pareto_front", "quiet"]

Direction = Literal["min", "max"]

_DRAWS = 100  # at random for a configuration that was not tried yet
_MORE = 2  # trials than the space has dimensions are enough to learn from


@dataclass(frozen=True)
class Asked:
    """A configuration that a sampler proposes.

    Attributes:
        number: The trial's.
        parameters: As Optuna keeps them.
        values: As the training takes them.
    """

    number: int
    parameters: dict[str, Any]
    values: dict[str, Any]


@dataclass(frozen=True)
class _Drawn:
    """What Optuna must see again of a trial."""

    parameters: dict[str, Any] = field(default_factory=dict)
    distributions: "dict[str, BaseDistribution]" = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


class Study:
    """Proposes the configurations of a search; runs on the driver.

    Args:
        space: What is searched.
        sampler: ``"tpe"``, ``"random"``, ``"grid"`` (each configuration of `Space.grid` once, shuffled), ``"cmaes"``,
            ``"gp"``, or a sampler of Optuna, which keeps its own state and seed.
        objectives: Name → whether less (``"min"``) or more (``"max"``) is better; the first is what trials are compared
            by.
        seed: Of all that is drawn.
        limits: Metric → what it may be at most.
        first: Values of the first trial, such as the defaults; None: drawn as all others.

    Raises:
        InputError: A sampler that takes one objective only, with several.
        EnvironmentNotReadyError: A package that the sampler needs is missing.
    """

    def __init__(
        self,
        space: Space,
        sampler: "str | BaseSampler",
        objectives: Mapping[str, Direction],
        *,
        seed: int = 0,
        limits: Mapping[str, float] | None = None,
        first: dict[str, Any] | None = None,
    ) -> None:
        self.space = space
        self.objectives = dict(objectives)
        self.limits = dict(limits or {})
        self._sampler = sampler
        self._seed = seed
        self._drawn: dict[int, _Drawn] = {}
        self._tried: set[str] = set()
        self._grid: list[dict[str, Any]] | None = None
        self._first = None if sampler == "grid" or first is None else space.parameters(first)
        if sampler == "grid":
            self._grid = space.grid()
            random.Random(seed).shuffle(self._grid)
        if sampler == "cmaes":
            _check_cmaes(len(objectives))

    def ask(self, number: int, trials: Sequence[Trial], known: Asked | None = None) -> Asked | None:
        """Return the configuration of a trial; None if all that the space holds were tried.

        Args:
            number: The trial's: that of all before it, plus one.
            trials: All before it, in order, as they are now.
            known: What was proposed for it before the driver died, so that it need not be drawn again.
        """
        if known is not None and not self._has_memory:
            return self._note(number, self._fixed(known.parameters), known.values)
        if self._grid is not None:
            return self._next_of(self._grid, number)
        with quiet():
            study = self._study(number, trials)
            if known is None:
                return self._fresh(number, study)
            drawn, _ = self._draw(study)  # what such a sampler keeps of a trial comes of being asked
            return self._note(number, self._fixed(known.parameters, drawn.notes), known.values)

    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """Return Optuna's word for the direction of each objective."""
        return ["minimize" if direction == "min" else "maximize" for direction in self.objectives.values()]

    def constraints(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return by how much of each limit a trial exceeds it, below 0 if it does not, as Optuna has it."""
        return {name: metrics[name] / most - 1 for name, most in self.limits.items() if name in metrics}

    @property
    def _has_memory(self) -> bool:
        return self._sampler == "cmaes" or not isinstance(self._sampler, str)

    def _next_of(self, grid: list[dict[str, Any]], number: int) -> Asked | None:
        if number >= len(grid):
            return None
        return self._note(number, self._fixed(self.space.parameters(grid[number])), grid[number])

    def _fresh(self, number: int, study: "optuna.Study") -> Asked | None:
        """Draw a configuration that no trial had."""
        from optuna.samplers import RandomSampler

        if number == 0 and self._first is not None:
            study.enqueue_trial(self._first)
        drawn, values = self._draw(study)
        if _key(drawn) in self._tried:
            study.sampler = RandomSampler(seed=self._derived(number, 1))
            for _ in range(_DRAWS):
                drawn, values = self._draw(study)
                if _key(drawn) not in self._tried:
                    break
            else:
                return None
        return self._note(number, drawn, values)

    def _draw(self, study: "optuna.Study") -> tuple[_Drawn, dict[str, Any]]:
        trial = study.ask()
        values = self.space.suggest(trial)
        notes = study.get_trials(deepcopy=False)[-1].system_attrs
        return _Drawn(trial.params, trial.distributions, dict(notes)), values

    def _fixed(self, parameters: dict[str, Any], notes: dict[str, Any] | None = None) -> _Drawn:
        every = self.space.distributions()
        return _Drawn(parameters, {name: every[name] for name in parameters}, notes or {})

    def _note(self, number: int, drawn: _Drawn, values: dict[str, Any]) -> Asked:
        self._drawn[number] = drawn
        self._tried.add(_key(drawn))
        return Asked(number, drawn.parameters, values)

    def _study(self, number: int, trials: Sequence[Trial]) -> "optuna.Study":
        """Return a study that knows what has come of the trials so far."""
        import optuna

        study = optuna.create_study(directions=self.directions(), sampler=self._made(number))
        rung = self._rung(trials)
        seen = [self._seen(trial, rung) for trial in trials]
        study.add_trials([trial for trial in seen if trial is not None])
        return study

    def _rung(self, trials: Sequence[Trial]) -> int | None:
        """Return the epoch at which trials are shown; None for as far as each has come."""
        if self._has_memory:  # such a sampler waits for every one that it proposed
            return None
        counts = Counter(epoch for trial in trials for epoch in trial.rungs)
        needed = len(self.space.distributions()) + _MORE
        enough = [epoch for epoch, count in counts.items() if count >= needed]
        return max(enough, default=min(counts, default=None))

    def _made(self, number: int) -> "BaseSampler":
        """Return the sampler of one ask."""
        from optuna import samplers

        if not isinstance(self._sampler, str):
            return self._sampler
        seed = self._derived(number, 0)
        if self._sampler == "tpe":
            return samplers.TPESampler(seed=seed)
        if self._sampler == "cmaes":
            return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
        if self._sampler == "gp":
            return samplers.GPSampler(seed=seed)
        return samplers.RandomSampler(seed=seed)

    def _derived(self, *parts: int) -> int:
        """Return a seed of 32 bits, which is what numpy's older generators take."""
        return int(np.random.SeedSequence([self._seed, *parts]).generate_state(1)[0])

    def _seen(self, trial: Trial, rung: int | None) -> "FrozenTrial | None":
        """Return a trial as the sampler is to see it; None for one that is measured, and has not come to the rung."""
        from optuna.trial import TrialState, create_trial

        drawn = self._drawn[trial.number]
        values = [trial.metrics.get(name, math.nan) for name in self.objectives]
        measured = trial.state != "failed" and all(math.isfinite(value) for value in values)
        if measured and rung is not None:
            if rung not in trial.rungs and trial.state not in ("complete", "rejected"):
                return None
            values[0] = trial.rungs.get(rung, values[0])
        waiting = trial.state == "running" and not measured
        state = TrialState.COMPLETE if measured else TrialState.RUNNING if waiting else TrialState.PRUNED
        return create_trial(
            state=state,
            values=values if measured else None,
            params=drawn.parameters,
            distributions=drawn.distributions,
            system_attrs=dict(drawn.notes),
            constraints=self.constraints(trial.metrics),
        )


def pareto_front(trials: Sequence[Trial], objectives: Mapping[str, Direction]) -> list[Trial]:
    """Return the trials that no other beats in every objective, of those that are trained to their end.

    With one objective that is the best; of equal trials all, in the order of their numbers.
    """
    signs = [1 if direction == "min" else -1 for direction in objectives.values()]

    def figures(trial: Trial) -> list[float]:
        return [sign * trial.metrics[name] for sign, name in zip(signs, objectives, strict=True)]

    ended = [trial for trial in trials if trial.state == "complete"]
    found = [(trial, figures(trial)) for trial in ended]
    return [trial for trial, own in found if not any(_beats(other, own) for _, other in found)]


def _beats(other: list[float], own: list[float]) -> bool:
    """Whether one is at least as good in all, and better in one."""
    return other != own and all(theirs <= mine for theirs, mine in zip(other, own, strict=True))


def _key(drawn: _Drawn) -> str:
    return repr(sorted(drawn.parameters.items()))


def _check_cmaes(objectives: int) -> None:
    if objectives > 1:
        raise InputError('`sampler="cmaes"` takes one of `objectives`; choose "tpe", "gp" or "random" for several.')
    if importlib.util.find_spec("cmaes") is None:
        raise EnvironmentNotReadyError(
            "`sampler=\"cmaes\"` needs another package. Install it: pip install 'sparkwright[cmaes]'"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from telling the terminal of every study that is made."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
