"""Axes of charts: from values to pixels, and the ticks beside them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Axis", "Categories", "short"]

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Axis:
    """Maps numbers from low…high to pixels from start…end."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the place of a value, in pixels."""
        return round(self.start + self.share(value) * (self.end - self.start), 1)

    def share(self, value: float) -> float:
        """Return how far along the axis a value is: 0 at `low`, 1 at `high`."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def at(self, share: float) -> float:
        """Return the value that is so far along the axis."""
        if self.log:
            return float(self.low * (self.high / self.low) ** share)
        return self.low + share * (self.high - self.low)

    def ticks(self, about: int = 5) -> list[float]:
        """Return round values on the axis."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for steps in ((1,), (1, 3), (1, 2, 5)):
                values = [step * 10.0**power for power in decades for step in steps]
                values = [value for value in values if self.low <= value <= self.high]
                if len(values) >= about - 1:
                    break
            return values
        rough = (self.high - self.low) / about
        magnitude = 10.0 ** math.floor(math.log10(rough))
        step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= rough)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [place * step for place in range(first, last + 1)]


@dataclass(frozen=True)
class Categories:
    """Maps categories to the middles of equal bands of the pixels from start…end."""

    names: Sequence[str]
    start: float
    end: float

    def __call__(self, name: str) -> float:
        """Return the middle of a category's band, in pixels."""
        return round(self.start + self.share(name) * (self.end - self.start), 1)

    def share(self, name: str) -> float:
        """Return how far along the axis a category's middle is, 0…1."""
        return (self.names.index(name) + 0.5) / len(self.names)


def short(value: float) -> str:
    """Write a number for a tick: 0.01, 10⁻⁵, 3·10⁻⁵, 12k, 1.5M, 10¹²."""
    size = abs(value)
    if size and not 1e-3 <= size < 1e12:
        power = math.floor(math.log10(size) + 1e-9)
        factor = f"{value / 10.0**power:.3g}"
        return ("" if factor == "1" else f"{factor}·") + f"10{str(power).translate(_SUPERSCRIPTS)}"
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= max(unit, 1e4):
            return f"{value / unit:.3g}{letter}"
    return f"{value:.4g}"
