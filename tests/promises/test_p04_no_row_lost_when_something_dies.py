"""P4: no row is lost or doubled when something dies: a scoring process, a worker, an executor, the driver."""

import contextlib
import importlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from scoring.photos import channel_means, png

from sparkwright.errors import WorkerError
from sparkwright.events import Event, TaskTimed
from sparkwright.models import Model
from sparkwright.networks.onnx_network import OnnxNetwork
from sparkwright.scoring import frames
from sparkwright.scoring.features import featurize
from sparkwright.scoring.predictions import write_predictions

SCORING = Path(__file__).parents[1] / "scoring"
JOB = SCORING / "faulty_job.py"


@pytest.fixture
def faults(spark: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module `faults` under the name by which the workers find it."""
    spark.addArtifacts(str(SCORING / "faults.py"), pyfile=True)
    monkeypatch.syspath_prepend(str(SCORING))
    return importlib.import_module("faults")


def network(faults: Any) -> Any:
    return OnnxNetwork.from_bytes("means", channel_means(), faults.Faulty((8, 8), resize="exact", scale=1.0))


def descendants(what: str, of: int | None = None) -> list[psutil.Process]:
    """The processes below one (this) whose command line holds `what`."""
    found = []
    for process in psutil.Process(of).children(recursive=True):
        try:
            if what in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:  # it has just ended
            continue
    return found


def scoring_processes(of: int | None = None) -> list[psutil.Process]:
    return descendants("sparkwright.scoring.process.child", of)


def wait_for(condition: Any, seconds: float = 90) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return found


def test_photos_that_crash_or_never_end_cost_their_rows_alone_where_spark_retries_nothing(
    spark: Any, faults: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "ROW_TIMEOUT_S", 3.0)
    contents = [png(number) for number in range(60)]
    contents[11], contents[40] = faults.CRASH, faults.HANG
    rows = [(f"photo{number:02}", content) for number, content in enumerate(contents)]
    images = spark.createDataFrame(rows, "path string, content binary").repartition(2)
    made = featurize(spark, images, network(faults), str(tmp_path / "features"))
    found = {row.path: row for row in made.rows.collect()}
    assert (len(found), made.manifest.rows, made.manifest.errors) == (60, 60, 2)
    assert {path: row.error.kind for path, row in found.items() if row.error} == {
        "photo11": "crashed",
        "photo40": "timeout",
    }
    assert all(row.features == [2.0 * int(row.path[5:]), 0, 0] for row in found.values() if not row.error)
    assert sorted((row.path, row.kind) for row in made.failed.collect()) == [
        ("photo11", "crashed"),
        ("photo40", "timeout"),
    ]


def test_a_scoring_process_that_is_killed_from_outside_costs_no_row_in_local_mode(
    spark: Any, faults: Any, tmp_path: Path
) -> None:
    killed: set[int] = set()
    ended = threading.Event()

    def kill() -> None:
        while not ended.wait(1.0) and len(killed) < 2:
            for process in scoring_processes()[:1]:
                process.kill()
                killed.add(process.pid)

    rows = [(number, png(number % 250) + faults.SLOW) for number in range(240)]
    images = spark.createDataFrame(rows, "number long, content binary").repartition(2)
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        made = featurize(spark, images, network(faults), str(tmp_path / "features"))
    finally:
        ended.set()
        killer.join()
    assert killed
    found = made.rows.collect()
    assert sorted(row.number for row in found) == list(range(240))
    assert all(row.features == [2.0 * (row.number % 250), 0, 0] for row in found)


def test_predictions_go_on_where_a_killed_worker_had_ended_them(spark: Any, faults: Any, tmp_path: Path) -> None:
    rows = [(number, png(number) + faults.SLOW) for number in range(240)]
    images = spark.createDataFrame(rows, "number long, content binary").repartition(8, "number")
    model = Model.of_network(network(faults).with_classes(("red", "green", "blue")))
    out, ended = tmp_path / "predictions", threading.Event()

    def finished() -> list[Path]:
        return list(tmp_path.glob("predictions.*.tmp/rows/_temporary/0/task_*/*.parquet"))

    def kill() -> None:
        while not ended.wait(0.05):
            if len(finished()) >= 2:
                # All of them: one alone may be idle, or left by an earlier job. In local mode this is the job's end.
                for process in scoring_processes():
                    with contextlib.suppress(psutil.Error):
                        process.parent().kill()  # type: ignore[union-attr]

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(WorkerError):
            write_predictions(images, model, str(out))
    finally:
        ended.set()
        killer.join()
    assert not out.exists()
    left = sum(pq.ParquetFile(file).metadata.num_rows for file in tmp_path.rglob("*.parquet"))
    computed: list[int] = []

    def listen(event: Event) -> None:
        if isinstance(event, TaskTimed):
            computed.append(event.rows)

    assert write_predictions(images, model, str(out), resume=True, emit=listen) == (240, 0)
    assert 0 < sum(computed) <= 240 - left
    found = spark.read.parquet(str(out)).collect()
    assert sorted(row.number for row in found) == list(range(240))
    assert all(row.prediction == "red" for row in found if row.number)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions"]


class Job:
    """`faulty_job` in a process of its own."""

    def __init__(self, master: str, out: Path, rows: int, partitions: int, **settings: str) -> None:
        self._folder = out.parent
        options = [f"spark.{key.replace('_', '.')}={value}" for key, value in settings.items()]
        options.append(f"spark.local.dir={out.parent / 'local'}")
        self._log = (out.parent / "job.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, str(JOB), master, str(out), str(rows), str(partitions), *options],
            stdout=subprocess.PIPE, stderr=self._log, text=True, cwd=out.parent, start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self._folder / "job.log").read_text()[-3000:]
        return json.loads(line)

    def kill(self) -> None:
        """Kill the driver, its JVM, and what they have started."""
        if self.process.poll() is not None:
            return
        below = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        for process in below:
            if process.is_running():
                process.kill()
        self.process.wait()


@pytest.fixture
def _no_process_is_left() -> Iterator[None]:
    before = set(psutil.pids())
    yield
    wait_for(lambda: not [pid for pid in set(psutil.pids()) - before if _is_ours(pid)], 30)


def _is_ours(pid: int) -> bool:
    try:
        line = " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return False
    return str(JOB) in line or ("sparkwright.scoring.process.child" in line and psutil.Process(pid).ppid() == 1)


@pytest.mark.cluster
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("_no_process_is_left")
def test_every_row_is_there_once_after_processes_workers_and_an_executor_were_killed_and_tasks_ran_twice(
    tmp_path: Path,
) -> None:
    settings = {
        "executor_memory": "512m",
        "executor_extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",  # they live for seconds
        "ui_enabled": "false",
        "speculation": "true",
        "speculation_interval": "100ms",
        "speculation_multiplier": "1.1",
        "speculation_quantile": "0.1",
        "speculation_minTaskRuntime": "500ms",
    }
    with Job("local-cluster[2,1,512]", tmp_path / "features", 400, 6, **settings) as job:
        assert job.answer() == {"started": True}
        pid = job.process.pid
        wait_for(lambda: len(scoring_processes(pid)) == 2)
        time.sleep(0.5)
        first, second = scoring_processes(pid)
        first.kill()  # a scoring process
        second.parent().kill()  # a Spark worker, and its scoring process with it
        wait_for(lambda: not second.is_running() or second.status() == psutil.STATUS_ZOMBIE)
        time.sleep(1)
        descendants("CoarseGrainedExecutorBackend", pid)[0].kill()
        assert job.answer() == {"computed": 400, "reused": 0, "errors": 0, "wrong": [], "once": True}


@pytest.mark.cluster
@pytest.mark.timeout(240)
@pytest.mark.usefixtures("_no_process_is_left")
def test_a_job_whose_driver_was_killed_goes_on_where_it_was(spark: Any, faults: Any, tmp_path: Path) -> None:
    from faulty_job import make_features

    out = tmp_path / "features"

    def finished() -> list[Path]:
        return list(out.glob("data-*/computed/_temporary/0/task_*/*.parquet"))

    with Job("local[2]", out, 240, 8, driver_memory="1g") as job:
        assert job.answer() == {"started": True}
        wait_for(lambda: len(finished()) >= 2)
        job.kill()
    assert not (out / "features.json").exists()
    rows = sum(pq.ParquetFile(file).metadata.num_rows for file in finished())
    assert rows < 240
    answer = make_features(spark, str(out), 240, 8)
    assert rows <= answer.pop("reused") == 240 - answer.pop("computed") < 240
    assert answer == {"errors": 0, "wrong": [], "once": True}
    assert len(list(out.glob("data-*"))) == 1
