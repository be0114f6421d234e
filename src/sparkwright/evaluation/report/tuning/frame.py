"""The frame of a chart of the search: its size, grid and ticks, and what keeps labels from colliding."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparkwright.evaluation.report.axes import Axis
from sparkwright.evaluation.report.markup import text
from sparkwright.evaluation.report.tuning.record import SearchRecord, TrialRecord

__all__ = ["Frame", "Tick", "cut", "focus", "score_axis", "score_ticks", "strengths"]

Tick = tuple[float, str]
"""Where a tick stands, in pixels, and what it says."""

_LETTER = 6.3  # pixels of a letter, on average
_STRENGTHS = (0.5, 0.75, 0.9)  # of the trials' ranks, the best highest: where the next stronger colour begins


@dataclass(frozen=True)
class Frame:
    """A chart's size and margins, in pixels; `wide` ones scroll on narrow screens instead of shrinking."""

    width: int = 520
    height: int = 300
    left: int = 56
    right: int = 14
    top: int = 26
    bottom: int = 40
    wide: bool = False

    @property
    def x(self) -> tuple[int, int]:
        """Where the horizontal axis starts and ends."""
        return self.left, self.width - self.right

    @property
    def y(self) -> tuple[int, int]:
        """Where the vertical axis starts and ends: upwards."""
        return self.height - self.bottom, self.top

    def grid(self, x_ticks: Sequence[Tick], y_ticks: Sequence[Tick], x_label: str = "", y_label: str = "") -> str:
        """Return grid lines, and ticks as far as their labels have room; the vertical axis is named above it."""
        (left, right), (low, high) = self.x, self.y
        parts = []
        for y, label in y_ticks:
            parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
            parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{text(label)}</text>')
        for x, label in x_ticks:
            parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{low}" y2="{low + 4}"/>')
        taken = 0.0
        for x, label in sorted(x_ticks):
            half = len(label) * _LETTER / 2
            middle = min(x, self.width - half)
            if middle - half >= taken:
                parts.append(f'<text x="{middle:g}" y="{low + 17}" text-anchor="middle">{text(label)}</text>')
                taken = middle + half + 5
        if x_label:
            place = (left + right) / 2
            parts.append(
                f'<text class="label" x="{place}" y="{self.height - 5}" text-anchor="middle">{text(x_label)}</text>'
            )
        if y_label:
            parts.append(f'<text class="label" x="{max(0, left - 50)}" y="{high - 12}">{text(y_label)}</text>')
        return "".join(parts)

    def svg(self, description: str, parts: Sequence[str]) -> str:
        """Return the chart."""
        picture = (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{text(description)}"'
            f"{f' style="min-width:{round(0.8 * self.width)}px"' if self.wide else ''}>{''.join(parts)}</svg>"
        )
        label = text(description)
        return (
            f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{picture}</div>'
            if self.wide
            else picture
        )


def cut(label: str, letters: int) -> str:
    """Return a label of at most so many letters."""
    return label if len(label) <= letters else label[: letters - 1] + "…"


def focus(search: SearchRecord) -> tuple[float, float]:
    """Return the lowest and highest figure that charts show, wide enough for most of the trials.

    A few that went astray (an accuracy of guessing, a loss of thousands) would press all others into a line: where the
    worst tenth needs more than as much room as all the others, charts end before it, and draw it at their edge.
    """
    values = [trial.value for trial in search.scored if trial.value is not None]
    if not values:
        return 0.0, 1.0
    best, worst = values[0], values[-1]
    most = values[min(len(values) - 1, round(0.9 * len(values)))]
    end = most if abs(worst - best) > 2 * abs(most - best) > 0 else worst
    low, high = min(best, end), max(best, end)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    top = high + margin
    return low - margin if low < 0 or low > margin else 0.0, min(top, 1.0) if search.is_share and high <= 1 else top


def score_axis(search: SearchRecord, start: float, end: float) -> Axis:
    """Return an axis of the metric; logarithmic where what it shows spans more than a factor of 30."""
    low, high = focus(search)
    lowest = min((trial.value for trial in search.scored if trial.value is not None), default=0.0)
    if lowest > 0 and high / lowest > 30:
        return Axis(0.9 * lowest, high, start, end, log=True)
    return Axis(low, high, start, end)


def score_ticks(search: SearchRecord, axis: Axis, about: int = 5) -> list[Tick]:
    """Return ticks of the metric."""
    values = axis.ticks(about)
    step = min(np.diff(values), default=1.0) if not axis.log else 1.0
    digits = 0 if step >= 0.0099 else 1 if step >= 0.00099 else 2
    return [(axis(v), f"{100 * v:.{digits}f} %" if search.is_share else f"{v:.4g}") for v in values]


def strengths(search: SearchRecord) -> dict[int, int]:
    """Return for each trial's number the strength of its colour: 3 for the best tenth, then 2, 1, and 0 for half."""
    trials: list[TrialRecord] = search.scored
    ranks = {trial.number: 1 - (place + 0.5) / len(trials) for place, trial in enumerate(trials)}
    return {number: sum(rank >= bound for bound in _STRENGTHS) for number, rank in ranks.items()}
