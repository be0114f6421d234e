"""The frame of a chart of the search: its size, grid and ticks, and what keeps labels from colliding."""

from collections.abc import Sequence
from dataclasses import dataclass

from sparkwright.evaluation.report.markup import text

__all__ = ["Frame", "Tick", "cut", "hover"]

Tick = tuple[float, str]
"""Where a tick stands, in pixels, and what it says."""

_LETTER = 6.3  # pixels of a letter, on average


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

    def grid(
        self, x_ticks: Sequence[Tick], y_ticks: Sequence[Tick], x_label: str = "", y_label: str = "", lines: bool = True
    ) -> str:
        """Return grid lines, and ticks as far as their labels have room; the vertical axis is named above it."""
        (left, right), (low, high) = self.x, self.y
        parts = []
        for y, label in y_ticks:
            start = left if lines else left - 4
            parts.append(f'<line class="grid" x1="{start}" x2="{right if lines else left}" y1="{y}" y2="{y}"/>')
            parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{text(label)}</text>')
        for x, _ in x_ticks:
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
        label = text(description)
        least = f' style="min-width:{round(0.8 * self.width)}px"' if self.wide else ""
        size = f'viewBox="0 0 {self.width} {self.height}"'
        picture = f'<svg {size} role="img" aria-label="{label}"{least}>{"".join(parts)}</svg>'
        return (
            f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{picture}</div>'
            if self.wide
            else picture
        )


def hover(tag: str, attributes: str, told: str) -> str:
    """Return an element of a chart that tells something where the pointer rests on it."""
    return f"<{tag} {attributes}><title>{text(told)}</title></{tag}>"


def cut(label: str, letters: int) -> str:
    """Return a label of at most so many letters: of a longer one the beginning and the end."""
    end = (letters - 1) // 2
    return label if len(label) <= letters else f"{label[: letters - 1 - end]}…{label[-end:]}"
