"""Several objectives: which trials are best in one of them without being worse in another."""

from collections.abc import Sequence

from sparkwright.evaluation.report.axes import Axis, short
from sparkwright.evaluation.report.charts import legend
from sparkwright.evaluation.report.markup import (
    SHARES,
    Cell,
    Column,
    counted,
    figure,
    metric_name,
    percent,
    section,
    table,
    text,
)
from sparkwright.evaluation.report.tuning.frame import Frame
from sparkwright.evaluation.report.tuning.record import SearchRecord, TrialRecord
from sparkwright.evaluation.report.tuning.score import ScoreAxis, dot, dot_keys

__all__ = ["front", "pareto_section"]

_LOG_SPAN = 30
_TALL = 15


def front(search: SearchRecord) -> list[TrialRecord]:
    """Return the trials that no other one is at least as good as in all objectives and better than in one."""
    trials = [
        trial for trial in search.trials if trial.value is not None and search.objectives.keys() <= trial.metrics.keys()
    ]
    points = [_costs(search, trial) for trial in trials]
    return [
        trial
        for trial, point in zip(trials, points, strict=True)
        if not any(other != point and all(a <= b for a, b in zip(other, point, strict=True)) for other in points)
    ]


def _costs(search: SearchRecord, trial: TrialRecord) -> list[float]:
    return [
        value if direction == "min" else -value
        for name, direction in search.objectives.items()
        for value in [trial.metrics[name]]
    ]


def pareto_section(search: SearchRecord) -> str:
    """Return the front of several objectives, a chart for each beside the first; nothing with a single one."""
    if len(search.objectives) < 2:
        return ""
    best = front(search)
    if not best:
        return ""
    first, *others = search.objectives
    every = [trial for trial in search.trials if search.objectives.keys() <= trial.metrics.keys()]
    charts = [_chart(search, every, best, first, other) for other in others]
    columns = [Column("Trial"), *(Column(_named(name)) for name in search.objectives)]
    ordered = sorted(best, key=lambda trial: _costs(search, trial))
    rows = [
        [
            Cell(str(trial.number)),
            *(Cell(_written(name, trial.metrics[name]), trial.metrics[name]) for name in search.objectives),
        ]
        for trial in ordered
    ]
    listed = table(columns, rows, caption="Trials of the front", sorted_by=None, tall=len(rows) > _TALL)
    wanted = ", ".join(
        f"{text(_named(name))} ({'more' if way == 'max' else 'less'} is better)"
        for name, way in search.objectives.items()
    )
    note = (
        f"Objectives: {wanted}. {len(best)} of {counted(len(every), 'trial')} on the front: no other trial is better "
        "in one objective without being worse in another."
    )
    return section("pareto", "Several objectives", f'<div class="beside">{"".join(charts)}{listed}</div>', note=note)


def _chart(
    search: SearchRecord, trials: Sequence[TrialRecord], best: Sequence[TrialRecord], first: str, other: str
) -> str:
    frame = Frame(left=64)
    x_axis = _axis([trial.metrics[other] for trial in trials], *frame.x)
    y_axis = ScoreAxis.of(search, *frame.y)
    x_ticks = [(x_axis(value), _tick(other, value)) for value in x_axis.ticks(6)]
    label = _named(other) + (" (log)" if x_axis.log else "")
    parts = [frame.grid(x_ticks, y_axis.ticks(), label, y_axis.title(_named(first)))]
    inside = [trial for trial in trials if trial.metrics[other] > 0 or not x_axis.log]
    corners = sorted((x_axis(t.metrics[other]), y_axis(t.metrics[first])) for t in best if t in inside)
    corners = corners[::-1] if search.objectives[other] == "max" else corners
    path, last = list[str](), None
    for x, y in corners:
        path += [f"{x},{last}"] if last is not None else []
        path.append(f"{x},{y}")
        last = y
    if len(search.objectives) == 2:  # of more objectives the front is no line
        parts.append(f'<polyline class="line validation" points="{" ".join(path)}"/>')
    for trial in inside:
        told = ", ".join(f"{_named(name)} {_written(name, trial.metrics[name])}" for name in (first, other))
        parts.append(dot(search, trial, x_axis(trial.metrics[other]), y_axis(trial.metrics[first]), told))
    keys = legend([("validation", "front")]) if len(search.objectives) == 2 else ""
    described = f"{_named(first)} against {_named(other)}: {len(best)} trials on the front"
    return figure(
        frame.svg(described, parts),
        f"<b>{text(_named(first))} against {text(_named(other))}</b> {keys} {dot_keys(search)}",
    )


def _axis(values: Sequence[float], start: float, end: float) -> Axis:
    low, high = min(values), max(values)
    if low > 0 and high / low > _LOG_SPAN:
        return Axis(0.85 * low, 1.15 * high, start, end, log=True)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return Axis(low - margin if low - margin > 0 or low < 0 else 0.0, high + margin, start, end)


def _named(name: str) -> str:
    return {"seconds_per_row": "seconds a row"}.get(name, metric_name(name))


def _tick(name: str, value: float) -> str:
    return f"{100 * value:.3g} %" if name.endswith(SHARES) else short(value)


def _written(name: str, value: float) -> str:
    return percent(value, 2) if name.endswith(SHARES) else f"{value:,.0f}" if value == int(value) else short(value)
