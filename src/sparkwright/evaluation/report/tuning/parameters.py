"""The parameters of a search: what was tried of each, and the axis that shows it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparkwright.evaluation.report.axes import Axis, Categories, short
from sparkwright.evaluation.report.tuning.frame import Tick, cut
from sparkwright.evaluation.report.tuning.record import SearchRecord, TrialRecord, is_number, shown

__all__ = ["Parameter", "common", "constants", "parameters_of", "written"]

_FEW = 8  # whole numbers that lie so near each other are drawn as categories
_SPREAD, _WIDEST = 0.5, 120  # share of a category's band, and pixels of a band, over which points are spread
_LOG_SPAN = 50  # numbers above 0 that span more stand on a logarithmic axis, where the space says nothing of it


@dataclass(frozen=True)
class Parameter:
    """A parameter that differs between trials: a number from `low` to `high`, or one of `categories`.

    `bounded` tells whether `low` and `high` are the space's own limits and not only what was tried.
    """

    name: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    categories: tuple[str, ...] = ()
    whole: bool = False
    bounded: bool = False

    def of(self, trial: TrialRecord) -> Any:
        """Return a trial's value as the axis takes it: a number, or a category; None where the trial has none."""
        if self.name not in trial.values:
            return None
        value = trial.values[self.name]
        if self.categories:
            return shown(value)
        return float(value) if is_number(value) else None

    def axis(self, start: float, end: float) -> Axis | Categories:
        """Return an axis of the parameter."""
        if self.categories:
            return Categories(self.categories, start, end)
        return Axis(self.low, self.high, start, end, self.log)

    def ticks(self, axis: Axis | Categories, about: int = 5, letters: int = 14) -> list[Tick]:
        """Return ticks of an axis; long names are cut."""
        if isinstance(axis, Categories):
            every = -(-len(axis.names) // 14)  # of many categories, some
            return [(axis(name), cut(name, letters)) for name in axis.names[::every]]
        return [(axis(value), short(value)) for value in axis.ticks(about) if not self.whole or value == int(value)]

    def place(self, axis: Axis | Categories, trial: TrialRecord) -> float:
        """Return where a trial's point stands, in pixels; in a category's band points lie apart."""
        value = self.of(trial)
        if not isinstance(axis, Categories):
            return axis(value)
        band = min(abs(axis.end - axis.start) / len(axis.names), _WIDEST)
        # Multiples of the golden ratio spread evenly, however many there are.
        return round(axis(value) + (trial.number * 0.618034 % 1 - 0.5) * _SPREAD * band, 1)

    def share(self, value: Any) -> float:
        """Return how far along its axis a value is, 0…1."""
        return self.axis(0, 1).share(value)


def parameters_of(search: SearchRecord) -> list[Parameter]:
    """Return the parameters that differ between trials, in the space's order."""
    found = [_parameter(search, name) for name in _names(search)]
    return [parameter for parameter in found if parameter is not None]


def written(value: Any) -> str:
    """Write a value on a parameter's axis: a category as it is, a number with three digits that count."""
    if isinstance(value, str):
        return value
    if 0 < abs(value) < 1e-4:
        return short(float(f"{value:.3g}"))
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def common(parameter: Parameter, trials: Sequence[TrialRecord]) -> str:
    """Return what some trials have in common in one parameter: a range, or the values and how often each comes."""
    values = [value for value in map(parameter.of, trials) if value is not None]
    absent = f"absent ({len(trials) - len(values)})" if len(values) < len(trials) else ""
    if parameter.categories:
        most = Counter(values).most_common()
        listed = [f"{name} ({count})" for name, count in most[:3]] + (
            [f"{len(most) - 3} more"] if len(most) > 3 else []
        )
        return ", ".join([*listed, *([absent] if absent else [])])
    if not values:
        return "absent"
    low, high = written(min(values)), written(max(values))
    return (low if low == high else f"{low} to {high}") + (f", {absent}" if absent else "")


def constants(search: SearchRecord) -> dict[str, str]:
    """Return parameters that were the same in all trials, as text."""
    varied = {parameter.name for parameter in parameters_of(search)}
    values = {name: value for trial in search.trials for name, value in trial.values.items()}
    return {name: shown(value) for name, value in values.items() if name not in varied}


def _names(search: SearchRecord) -> list[str]:
    names = dict.fromkeys(name for trial in search.trials for name in trial.values)
    return [name for name in search.space if name in names] + [name for name in names if name not in search.space]


def _parameter(search: SearchRecord, name: str) -> Parameter | None:
    values = [trial.values[name] for trial in search.trials if name in trial.values]
    values = [value for value in values if value == value]  # NaN is no value
    if len({shown(value) for value in values}) + (len(values) < len(search.trials)) < 2:
        return None
    info = search.space.get(name, {})
    choices = info.get("choices")
    if choices is None and all(is_number(value) for value in values) and len(set(values)) > 1:
        low, high = min(values), max(values)
        if is_number(info.get("low")) and is_number(info.get("high")):
            low, high = min(low, info["low"]), max(high, info["high"])
        whole = all(isinstance(value, int) for value in values)
        if whole and high - low <= _FEW:
            return Parameter(name, categories=tuple(str(value) for value in range(low, high + 1)))
        log = bool(info.get("log", low > 0 and high / low > _LOG_SPAN)) and low > 0
        return Parameter(name, float(low), float(high), log, whole=whole, bounded="low" in info)
    return Parameter(name, categories=_categories(values, choices))


def _categories(values: Sequence[Any], choices: Sequence[Any] | None) -> tuple[str, ...]:
    """Return all that were offered or tried, numbers by size."""
    every = [*(choices or ()), *values]
    if all(is_number(value) for value in every) or not choices:
        every.sort(key=lambda value: (not is_number(value), value if is_number(value) else 0, shown(value)))
    return tuple(dict.fromkeys(map(shown, every)))
