"""How much memory the Python processes of a session's tasks may take, as far as Spark and the machine tell."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sparkwright.errors import InputError
from sparkwright.session._size import is_connect, local_slots

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_MIB = 1 << 20
_UNITS = {"": _MIB, "b": 1, "k": 1 << 10, "m": _MIB, "g": 1 << 30, "t": 1 << 40}
_LEAST_OVERHEAD = 384 * _MIB  # Spark's defaults of the memory beside an executor's heap
_OVERHEAD_SHARE = 0.1


@dataclass(frozen=True)
class Room:
    """Memory for the Python processes of one executor.

    Attributes:
        size: In bytes, for all of them together.
        tasks: That run there at the same time.
        told: Where `size` comes from.
        setting: What gives a task more of it.
    """

    size: int
    tasks: int
    told: str
    setting: str


def python_room(spark: "SparkSession") -> Room | None:
    """Return what the Python processes of an executor may take together; None where nothing limits them that is known.

    In a local session that is the memory that is free now. On YARN and Kubernetes it is what the container has beside
    the heap.
    """
    local = local_slots(spark)
    if local is not None:
        free = None if is_connect(spark) else available_bytes()  # there tasks run on the server's machine
        if free is None:
            return None
        return Room(free, local, "free memory of this machine", "fewer slots (--master local[N])")
    master = spark.conf.get("spark.master", "") or ""
    if not master.startswith(("yarn", "k8s")):
        return None
    tasks = max(1, int(_get(spark, "spark.executor.cores", "1")) // int(_get(spark, "spark.task.cpus", "1")))
    python = _get(spark, "spark.executor.pyspark.memory", "")
    if python:
        name = "spark.executor.pyspark.memory"
        return Room(_bytes(python), tasks, name, _larger(name))
    name = "spark.executor.memoryOverhead"
    told = _get(spark, name, "")
    share = float(_get(spark, "spark.executor.memoryOverheadFactor", str(_OVERHEAD_SHARE)))
    heap = _bytes(_get(spark, "spark.executor.memory", "1g"))
    return Room(_bytes(told) if told else max(_LEAST_OVERHEAD, int(share * heap)), tasks, name, _larger(name))


def available_bytes() -> int | None:
    """Return the memory that this machine, or this process's control group, has free; None if it cannot be asked."""
    found = []
    try:
        line = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        if line:
            found.append(int(line[1]) << 10)
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            used = int((group / "memory.current").read_text())
            cache = re.search(r"^inactive_file (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
            found.append(max(0, int(limit) - used + (int(cache[1]) if cache else 0)))
    except (OSError, ValueError):
        pass  # no Linux, or another version of control groups
    return min(found, default=None)


def _larger(name: str) -> str:
    return f"more of it (--conf {name}=SIZE), or fewer tasks at once"


def _get(spark: "SparkSession", name: str, default: str) -> str:
    return spark.conf.get(name, default) or default


def _bytes(text: str) -> int:
    """Read Spark's sizes: ``512m``, ``2g``; a bare number counts MiB."""
    found = re.fullmatch(r"\s*(\d+)\s*([bkmgt]?)b?\s*", text.lower())
    if found is None:
        raise InputError(f"Spark's sizes look like 512m or 2g; got {text!r}.")
    return int(found[1]) * _UNITS[found[2]]
