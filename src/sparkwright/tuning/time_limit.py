"""A trial's training that takes too long ends, whatever it is busy with."""

from collections.abc import Callable, Generator
from typing import TypeVar

from sparkwright.training.loop import Place

__all__ = ["TimeLimitError", "limited"]

T = TypeVar("T")


class TimeLimitError(Exception):
    """A trial has trained for longer than it may: a fault of its own, which is told of by this name."""


def limited(
    steps: Generator[Place, None, T], limit_s: float | None, clock: Callable[[], float]
) -> Generator[Place, None, T]:
    """Take the steps of a training as long as there is time; looked at from sync to sync.

    Args:
        steps: Of the training.
        limit_s: Seconds that it may take; None: any time.
        clock: Tells the training's own seconds.

    Raises:
        TimeLimitError: The time is over.
    """
    began, place = clock(), (1, 0)
    while True:
        try:
            place = next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        if limit_s is not None and clock() - began > limit_s:
            steps.close()
            raise TimeLimitError(
                f"Its time was over in epoch {place[0]}. Raise `trial_time_limit_s`, or leave out of the space what "
                "trains so slowly."
            )
        yield place
