"""Rows of unlike lengths as one array: what lies behind a row's end is NaN.

That is how sequences (texts, sounds, series) reach a network, in training and in scoring: float32 of shape
(rows, steps) or (rows, steps, channels). No value that a row may hold is NaN, so nothing else need travel with the
array, and a network finds the mask by itself (`sparkwright.networks.sequences.Mask`). Numpy alone.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from sparkwright.errors import ContentError, InputError, did_you_mean

__all__ = [
    "LONGER",
    "Longer",
    "SequencePreprocessing",
    "check_limits",
    "known_fields",
    "pad",
    "settle_length",
    "trim",
    "trimming",
]

Longer = Literal["error", "cut"]
LONGER = ("error", "cut")


class SequencePreprocessing(ABC):
    """From one row's content to a network's input of as many steps as the row has, up to a longest length.

    A subclass is plain data: a frozen dataclass that a network carries and a model saves.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of the longest input: steps, and what each step has."""

    @abstractmethod
    def read(self, content: Any) -> NDArray[Any]:
        """Return one row, of shape (length, …).

        Raises:
            ContentError: The row cannot be used.
        """

    def apply(self, content: Any, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return one row as the network takes it: float32 of `shape`, NaN behind the row's end.

        Args:
            content: As `read` takes it.
            out: Where it is written, of that shape; None: a new array.

        Raises:
            ContentError: As `read`.
        """
        out = np.empty(self.shape, np.float32) if out is None else out
        row = self.read(content)
        out[: len(row)] = row
        out[len(row) :] = np.nan
        return out

    @property
    def plain(self) -> Self:
        """What scoring does: the same as training."""
        return self


def pad(rows: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """Return rows of shape (length, …) as one array of shape (rows, longest, …), NaN behind their ends."""
    longest = max((len(row) for row in rows), default=0)
    x = np.full((len(rows), longest, *(rows[0].shape[1:] if rows else ())), np.nan, np.float32)
    for place, row in zip(x, rows, strict=True):
        place[: len(row)] = row
    return x


def trim(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the steps of `x`, of shape (rows, steps, …), up to the end of its longest row: a view."""
    there = ~np.isnan(x.reshape(*x.shape[:2], -1)[:, :, 0])
    longest = int(np.flatnonzero(there.any(0))[-1]) + 1 if there.any() else 1
    return x[:, :longest]


def trimming(forward: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Callable[..., NDArray[np.float32]]:
    """Return `forward` for padded rows: what is padding in all rows of a batch never reaches the network."""

    def trimmed(x: NDArray[np.float32], /) -> NDArray[np.float32]:
        return forward(np.ascontiguousarray(trim(x)))

    return trimmed


def settle_length(length: int, most: int, longer: Longer, unit: str) -> int:
    """Return how many steps of a row are used.

    Args:
        length: How many it has; of a row that was not read whole, any number above `most`.
        most: How many a network takes.
        longer: What becomes of a row with more.
        unit: What a step is, for the message.

    Raises:
        ContentError: There are none, or more than `most` and `longer` is ``error``.
    """
    if length < 1:
        raise ContentError("empty", f"The row has no {unit}.")
    if length > most and longer == "error":
        raise ContentError(
            "too long",
            f"The row has more than {most:,} {unit}. Raise `max_length` of the preprocessing, or cut longer rows: "
            "longer='cut'.",
        )
    return min(length, most)


def check_limits(what: str, max_length: int, longer: str) -> None:
    """Refuse a longest length below 1, or a way to treat longer rows that there is not.

    Raises:
        InputError: One of them.
    """
    if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1:
        raise InputError(f"{what}: `max_length` must be a whole number from 1 on; got {max_length!r}.")
    if longer not in LONGER:
        raise InputError(
            f"{what}: `longer` must be one of {', '.join(LONGER)}; got {longer!r}.{did_you_mean(str(longer), LONGER)}"
        )


def known_fields(cls: type, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a preprocessing from its dict, without its `kind`.

    Raises:
        InputError: There is no such field.
    """
    known = [field.name for field in dataclasses.fields(cls)]
    given = {name: value for name, value in data.items() if name != "kind"}
    for name in given:
        if name not in known:
            raise InputError(f"{cls.__name__} has no field `{name}`; it has {known}.{did_you_mean(name, known)}")
    return given
