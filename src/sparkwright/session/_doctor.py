"""Check what a job needs before it runs: Java, Python, packages, memory, disk, the cluster and its workers."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparkwright.errors import EnvironmentNotReadyError, SparkwrightError
from sparkwright.session._failures import worker_errors
from sparkwright.session._java import find_java, java_version
from sparkwright.session._memory import python_room
from sparkwright.session._shipping import ship_library
from sparkwright.session._size import cores, slots, threads_per_task
from sparkwright.session._start import physical_memory_mib, start

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# What a Python worker imports to score; to train, torch too.
WORKER_PACKAGES = ("numpy", "pyarrow", "PIL", "onnxruntime")

_DISTRIBUTIONS = {"PIL": "pillow"}  # module → what pip calls it, where the two differ

_DRIVER_PACKAGES = ("pyspark", "torch", "onnxruntime", "numpy", "pyarrow", "pandas", "pillow", "safetensors")

_LITTLE_MEMORY_MIB = 4096
_LITTLE_DISK_GIB = 5
_LITTLE_TASK_MEMORY_MIB = 320  # see `sparkwright.scoring.forward.memory`: MobileNet, and Spark's worker


@dataclass(frozen=True)
class Check:
    """One finding: what was checked, whether it is right (None: not checked), what was found, how to mend it."""

    name: str
    ok: bool | None
    found: str
    advice: str = ""


def check_workers(spark: "SparkSession", packages: Iterable[str] = WORKER_PACKAGES) -> None:
    """Run one tiny task a slot that looks at the workers' Python and packages.

    Args:
        spark: The session; the library is shipped to it.
        packages: Modules that workers must be able to import.

    Raises:
        EnvironmentNotReadyError: A worker's Python is of another minor version than this one, or lacks packages; the
            message says which, where, and how to mend it.
    """
    from pyspark.sql import functions as F  # noqa: N812

    ship_library(spark)
    tasks = slots(spark)
    # A plain Python UDF, because an Arrow one fails before it can tell what is missing.
    look = F.udf(look_around, "string", useArrow=False)
    asked = F.concat(F.lit(json.dumps(sorted(packages))), F.substring(F.col("id").cast("string"), 0, 0))
    with worker_errors():
        seen = spark.range(0, tasks, 1, tasks).select(look(asked).alias("seen")).distinct().limit(1000).collect()
    here = list(sys.version_info[:2])
    for worker in (json.loads(row["seen"]) for row in seen):
        if worker["python"] != here:
            raise EnvironmentNotReadyError(
                f"The workers on {worker['host']} run Python {_dotted(worker['python'])}, the driver {_dotted(here)}. "
                "Let PYSPARK_PYTHON name the same version on every node."
            )
        if worker["missing"]:
            names = " ".join(_DISTRIBUTIONS.get(name, name) for name in worker["missing"])
            raise EnvironmentNotReadyError(
                f"The Python of the workers on {worker['host']} ({worker['executable']}) lacks {names}. Install there: "
                f"{worker['executable']} -m pip install {names}; or let PYSPARK_PYTHON name a Python that has them."
            )


def look_around(packages: str) -> str:
    """Return, as JSON, this process's host, Python and which of `packages` (JSON) it lacks. Runs on executors."""
    return json.dumps(
        {
            "host": platform.node(),
            "executable": sys.executable,
            "python": list(sys.version_info[:2]),
            "missing": [name for name in json.loads(packages) if importlib.util.find_spec(name) is None],
        }
    )


def doctor(
    master: str | None = "local[*]", remote: str | None = None, conf: Mapping[str, str] | None = None
) -> list[Check]:
    """Check this machine, then start a session with these arguments and check its workers.

    The session is stopped at the end, unless there was one before.
    """
    checks = [_check_python(), _check_packages(), *([] if remote else [_check_java()]), _check_memory(), _check_disk()]
    if any(check.ok is False for check in checks):
        return [*checks, Check("Spark", None, "not started, because of the above")]
    return [*checks, *_check_session(master, remote, conf)]


def _check_python() -> Check:
    found = f"{platform.python_version()} ({sys.executable})"
    return Check("Python", sys.version_info >= (3, 11), found, "Python 3.11 or later is needed.")


def _check_packages() -> Check:
    found, missing = [], []
    for name in _DRIVER_PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    advice = f"Install them: {sys.executable} -m pip install {' '.join(missing)}" if missing else ""
    return Check("Packages", not missing, ", ".join([*found, *(f"{name} missing" for name in missing)]), advice)


def _check_java() -> Check:
    try:
        home = find_java()
    except EnvironmentNotReadyError as error:
        return Check("Java", False, "none that Spark can run on", str(error))
    return Check("Java", True, f"{java_version(home)} ({home})")


def _check_memory() -> Check:
    memory_mib = physical_memory_mib()
    if memory_mib is None:
        return Check("Memory", None, "unknown on this platform")
    return Check(
        "Memory",
        memory_mib >= _LITTLE_MEMORY_MIB,
        f"{memory_mib / 1024:.1f} GiB, {cores()} cores",
        f"Less than {_LITTLE_MEMORY_MIB // 1024} GiB is little: use --master local[1] and small batches.",
    )


def _check_disk() -> Check:
    folder = os.environ.get("SPARK_LOCAL_DIRS", tempfile.gettempdir()).split(",")[0]
    try:
        free_gib = shutil.disk_usage(folder).free / 2**30
    except OSError as error:
        return Check("Disk", False, f"{folder}: {error.strerror}", "Let SPARK_LOCAL_DIRS name a folder on a disk.")
    advice = f"Spark writes there; with less than {_LITTLE_DISK_GIB} GiB, let SPARK_LOCAL_DIRS name another disk."
    return Check("Disk", free_gib >= _LITTLE_DISK_GIB, f"{free_gib:.0f} GiB free in {folder}", advice)


def _check_session(master: str | None, remote: str | None, conf: Mapping[str, str] | None) -> list[Check]:
    from pyspark.sql import SparkSession

    before = SparkSession.getActiveSession()
    where = remote or master or "the configured master"
    try:
        spark = start(master, remote, conf)
    except SparkwrightError as error:
        return [Check("Spark", False, f"no session on {where}", str(error))]
    try:
        found = f"{spark.version} on {where}: {slots(spark)} slots of {threads_per_task(spark)} threads"
        checks = [Check("Spark", True, found)]
        check_workers(spark, (*WORKER_PACKAGES, "torch"))
        checks.append(Check("Workers", True, "Python and packages as the driver's"))
        checks.append(_check_room(spark))
    except SparkwrightError as error:
        checks.append(Check("Workers", False, "not ready", str(error)))
    finally:
        if before is None:
            spark.stop()
    return checks


def _check_room(spark: "SparkSession") -> Check:
    """Compare what a task's Python processes may take with what scoring by a small network takes."""
    room = python_room(spark)
    if room is None:
        return Check("Task memory", None, "not limited by anything that Spark tells")
    each = room.size // room.tasks // 2**20
    found = f"{each:,} MiB for the Python processes of a task ({room.told}, {room.tasks} at once)"
    advice = (
        f"Scoring takes some {_LITTLE_TASK_MEMORY_MIB} MiB a task with a small network, 1.2 GiB with VGG16. Helps: "
        f"{room.setting}."
    )
    return Check("Task memory", each >= _LITTLE_TASK_MEMORY_MIB, found, advice)


def _dotted(version: list[int]) -> str:
    return ".".join(str(part) for part in version)
