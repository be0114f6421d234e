"""From an array of numbers of any length to a network's input: one implementation for training and serving.

A `SeriesPreprocessing` is plain data that a network carries and a model saves. A row is a flat array: the values of its
first step, of its second one, and so on. It needs numpy alone.

Example:
    >>> SeriesPreprocessing(channels=2, max_length=10).read([1, 2, 3, 4, 5, 6]).shape
    (3, 2)
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sparkwright.errors import ContentError, InputError
from sparkwright.networks.ragged import (
    Longer,
    SequencePreprocessing,
    check_limits,
    known_fields,
    settle_length,
)

__all__ = ["SeriesPreprocessing"]


@dataclass(frozen=True)
class SeriesPreprocessing(SequencePreprocessing):
    """How an array of numbers becomes a network's input: so many values a step, standardised.

    Args:
        channels: Values of a step.
        max_length: Most steps of a row.
        longer: What becomes of a row with more: ``error``, it cannot be used; or ``cut``, the rest is left out.
        mean: Subtracted, one a channel, or one for all.
        std: Divided by after `mean`, likewise.

    Raises:
        InputError: An argument is out of its range.
    """

    channels: int = 1
    max_length: int = 1000
    longer: Longer = "error"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        check_limits("SeriesPreprocessing", self.max_length, self.longer)
        if self.channels < 1:
            raise InputError(f"SeriesPreprocessing: `channels` must be at least 1; got {self.channels!r}.")
        for name in ("mean", "std"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)  # a list from JSON
            if len(values) not in (1, self.channels) or not all(map(math.isfinite, values)):
                raise InputError(
                    f"SeriesPreprocessing: `{name}` must hold one finite number, or one for each of {self.channels} "
                    f"channels; got {values!r}."
                )
        if not all(self.std):
            raise InputError("SeriesPreprocessing: `std` must not hold 0.")

    @property
    def shape(self) -> tuple[int, int]:
        """Steps of the longest input, and channels."""
        return (self.max_length, self.channels)

    def read(self, content: bytes | Sequence[float] | NDArray[Any]) -> NDArray[np.float32]:
        """Return one row, float32 of shape (steps, channels).

        Args:
            content: Numbers, flat or of that shape; bytes are float32.

        Raises:
            ContentError: There are none, too many, or no whole number of steps; or they are not finite.
        """
        values = np.frombuffer(content, np.float32) if isinstance(content, bytes) else np.asarray(content, np.float32)
        if values.size % self.channels:
            raise ContentError(
                "wrong shape", f"The row has {values.size} numbers, which are no steps of {self.channels} each."
            )
        steps = values.reshape(-1, self.channels)
        steps = steps[: settle_length(len(steps), self.max_length, self.longer, "steps")]
        if not np.isfinite(steps).all():
            raise ContentError("not finite", "The row holds NaN or infinity.")
        mean, std = (np.array(values, np.float32) for values in (self.mean, self.std))
        result: NDArray[np.float32] = (steps - mean) / std
        return result

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        fields = dataclasses.asdict(self)
        return {"kind": "series", **fields, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from `to_dict`'s result.

        Raises:
            InputError: A field is unknown or out of its range.
        """
        return cls(**known_fields(cls, data))
