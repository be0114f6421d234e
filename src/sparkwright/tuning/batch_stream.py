"""The stream of batches that heads of a shared pass train on: gathered, standardised and drawn once for all of them."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Batch", "BatchStream", "Draws"]

_STREAM_BYTES = 256 << 20
"""Of batches that wait for heads that have not come to them yet: what is beyond is made anew for each head."""

_VALIDATION_BYTES = 64 << 20
"""Of standardised validation rows, likewise."""


class Draws:
    """The random numbers of one step, of which every head takes its dropout: the same draws as torch's for the seed.

    Where torch draws a mask from one uniform number an element (all processors but Intel's), the numbers are drawn once
    and compared with each head's own probability; else each probability has a draw of its own.

    Args:
        seed: Of the step.
        common: Probabilities that several heads have: their masks are kept.
    """

    def __init__(self, seed: int, common: Iterable[float] = ()) -> None:
        self._seed = seed
        self._common = frozenset(common)
        self._uniform_N: NDArray[np.float64] = np.empty(0)
        self._kept: dict[Hashable, list[Tensor]] = {}

    def noise(self, rows: int, widths: tuple[int, ...], dropout: float) -> list[Tensor]:
        """Return what outputs are multiplied with: 0, or 1 / (1 - dropout); float32, (rows, width) for each layer."""
        key = (rows, widths, dropout)
        if key in self._kept:
            return self._kept[key]
        made = (self._compared if _compares() else self._drawn)(rows, widths, dropout)
        if dropout in self._common:
            self._kept[key] = made
        return made

    def _compared(self, rows: int, widths: tuple[int, ...], dropout: float) -> list[Tensor]:
        total = rows * sum(widths)
        if len(self._uniform_N) < total:
            generator = torch.Generator().manual_seed(self._seed)
            self._uniform_N = torch.rand(total, dtype=torch.float64, generator=generator).numpy()
        kept_N = np.less(self._uniform_N[:total], 1 - dropout)
        noise_N = torch.from_numpy(kept_N.view(np.uint8)).float().div_(1 - dropout)
        parts = torch.split(noise_N, [rows * width for width in widths])
        return [part.view(rows, width) for part, width in zip(parts, widths, strict=True)]

    def _drawn(self, rows: int, widths: tuple[int, ...], dropout: float) -> list[Tensor]:
        generator = torch.Generator().manual_seed(self._seed)
        return [
            torch.empty(rows, width).bernoulli_(1 - dropout, generator=generator).div_(1 - dropout) for width in widths
        ]


@cache
def _compares() -> bool:
    """Whether torch's masks come of uniform numbers, as they do where it does not leave them to MKL."""
    drawn = torch.empty(256).bernoulli_(0.7, generator=torch.Generator().manual_seed(1))
    uniform = torch.rand(256, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return bool(torch.equal(drawn.bool(), uniform < 0.7))


@dataclass
class Batch:
    """What heads train on in one step.

    Attributes:
        x_BF: Features, standardised if they are to be.
        y_B: Targets, as the task defines them.
        w_B: Weights of the rows.
        draws: The step's random numbers.
    """

    x_BF: Tensor
    y_B: Tensor
    w_B: Tensor
    draws: Draws


@dataclass
class BatchStream:
    """Batches between the head that is furthest behind and the one that is furthest ahead.

    Args:
        dropped: Of each head of the pass: the probability of its dropout, and the widths of what is dropped.
    """

    dropped: Sequence[tuple[float, tuple[int, ...]]]
    _batches: dict[tuple[int, ...], Batch] = field(default_factory=dict)
    _validation: dict[tuple[int, ...], Tensor] = field(default_factory=dict)
    _bytes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        heads = Counter(dropout for dropout, _ in self.dropped)
        self._common = frozenset(dropout for dropout, count in heads.items() if count > 1 and dropout > 0)
        widest = max((sum(widths) for dropout, widths in self.dropped if dropout), default=0)
        kept = sum(sum(widths) for dropout, widths in set(self.dropped) if dropout in self._common)
        self._drawn_bytes = 8 * widest + 4 * kept  # a row's: float64 draws, float32 masks

    def draws(self, seed: int) -> Draws:
        """Return the random numbers of a step."""
        return Draws(seed, self._common)

    def batch(self, place: tuple[int, ...], make: Callable[[], Batch]) -> Batch:
        """Return the batch of a place (epoch, number, replica), made by the first head that comes there."""
        if place in self._batches:
            return self._batches[place]
        made = make()
        size = self._size(made)
        if self._bytes["batches"] + size <= _STREAM_BYTES:
            self._bytes["batches"] += size
            self._batches[place] = made
        return made

    def passed(self, place: tuple[int, int]) -> None:
        """Forget what lies before a place (epoch, number), where the last of the heads is."""
        for known in [known for known in self._batches if known[:2] < place]:
            self._bytes["batches"] -= self._size(self._batches.pop(known))

    def _size(self, batch: Batch) -> int:
        """Return the bytes of a batch when all heads have drawn."""
        return batch.x_BF.nbytes + len(batch.x_BF) * self._drawn_bytes

    def validation(self, place: tuple[int, ...], make: Callable[[], Tensor]) -> Tensor:
        """Return the features of some validation rows (replica, first row, rows), standardised."""
        if place in self._validation:
            return self._validation[place]
        made = make()
        if self._bytes["validation"] + made.nbytes <= _VALIDATION_BYTES:
            self._bytes["validation"] += made.nbytes
            self._validation[place] = made
        return made
