"""Each parameter by itself against the figure, and the learning rate against the error by the network's size."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sparkwright.evaluation.report.axes import Axis, Categories, short
from sparkwright.evaluation.report.charts import legend
from sparkwright.evaluation.report.markup import figure, section, text
from sparkwright.evaluation.report.tuning.frame import Frame
from sparkwright.evaluation.report.tuning.parameters import Parameter, common, parameters_of, written
from sparkwright.evaluation.report.tuning.record import SearchRecord, TrialRecord
from sparkwright.evaluation.report.tuning.score import ScoreAxis, dot, dot_keys

__all__ = ["sensitivity_section", "slices_section"]

_EDGE = 0.04  # of an axis: what lies so near its end lies at it
_SPREAD = 0.5  # of a category's band: over which its points are spread by number, so that they lie apart
_GROUPS = 3  # of network sizes
_BINS = 10  # of learning rates
_SHAPES = ("circle", "square", "triangle")


def slices_section(search: SearchRecord) -> str:
    """Return a small chart a parameter: the figure of every trial against its value there."""
    trials = search.scored
    parameters = parameters_of(search)
    if not trials or not parameters:
        return ""
    charts = [_slice(search, parameter) for parameter in parameters]
    edges = [words for words in (_edge(search, parameter) for parameter in parameters) if words]
    note = f"A point is a trial. {dot_keys(search)}"
    if edges:
        note += f"<br>The best trial lies at an end of what was searched: {'; '.join(edges)}. A wider space may hold better ones."
    return section("slices", "One parameter at a time", f'<div class="slices">{"".join(charts)}</div>', note=note)


def _slice(search: SearchRecord, parameter: Parameter) -> str:
    frame = Frame(width=340, height=230, left=50, bottom=26, top=12, right=12)
    axis, score = parameter.axis(*frame.x), ScoreAxis.of(search, *frame.y)
    about = 5 if not parameter.categories else len(parameter.categories)
    letters = max(5, 44 // about) if parameter.categories else 14
    parts = [frame.grid(parameter.ticks(axis, about, letters), score.ticks())]
    drawn = [trial for trial in reversed(search.scored) if parameter.of(trial) is not None]
    for trial in drawn:
        value = parameter.of(trial)
        x = axis(value)
        if isinstance(axis, Categories):  # spread evenly by number: the golden ratio leaves no two alike
            band = (frame.x[1] - frame.x[0]) / len(axis.names)
            x = round(x + (trial.number * 0.618034 % 1 - 0.5) * min(_SPREAD * band, 60), 1)
        told = f"{search.figure(trial.value)} with {written(value)}"
        parts.append(dot(search, trial, x, score(trial.value or 0.0), told))
    best = search.scored[: max(3, len(search.scored) // 10)]
    few = len(search.scored) < 20
    said = "" if few else f"best {len(best)}: {text(common(parameter, best))}"
    absent = len(search.scored) - len(drawn)
    said += f"{'; ' if said else ''}{absent} trials without it" if absent else ""
    caption = f"<b>{text(parameter.name)}{' (log)' if parameter.log else ''}</b> <span>{said}</span>"
    return figure(frame.svg(f"{search.name} against {parameter.name}", parts), caption)


def _edge(search: SearchRecord, parameter: Parameter) -> str:
    """Return at which end of its range the best trial lies, in words; nothing where it lies inside."""
    best = search.best
    value = None if best is None else parameter.of(best)
    if value is None or parameter.categories or not parameter.bounded or parameter.high == parameter.low:
        return ""
    share = parameter.share(value)
    if _EDGE < share < 1 - _EDGE:
        return ""
    end, limit = ("lowest", parameter.low) if share <= _EDGE else ("highest", parameter.high)
    return f"{text(parameter.name)} {written(value)} (the {end}: {written(limit)})"


def sensitivity_section(search: SearchRecord) -> str:
    """Return the error against the learning rate, by the size of the network: how careful a choice must be."""
    rated = [trial for trial in search.scored if _rate(trial) is not None]
    rates = {_rate(trial) for trial in rated}
    if len(rates) < 3:
        return ""
    groups = _groups(rated)
    frame = Frame(width=1060, height=400, wide=True, left=64)
    parameter = next((each for each in parameters_of(search) if each.name == "learning_rate"), None)
    if parameter is None or parameter.categories:
        return ""
    errors = {trial.number: _error(search, trial.value or 0.0) for trial in rated}
    finite = sorted(errors.values())
    x_axis, y_axis = parameter.axis(*frame.x), _error_axis(finite, frame)
    if isinstance(x_axis, Categories):
        return ""
    what = "error" if search.is_share else search.name
    y_ticks = [(y_axis(v), f"{100 * v:.3g} %" if search.is_share else short(v)) for v in y_axis.ticks(6)]
    scale = f"learning rate{', logarithmic' if x_axis.log else ''}"
    parts = [frame.grid(parameter.ticks(x_axis, 8), y_ticks, scale, f"{what}{', logarithmic' if y_axis.log else ''}")]
    told = []
    for place, (name, trials) in enumerate(groups.items()):
        points = [(x_axis(_rate(trial)), y_axis(errors[trial.number]), trial) for trial in trials]
        parts.append(_lower_edge(points, frame, place))
        parts += [_shape(place, x, y, t, f"trial {t.number}, {name}: {search.figure(t.value)}") for x, y, t in points]
        best = trials[0]
        told.append(f"{text(name)} {_rate(best):.2g}")
    keys = legend([(f"shape {_SHAPES[place]}", name) for place, name in enumerate(groups)])
    note = f"A point is a trial; lines join the lowest {what} that trials near each rate reached. "
    note += f"Best rate: {'; '.join(told)}." if len(groups) > 1 else f"Best rate: {_rate(rated[0]):.2g}."
    note += (
        " Where a line is flat, the rate hardly matters; where it is steep, it must be found. Hollow: stopped early."
    )
    picture = frame.svg(f"{what} against learning rate by network size", parts)
    title = f"{what.capitalize()} against learning rate"
    return section(
        "sensitivity", title + (" by network size" if len(groups) > 1 else ""), figure(picture, keys), note=note
    )


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
    return lambda trial: trial.objectives.get("parameters", 0.0), lambda low, high: written(low, high, "parameters")


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
    kind = _SHAPES[place] + ("" if trial.state == "complete" else " part")
    drawn: Mapping[str, str] = {
        "circle": f'<circle class="shape {kind}" cx="{x}" cy="{y}" r="3.4">',
        "square": f'<rect class="shape {kind}" x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6">',
        "triangle": f'<path class="shape {kind}" d="M{x:.1f} {y - 4.4:.1f}l4 7.4h-8z">',
    }
    tag = drawn[_SHAPES[place]].split(" ", 1)[0][1:]
    return f"{drawn[_SHAPES[place]]}<title>{text(told)}</title></{tag}>"
