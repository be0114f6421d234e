"""Charts as inline SVG, whose colours and fonts are the style sheet's: they follow light, dark and print."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sparkwright.evaluation.report.axes import Axis, short
from sparkwright.evaluation.report.markup import text

__all__ = ["Series", "calibration_chart", "legend", "line_chart"]

_WIDTH, _HEIGHT = 520, 300
_FEW = 10  # rows in a bin that say little about its accuracy
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 24, 40


@dataclass(frozen=True)
class Series:
    """A line: its name, its points, and the style sheet's class that draws it."""

    name: str
    style: str
    x: Sequence[float]
    y: Sequence[float]


def line_chart(
    series: Sequence[Series],
    *,
    description: str,
    x_label: str,
    percent: bool = False,
    mark: tuple[float, str] | None = None,
    log_x: bool = False,
) -> str:
    """Return lines over a common x axis, logarithmic if asked; `mark` is a place on it with a name.

    The y axis is logarithmic where the values span more than a factor of 30.
    """
    xs = [x for line in series for x in line.x]
    ys = [y for line in series for y in line.y if math.isfinite(y)]
    if not ys:
        return ""
    x_axis = Axis(min(xs), max(max(xs), min(xs) + 1), _LEFT, _WIDTH - _RIGHT, log=log_x)
    y_axis = _y_axis(min(ys), max(ys), percent)
    parts = [_grid(x_axis, y_axis, x_label, percent)]
    if y_axis.log:
        parts.append(f'<text class="label" x="0" y="{_HEIGHT - 6}">upwards: logarithmic</text>')
    if mark is not None:
        place = x_axis(mark[0])
        anchor = "end" if place > _WIDTH - 40 else "middle"
        parts.append(
            f'<line class="mark" x1="{place}" x2="{place}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
            f'<text class="mark" x="{place}" y="{_TOP - 8}" text-anchor="{anchor}">{text(mark[1])}</text>'
        )
    parts += [_line(line, x_axis, y_axis, x_label, percent) for line in series]
    return _svg(_HEIGHT, description, parts)


def _y_axis(low: float, high: float, percent: bool) -> Axis:
    ends = (_HEIGHT - _BOTTOM, _TOP)
    if low > 0 and high / low > 30:
        return Axis(low * 0.9, high * 1.1, *ends, log=True)
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    top = min(high + margin, 1.0) if percent and high <= 1 else high + margin
    return Axis(max(0.0, low - margin) if low >= 0 else low - margin, top, *ends)


def _grid(x_axis: Axis, y_axis: Axis, x_label: str, percent: bool) -> str:
    parts = []
    ticks = y_axis.ticks()
    spread = max(ticks) - min(ticks) if ticks else 1
    for value in ticks:
        y = y_axis(value)
        shown = f"{100 * value:.{0 if spread >= 0.04 else 1}f} %" if percent else short(value)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{shown}</text>'
        )
    for value in x_axis.ticks(8):
        if value == int(value):
            x = x_axis(value)
            parts.append(f'<text x="{x}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{int(value)}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle" class="label">{text(x_label)}</text>')
    return "".join(parts)


def _line(line: Series, x_axis: Axis, y_axis: Axis, x_label: str, percent: bool) -> str:
    points = [
        (x, y)
        for x, y in zip(line.x, line.y, strict=True)
        if math.isfinite(y) and (y > 0 or not y_axis.log)  # a logarithmic axis has no place for 0
    ]
    path = " ".join(f"{x_axis(x)},{y_axis(y)}" for x, y in points)
    drawn = f'<polyline class="line {line.style}" points="{path}"/>'
    if line.style == "replica":
        return drawn
    shown = (f"{100 * y:.2f} %" if percent else f"{y:.4g}" for _, y in points)
    dots = "".join(
        f'<circle class="dot {line.style}" cx="{x_axis(x)}" cy="{y_axis(y)}" r="{3 if len(points) <= 60 else 1.5}">'
        f"<title>{text(line.name)}, {text(x_label)} {x:.0f}: {value}</title></circle>"
        for (x, y), value in zip(points, shown, strict=True)
    )
    return drawn + dots


def calibration_chart(rows: Sequence[int], confidence: Sequence[float | None], accuracy: Sequence[float | None]) -> str:
    """Return accuracy over confidence, a bar a bin, with the rows of each bin below."""
    bins, most = len(rows), max(rows, default=0) or 1
    low = _HEIGHT - _BOTTOM
    x_axis, y_axis = Axis(0, 1, _LEFT, _WIDTH - _RIGHT), Axis(0, 1, low, _TOP)
    strip = Axis(0, 1, low + 92, low + 40)  # the rows' own bars, under the axis
    parts = []
    for value in (0, 0.25, 0.5, 0.75, 1):
        x, y = x_axis(value), y_axis(value)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{100 * value:.0f} %</text>'
            f'<text x="{x}" y="{low + 16}" text-anchor="{"end" if value == 1 else "middle"}">{100 * value:.0f} %</text>'
        )
    for place, (count, mean, share) in enumerate(zip(rows, confidence, accuracy, strict=True)):
        if not count or mean is None or share is None:
            continue
        faint = " few" if count < _FEW else ""
        left, width = x_axis(place / bins) + 1, round((_WIDTH - _RIGHT - _LEFT) / bins - 2, 1)
        shown = f"{count:,} rows: confidence {100 * mean:.1f} %, accuracy {100 * share:.1f} %"
        # What lies between the bar's end and the point on the diagonal is the calibration error of the bin.
        parts.append(
            f'<g><title>{shown}</title><rect class="bar{faint}" x="{left}" width="{width}" '
            f'y="{y_axis(share)}" height="{max(0.5, round(low - y_axis(share), 1))}"/>'
            f'<circle class="dot validation" cx="{x_axis(mean)}" cy="{y_axis(mean)}" r="3.5"/>'
            f'<rect class="rows" x="{left}" width="{width}" y="{strip(count / most)}" '
            f'height="{round(strip(0) - strip(count / most), 1)}"/></g>'
        )
    parts.append(f'<line class="diagonal" x1="{x_axis(0)}" y1="{y_axis(0)}" x2="{x_axis(1)}" y2="{y_axis(1)}"/>')
    parts.append(f'<text class="label" x="{_LEFT - 6}" y="{strip(0)}" text-anchor="end">rows</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text class="label" x="{middle}" y="{low + 110}" text-anchor="middle">confidence</text>')
    used = [(m, a) for m, a in zip(confidence, accuracy, strict=True) if m is not None and a is not None]
    pairs = ", ".join(f"{100 * m:.0f} % → {100 * a:.0f} %" for m, a in used)
    return _svg(_HEIGHT + 78, f"Accuracy by confidence: {pairs}", parts)


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Return a legend from (style class, name) pairs."""
    items = "".join(f'<span class="key {style}"><i></i>{text(name)}</span>' for style, name in entries)
    return f'<span class="legend">{items}</span>'


def _svg(height: int, description: str, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{text(description)}">{"".join(parts)}</svg>'
