"""The error against the learning rate by the network's size: how carefully the rate must be chosen."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sparkwright.evaluation.report.axes import Axis, short
from sparkwright.evaluation.report.charts import legend
from sparkwright.evaluation.report.markup import figure, section, text
from sparkwright.evaluation.report.tuning.frame import Frame, hover
from sparkwright.evaluation.report.tuning.parameters import Parameter, parameters_of
from sparkwright.evaluation.report.tuning.record import SearchRecord, TrialRecord

__all__ = ["sensitivity_section"]

_FEWEST = 3  # learning rates
_GROUPS = 3  # of network sizes
_BINS = 10  # of learning rates
_SHAPES = ("circle", "square", "triangle")


def sensitivity_section(search: SearchRecord) -> str:
    """Return the error against the learning rate, by the size of the network: how careful a choice must be."""
    rated = [trial for trial in search.scored if _rate(trial) is not None]
    parameter = next((each for each in parameters_of(search) if each.name == "learning_rate"), None)
    if parameter is None or parameter.categories or len({_rate(trial) for trial in rated}) < _FEWEST:
        return ""
    groups = _groups(rated)
    what = "error" if search.is_share else search.name
    keys = legend([(f"shape {_SHAPES[place]}", name) for place, name in enumerate(groups)])
    best = [f"{text(name)} {_rate(trials[0]):.2g}" for name, trials in groups.items()]
    note = (
        f"A point is a trial, a hollow one was stopped early; lines join the lowest {what} that trials near each rate "
        f"reached. Best rate: {'; '.join(best) if len(groups) > 1 else f'{_rate(rated[0]):.2g}'}. Where a line is "
        "flat, the rate hardly matters; where it is steep, it must be found."
    )
    title = f"{what.capitalize()} against learning rate{' by network size' if len(groups) > 1 else ''}"
    return section("sensitivity", title, figure(_picture(search, parameter, groups, what), keys), note=note)


def _picture(search: SearchRecord, parameter: Parameter, groups: Mapping[str, list[TrialRecord]], what: str) -> str:
    frame = Frame(width=1060, height=400, wide=True, left=64)
    errors = {trial.number: _error(search, trial.value or 0.0) for trials in groups.values() for trial in trials}
    x_axis, y_axis = parameter.axis(*frame.x), _error_axis(sorted(errors.values()), frame)
    y_ticks = [(y_axis(v), f"{100 * v:.3g} %" if search.is_share else short(v)) for v in y_axis.ticks(6)]
    x_label, y_label = (
        f"{name}{' (log)' if log else ''}" for name, log in (("learning rate", parameter.log), (what, y_axis.log))
    )
    parts = [frame.grid(parameter.ticks(x_axis, 8), y_ticks, x_label, y_label)]
    for place, (name, trials) in enumerate(groups.items()):
        points = [(x_axis(_rate(trial)), y_axis(errors[trial.number]), trial) for trial in trials]
        parts.append(_lower_edge(points, frame, place))
        parts += [_shape(place, x, y, t, f"trial {t.number}, {name}: {search.figure(t.value)}") for x, y, t in points]
    return frame.svg(f"{what} against learning rate by network size", parts)


def _rate(trial: TrialRecord) -> Any:
    value = trial.values.get("learning_rate")
    return value if isinstance(value, int | float) and value > 0 else None


def _error(search: SearchRecord, value: float) -> float:
    return 1 - value if search.is_share else value


def _error_axis(values: Sequence[float], frame: Frame) -> Axis:
    low, high = values[0], values[-1]
    if low > 0 and high / low > 4:
        return Axis(0.85 * low, 1.1 * high, *frame.y, log=True)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return Axis(low - margin, high + margin, *frame.y)


def _groups(trials: Sequence[TrialRecord]) -> dict[str, list[TrialRecord]]:
    """Return trials by the size of their network: each size, or thirds of many sizes."""
    size, unit = _size(trials)
    sizes = sorted({size(trial) for trial in trials})
    if len(sizes) < 2:
        return {"all trials": list(trials)}
    if len(sizes) <= _GROUPS:
        names = {each: unit(each, each) for each in sizes}
    else:
        ordered = sorted(size(trial) for trial in trials)
        bounds = [ordered[round(len(ordered) * part / _GROUPS)] for part in range(1, _GROUPS)]
        thirds = {each: sum(each >= bound for bound in bounds) for each in sizes}
        members = {third: [each for each in sizes if thirds[each] == third] for third in sorted(set(thirds.values()))}
        names = {each: unit(members[thirds[each]][0], members[thirds[each]][-1]) for each in sizes}
    groups: dict[str, list[TrialRecord]] = {name: [] for name in dict.fromkeys(names.values())}
    for trial in trials:
        groups[names[size(trial)]].append(trial)
    return groups


def _size(trials: Sequence[TrialRecord]) -> tuple[Callable[[TrialRecord], float], Callable[[float, float], str]]:
    """Return what tells a network's size, and how a range of sizes is written."""

    def hidden(trial: TrialRecord) -> float:
        widths = trial.values.get("hidden")
        if isinstance(widths, Sequence) and not isinstance(widths, str):
            return float(sum(widths))
        layers, width = trial.values.get("hidden.layers", 1), trial.values.get("hidden.width", 0)
        return float(layers * width)

    def written(low: float, high: float, what: str) -> str:
        if high == 0:
            return "no hidden layer"
        return f"{short(low)} {what}" if low == high else f"{short(low)} to {short(high)} {what}"

    if len({hidden(trial) for trial in trials}) > 1:
        return hidden, lambda low, high: written(low, high, "hidden units")
    return lambda trial: trial.metrics.get("parameters", 0.0), lambda low, high: written(low, high, "parameters")


def _lower_edge(points: Sequence[tuple[float, float, TrialRecord]], frame: Frame, place: int) -> str:
    """Return a line through the lowest point of each stretch of the horizontal axis."""
    width = (frame.x[1] - frame.x[0]) / _BINS
    lowest: dict[int, tuple[float, float]] = {}
    for x, y, _ in points:
        stretch = min(_BINS - 1, math.floor((x - frame.x[0]) / width))
        if stretch not in lowest or y > lowest[stretch][1]:  # pixels count downwards
            lowest[stretch] = (x, y)
    path = " ".join(f"{x},{y}" for _, (x, y) in sorted(lowest.items()))
    return f'<polyline class="line {_SHAPES[place]}" points="{path}"/>'


def _shape(place: int, x: float, y: float, trial: TrialRecord, told: str) -> str:
    style = f'class="shape {_SHAPES[place]}{"" if trial.state == "complete" else " part"}"'
    tag, drawn = (
        ("circle", f'cx="{x:g}" cy="{y:g}" r="3.4"'),
        ("rect", f'x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6"'),
        ("path", f'd="M{x:.1f} {y - 4.4:.1f}l4 7.4h-8z"'),
    )[place]
    return hover(tag, f"{style} {drawn}", told)
