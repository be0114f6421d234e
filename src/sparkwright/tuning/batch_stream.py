"""The stream of batches that heads of a shared pass train on: gathered, standardised and drawn once for all of them."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparkwright.networks.dropout import draw_bits, integers_of, noise_of

__all__ = ["Batch", "BatchStream", "Draws"]

_STREAM_BYTES = 256 << 20
"""Of batches that wait for heads that have not come to them yet: what is beyond is made anew for each head."""

_VALIDATION_BYTES = 64 << 20
"""Of standardised validation rows, likewise."""


class Draws:
    """The random bits of one step, of which every head takes its dropout, as `Dropout` takes them for the seed.

    Args:
        seed: Of the step.
        common: Probabilities that several heads have: their masks are kept.
    """

    def __init__(self, seed: int, common: Iterable[float] = ()) -> None:
        self._seed = seed
        self._common = frozenset(common)
        self._bits = torch.empty(0, dtype=torch.int64)
        self._kept: dict[Hashable, list[Tensor]] = {}

    def noise(self, rows: int, widths: tuple[int, ...], dropout: float) -> list[Tensor]:
        """Return what outputs are multiplied with: 0, or 1 / (1 - dropout); float32, (rows, width) for each layer."""
        key = (rows, widths, dropout)
        if key in self._kept:
            return self._kept[key]
        sizes = [integers_of(rows * width) for width in widths]
        if len(self._bits) < sum(sizes):
            self._bits = draw_bits(sum(sizes), torch.Generator().manual_seed(self._seed))
        parts = torch.split(self._bits[: sum(sizes)], sizes)
        made = [noise_of(part, (rows, width), dropout) for part, width in zip(parts, widths, strict=True)]
        if dropout in self._common:
            self._kept[key] = made
        return made


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
        self._drawn_bytes = 2 * widest + 4 * kept  # a row's: bits, float32 masks

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
