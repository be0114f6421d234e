import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from sparkwright.errors import EnvironmentNotReadyError, InputError
from sparkwright.session import _size, _start, driver_hosts, slots, start, threads_per_task


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.connect
def test_a_local_session_has_its_slots_and_shares_the_cores(spark, monkeypatch):
    monkeypatch.setattr(_size, "cores", lambda: 9)
    assert slots(spark) == 2
    assert threads_per_task(spark) == 4


def test_the_driver_is_on_loopback(spark):
    assert driver_hosts(spark) == ["127.0.0.1"]


def test_a_session_that_runs_is_taken(spark):
    assert start("local[2]") is spark


class Settings:
    def __init__(self, **conf: str) -> None:
        self._conf = conf

    @property
    def conf(self):
        return self

    def get(self, name, default=None):
        return self._conf.get(name.replace(".", "_"), default)


@pytest.mark.parametrize(
    ("master", "expected"), [("local", 8), ("local[*]", 1), ("local[3]", 2), ("local[2, 4]", 4), ("yarn", 5)]
)
def test_threads_are_the_cores_divided_by_the_slots(master, expected, monkeypatch):
    monkeypatch.setattr(_size, "cores", lambda: 8)
    assert threads_per_task(Settings(spark_master=master, spark_task_cpus="5")) == expected


def test_a_connect_address_must_look_like_one():
    with pytest.raises(InputError, match="must look like sc://host:15002, not 'localhost'"):
        start(remote="localhost")


@pytest.mark.parametrize(
    ("master", "message"),
    [
        ("locl", r"not 'locl'\. Did you mean `local`\?"),
        ("local[x]", r"not 'local\[x\]'\. Did you mean `local\[\*\]`\?"),
        ("local[2", r"not 'local\[2'"),
        ("yran", r"Did you mean `yarn`\?"),
        ("spark:/host:7077", r"Did you mean `spark://host:7077`\?"),
        ("host:7077", "must be local, local"),
        ("", "not ''"),
        ("sc://host:15002", "give it as `remote`"),
    ],
)
def test_a_master_that_spark_does_not_know_is_refused_before_it_starts(master, message):
    with pytest.raises(InputError, match=message):
        start(master)


@pytest.mark.parametrize(
    "master",
    [
        *("local", "local[2]", "local[*]", "local[2,4]", "local[*, 2]", "local-cluster[2,1,1024]"),
        *("yarn", "spark://a:7077,b:7077", "k8s://https://host:6443", "plug-in://host"),
    ],
)
def test_masters_of_every_kind_are_passed_to_spark(master):
    assert _start._check_master(master) is None


@pytest.mark.cluster
def test_starting_and_failing_jobs_write_nothing_of_spark_to_the_terminal():
    done = run(
        "from sparkwright.session import start, worker_errors\n"
        "spark = start('local[1]')\n"
        "def fail(batches):\n"
        "    for batch in batches: raise ValueError\n"
        "    yield\n"
        "try:\n"
        "    with worker_errors(): spark.range(1).mapInArrow(fail, 'id long').count()\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    assert done.stdout == "WorkerError\n"
    assert done.stderr == ""


@pytest.mark.cluster
def test_a_session_that_cannot_start_says_why():
    done = run(
        "from sparkwright.session import start\n"
        "from sparkwright.errors import EnvironmentNotReadyError\n"
        "try: start('local[1]', conf={'spark.driver.memory': '9999999g'})\n"
        "except EnvironmentNotReadyError as error: print(error)\n"
    )
    assert "Spark (master local[1]) did not start:" in done.stdout
    assert "heap" in done.stdout
    assert done.stderr == ""


def test_a_server_that_is_not_there_is_named():
    with pytest.raises(EnvironmentNotReadyError, match=r"No Spark Connect server answers at sc://127.*refused"):
        start(remote="sc://127.0.0.1:9")


@pytest.mark.cluster
def test_workers_without_the_packages_are_an_error_that_says_so(tmp_path: Path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True, timeout=60)
    done = run(
        "from sparkwright.session import check_workers, start\n"
        "from sparkwright.errors import EnvironmentNotReadyError\n"
        "try: check_workers(start('local[1]'))\n"
        "except EnvironmentNotReadyError as error: print(error)\n",
        PYSPARK_PYTHON=str(tmp_path / "bare" / "bin" / "python"),
    )
    assert "lacks pillow numpy onnxruntime pyarrow. Install there" in done.stdout
    assert "PYSPARK_PYTHON" in done.stdout


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"spark.master": "spark://host:7077"}, 2),
        ({"spark.master": "spark://host:7077", "spark.cores.max": "1"}, 1),
        ({"spark.master": "local-cluster[1,1,512]"}, 1),
        ({"spark.master": "local-cluster[2,1,512]"}, 2),
        ({"spark.master": "yarn", "spark.executor.instances": "1"}, 1),
        ({"spark.master": "yarn", "spark.executor.instances": "1", "spark.executor.cores": "2"}, 2),
        ({"spark.master": "yarn"}, 2),
        ({"spark.master": "yarn", "spark.executor.instances": "1", "spark.dynamicAllocation.enabled": "true"}, 2),
    ],
)
def test_a_cluster_of_one_core_of_which_spark_says_two_has_one_slot(settings, expected):
    table = mock.MagicMock(count=lambda: 2)
    table.select.return_value.distinct.return_value = table
    spark = SimpleNamespace(conf=settings, range=lambda *_: table)
    with mock.patch("pyspark.sql.functions.spark_partition_id"):
        assert _size._ask_slots(spark) == expected
