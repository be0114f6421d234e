"""What a training imports by name (a network's factory, a loss of one's own) is tried on workers before the job.

A worker that cannot import it would fail long after the start, once all rows have moved, and as often as there are
attempts.
"""

import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkwright.errors import InputError
from sparkwright.networks import factory
from sparkwright.session import slots, worker_errors
from sparkwright.training.tasks.losses import is_own, own_loss

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["check_imports"]


def check_imports(
    spark: "SparkSession", specs: Sequence[Mapping[str, Any]] = (), losses: Sequence[str | None] = ()
) -> None:
    """Check on the executors, by a small job, that they can import what a training needs; nothing if that is nothing.

    Args:
        spark: The session.
        specs: Of the networks, as `Network.to_spec` gives them: their factories are called.
        losses: ``"package.module:function"``; names of the library's own losses have no colon.

    Raises:
        InputError: A worker cannot import one, or what it imports cannot be used; with what it says.
    """
    parts = [part["options"] for spec in specs for part in spec.get("parts", ()) if part["build"] == "factory"]
    own = tuple(loss for loss in losses if loss is not None and is_own(loss))
    if not parts and not own:
        return
    count = slots(spark)
    probe = _Probe(tuple(parts), own)
    with worker_errors():
        answers = spark.range(0, count, 1, count).mapInArrow(probe, "answer string").collect()
    problems = sorted({row["answer"] for row in answers if row["answer"]})
    if problems:
        raise InputError(problems[0])


@dataclass(frozen=True)
class _Probe:
    """Imports and builds. Runs on executors."""

    parts: tuple[Mapping[str, Any], ...]
    losses: tuple[str, ...]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for _ in range(batch.num_rows):
                yield pa.RecordBatch.from_pylist([{"answer": self._problem()}])

    def _problem(self) -> str:
        try:
            for options in self.parts:
                factory.trust(options["factory"])  # the driver has named it
                factory.build(**options)
            for loss in self.losses:
                own_loss(loss)
        except Exception as error:
            return f"On a worker ({socket.gethostname()}): {error}"
        return ""
