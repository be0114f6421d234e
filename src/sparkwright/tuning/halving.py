"""Which trials go on: asynchronous successive halving, as decisions alone.

Trials are compared at *rungs*: epochs that lie a factor `eta` apart, the last of them the whole length. Of the trials
at a rung the best ``1/eta`` go on to the next, as soon as they are among the best of those that have come so far. So
nobody waits for a rung to be full, and a slot is idle only where no new trial may start. Source: Li et al. 2020, *A
System for Massively Parallel Hyperparameter Tuning*, algorithm 2.

The first to come to a rung are its best for a while, so that more than one of `eta` would go on. While new trials may
start, those that have gone on are therefore counted against the share (Li et al. 2022, *Hyper-Tune*, section 4.2): the
same epochs try half as many configurations more. A better one that comes later goes on when nobody starts any more.

Nothing here knows who trains, or where the next configuration comes from.
"""

import math
from itertools import pairwise
from typing import Literal

__all__ = ["Halving", "rungs"]

Direction = Literal["min", "max"]


def rungs(epochs: int, min_epochs: int, eta: int) -> list[int]:
    """Return the epochs at which trials are compared: ``min_epochs · eta^k`` below `epochs`, and `epochs`."""
    found = []
    while min_epochs < epochs:
        found.append(min_epochs)
        min_epochs *= eta
    return [*found, epochs]


class Halving:
    """What is known of the trials at each rung, and which of them go on.

    Equal values are ordered by the trials' numbers, so that decisions depend on nothing but what was noted, and when.

    Args:
        epochs: A trial's whole length.
        min_epochs: Epochs until the first rung; as many as `epochs`: every trial is trained to its end.
        eta: One of so many trials goes on.
        direction: Whether less or more is better.
    """

    def __init__(self, epochs: int, min_epochs: int, eta: int, direction: Direction) -> None:
        self.rungs = rungs(epochs, min_epochs, eta)
        self._eta = eta
        self._sign = 1 if direction == "min" else -1
        # For each rung: trial → signed value, the lowest the best; and which of them have gone on.
        self._values: list[dict[int, float]] = [{} for _ in self.rungs]
        self._gone: list[set[int]] = [set() for _ in self.rungs]
        self._ended: set[int] = set()

    @property
    def epochs(self) -> float:
        """Of a trial, on average, where one in `eta` goes on at each rung."""
        stretches = [after - before for before, after in pairwise([0, *self.rungs])]
        return sum(stretch / float(self._eta) ** rung for rung, stretch in enumerate(stretches))

    def note(self, trial: int, epoch: int, value: float, *, ended: bool) -> None:
        """Note the value of a trial at a rung; one that has `ended` needs no job to go on."""
        self._values[self.rungs.index(epoch)][trial] = self._sign * value
        if ended:
            self._ended.add(trial)

    def forget(self, trial: int) -> None:
        """Leave a trial out of all rungs, because it failed: as if it had never been."""
        for values, gone in zip(self._values, self._gone, strict=True):
            values.pop(trial, None)
            gone.discard(trial)

    def promotion(
        self, epoch: int | None = None, most: float = math.inf, *, sparing: bool = False
    ) -> tuple[int, int] | None:
        """Return a trial that goes on and until which epoch, of the highest rung that has one; note that it does.

        Args:
            epoch: Only one that goes on until there.
            most: Only one that goes on for at most so many epochs.
            sparing: Whether no more than one of `eta` may have gone on from a rung.
        """
        for rung in reversed(range(len(self.rungs) - 1)):
            if self.rungs[rung + 1] - self.rungs[rung] > most:
                continue
            while (trial := self._next(rung, sparing)) is not None:
                if trial not in self._ended and epoch not in (None, self.rungs[rung + 1]):
                    break
                self._gone[rung].add(trial)
                if trial not in self._ended:
                    return trial, self.rungs[rung + 1]
                self._values[rung + 1][trial] = self._values[rung][trial]  # it stands there without a job
        return None

    def last_promotion(self) -> tuple[int, int] | None:
        """Return the best trial of the highest rung that has any, if none is trained to its end: so that one will be.

        For when nothing is at work any more and no trial may start.
        """
        occupied = [rung for rung, values in enumerate(self._values) if values]
        if not occupied or occupied[-1] == len(self.rungs) - 1:
            return None
        rung = occupied[-1]
        trial = self._ranked(rung)[0]
        if trial in self._ended:  # trained to its end before that rung: there is no more to it
            return None
        self._gone[rung].add(trial)
        return trial, self.rungs[rung + 1]

    def place(self, trial: int) -> tuple[int, int, int]:
        """Return the last rung's epoch at which a trial stands, its place there from 1, and how many stand there."""
        rung = max(rung for rung, values in enumerate(self._values) if trial in values)
        ranked = self._ranked(rung)
        return self.rungs[rung], ranked.index(trial) + 1, len(ranked)

    def _next(self, rung: int, sparing: bool) -> int | None:
        """Return the best of a rung's top that has not gone on."""
        ranked = self._ranked(rung)
        top = ranked[: len(ranked) // self._eta]
        if sparing and len(self._gone[rung]) >= len(top):
            return None
        return next((trial for trial in top if trial not in self._gone[rung]), None)

    def _ranked(self, rung: int) -> list[int]:
        values = self._values[rung]
        return sorted(values, key=lambda trial: (values[trial], trial))
