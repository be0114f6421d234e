"""What the search cost: time, slots at work, and epochs beside those of searches without early stopping."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sparkwright.evaluation.report.axes import Axis, short
from sparkwright.evaluation.report.markup import (
    Column,
    counted,
    figure,
    percent,
    seconds,
    section,
    table,
    whole,
)
from sparkwright.evaluation.report.tuning.frame import Frame, hover
from sparkwright.evaluation.report.tuning.parameters import parameters_of
from sparkwright.evaluation.report.tuning.record import SearchRecord
from sparkwright.evaluation.report.tuning.score import line_keys, strengths

__all__ = ["efficiency_section"]

_GRID = 5  # values of a number in the grid that the search is compared with
_DRAWN = 1500  # stretches of work; of more, those that touch in the picture are drawn as one
_PAUSE = 0.2  # of all the time: what no slot worked for longer is a pause of the whole search, and left out
_LANE = 18  # pixels
_UNITS = ((2 * 3600, 3600, "hours"), (120, 60, "minutes"), (0, 1, "seconds"))


@dataclass(frozen=True)
class _Work:
    """A stretch in which a slot trained one trial, or several in one pass; in seconds after the search began."""

    where: str
    started: float
    stopped: float
    trials: tuple[int, ...]


def efficiency_section(search: SearchRecord) -> str:
    """Return time, slots and epochs; nothing where no trial was trained."""
    trained = [trial for trial in search.trials if trial.epochs]
    if not trained:
        return ""
    work, paused = _work(search)
    parts = [_figures(search, work, paused)]
    if work:
        lanes = _lanes(work)
        parts.append(figure(_strips(search, lanes), _strip_caption(search, work, lanes, paused)))
    return section("efficiency", "What the search cost", f'<div class="stacked">{"".join(parts)}</div>')


def _work(search: SearchRecord) -> tuple[list[_Work], float]:
    """Return all stretches of work in the order of time, and for how long the whole search lay still."""
    together: dict[tuple[str, float, float], list[int]] = {}
    for trial in search.trials:
        for job in trial.jobs:  # trials of one pass share it
            together.setdefault((job.where, job.started, job.stopped), []).append(trial.number)
    every = sorted(together.items(), key=lambda each: (each[0][1], each[0][0]))
    if not every:
        return [], 0.0
    longest = _PAUSE * (max(stopped for (_, _, stopped), _ in every) - every[0][0][1])
    work, paused, reached = [], every[0][0][1], every[0][0][1]
    for (where, started, stopped), trials in every:
        if started - reached > longest:
            paused += started - reached
        reached = max(reached, stopped)
        work.append(_Work(where, started - paused, stopped - paused, tuple(trials)))
    return work, paused - every[0][0][1]


def _figures(search: SearchRecord, work: Sequence[_Work], paused: float) -> str:
    columns = [Column("Figure", numeric=False), Column("Value"), Column("What it says", numeric=False)]
    rows = [*_times(search, work, paused), *_epochs(search)]
    return table(columns, rows, caption="Time, slots and epochs")


def _times(search: SearchRecord, work: Sequence[_Work], paused: float) -> list[tuple[str, str, str]]:
    spent = sum(each.stopped - each.started for each in work) or sum(trial.seconds for trial in search.trials)
    trained = sum(trial.epochs > 0 for trial in search.trials)
    each = f"of {counted(trained, 'trial')}: {seconds(spent / trained)} each, on average"
    rows = [("Time that slots trained", seconds(spent), each)]
    lasted = max((each.stopped for each in work), default=0.0)
    if lasted > 0:
        slots = search.slots or len(_lanes(work))
        left_out = f"{seconds(paused)} of pause left out" if paused else ""
        rows += [
            ("Time from the first to the last", seconds(lasted), left_out),
            ("Slots at work", percent(spent / (slots * lasted)), f"of the time of {counted(slots, 'slot')}"),
            ("Speed-up over one slot", f"{spent / lasted:.2f}", f"at most {slots}; one slot is taken to have no gaps"),
        ]
    return rows


def _epochs(search: SearchRecord) -> list[tuple[str, str, str]]:
    """Return the epochs that were trained, beside those of searches that stop nothing early."""
    epochs = sum(trial.epochs for trial in search.trials)
    rows = [("Epochs trained", whole(epochs), "")]
    length = search.epochs * max((trial.folds for trial in search.trials), default=1)
    tried = sum(trial.state != "rejected" for trial in search.trials)
    if length:
        told = f"of {tried * length:,} epochs: {counted(tried, 'trial')} of {length}"
        rows.append(("… beside all trials to their end", percent(epochs / (tried * length)), told))
    grid = math.prod(len(each.categories) or _GRID for each in parameters_of(search))
    if length and grid > 1:
        share = epochs / (grid * length)
        told = (
            f"of {_big(grid * length)} epochs: {_big(grid)} configurations, {_GRID} values of each number, every choice"
        )
        rows.append(("… beside a full grid", percent(share) if share >= 0.001 else "less than 0.1 %", told))
    return rows


def _big(count: int) -> str:
    return f"{count:,}" if count < 1e6 else short(count)


def _lanes(work: Sequence[_Work]) -> list[list[_Work]]:
    """Return the work of each slot: what one process does stays in a lane as long as nothing overlaps."""
    lanes: list[list[_Work]] = []
    for each in work:
        free = [lane for lane in lanes if lane[-1].stopped <= each.started + 1e-3]
        same = [lane for lane in free if lane[-1].where == each.where]
        if same or free:
            max(same or free, key=lambda lane: lane[-1].stopped).append(each)
        else:
            lanes.append([each])
    return lanes


def _strips(search: SearchRecord, lanes: Sequence[Sequence[_Work]]) -> str:
    lane = _LANE if len(lanes) <= 24 else max(4, 24 * _LANE // len(lanes))
    frame = Frame(width=1060, height=44 + lane * len(lanes), left=60, top=4, wide=True)
    lasted = max(each.stopped for work in lanes for each in work)
    _, size, unit = next(each for each in _UNITS if lasted >= each[0])
    axis = Axis(0, max(lasted / size, 1e-9), *frame.x)
    parts = [frame.grid([(axis(value), short(value)) for value in axis.ticks(10)], [], unit)]
    strength = strengths(search)
    merge = sum(map(len, lanes)) > _DRAWN
    for number, work in enumerate(lanes):
        y = frame.top + number * lane
        if lane >= 12:
            parts.append(
                f'<text x="{frame.left - 6}" y="{y + lane / 2 + 4}" text-anchor="end">slot {number + 1}</text>'
            )
        for each in _merged(work, lasted / 1000) if merge else work:
            x, end = axis(each.started / size), axis(each.stopped / size)
            best = search.best is not None and search.best.number in each.trials
            kind = "validation" if best else f"s{max((strength.get(trial, 0) for trial in each.trials), default=0)}"
            place = f'class="work {kind}" x="{x}" y="{y + 1}" width="{max(0.4, end - x - 0.6):.1f}" height="{lane - 2}"'
            parts.append(f"<rect {place}/>" if merge else hover("rect", place, _told(each)))
    return frame.svg(f"Slots at work over {lasted / size:.3g} {unit}", parts)


def _merged(work: Sequence[_Work], gap: float) -> list[_Work]:
    found: list[_Work] = []
    for each in work:
        if found and each.started - found[-1].stopped < gap:
            found[-1] = _Work(each.where, found[-1].started, each.stopped, found[-1].trials + each.trials)
        else:
            found.append(each)
    return found


def _told(work: _Work) -> str:
    some = ", ".join(map(str, work.trials[:6])) + (", …" if len(work.trials) > 6 else "")
    return f"trial {some}: {seconds(work.stopped - work.started)} on {work.where}"


def _strip_caption(search: SearchRecord, work: Sequence[_Work], lanes: Sequence[Sequence[_Work]], paused: float) -> str:
    told = f"<b>Slots at work</b> {line_keys(search, 'box')} &ensp;{counted(len(work), 'job')}"
    told += f", at most {len(lanes)} at a time. Gaps are waiting."
    return told + (f" A pause of the whole search, {seconds(paused)}, is left out." if paused else "")
