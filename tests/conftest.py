"""Fixtures that all tests share: a Spark session, the command line, a finished run, the test data, a Hadoop.

The whole suite is three runs side by side. ``SPARKWRIGHT_TEST_SESSION`` says which a process is: one process can hold a
session of one kind only, and Spark spends much of a test waiting.

- ``classic``: what uses `spark`, a classic session;
- ``connect``: what is marked `connect`, where `spark` is a Spark Connect session; with ``only=True`` it is not in the
  first. What uses both `spark` and servers of its own (marked `cluster`) is here alone, and so is what is
  on Hadoop: one is started for all;
- ``none``: what uses neither.

Each way of using Spark is taken on both kinds once: a stage and its saving, a query, a training, its errors, files of
each rule. The other cases of that way run on one kind alone.

Without that variable all that was named runs, on a classic session.
"""

import contextlib
import io
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

SESSION = os.environ.get("SPARKWRIGHT_TEST_SESSION", "")
CONNECT = SESSION == "connect"

# What a developer's shell may hold and a test must not depend on.
for name in (
    "HADOOP_CONF_DIR",
    "PYSPARK_DRIVER_PYTHON",
    "PYSPARK_SUBMIT_ARGS",
    "SPARK_CONF_DIR",
    "SPARK_HOME",
    "SPARK_REMOTE",
    "YARN_CONF_DIR",
):
    os.environ.pop(name, None)
os.environ["PYSPARK_PYTHON"] = sys.executable
os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"

# For the JVMs of tests' own servers, as `sparkwright.session` has it for local sessions: they live for minutes, and
# compiling for long lives would cost more than it brings.
SHORT_LIVED = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"

# Warnings that pyspark and what it uses give, on some versions of Python, and that no change here can avoid.
IGNORED_WARNINGS = (
    # Python 3.12 and later, where pyspark starts its JVM from a process with threads.
    "ignore:This process .* is multi-threaded, use of fork.*:DeprecationWarning",
)


def pytest_configure(config: pytest.Config) -> None:
    for warning in IGNORED_WARNINGS:
        config.addinivalue_line("filterwarnings", warning)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept, left_out = [], []
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        for fixture, mark in {"spark": "spark", "data_dir": "data", "hadoop": "hadoop", "yarn": "hadoop"}.items():
            if fixture in fixtures:
                item.add_marker(mark)
        (left_out if _in_another_run(item) else kept).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    items[:] = sorted(kept, key=_cost)


def _has_servers(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(mark) for mark in ("cluster", "hadoop"))


def _in_another_run(item: pytest.Item) -> bool:
    connect = item.get_closest_marker("connect")
    session = connect is not None or item.get_closest_marker("spark") is not None
    hadoop = item.get_closest_marker("hadoop") is not None
    only = connect is not None and connect.kwargs.get("only", False)
    on_connect = only or hadoop or (session and _has_servers(item))
    match SESSION:
        case "classic":
            return not session or on_connect
        case "connect":
            return connect is None and not on_connect
        case "none":
            return session or hadoop
    return False


def _cost(item: pytest.Item) -> int:
    """Order the fast ones first: without Spark, then on the shared session, then with servers of their own."""
    if _has_servers(item):
        return 2
    return 1 if item.get_closest_marker("spark") else 0


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARKWRIGHT_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A session of two slots: classic ``local[2]``, or Connect to a server that has them."""
    from sparkwright.session import start

    folder = tmp_path_factory.mktemp("spark")
    conf = {
        "spark.local.dir": str(folder / "local"),
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.driver.memory": "2g",
        "spark.sql.shuffle.partitions": "4",
        "spark.python.worker.faulthandler.enabled": "true",
    }
    if not CONNECT:
        session = start("local[2]", conf=conf, app_name="tests")
        yield session
        session.stop()
        return
    with connect_server(folder, conf) as address:
        session = start(remote=address)
        yield session
        session.stop()


class connect_server:  # noqa: N801  used as a function
    """Runs a Spark Connect server of its own inside a ``with`` block, whose value is its address."""

    def __init__(self, folder: Path, conf: dict[str, str]) -> None:
        self._folder, self._conf = folder, conf

    def __enter__(self) -> str:
        import pyspark

        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        home = Path(pyspark.__file__).parent
        settings = {
            **self._conf,
            "spark.ui.enabled": "false",
            "spark.driver.extraJavaOptions": SHORT_LIVED,
            "spark.sql.sources.parallelPartitionDiscovery.parallelism": "2",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.connect.grpc.binding.address": "127.0.0.1",
            "spark.connect.grpc.binding.port": str(port),
        }
        command = [
            *(str(home / "bin" / "spark-submit"), "--master", "local[2]", "--name", "connect"),
            *(part for key, value in settings.items() for part in ("--conf", f"{key}={value}")),
            *("--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "spark-internal"),
        ]
        # In a folder of its own, without the project: what executors of a cluster see.
        self._log = (self._folder / "connect.log").open("wb")
        self._server = subprocess.Popen(
            command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )
        deadline = time.monotonic() + 90
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                if self._server.poll() is not None or time.monotonic() > deadline:
                    self.__exit__()
                    raise RuntimeError((self._folder / "connect.log").read_text()[-3000:]) from None
                time.sleep(0.2)
            else:
                return f"sc://127.0.0.1:{port}"

    def __exit__(self, *exc: object) -> None:
        self._server.terminate()
        self._server.wait(timeout=30)
        self._log.close()


Printed = tuple[int, str, str]
Command = Callable[..., Printed]


def _run(words: tuple[object, ...], open_session: Callable[..., object] | None = None) -> Printed:
    from sparkwright import cli

    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(cli.options, "open_session", open_session or cli.options.open_session)
        patch.setattr(sys, "argv", ["sparkwright", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    code = ended.value.code or 0
    assert isinstance(code, int)
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="session")
def sparkwright(spark: object) -> Command:
    """Run the command on the shared session; return (exit code, stdout, stderr)."""

    @contextlib.contextmanager
    def shared(master: object, remote: object, conf: object) -> Iterator[object]:
        yield spark

    return lambda *words: _run(words, shared)


@pytest.fixture(scope="session")
def plain() -> Command:
    """The same without a session."""
    return lambda *words: _run(words)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of the digits 5 to 7 in class folders, and one file that is none."""
    from sparkwright.data.digits import write_digits

    folder = tmp_path_factory.mktemp("digits") / "photos of digits"
    write_digits(folder, digits=range(5, 8))
    (folder / "7" / "broken é.png").write_bytes(b"no photo")
    return folder


@dataclass(frozen=True)
class Transferred:
    """A finished run's folder, and what the command printed that made it."""

    run: Path
    printed: Printed


@pytest.fixture(scope="session")
def transferred(sparkwright: Command, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Transferred:
    """The main job on `digits`."""
    run = tmp_path_factory.mktemp("runs") / "run"
    return Transferred(run, sparkwright("transfer", digits, "--network", "digits_cnn", "--out", run, "--json"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real test data; the test is skipped where there is none."""
    folder = os.environ.get("SPARKWRIGHT_TEST_DATA")
    if not folder:
        pytest.skip("SPARKWRIGHT_TEST_DATA does not name the folder of test data")
    if not Path(folder).is_dir():
        pytest.skip(f"SPARKWRIGHT_TEST_DATA names {folder}, which is not a folder")
    return Path(folder)


@dataclass(frozen=True)
class Hadoop:
    """A running Hadoop: the address of its HDFS (``hdfs://host:port``) and its ``HADOOP_CONF_DIR``."""

    address: str
    conf: Path


@pytest.fixture(scope="session")
def _server(request: pytest.FixtureRequest) -> Iterator[Hadoop]:
    """The one Hadoop of the tests; with YARN if any of them needs it."""
    folder = os.environ.get("SPARKWRIGHT_TEST_HADOOP")
    if not folder:
        pytest.skip("SPARKWRIGHT_TEST_HADOOP does not name the Hadoop folder")
    program = Path(folder) / "mini-hadoop"
    if not program.is_file():
        pytest.skip(f"SPARKWRIGHT_TEST_HADOOP names {folder}, which holds no mini-hadoop")
    yarn = any("yarn" in getattr(item, "fixturenames", ()) for item in request.session.items)
    with tempfile.TemporaryDirectory(prefix="hadoop-", ignore_cleanup_errors=True) as scratch:
        server = subprocess.Popen(
            [program, scratch, "1", "1" if yarn else "0"],
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHON": sys.executable, "JDK_JAVA_OPTIONS": SHORT_LIVED},
        )
        try:
            ready = Path(scratch) / "conf" / "ready"
            deadline = time.monotonic() + 110
            while not ready.exists() or not ready.read_text().strip():
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((Path(scratch) / "hadoop.log").read_text()[-3000:])
                time.sleep(0.2)
            yield Hadoop(ready.read_text().strip().rstrip("/"), ready.parent)
        finally:
            # Stopping in order takes 20 s. All that it wrote lies in `scratch`; containers would outlive it.
            for process in [*psutil.Process(server.pid).children(recursive=True), server]:
                process.kill()
            server.communicate()


@pytest.fixture(scope="session")
def hadoop(_server: Hadoop) -> Hadoop:
    """A real HDFS on loopback. `spark` (classic or Connect) reads and writes ``hdfs://`` there without settings."""
    return _server


@pytest.fixture(scope="session")
def yarn(_server: Hadoop) -> Hadoop:
    """A real HDFS and YARN on loopback; set ``HADOOP_CONF_DIR`` to its `conf` in a process of its own."""
    return _server
