"""How much of the cluster a session has, asked in ways that Spark Connect answers too."""

import math
import os
import re
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_slots: "WeakKeyDictionary[SparkSession, int]" = WeakKeyDictionary()


def threads_per_task(spark: "SparkSession") -> int:
    """Return how many threads one task may use: the executor's cores divided by its task slots."""
    local = local_slots(spark)
    if local is not None:
        return max(1, cores() // local)
    return int(spark.conf.get("spark.task.cpus", "1") or 1)


def executor_cores(spark: "SparkSession") -> int | None:
    """Return how many cores the tasks of one executor share; None if Spark does not tell."""
    if local_slots(spark) is not None:
        return cores()
    told = spark.conf.get("spark.executor.cores", None)
    return int(told) if told else None


def slots(spark: "SparkSession", *, again: bool = False) -> int:
    """Return how many tasks run at the same time.

    Read from the master's name for a local session. Otherwise asked from the cluster, once per session, by a job of a
    second or so: what counts is what the executors have that are registered then. `again` asks anew, after executors
    may have come or gone.
    """
    if again or spark not in _slots:
        local = local_slots(spark)
        _slots[spark] = _ask_slots(spark) if local is None else local
    return _slots[spark]


def is_connect(spark: "SparkSession") -> bool:
    """Whether the session is one of Spark Connect, whose server may be elsewhere."""
    return "connect" in type(spark).__module__


def driver_hosts(spark: "SparkSession") -> list[str]:
    """Return the names under which executors know the driver; empty if Spark does not tell (Spark Connect)."""
    if is_connect(spark):  # the server's address, where nothing of this process listens
        return []
    host = spark.conf.get("spark.driver.host", None)
    return [host] if host else []


def local_slots(spark: "SparkSession") -> int | None:
    """Return N of a master ``local[N]``, None for every other master."""
    match = re.fullmatch(r"local(?:\[(\d+|\*)(?:,\s*(?:\d+|\*))?\])?", spark.conf.get("spark.master", "") or "")
    if not match:
        return None
    if match[1] is None:
        return 1
    return cores() if match[1] == "*" else max(1, int(match[1]))


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ask_slots(spark: "SparkSession") -> int:
    from pyspark.sql import functions as F  # noqa: N812  its usual name

    # The number of partitions that Spark gives a range is the sum of the executors' cores, or 2 if that is less. The
    # first job is there to wait for executors.
    spark.range(1).count()
    cores = spark.range(1 << 20).select(F.spark_partition_id().alias("partition")).distinct().count()
    if cores == 2:
        cores = int(min(2, _cores_asked_for(spark)))
    return max(1, cores // int(spark.conf.get("spark.task.cpus", "1") or 1))


def _cores_asked_for(spark: "SparkSession") -> float:
    """Return how many cores a session may have at most, as far as its settings tell."""

    def number(name: str, default: str = "inf") -> float:
        return float(spark.conf.get(name, default) or default)

    master = spark.conf.get("spark.master", "") or ""
    simulated = re.fullmatch(r"local-cluster\[\s*(\d+)\s*,\s*(\d+)\s*,.*\]", master)
    if simulated:
        return int(simulated[1]) * int(simulated[2])
    if not master.startswith(("yarn", "k8s")):
        return number("spark.cores.max")
    grows = str(spark.conf.get("spark.dynamicAllocation.enabled", "false")).lower() == "true"
    return math.inf if grows else number("spark.executor.instances") * number("spark.executor.cores", "1")
