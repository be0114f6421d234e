"""Parallel coordinates: a line a trial through all its parameters to its figure."""

from collections.abc import Sequence

from sparkwright.evaluation.report.axes import Axis, Categories
from sparkwright.evaluation.report.markup import counted, figure, section, text
from sparkwright.evaluation.report.tuning.frame import Frame, cut
from sparkwright.evaluation.report.tuning.parameters import Parameter, common, parameters_of
from sparkwright.evaluation.report.tuning.record import SearchRecord, TrialRecord
from sparkwright.evaluation.report.tuning.score import ScoreAxis, line_keys, ranks, strengths

__all__ = ["parallel_section"]

_APART = 118  # pixels between axes, at least
_ABSENT = 22  # pixels below the axes: where trials pass that do not have the parameter


def parallel_section(search: SearchRecord) -> str:
    """Return parallel coordinates of the trials that have a figure."""
    parameters, trials = parameters_of(search), search.scored
    if not parameters or not trials:
        return ""
    frame = Frame(width=max(1060, 200 + _APART * len(parameters)), height=400, left=84, right=76, top=44, wide=True)
    step = (frame.x[1] - frame.x[0]) / len(parameters)
    places = {parameter.name: round(frame.x[0] + step * number, 1) for number, parameter in enumerate(parameters)}
    axes = {parameter.name: parameter.axis(*frame.y) for parameter in parameters}
    score = ScoreAxis.of(search, *frame.y)
    strength = strengths(search)
    rank = ranks(search)
    lines = []
    for trial in sorted(trials, key=lambda trial: (trial is search.best, rank[trial.number])):
        points = [
            (places[each.name], _height(each, axes[each.name], trial, rank[trial.number], frame)) for each in parameters
        ]
        points.append((frame.x[1], score(trial.value or 0.0)))
        kind = "validation" if trial is search.best else f"s{strength[trial.number]}"
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        title = f"<title>trial {trial.number}: {search.figure(trial.value)}</title>"
        lines.append(f'<polyline class="line {kind}" points="{path}">{title}</polyline>')
    parts = [f'<g class="curve">{"".join(lines)}</g>']
    parts += [_axis(parameter, axes[parameter.name], places[parameter.name], frame, trials) for parameter in parameters]
    parts.append(_line(frame, frame.x[1], search.name, score.ticks(), after=True))
    described = f"Parallel coordinates of {counted(len(trials), 'trial')} and {counted(len(parameters), 'parameter')}"
    left_out = len(search.trials) - len(trials)
    note = "Each line is a trial: where it crosses an axis is its value there. " + _told(parameters, search.top)
    note += f" {counted(left_out, 'trial')} without a figure: not drawn." if left_out else ""
    picture = figure(frame.svg(described, parts), line_keys(search))
    return section("parallel", "Which parameters go with which figure", picture, note=note)


def _height(parameter: Parameter, axis: Axis | Categories, trial: TrialRecord, rank: float, frame: Frame) -> float:
    """Return where a trial crosses an axis; in a category's band the best pass above, so that lines lie apart."""
    value = parameter.of(trial)
    if value is None:
        return frame.y[0] + _ABSENT + 5 - round(10 * rank, 1)
    if isinstance(axis, Categories):
        band = (frame.y[0] - frame.y[1]) / len(axis.names)
        return round(axis(value) + (0.5 - rank) * min(0.5 * band, 40), 1)
    return axis(value)


def _axis(parameter: Parameter, axis: Axis | Categories, x: float, frame: Frame, trials: Sequence[TrialRecord]) -> str:
    ticks = parameter.ticks(axis, 6, 12)
    if any(parameter.of(trial) is None for trial in trials):
        ticks = [*ticks, (frame.y[0] + _ABSENT, "absent")]
    return _line(frame, x, parameter.name, ticks)


def _line(frame: Frame, x: float, name: str, ticks: Sequence[tuple[float, str]], after: bool = False) -> str:
    (low, high), away, anchor = frame.y, 6 if after else -6, "start" if after else "end"
    labels = "".join(
        f'<text class="halo" x="{x + away:g}" y="{y + 4:g}" text-anchor="{anchor}">{text(label)}</text>'
        for y, label in ticks
    )
    title = f'<text class="name" x="{x}" y="{high - 20}" text-anchor="middle">{text(cut(name, 17))}</text>'
    return f'<line class="axis" x1="{x}" x2="{x}" y1="{low}" y2="{high}"/>{labels}{title}'


def _told(parameters: Sequence[Parameter], best: Sequence[TrialRecord]) -> str:
    """Return in which numeric parameters the best trials keep to a small part of what was tried."""
    narrow = []
    for parameter in parameters:
        values = [value for value in map(parameter.of, best) if value is not None]
        if not parameter.categories and len(values) > len(best) / 2:
            shares = [parameter.share(value) for value in values]
            narrow.append((max(shares) - min(shares), f"{text(parameter.name)} {common(parameter, best)}"))
        elif parameter.categories and len(set(values)) == 1 and len(values) == len(best):
            narrow.append((0.0, f"{text(parameter.name)} {text(values[0])}"))
    found = [words for spread, words in sorted(narrow) if spread < 0.5][:4]
    return f"The best {len(best)} have in common: {'; '.join(found)}." if found else ""
