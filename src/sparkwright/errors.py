"""Every error that the library raises on purpose.

::

    SparkwrightError
    ├── InputError (ValueError)             what the user gave cannot be used
    │   ├── NotFoundError (FileNotFoundError)   no such path, or nothing usable in it
    │   ├── ExistsError (FileExistsError)       output is there already
    │   ├── ColumnError                         a column is missing or of the wrong type
    │   ├── ContentError                        one row's content (an image, a text, a sound) cannot be used
    │   ├── NotFiniteError                      a loss became NaN or infinite
    │   └── NameUnknownError (LookupError)      no network, layer, class … of that name
    ├── ModelError (ValueError)             a model's files are damaged, altered, or of a newer format
    ├── DownloadError (OSError)             weights could not be fetched, or are not what they should be
    ├── StorageError (OSError)              a file cannot be written: disk full, read-only, no permission
    ├── EnvironmentNotReadyError (RuntimeError)  Java, Python, packages or slots are not what the job needs
    ├── ErrorRateError (RuntimeError)       too many rows, or trials of a search, failed
    ├── PrecisionError (RuntimeError)       a network of reduced precision agrees too little with float32
    └── WorkerError (RuntimeError)          a process of the cluster failed; carries its traceback

A message says what must hold, what was given, where, and how to mend it.
"""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Self

__all__ = [
    "ColumnError",
    "ContentError",
    "DownloadError",
    "EnvironmentNotReadyError",
    "ErrorRateError",
    "ExistsError",
    "InputError",
    "ModelError",
    "NameUnknownError",
    "NotFiniteError",
    "NotFoundError",
    "PrecisionError",
    "SparkwrightError",
    "StorageError",
    "WorkerError",
    "did_you_mean",
    "differences",
]


class SparkwrightError(Exception):
    """Base of all errors of this library."""


class InputError(SparkwrightError, ValueError):
    """An argument, file or table that cannot be used as it is.

    Attributes:
        problems: What is wrong, one by one, where it was checked as a whole.
    """

    problems: tuple[str, ...] = ()

    @classmethod
    def listing(cls, what: str, problems: Sequence[str]) -> Self:
        """Return the error that says `what` cannot be, and lists all problems."""
        listed = "".join(f"\n- {problem}" for problem in problems) if len(problems) > 1 else f" {problems[0]}"
        error = cls(f"{what}:{listed}")
        error.problems = tuple(problems)
        return error


class NotFoundError(InputError, FileNotFoundError):
    """A path does not exist, or holds nothing that the call could use."""


class ExistsError(InputError, FileExistsError):
    """The output exists already and may not be overwritten."""


class ColumnError(InputError):
    """A column is missing, of the wrong type, or holds values that cannot be used."""


class ContentError(InputError):
    """One row's content that cannot be used: an image, a text, a sound.

    `kind` groups such errors: empty, unreadable, too large, too long, unsupported, wrong size.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        return type(self), (self.kind, str(self))


class NotFiniteError(InputError):
    """A training's loss became NaN or infinite."""


class NameUnknownError(InputError, LookupError):
    """No network, layer, optimiser … of that name."""


class ModelError(SparkwrightError, ValueError):
    """A model's files are incomplete, altered, or written by a newer version."""


class DownloadError(SparkwrightError, OSError):
    """Weights could not be fetched, or are not what they should be."""


class StorageError(SparkwrightError, OSError):
    """A file cannot be written: the disk is full, read-only, or may not be written to."""


class EnvironmentNotReadyError(SparkwrightError, RuntimeError):
    """Java, Python, a package, memory or slots are not what the job needs."""


class ErrorRateError(SparkwrightError, RuntimeError):
    """More rows failed than the job allows, or more trials than a search can do with."""


class PrecisionError(SparkwrightError, RuntimeError):
    """A network of reduced precision agrees too little with itself in float32."""


class WorkerError(SparkwrightError, RuntimeError):
    """A process of the cluster failed; the message carries its own traceback."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean `x`?"`` for the closest known name (in any case), else an empty string."""
    folded = {text.casefold(): text for text in known}
    close = get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    return f" Did you mean `{folded[close[0]]}`?" if close else ""


def differences(there: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Say which entries of two configurations differ (``"seed: 0 → 1"``), in mappings inside mappings too."""
    found = []
    for key in sorted({*there, *now}):
        before, after = there.get(key), now.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {before!r} → {after!r}")
    return found
