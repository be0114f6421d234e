"""A model as a function of SQL: ``SELECT path, classify(content).label FROM photos``."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

import pyarrow as pa

from sparkwright.errors import ColumnError, InputError
from sparkwright.models import Model
from sparkwright.networks.network import Network
from sparkwright.scoring.forward.graph import Graph
from sparkwright.scoring.frames import BATCH_SIZE, shipped
from sparkwright.scoring.inputs.fetch import FetchLimits
from sparkwright.scoring.inputs.sources import Source
from sparkwright.scoring.model_transformer import ModelTransformer
from sparkwright.scoring.outputs import error_field, make_outputs
from sparkwright.scoring.process.arrow import ScoringPlan
from sparkwright.scoring.process.supervisor import ScoringTask

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["register", "unregister"]

_VALUE, _ERROR = "value", "error"


def register(
    spark: "SparkSession",
    name: str,
    model: str | Model | Network,
    *,
    top: int = 5,
    batch_size: int = BATCH_SIZE,
    max_error_rate: float | None = None,
    fetch: FetchLimits | None = None,
) -> None:
    """Make a model a function of the session's SQL, in place of one of that name.

    The function takes what the model takes: photos (bytes, paths or URLs, Spark's images), or an array of numbers or a
    vector for a model of features. It gives a struct: ``label``, ``probability``, ``top`` (the best labels,
    ``array<struct<label,probability>>``) and ``error`` (``struct<kind,message>``, null for a row that succeeded). For a
    regression it is ``value`` and ``error``; of several outputs each has such fields, which begin with its name
    (``kind_label``, ``height_value``). A null or broken photo is a row with an error, never a missing one. The same
    call twice in one SELECT runs once.

    Args:
        spark: The session, classic or Connect.
        name: Of the function.
        model: A `Model`, or where one was saved; or a `Network` with its classifier.
        top: How many labels ``top`` holds.
        batch_size: Photos that the network sees at once.
        max_error_rate: A task of which a larger share of rows fails ends the query; None for any share.
        fetch: What a photo may take that lies behind a path or URL; by default `FetchLimits` as it is.

    Raises:
        InputError: an argument is out of its range.
        NotFoundError: there is no model at that place.

    Example:
        >>> register(spark, "classify", "run/model")                                    # doctest: +SKIP
        >>> spark.sql("SELECT path, classify(content).label FROM photos").show()        # doctest: +SKIP
    """
    from pyspark.sql.functions import arrow_udf  # type: ignore[attr-defined]  # not in the stubs
    from pyspark.sql.types import StructType

    if not name.strip():
        raise InputError("The function needs a name.")
    if top < 1:
        raise InputError(f"top must be at least 1; got {top}.")
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1; got {batch_size}.")
    if max_error_rate is not None and not 0 <= max_error_rate <= 1:
        raise InputError(f"max_error_rate must lie between 0 and 1; got {max_error_rate}.")
    files = ModelTransformer(model=model).files()
    graph = Graph.of_model(files)
    outputs = make_outputs(
        files.manifest, prediction="label", value="value", probability="probability", top_labels="top", k=top
    )
    plan = ScoringPlan(
        **shipped(spark, graph, "locations", batch_size),  # which take most; the type is told later
        preprocessing=graph.preprocessing,
        input_column=_VALUE,
        fetch=fetch or FetchLimits(),
        keep=(),
        outputs=tuple(outputs),
        error_column=_ERROR,
        max_error_rate=max_error_rate,
        stage="predictions",
    )
    answer = StructType([*(field for output in outputs for field in output.fields()), error_field(_ERROR)])
    spark.udf.register(name, arrow_udf(_Function(plan, name).answer, answer))


def unregister(spark: "SparkSession", name: str) -> None:
    """Forget a function that `register` made; one that is not there is fine."""
    quoted = name.replace("`", "``")
    spark.sql(f"DROP TEMPORARY FUNCTION IF EXISTS `{quoted}`")


@dataclass(frozen=True)
class _Function:
    """What Spark calls for a task's rows: arrays of the argument in, arrays of the answer out."""

    plan: ScoringPlan
    name: str

    def answer(self, arrays: Iterator[pa.Array]) -> Iterator[pa.Array]:  # Spark reads the kind of function here
        first = next(arrays, None)
        if first is None:
            return
        plan = replace(self.plan, source=self._source(first.type))
        batches = (pa.RecordBatch.from_arrays([array], [_VALUE]) for array in chain([first], arrays))
        for batch in ScoringTask(plan)(batches):
            yield batch.to_struct_array()

    def _source(self, type_: pa.DataType) -> Source:
        """Return what the argument holds; SQL tells its type no earlier."""
        found = _source_of(type_)
        if found is None or (found == "numbers") != (self.plan.preprocessing is None):
            takes = "photos (bytes, paths, URLs, Spark's images)" if self.plan.preprocessing else "arrays of numbers"
            raise ColumnError(f"{self.name}(…) takes {takes}; it got a value of Arrow's type {type_}.")
        return found


def _source_of(type_: pa.DataType) -> Source | None:
    """As `sources.source_of` does for a column's Spark type."""
    if pa.types.is_binary(type_) or pa.types.is_large_binary(type_):
        return "bytes"
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return "locations"
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return "numbers"
    if pa.types.is_struct(type_):  # Spark ML's vectors, or Spark's images
        names = {type_.field(index).name for index in range(type_.num_fields)}
        return "numbers" if {"indices", "values"} <= names else "pixels" if "nChannels" in names else None
    return None
