"""End a Spark job from another thread than the one that waits for it."""

import contextlib
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from sparkwright.session._size import is_connect

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["cancellable"]


@contextlib.contextmanager
def cancellable(spark: "SparkSession") -> Iterator[Callable[[], Any]]:
    """Submit jobs inside, from this thread; what is given ends those that run, called from any thread.

    A job that was ended raises where it was submitted, as one that failed. Runs on the driver.
    """
    tag = f"sparkwright-{uuid.uuid4().hex}"
    end: Callable[[str], Any]
    if is_connect(spark):
        add, remove, end = spark.addTag, spark.removeTag, spark.interruptTag
    else:
        # A classic session knows its tags in the thread that added them alone: `interruptTag` of another ends nothing.
        context = spark.sparkContext
        add, remove, end = context.addJobTag, context.removeJobTag, context.cancelJobsWithTag
    add(tag)
    try:
        yield partial(end, tag)
    finally:
        remove(tag)
