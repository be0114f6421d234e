"""How the trials' figures are drawn: their axis, their points, and the colours of good and bad ones."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from sparkwright.evaluation.report.axes import Axis, short
from sparkwright.evaluation.report.charts import legend
from sparkwright.evaluation.report.tuning.frame import Tick, hover
from sparkwright.evaluation.report.tuning.record import SearchRecord, TrialRecord

__all__ = ["ScoreAxis", "dot", "dot_keys", "line_keys", "ranks", "strengths"]

_STRENGTHS = (0.5, 0.75, 0.9)  # of the trials' ranks, the best highest: where the next stronger colour begins
_LOG_SPAN = 5  # figures that span more stand on a logarithmic axis


@dataclass(frozen=True)
class ScoreAxis:
    """Maps the metric's values to pixels; beyond its ends to the nearest end.

    Shares that come near 1 are drawn by the logarithm of what they lack (an accuracy by its error), so that 98 and 99 %
    lie apart; losses that span much by their own.
    """

    axis: Axis
    lacking: bool
    share: bool

    @classmethod
    def of(cls, search: SearchRecord, start: float, end: float, figures: Iterable[float] = ()) -> Self:
        """Return the axis for the trials of a search; for other `figures` of its metric where there are any."""
        trials = (trial.value for trial in search.trials if trial.value is not None)
        values = sorted(list(figures) or trials, reverse=search.direction == "max") or [0.0, 1.0]
        if search.is_share and search.direction == "max" and 0.5 < values[0] <= 1:
            worst, best = 1 - max(values[-1], 0.0), max(1 - values[0], 1e-4)
            if worst / best > _LOG_SPAN:
                return cls(Axis(min(1.0, 1.15 * worst), 0.85 * best, start, end, log=True), True, True)
        lowest, highest = min(values), max(values)
        if not search.is_share and lowest > 0 and highest / lowest > _LOG_SPAN:
            return cls(Axis(0.85 * lowest, 1.15 * highest, start, end, log=True), False, False)
        low, high = _focus(values)
        high = min(high, 1.0) if search.is_share and highest <= 1 else high
        return cls(Axis(low, high, start, end), False, search.is_share)

    def __call__(self, value: float) -> float:
        """Return a value's place, inside the axis."""
        place, ends = self.anywhere(value), sorted((self.axis.start, self.axis.end))
        return min(max(place, ends[0]), ends[1])

    def anywhere(self, value: float) -> float:
        """Return a value's place, which may be beyond the axis."""
        value = 1 - value if self.lacking else value
        return self.axis(max(value, 1e-9) if self.axis.log else value)

    def ticks(self, about: int = 5) -> list[Tick]:
        """Return ticks of the metric."""
        if self.lacking:
            lacks = Axis(self.axis.high, self.axis.low, 0, 1, log=True).ticks(about)
            return [(self.axis(lack), f"{100 * (1 - lack):.6g} %") for lack in lacks]
        values = self.axis.ticks(about)
        if not self.share:
            return [(self.axis(value), short(value)) for value in values]
        step = min(np.diff(values), default=1.0)
        digits = 0 if step >= 0.0099 else 1 if step >= 0.00099 else 2
        return [(self.axis(value), f"{100 * value:.{digits}f} %") for value in values]

    def title(self, name: str) -> str:
        """Return the axis' name."""
        return name + (" (log of the error)" if self.lacking else " (log)" if self.axis.log else "")


def _focus(values: list[float]) -> tuple[float, float]:
    """Return the ends of a linear axis of the figures, the best first, wide enough for most of them.

    A few that went astray would press all others into a line: where the worst tenth needs more than as much room as
    all the others, the axis ends before it.
    """
    best, worst, most = values[0], values[-1], values[min(len(values) - 1, round(0.9 * len(values)))]
    end = most if abs(worst - best) > 2 * abs(most - best) > 0 else worst
    low, high = min(best, end), max(best, end)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin if low < 0 or low > margin else 0.0, high + margin


def ranks(search: SearchRecord) -> dict[int, float]:
    """Return for the number of each trial with a figure its rank: 0 for the worst, 1 for the best."""
    trials = search.scored
    return {trial.number: 1 - place / max(1, len(trials) - 1) for place, trial in enumerate(trials)}


def strengths(search: SearchRecord) -> dict[int, int]:
    """Return for each trial's number the strength of its colour: 3 for the best tenth, then 2, 1, and 0 for half."""
    return {number: sum(rank >= bound for bound in _STRENGTHS) for number, rank in ranks(search).items()}


def _best_name(search: SearchRecord) -> str:
    return "chosen" if search.chosen is not None else "best"


def line_keys(search: SearchRecord, kind: str = "") -> str:
    """Return the legend of `strengths`, as lines or as what the class `kind` makes of them."""
    keys = [("s3", "best tenth"), ("s2", "next best"), ("s1", "better half"), ("s0", "worse half")]
    best = search.best.number if search.best else -1
    there = {f"s{strength}" for number, strength in strengths(search).items() if number != best}
    keys = [(style, name) for style, name in keys if style in there]
    keys += [("validation", _best_name(search))] if search.best else []
    return legend([(f"{style} {kind}", name) for style, name in keys])


def dot(search: SearchRecord, trial: TrialRecord, x: float, y: float, shown: str) -> str:
    """Return a trial's point: filled if it was trained to its end, hollow if not, orange if it was chosen."""
    kind, radius = ("full", 3.2) if trial.state == "complete" else ("part", 2.8)
    if search.best is not None and trial.number == search.best.number:
        kind, radius = "chosen", 5
    return hover("circle", f'class="pt {kind}" cx="{x:g}" cy="{y:g}" r="{radius}"', f"trial {trial.number}: {shown}")


def dot_keys(search: SearchRecord) -> str:
    """Return the legend of `dot`."""
    full = [trial.state == "complete" for trial in search.scored]
    keys = [("pt full", "trained to the end")] if any(full) else []
    keys += [("pt part", "stopped early")] if not all(full) else []
    return legend([*keys, ("pt chosen", _best_name(search))])
