"""A model as a function of SQL: ``SELECT path, classify(content).label FROM photos``."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import pyarrow as pa

from sparkwright.errors import ColumnError, InputError
from sparkwright.models import Model
from sparkwright.networks.network import Network
from sparkwright.scoring.arrow import ScoringPlan, ScoringTask
from sparkwright.scoring.frames import BATCH_SIZE, shipped
from sparkwright.scoring.graph import Graph
from sparkwright.scoring.model_transformer import ModelTransformer
from sparkwright.scoring.outputs import Classification, Output, Regression, error_field

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
) -> None:
    """Make a model a function of the session's SQL, in place of one of that name.

    The function takes what the model takes (a photo's bytes; numbers, for a model of features) and gives a struct:
    ``label``, ``probability``, ``top`` (the best labels, ``array<struct<label,probability>>``) and ``error``
    (``struct<kind,message>``, null for a row that succeeded). For a regression it is ``value`` and ``error``. A null or
    broken photo is a row with an error, never a missing one. The same call twice in one SELECT runs once.

    Args:
        spark: The session, classic or Connect.
        name: Of the function.
        model: A `Model`, or where one was saved; or a `Network` with its classifier.
        top: How many labels ``top`` holds.
        batch_size: Photos that the network sees at once.
        max_error_rate: A task of which a larger share of rows fails ends the query; None for any share.

    Raises:
        InputError: an argument is out of its range.
        NotFoundError: there is no model at that place.

    Example:
        >>> register(spark, "classify", "run/model")                                    # doctest: +SKIP
        >>> spark.sql("SELECT path, classify(content).label FROM photos").show()        # doctest: +SKIP
    """
    from pyspark.sql.functions import arrow_udf
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
    output: Output
    if files.manifest["task"] == "regression":
        output = Regression("value", targets=int(graph.output_shape[0]))
    else:
        output = Classification(tuple(files.manifest["classes"]), "label", "probability", top_labels="top", k=top)
    plan = ScoringPlan(
        **shipped(spark, graph),
        preprocessing=graph.preprocessing,
        input_column=_VALUE,
        keep=(),
        outputs=(output,),
        error_column=_ERROR,
        batch_size=batch_size,
        max_error_rate=max_error_rate,
        stage="predictions",
    )
    answer = StructType([*output.fields(), error_field(_ERROR)])
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
        self._check(first.type)
        batches = (pa.RecordBatch.from_arrays([array], [_VALUE]) for array in chain([first], arrays))
        for batch in ScoringTask(self.plan)(batches):
            yield batch.to_struct_array()

    def _check(self, type_: pa.DataType) -> None:
        photos = pa.types.is_binary(type_) or pa.types.is_large_binary(type_)
        if photos != (self.plan.preprocessing is not None):
            wanted = "an array of numbers or a vector" if photos else "photos' bytes (binary)"
            raise ColumnError(f"{self.name}(…) takes {wanted}; it got a column of Arrow's type {type_}.")
