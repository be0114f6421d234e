"""Turn the failure of a Spark job into the error of this library that it stands for."""

import contextlib
import importlib
import re
from collections.abc import Iterator

from sparkwright import errors
from sparkwright.errors import EnvironmentNotReadyError, InputError, NotFoundError, SparkwrightError, WorkerError

_TRACEBACK = "Traceback (most recent call last):"
_END = re.compile(r"\n\s*SQLSTATE: \w+|\n+\tat |\n+Driver stacktrace:|\n+JVM stacktrace:")
_RAISED = re.compile(r"([\w.]+)(?::\s?(.*))?", re.DOTALL)


@contextlib.contextmanager
def worker_errors() -> Iterator[None]:
    """Run Spark actions inside; what fails on an executor is raised here as the error that it was there.

    Raises:
        SparkwrightError: See `explain`.
    """
    try:
        yield
    except SparkwrightError:
        raise
    except Exception as error:
        explained = explain(error)
        if explained is None:
            raise
        raise explained from error


def explain(error: BaseException) -> SparkwrightError | None:
    """Return the library's error that a Spark exception (classic or Connect) stands for, None if there is none.

    One of this library's errors raised in a Python worker comes back as the same class with the same message. A worker
    that cannot run Python as this process does is an `EnvironmentNotReadyError`, a missing path a `NotFoundError`, any
    other failure of a job a `WorkerError` with the worker's traceback.
    """
    if not type(error).__module__.startswith(("pyspark.errors", "py4j.", "grpc")):
        return None
    text = str(error)
    if _TRACEBACK in text:
        return _from_traceback(text)
    return _from_spark(text)


def _from_traceback(text: str) -> SparkwrightError:
    traceback = _END.split(text[text.rindex(_TRACEBACK) :])[0].rstrip()
    frames = re.split(r"\n(?=\S)", traceback)  # frames are indented, what was raised is not
    raised = "\n".join(frames[1:])
    match = _RAISED.match(raised)
    name, message = (match[1], match[2] or "") if match else ("", raised)
    own = _own_class(name)
    if own is not None:
        return own(message)
    if name == "ModuleNotFoundError" or "[PACKAGE_NOT_INSTALLED]" in raised:
        return EnvironmentNotReadyError(
            f"A Python worker of the cluster lacks a package: {message.splitlines()[0]}. Workers need Python with "
            "pyarrow, numpy, pillow and onnxruntime; let PYSPARK_PYTHON (or spark.pyspark.python) name such a Python "
            "on every node, or ship one with spark.archives."
        )
    if "PYTHON_VERSION_MISMATCH" in raised or "different version" in raised:
        return EnvironmentNotReadyError(
            f"The cluster's Python is not the driver's: {message} Let PYSPARK_PYTHON name the same version on every "
            "node."
        )
    headline = raised.split("\n")[0]
    return WorkerError(f"A Python worker of the cluster failed: {headline}\n{traceback}")


def _own_class(name: str) -> type[SparkwrightError] | None:
    """Return the class of this library that `name` says, or its nearest base that takes a message alone."""
    module, _, short = name.rpartition(".")
    if not module.startswith("sparkwright"):
        return None
    try:
        found = getattr(importlib.import_module(module), short, None)
    except ImportError:  # a module that only the worker's version has
        return None
    for base in found.__mro__ if isinstance(found, type) else ():
        if getattr(errors, base.__name__, None) is base:
            return base  # type: ignore[no-any-return]
    return None


def _from_spark(text: str) -> SparkwrightError | None:
    if "[PATH_NOT_FOUND]" in text:
        path = re.search(r"Path does not exist: (.*?)\.?(?:\s+SQLSTATE|\n|$)", text)
        return NotFoundError(f"No such path: {path[1] if path else text}.")
    unreachable = _unreachable(text)
    if unreachable is not None:
        return unreachable
    if "Cannot run program" in text:
        program = re.search(r'Cannot run program "([^"]*)"', text)
        return EnvironmentNotReadyError(
            f"The cluster has no Python at {program[1] if program else 'the configured path'}; let PYSPARK_PYTHON (or "
            "spark.pyspark.python) name one that every node has."
        )
    if "No space left on device" in text:
        return WorkerError("The disk is full where a task writes (the output, or spark.local.dir): " + _causes(text))
    if "Python worker exited unexpectedly" in text:
        return WorkerError(
            "A Python worker of the cluster died, most often because its memory ran out: give executors more "
            "(spark.executor.memoryOverhead) or use smaller batches. Spark says: " + _causes(text)
        )
    if "Job aborted" in text or "java.io.IOException" in text or "SparkException" in text:
        return WorkerError("A Spark job failed: " + _causes(text))
    return None


def _unreachable(text: str) -> SparkwrightError | None:
    """Return the error for a path on a file system that Spark does not know, cannot reach, or may not read."""
    scheme = re.search(r"No FileSystem for scheme \"?([\w+.-]+)|Class ([\w.]+FileSystem\w*) not found", text)
    if scheme:
        return EnvironmentNotReadyError(
            f"Spark has no file system for {scheme[1] or scheme[2]}. Correct the path, or add the file system's "
            "package, for instance --conf spark.jars.packages=org.apache.hadoop:hadoop-aws:3.5.0 for s3a:// "
            "(hadoop-azure for abfs://)."
        )
    host = re.search(r"UnknownHostException: ([^\s:]+)", text)
    if host:
        return InputError(f"The host {host[1]} of the path is unknown here; correct the path, or the name service.")
    if "java.net.ConnectException" in text:
        return EnvironmentNotReadyError(f"The file system of the path does not answer: {_causes(text)}")
    if "AccessControlException" in text or "AccessDeniedException" in text:
        return InputError(f"Spark may not read or write there: {_causes(text)}")
    return None


def causes(error: BaseException) -> str:
    """Return what a Spark exception says, without Java's frames."""
    return _causes(str(error))


def _causes(text: str) -> str:
    text = re.sub(r"^An error occurred while calling [\w.]+\.\s*:?\s*", "", text)
    lines = [line.strip() for line in text.split("\n") if not re.match(r"\s+at |\s*\.\.\. \d+ more", line)]
    return "\n".join(dict.fromkeys(line for line in lines if line))[:2000]
