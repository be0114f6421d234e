"""What one setting may be in a search: a range, choices, or one value, always or under a condition."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Integral
from typing import TYPE_CHECKING, Any

from sparkwright.training.settings import is_number

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

__all__ = ["Choice", "Dimension", "Fixed", "Float", "Int", "plain"]

When = Mapping[str, Any] | None


@dataclass(frozen=True)
class _Range:
    """What `Float` and `Int` share."""

    low: Any
    high: Any
    log: bool = False
    step: Any = None
    when: When = None

    def problems(self) -> list[str]:
        """Return what is wrong, each in a sentence."""
        whole = isinstance(self, Int)
        wanted = "whole numbers" if whole else "numbers"
        numbers = [self.low, self.high, *([] if self.step is None else [self.step])]
        if wrong := [number for number in numbers if not (_is_whole(number) if whole else is_number(number))]:
            return [f"low, high and step must be {wanted}, not {', '.join(repr(number) for number in wrong)}."]
        problems = []
        if not isinstance(self.log, bool):
            problems.append(f"log must be true or false, not {self.log!r}.")
        if self.low > self.high:
            problems.append(f"low must be at most high, not {self.low!r} with high {self.high!r}.")
        if self.log and self.low <= 0:
            problems.append(f"low must be above 0 on a log scale, not {self.low!r}.")
        if self.step is not None and self.step <= 0:
            problems.append(f"step must be above 0, not {self.step!r}.")
        if self.log and self.step is not None:
            problems.append("log and step do not go together; leave one out.")
        return problems

    def ends(self) -> list[Any]:
        """Return the values to try before the search: if these can be used, so can those between them."""
        return [self.low, self._last]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        data: dict[str, Any] = {"type": type(self).__name__.lower(), "low": plain(self.low), "high": plain(self.high)}
        data |= {"log": True} if self.log else {}
        data |= {} if self.step is None else {"step": plain(self.step)}
        return data | _when_dict(self.when)

    def _at(self, index: int) -> Any:
        """Return low + index · step, in decimals: 0.3 and not 0.30000000000000004."""
        exact = Decimal(str(self.low)) + index * Decimal(str(self.step))
        return int(exact) if isinstance(self, Int) else float(exact)

    @property
    def _steps(self) -> int:
        return int((Decimal(str(self.high)) - Decimal(str(self.low))) / Decimal(str(self.step)))

    @property
    def _last(self) -> Any:
        """Return the highest value: `high`, or the last step up to it."""
        return self.high if self.step is None else self._at(self._steps)

    def _stepped(self, value: float) -> Any:
        if self.step is None:
            return value
        return self._at(round((value - self.low) / self.step))

    def _spread(self, points: int) -> list[float]:
        """Return `points` numbers from low to high, evenly, on the log scale if there is one."""
        low, high = (math.log(end) if self.log else end for end in (self.low, self._last))
        shares = [index / (points - 1) for index in range(points)] if points > 1 else [0.5]
        values = [low + share * (high - low) for share in shares]
        spread = [math.exp(value) for value in values] if self.log else values
        return [min(max(value, self.low), self._last) for value in spread]


@dataclass(frozen=True)
class Float(_Range):
    """A number between two others.

    Args:
        low: The least.
        high: The largest; with `step` the last step up to it.
        log: Whether the logarithm is what is spread evenly: for rates and penalties.
        step: Distance of the values from each other; None: any number.
        when: Name of another setting → the value, or the list of values, for which this one is searched; with several
            names all must hold. Elsewhere the setting is what the search's configuration says.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    when: When = None

    def suggest(self, trial: "optuna.Trial", key: str) -> float:
        """Return what a trial's sampler takes."""
        value = trial.suggest_float(key, float(self.low), float(self._last), step=self.step, log=self.log)
        return self.value_of(value)

    def distribution(self) -> "BaseDistribution":
        """Return what Optuna calls it."""
        from optuna.distributions import FloatDistribution

        return FloatDistribution(float(self.low), float(self._last), log=self.log, step=self.step)

    def value_of(self, parameter: Any) -> float:
        """Return the value for what Optuna keeps of it."""
        return float(self._stepped(parameter))

    def parameter_of(self, value: Any) -> float:
        """Return what Optuna keeps of a value.

        Raises:
            LookupError: It is none of these.
        """
        if is_number(value) and self.low <= value <= self._last and math.isclose(self._stepped(value), value):
            return float(value)
        raise LookupError(value)

    def grid(self, points: int) -> list[float]:
        """Return at most `points` values, from low to high; with a step all that it leads to, if they are so few."""
        if self.step is not None and self._steps < points:
            return [float(self._at(index)) for index in range(self._steps + 1)]
        return list(dict.fromkeys(float(self._stepped(value)) for value in self._spread(points)))


@dataclass(frozen=True)
class Int(_Range):
    """A whole number between two others, both of which it may be.

    Args:
        low: The least.
        high: The largest; with `step` the last step up to it.
        log: Whether the logarithm is what is spread evenly: for widths.
        step: Distance of the values from each other.
        when: As that of `Float`.
    """

    low: int
    high: int
    log: bool = False
    step: int | None = None
    when: When = None

    def suggest(self, trial: "optuna.Trial", key: str) -> int:
        """Return what a trial's sampler takes."""
        return trial.suggest_int(key, int(self.low), int(self._last), step=self.step or 1, log=self.log)

    def distribution(self) -> "BaseDistribution":
        """Return what Optuna calls it."""
        from optuna.distributions import IntDistribution

        return IntDistribution(int(self.low), int(self._last), log=self.log, step=self.step or 1)

    def value_of(self, parameter: Any) -> int:
        """Return the value for what Optuna keeps of it."""
        return int(parameter)

    def parameter_of(self, value: Any) -> int:
        """Return what Optuna keeps of a value.

        Raises:
            LookupError: It is none of these.
        """
        if _is_whole(value) and self.low <= value <= self._last and self._stepped(value) == value:
            return int(value)
        raise LookupError(value)

    def grid(self, points: int) -> list[int]:
        """Return at most `points` values, from low to high; all of them, if they are so few."""
        every = range(self.low, self._last + 1, self.step or 1)
        if len(every) <= points:
            return list(every)
        return list(dict.fromkeys(int(self._stepped(round(value))) for value in self._spread(points)))


@dataclass(frozen=True)
class Choice:
    """One of some values.

    Args:
        options: Text, numbers, true and false, None, and lists or mappings of these.
        when: As that of `Float`.
    """

    options: Sequence[Any]
    when: When = None

    def problems(self) -> list[str]:
        """Return what is wrong, each in a sentence."""
        if isinstance(self.options, str | Mapping) or not isinstance(self.options, Sequence):
            return [f"choices must be a list, not {self.options!r}."]
        if not self.options:
            return ["choices must name at least one value; the list is empty."]
        problems = [message for option in self.options for message in _data_problems(option)]
        labels = [] if problems else [label(option) for option in self.options]
        twice = [option for number, option in enumerate(labels) if option in labels[:number]]
        return problems + [f"choices must differ; {option!r} is there twice." for option in dict.fromkeys(twice)]

    def ends(self) -> list[Any]:
        """Return the values to try before the search."""
        return [plain(option) for option in self.options]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"choices": self.ends()} | _when_dict(self.when)

    def suggest(self, trial: "optuna.Trial", key: str) -> Any:
        """Return what a trial's sampler takes."""
        return self.value_of(trial.suggest_categorical(key, list(self._labels)))

    def distribution(self) -> "BaseDistribution":
        """Return what Optuna calls it: lists and mappings by their JSON."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(list(self._labels))

    def value_of(self, parameter: Any) -> Any:
        """Return the value for what Optuna keeps of it."""
        return self._labels[parameter]

    def parameter_of(self, value: Any) -> Any:
        """Return what Optuna keeps of a value.

        Raises:
            LookupError: It is none of these.
        """
        key = label(value)
        if key not in self._labels:
            raise LookupError(value)
        return key

    def grid(self, points: int) -> list[Any]:  # noqa: ARG002  ranges are cut to so many, choices never
        """Return all choices."""
        return self.ends()

    @property
    def _labels(self) -> dict[Any, Any]:
        return {label(option): option for option in self.ends()}


@dataclass(frozen=True)
class Fixed:
    """One value, for all trials or for those for which `when` holds.

    Args:
        value: As one of the options of `Choice`.
        when: As that of `Float`.
    """

    value: Any
    when: When = None

    def problems(self) -> list[str]:
        """Return what is wrong, each in a sentence."""
        return _data_problems(self.value)

    def ends(self) -> list[Any]:
        """Return the value."""
        return [plain(self.value)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"value": plain(self.value)} | _when_dict(self.when)

    def parameter_of(self, value: Any) -> None:
        """Return None: Optuna keeps nothing of it.

        Raises:
            LookupError: It is another value.
        """
        if label(value) != label(self.value):
            raise LookupError(value)

    def grid(self, points: int) -> list[Any]:  # noqa: ARG002  ranges are cut to so many
        """Return the value."""
        return self.ends()


Dimension = Float | Int | Choice | Fixed


def _when_dict(when: When) -> dict[str, Any]:
    return {} if when is None else {"when": plain(when)}


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def plain(value: Any) -> Any:
    """Return a value as JSON has it: tuples as lists, numbers of numpy as Python's."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value.item() if hasattr(value, "item") else value


def label(value: Any) -> bool | int | float | str | None:
    """Return what stands for a choice in Optuna's storage: itself, or the JSON of a list or mapping."""
    value = plain(value)
    return json.dumps(value, sort_keys=True) if isinstance(value, list | dict) else value


def _data_problems(value: Any) -> list[str]:
    """Return what in a value JSON cannot hold."""
    value = plain(value)
    if isinstance(value, dict):
        return [message for entry in value.values() for message in _data_problems(entry)]
    if isinstance(value, list):
        return [message for entry in value for message in _data_problems(entry)]
    if isinstance(value, float) and not math.isfinite(value):
        return [f"a value must be finite, not {value!r}."]
    if value is None or isinstance(value, bool | int | float | str):
        return []
    return [f"a value must be text, a number, true, false, None, or a list or mapping of these, not {value!r}."]
