"""Start a Spark session that is quiet and fits this machine, or join one."""

import contextlib
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sparkwright.errors import EnvironmentNotReadyError, InputError, did_you_mean
from sparkwright.session._java import find_java

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_LOG_SETTINGS = Path(__file__).with_name("log4j2.properties")

# Spark's own masters; other schemes may be those of a plug-in.
_MASTERS = re.compile(
    r"local(\[(\d+|\*)(,\s*(\d+|\*))?\])?|local-cluster\[\s*\d+\s*,\s*\d+\s*,\s*\d+\s*\]|yarn|(?!sc:)[a-z][a-z0-9+.-]*://.+"
)

# Lines that every Spark JVM writes as it starts, before its log settings apply.
_NOISE = re.compile(
    rb"WARNING: Using incubator modules|Setting (default|Spark) log level|To adjust logging level"
    rb"|Using Spark's default log4j profile|NOTE: Picked up JDK_JAVA_OPTIONS"
)


def start(
    master: str | None = "local[*]",
    remote: str | None = None,
    conf: Mapping[str, str] | None = None,
    app_name: str = "sparkwright",
    quiet: bool = True,
) -> "SparkSession":
    """Return a Spark session: a new one, or the one that runs already in this process.

    For a local master the session is bound to loopback, takes a quarter of the machine's memory (1 to 8 GiB), has no
    web page, and its Python workers run this interpreter. `conf` goes before all of this.

    Args:
        master: Spark's master URL (``local[4]``, ``yarn``, ``spark://host:7077`` …); None leaves it to spark-defaults.
        remote: Address of a Spark Connect server (``sc://host:15002``); `master` is then not used.
        conf: Spark settings.
        app_name: The application's name.
        quiet: Keep Spark's own log down to errors, and those short.

    Raises:
        EnvironmentNotReadyError: No Java (17 or later), or Spark does not start; the message carries Spark's reason.
        InputError: `remote` is not an address of the form ``sc://host``, or `master` none that Spark knows.
    """
    if remote is not None:
        return _connect(remote, conf or {}, app_name)
    _check_master(master)
    os.environ.setdefault("JAVA_HOME", str(find_java()))
    local = master is not None and master.startswith("local")
    if local:
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if "pyspark.sql.connect.session" not in sys.modules:
        # Left by a process on Spark Connect that started this one: pyspark would take it for its own.
        os.environ.pop("SPARK_CONNECT_MODE_ENABLED", None)
    settings = {**_defaults(local, quiet), **(conf or {})}

    from pyspark.sql import SparkSession

    builder = SparkSession.Builder().appName(app_name)
    if master is not None:
        builder = builder.master(master)
    for key, value in settings.items():
        builder = builder.config(key, str(value))
    with _launch(quiet, f"Spark (master {master})"):
        return builder.getOrCreate()
    raise AssertionError("unreachable")  # _launch turns every failure into an error of its own


def _check_master(master: str | None) -> None:
    """Refuse what Spark would refuse seconds later, in words of its JVM."""
    if master is None or _MASTERS.fullmatch(master):
        return
    if master.startswith("sc://"):
        raise InputError(f"{master} is a Spark Connect server, no master: give it as `remote` (--remote).")
    raise InputError(
        f"The master must be local, local[N], local[*], yarn, spark://host:port or k8s://…, not {master!r}."
        + did_you_mean(master, ("local", "local[*]", "local-cluster[2,1,1024]", "yarn", "spark://host:7077"))
    )


def _connect(remote: str, conf: Mapping[str, str], app_name: str) -> "SparkSession":
    address = re.match(r"sc://([^/:;\s]+)(?::(\d+))?(?:/|$)", remote)
    if not address:
        raise InputError(f"A Spark Connect address must look like sc://host:15002, not {remote!r}.")
    if not any(os.environ.get(name) for name in ("grpc_proxy", "https_proxy", "http_proxy")):
        # Spark itself tries for ten minutes.
        try:
            socket.create_connection((address[1], int(address[2] or 15002)), timeout=10).close()
        except OSError as error:
            raise EnvironmentNotReadyError(f"No Spark Connect server answers at {remote}: {error}") from error

    from pyspark.errors import PySparkException
    from pyspark.sql.connect.session import SparkSession as ConnectSession

    builder = ConnectSession.Builder().remote(remote).appName(app_name)
    for key, value in conf.items():
        builder = builder.config(key, str(value))
    try:
        session = builder.getOrCreate()
        session.version  # noqa: B018  the first call that needs the server
    except PySparkException as error:
        raise EnvironmentNotReadyError(f"No Spark Connect server answers at {remote}: {error}") from error
    os.environ["SPARK_CONNECT_MODE_ENABLED"] = "1"  # as pyspark's own builder does: its functions ask for it
    return session  # type: ignore[return-value]  # a Connect session has the same methods, not the same class


def _defaults(local: bool, quiet: bool) -> dict[str, str]:
    java = [f"-Dlog4j2.configurationFile={_LOG_SETTINGS.as_uri()}"] if quiet else []
    if local:
        # Photos and training keep the cores busy in Python; the JVM's best compiler and its parallel collectors would
        # take them away for most of a job of minutes.
        java += ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
    settings = {
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.extraJavaOptions": " ".join(java),
        # Python gets rows in batches, and the first when it is full: Spark's 64 MiB are thousands of photos, which a
        # task would have to read before it scores the first one.
        "spark.sql.execution.arrow.maxBytesPerBatch": "4m",
        # For workers that need more slots than the cluster has Spark waits in silence; half a minute, not ten.
        "spark.scheduler.barrier.maxConcurrentTasksCheck.interval": "5s",
        "spark.scheduler.barrier.maxConcurrentTasksCheck.maxFailures": "6",
    }
    if local:
        settings |= {
            "spark.ui.enabled": "false",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.memory": f"{_heap_mib()}m",
            # Every map task writes to each of them; 200 (Spark's default) suits clusters.
            "spark.sql.shuffle.partitions": str(max(8, 2 * (os.cpu_count() or 1))),
            # A task for each folder (up to 10,000, Spark's default) makes listing class folders slow on one machine.
            "spark.sql.sources.parallelPartitionDiscovery.parallelism": str(os.cpu_count() or 1),
        }
    return settings


def physical_memory_mib() -> int | None:
    """Return the machine's memory, None where it cannot be asked."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (AttributeError, ValueError, OSError):
        return None


def _heap_mib() -> int:
    return max(1024, min(8192, (physical_memory_mib() or 4096) // 4))


class _Output:
    """What the JVM writes to standard error: held back until it has started, then passed on without `_NOISE`."""

    def __init__(self, reading: int, terminal: int) -> None:
        self._held: list[bytes] | None = []
        self._lock = threading.Lock()
        self._pipe = os.fdopen(reading, "rb", buffering=0)
        self._terminal = os.fdopen(terminal, "wb", buffering=0)
        self._thread = threading.Thread(target=self._read, daemon=True, name="spark-stderr")
        self._thread.start()

    def _read(self) -> None:
        with self._pipe, self._terminal:
            rest = b""
            while chunk := self._pipe.read(65536):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._line(line + b"\n")
            self._line(rest)

    def _line(self, line: bytes) -> None:
        with self._lock:
            if self._held is not None:
                self._held.append(line)
            elif line and not _NOISE.search(line):
                # The terminal may be gone, or there was no JVM to start; the JVM must not block on that.
                with contextlib.suppress(OSError, ValueError):
                    self._terminal.write(line)

    def release(self) -> None:
        """Pass on what was held back, and from now on each line at once."""
        with self._lock:
            held, self._held = self._held or [], None
        for line in held:
            self._line(line)

    def take(self) -> str:
        """Return the last lines of a JVM that has gone instead of passing them on."""
        self._thread.join(timeout=2)
        with self._lock:
            held, self._held = self._held or [], None
        return b"".join(line for line in held if not _NOISE.search(line))[-2000:].decode(errors="replace").strip()


@contextlib.contextmanager
def _launch(quiet: bool, what: str) -> Iterator[None]:
    """Start a JVM inside the block; it inherits file descriptor 2, which is a pipe for that time if `quiet`.

    Raises:
        EnvironmentNotReadyError: Whatever the block raises, with what the JVM wrote.
    """
    output: _Output | None = None
    if quiet and os.name != "nt":
        sys.stderr.flush()
        terminal = os.dup(2)
        reading, writing = os.pipe()
        output = _Output(reading, os.dup(terminal))
        os.dup2(writing, 2)
        os.close(writing)
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    finally:
        if output:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
    if failure is not None:
        reason = (output.take() if output else "") or str(failure).split("\n\tat ")[0]
        raise EnvironmentNotReadyError(f"{what} did not start: {reason}") from failure
    if output:
        output.release()
