"""How the search went on: the best figure so far, and every trial's learning curve up to where it was stopped."""

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

from sparkwright.evaluation.report.axes import Axis, short
from sparkwright.evaluation.report.charts import legend
from sparkwright.evaluation.report.markup import counted, figure, section
from sparkwright.evaluation.report.tuning.frame import Frame
from sparkwright.evaluation.report.tuning.record import SearchRecord, TrialRecord
from sparkwright.evaluation.report.tuning.score import ScoreAxis, dot, dot_keys, line_keys, strengths

__all__ = ["curves_section", "history_section"]

_POINTS = 60  # of a curve; longer ones leave some out
_UNITS = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "hours"), (120, 60, "minutes"), (0, 1, "seconds"))


def history_section(search: SearchRecord) -> str:
    """Return the best figure so far against trials and against the time that trials took."""
    trials = [trial for trial in search.trials if trial.value is not None]
    if len(trials) < 2:
        return ""
    numbers = [trial.number for trial in trials]
    charts = [_history(search, trials, numbers, "trial", "<b>By trial</b>")]
    ended = sorted(trials, key=lambda trial: (max((job.stopped for job in trial.jobs), default=0.0), trial.number))
    spent = list(accumulate(trial.seconds for trial in ended))
    if spent[-1] > 0:
        _, size, unit = next(each for each in _UNITS if spent[-1] >= each[0])
        x = [seconds / size for seconds in spent]
        charts.append(_history(search, ended, x, f"trial-{unit}", "<b>By time spent</b>"))
    body = f'<div class="charts">{"".join(charts)}</div>'
    return section("history", "History of the search", body, note=_told(search, trials))


def _told(search: SearchRecord, trials: Sequence[TrialRecord]) -> str:
    best = search.scored[0]
    first, top = trials[0].value or 0.0, best.value or 0.0
    after = sum(trial.number > best.number for trial in trials)
    told = f"The best {search.name} of the search, {search.figure(top)}, is that of trial {best.number}"
    told += f"; the {counted(after, 'trial')} after it brought nothing better." if after > 1 else "."
    gain = search.gain(top, first)
    if gain > 0:
        near = next(t.number for t in trials if search.gain(t.value or 0.0, first) >= 0.9 * gain)
        told += f" Trial {near} was the first with nine tenths of what the best gained over trial {trials[0].number}."
    return told


def _history(search: SearchRecord, trials: Sequence[TrialRecord], x: Sequence[float], label: str, title: str) -> str:
    frame = Frame()
    low = 0.0 if label != "trial" else min(x)
    x_axis, y_axis = Axis(low, max(max(x), low + 1e-9), *frame.x), ScoreAxis.of(search, *frame.y)
    if max(x) <= low:
        x_axis = Axis(low - 1, low + 1, *frame.x)
    whole = [value for value in x_axis.ticks(8) if label != "trial" or value == int(value) >= 0]
    ticks = [(x_axis(value), short(value)) for value in whole]
    parts = [frame.grid(ticks, y_axis.ticks(), label, y_axis.title(search.name))]
    steps, top = [], trials[0].value or 0.0
    for place, trial in zip(x, trials, strict=True):
        value = trial.value or 0.0
        before, top = top, value if search.gain(value, top) > 0 else top
        steps += [(place, before), (place, top)] if top != before else []
    corners = [(x[0], trials[0].value or 0.0), *steps, (x[-1], top)]
    for place, trial in zip(x, trials, strict=True):
        value = trial.value or 0.0
        parts.append(dot(search, trial, x_axis(place), y_axis(value), search.figure(value)))
    path = " ".join(f"{x_axis(a)},{y_axis(b)}" for a, b in corners)
    parts.append(f'<polyline class="line validation" points="{path}"/>')
    described = f"Best {search.name} so far by {label}: {search.figure(corners[0][1])} → {search.figure(top)}"
    return figure(frame.svg(described, parts), f"{title} {legend([('validation', 'best so far')])} {dot_keys(search)}")


def curves_section(search: SearchRecord) -> str:
    """Return the learning curves of all trials, with the rungs at which they were compared."""
    drawn = [trial for trial in search.trials if trial.curve]
    if not drawn:
        return ""
    frame = Frame(width=1060, height=400, wide=True)
    figures = [value for trial in drawn for value in trial.curve.values()]
    last = max(max(trial.curve) for trial in drawn)
    x_axis, y_axis = Axis(0, max(last, search.epochs, 1), *frame.x), ScoreAxis.of(search, *frame.y, figures)
    ticks = [(x_axis(value), short(value)) for value in x_axis.ticks(10) if value == int(value)]
    parts = [frame.grid(ticks, y_axis.ticks(6), "epoch", y_axis.title(search.name))]
    ended = Counter(trial.epochs // trial.folds for trial in drawn if trial.state == "stopped")
    parts += [_rung(frame, x_axis(rung)) for rung in search.rungs if rung < x_axis.high]
    strength = strengths(search)
    order = sorted(drawn, key=lambda trial: (trial is search.best, strength.get(trial.number, 0), -trial.number))
    parts.append(
        _clipped(frame, [_curve(search, trial, x_axis, y_axis, strength.get(trial.number, 0)) for trial in order])
    )
    stops = ", ".join(f"{count} after epoch {epoch}" for epoch, count in sorted(ended.items()))
    full = sum(trial.state == "complete" for trial in drawn)
    note = f"{counted(len(drawn), 'trial')} trained; {full} to the end"
    note += f", {sum(ended.values())} stopped early: {stops}." if stops else "."
    if search.rungs:
        note += " Dashed lines are the rungs: there trials are compared, and only the best go on."
    picture = frame.svg(f"Learning curves of {counted(len(drawn), 'trial')}", parts)
    return section("curves", "Learning curves of all trials", figure(picture, line_keys(search)), note=note)


def _rung(frame: Frame, x: float) -> str:
    return f'<line class="mark" x1="{x}" x2="{x}" y1="{frame.y[1]}" y2="{frame.y[0]}"/>'


def _clipped(frame: Frame, parts: Sequence[str]) -> str:
    """Return parts of a chart, drawn only inside its axes: what went astray leaves at the edge."""
    (left, right), (low, high) = frame.x, frame.y
    size = f'x="{left}" y="{high}" width="{right - left + 6}" height="{low - high}"'
    return f'<svg {size} viewBox="{left} {high} {right - left + 6} {low - high}">{"".join(parts)}</svg>'


def _curve(search: SearchRecord, trial: TrialRecord, x_axis: Axis, y_axis: ScoreAxis, strength: int) -> str:
    epochs = list(trial.curve)
    every = -(-len(epochs) // _POINTS)
    kept = dict.fromkeys([*epochs[::every], epochs[-1]])
    points = [(x_axis(epoch), min(max(y_axis.anywhere(trial.curve[epoch]), -2000.0), 2000.0)) for epoch in kept]
    kind = "validation" if trial is search.best else f"s{strength}"
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    title = f"<title>trial {trial.number}, {trial.state}: {search.figure(trial.value)}</title>"
    x, y = points[-1]
    end = f'<circle class="{kind} end" cx="{x:g}" cy="{y:g}" r="{2.4 if trial.state != "complete" else 3.4}"/>'
    return f'<g class="curve">{title}<polyline class="line {kind}" points="{path}"/>{end}</g>'
