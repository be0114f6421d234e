"""Each parameter by itself against the figure."""

from sparkwright.evaluation.report.markup import counted, figure, section, text
from sparkwright.evaluation.report.tuning.frame import Frame
from sparkwright.evaluation.report.tuning.parameters import Parameter, common, parameters_of, written
from sparkwright.evaluation.report.tuning.record import SearchRecord
from sparkwright.evaluation.report.tuning.score import ScoreAxis, dot, dot_keys

__all__ = ["slices_section"]

_EDGE = 0.04  # of an axis: what lies so near its end lies at it


def slices_section(search: SearchRecord) -> str:
    """Return a small chart a parameter: the figure of every trial against its value there."""
    trials = search.scored
    parameters = parameters_of(search)
    if not trials or not parameters:
        return ""
    charts = [_slice(search, parameter) for parameter in parameters]
    edges = [words for words in (_edge(search, parameter) for parameter in parameters) if words]
    note = f"A point is a trial. {dot_keys(search)}"
    warning = ""
    if edges:
        told = f"The best trial lies at an end of what was searched: {'; '.join(edges)}."
        warning = f'<p class="note">{told} A wider space may hold better ones.</p>'
    return section(
        "slices", "One parameter at a time", warning, f'<div class="slices">{"".join(charts)}</div>', note=note
    )


def _slice(search: SearchRecord, parameter: Parameter) -> str:
    frame = Frame(width=340, height=230, left=50, bottom=26, top=12, right=12)
    axis, score = parameter.axis(*frame.x), ScoreAxis.of(search, *frame.y)
    about = 5 if not parameter.categories else len(parameter.categories)
    letters = max(5, 44 // about) if parameter.categories else 14
    parts = [frame.grid(parameter.ticks(axis, about, letters), score.ticks())]
    drawn = [trial for trial in reversed(search.scored) if parameter.of(trial) is not None]
    for trial in drawn:
        told = f"{search.figure(trial.value)} with {written(parameter.of(trial))}"
        parts.append(dot(search, trial, parameter.place(axis, trial), score(trial.value or 0.0), told))
    said = f"best {len(search.top)}: {text(common(parameter, search.top))}" if search.top else ""
    absent = len(search.scored) - len(drawn)
    said += f"{'; ' if said else ''}{counted(absent, 'trial')} without it" if absent else ""
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
    if limit == 0:  # mostly there is nothing beyond
        return ""
    return f"{text(parameter.name)} {written(value)} (the {end}: {written(limit)})"
