"""Two parameters together: the figure between the trials, as a map."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sparkwright.evaluation.report.markup import figure, section, text
from sparkwright.evaluation.report.tuning.frame import Frame
from sparkwright.evaluation.report.tuning.parameters import Parameter, parameters_of
from sparkwright.evaluation.report.tuning.record import SearchRecord, TrialRecord
from sparkwright.evaluation.report.tuning.score import dot, dot_keys, ranks

__all__ = ["contour_section"]

_CELLS = 56  # of each numeric axis
_REACH = 0.08  # of an axis: how far a trial's figure counts, the deviation of a Gaussian
_SEEN = 2.2  # deviations: where no trial is nearer, nothing is drawn
_LEVELS = 8
_FEWEST = 6  # trials
_COMMON = 0.8  # of the trials: so many must have a parameter, or the map would show too few


def contour_section(search: SearchRecord) -> str:
    """Return the map of the two parameters that matter most; of the first two where that is not known."""
    parameters = {parameter.name: parameter for parameter in parameters_of(search)}
    shares = (search.importance or {}).get("shares", {})
    names = [name for name in dict.fromkeys([*shares, *parameters]) if name in parameters]
    common = [name for name in names if _coverage(search, parameters[name]) >= _COMMON]
    pair = [parameters[name] for name in (common if len(common) > 1 else names)[:2]]
    if len(pair) < 2:
        return ""
    pair.sort(key=lambda parameter: bool(parameter.categories))  # names have more room at the side
    trials = [trial for trial in search.scored if all(parameter.of(trial) is not None for parameter in pair)]
    if len(trials) < _FEWEST:
        return ""
    x, y = pair
    which = "The two that matter most" if shares else "Two parameters"
    which += " of those that most trials have" if 1 < len(common) < len(names) else ""
    note = (
        f"{which}: {text(x.name)} and {text(y.name)}. Colours between the points are mean ranks of the trials around, "
        "the nearer the heavier; where no trial was near, none is drawn. Other parameters differ, too, so that "
        "neighbouring points may disagree."
    )
    keys = f'<span class="legend"><span>mean rank: worst<i class="ramp"></i>best</span></span> {dot_keys(search)}'
    return section("contour", "Two parameters together", figure(_map(search, x, y, trials), keys), note=note)


def _coverage(search: SearchRecord, parameter: Parameter) -> float:
    """Return the share of the trials that have a parameter."""
    return sum(parameter.of(trial) is not None for trial in search.scored) / max(1, len(search.scored))


def _map(search: SearchRecord, x: Parameter, y: Parameter, trials: list[TrialRecord]) -> str:
    frame = Frame(width=1060, height=440, left=110, right=20, top=28, wide=True)
    x_axis, y_axis = x.axis(*frame.x), y.axis(*frame.y)
    columns, rows = (len(each.categories) or _CELLS for each in (x, y))
    levels = _levels(search, x, y, trials, columns, rows)
    parts = [_cells(frame, levels)]
    parts.append(frame.grid(x.ticks(x_axis, 8), y.ticks(y_axis, 6), _title(x), _title(y), lines=False))
    for trial in reversed(trials):
        parts.append(dot(search, trial, x.place(x_axis, trial), y.place(y_axis, trial), search.figure(trial.value)))
    return frame.svg(f"{search.name} by {x.name} and {y.name}", parts)


def _title(parameter: Parameter) -> str:
    return parameter.name + (" (log)" if parameter.log else "")


def _levels(
    search: SearchRecord, x: Parameter, y: Parameter, trials: list[TrialRecord], columns: int, rows: int
) -> NDArray[np.int64]:
    """Return for each cell (rows from the top, columns) how strong its colour is; -1 where no trial is near."""
    places = [np.array([each.share(each.of(trial)) for trial in trials]) for each in (x, y)]
    rank = ranks(search)
    figures = np.array([rank[trial.number] for trial in trials])
    nearness = []
    for parameter, place, cells in zip((x, y), places, (columns, rows), strict=True):
        middles = (np.arange(cells) + 0.5) / cells
        apart = (middles[:, None] - place[None, :]) / _REACH
        # Categories have no neighbours: only trials of the same one count.
        nearness.append(
            np.where(np.abs(apart) * _REACH < 0.5 / cells, 0.0, np.inf) if parameter.categories else apart**2
        )
    squares = nearness[1][::-1, None, :] + nearness[0][None, :, :]  # (rows, columns, trials)
    weights = np.exp(-squares / 2)
    total = weights.sum(2)
    seen = squares.min(2) < _SEEN**2
    means = (weights * figures).sum(2) / np.where(seen, total, 1.0)
    levels = np.clip((means * _LEVELS).astype(np.int64), 0, _LEVELS - 1)
    return np.where(seen, levels, -1)


def _cells(frame: Frame, levels: NDArray[np.int64]) -> str:
    """Return the map's rectangles: neighbours of one colour in a row are one."""
    rows, columns = levels.shape
    (left, right), (low, high) = frame.x, frame.y
    width, height = (right - left) / columns, (low - high) / rows
    parts = []
    for row in range(rows):
        starts = [0, *(np.flatnonzero(np.diff(levels[row])) + 1).tolist(), columns]
        for start, end in pairwise(starts):
            level = int(levels[row, start])
            if level >= 0:  # a little larger than it is, so that no seams show
                parts.append(
                    f'<rect class="c{level}" x="{left + start * width:.1f}" y="{high + row * height:.1f}" '
                    f'width="{(end - start) * width + 0.4:.1f}" height="{height + 0.4:.1f}"/>'
                )
    return (
        f'<rect class="frame" x="{left}" y="{high}" width="{right - left}" height="{low - high}"/>'
        + f'<g class="cells">{"".join(parts)}</g>'
    )
