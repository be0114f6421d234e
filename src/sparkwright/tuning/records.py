"""What a search keeps in the run, so that it can go on after its driver died at any moment.

::

    tuning/
      asked/000012.json       what was proposed for trial 12: written before the trial begins
      results/000031.json     what the thirty-second job to end gave: written before anything is decided by it

Decisions follow from these files alone: the search makes them again, from the beginning, and runs what has no result.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from sparkwright import storage
from sparkwright.tuning.study import Asked
from sparkwright.tuning.trials import Measurement

__all__ = ["BEGIN_ANEW", "Records", "Result"]

BEGIN_ANEW = "begin anew: overwrite=True (--overwrite), of a Tuner another `runDir`."
"""What to do where going on with what is kept leads nowhere."""

_ASKED, _RESULTS = "asked", "results"


@dataclass(frozen=True)
class Result:
    """What a job gave.

    Attributes:
        job: Its number, in the order in which jobs were decided.
        decided: Jobs that were decided until it ended.
        seconds: Of the search until it ended: the clock by which the search decides.
        until: The epoch of its assignments.
        measurements: One an assignment.
        attempts: Likewise: how often it was tried.
    """

    job: int
    decided: int
    seconds: float
    until: int
    measurements: tuple[Measurement, ...]
    attempts: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from `to_dict`."""
        measurements = tuple(Measurement.from_dict(each) for each in data["measurements"])
        return cls(**{**data, "measurements": measurements, "attempts": tuple(data["attempts"])})


class Records:
    """The files of one search; runs on the driver.

    Args:
        folder: Where they lie, on any file system; None keeps them in memory alone.

    Attributes:
        asked: Trial → what was proposed for it.
        results: In the order in which jobs ended.
    """

    def __init__(self, folder: str | None) -> None:
        self._folder = folder
        self.asked = {number: Asked(**data) for number, data in enumerate(self._read(_ASKED))}
        self.results = [Result.from_dict(data) for data in self._read(_RESULTS)]

    def keep_asked(self, asked: Asked) -> None:
        """Keep what was proposed for a trial; one that is known stays as it is."""
        if asked.number not in self.asked:
            self._write(_ASKED, asked.number, asdict(asked))
            self.asked[asked.number] = asked

    def keep(self, result: Result) -> None:
        """Keep what a job gave."""
        self._write(_RESULTS, len(self.results), result.to_dict())
        self.results.append(result)

    def drop_last(self, count: int) -> None:
        """Forget the last results, so that their jobs run again."""
        for _ in range(count):
            self.results.pop()
            if self._folder is not None:
                storage.remove(self._path(_RESULTS, len(self.results)))

    def _path(self, kind: str, number: int) -> str:
        assert self._folder is not None
        return storage.join(self._folder, kind, f"{number:06}.json")

    def _write(self, kind: str, number: int, data: dict[str, Any]) -> None:
        if self._folder is not None:
            storage.write_bytes(self._path(kind, number), json.dumps(data, ensure_ascii=False).encode())

    def _read(self, kind: str) -> list[dict[str, Any]]:
        """Return the files of a kind in order, as far as none is missing."""
        if self._folder is None:
            return []
        there = set(storage.list_files(storage.join(self._folder, kind)))
        found = list[dict[str, Any]]()
        while f"{len(found):06}.json" in there:
            found.append(json.loads(storage.read_bytes(self._path(kind, len(found)))))
        return found
