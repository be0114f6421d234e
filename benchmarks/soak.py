"""Does a training end with the same bits whatever is killed? Kills workers, executors and drivers at random moments.

    python benchmarks/soak.py [--kills 100] [--seed 0] [--yarn] [--transport gang] [--conf K=V]

A small training runs again and again on a cluster of two executors (a standalone one; with ``--yarn`` the Hadoop that
SPARKWRIGHT_TEST_HADOOP names, with the run's folder on its HDFS), a few kills in each; a killed driver is started again
on the same run. Victims and moments come from the seed: some time after the last kill, while a checkpoint is being
written, or in the last epoch; `SIGKILL` for all, and now and then `SIGSTOP` for a worker. Every run must end with the
weights of a training without Spark that nothing disturbed, and leave no process behind.

The result says what was killed when, how many attempts it took, and how often a checkpoint was gone on from. It exits
with 1 if a hash differs, a run fails, or a process is left.
"""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from sparkwright import storage
from sparkwright.events import EpochEnded, Event, Warned
from sparkwright.models import library_versions
from sparkwright.training.config import TrainingConfig

VICTIMS = ("worker", "worker", "executor", "driver", "stopped worker")
MOMENTS = ("after a while", "after a while", "while writing a checkpoint", "in the last epoch")
STALL_LIMIT_S = 6.0
PATIENCE_S = 240.0  # for one sign of life of a job


def config(epochs: int) -> TrainingConfig:
    return TrainingConfig(
        hidden=(64,), epochs=epochs, batch_size=8, learning_rate=3e-4, replicas=4, sync_every=4, patience=None
    )


def table(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(5, size=rows)
    x = rng.normal(size=(5, 64))[y] + rng.normal(size=(rows, 64))
    return x.astype(np.float32), np.array(list("abcde"))[y], np.where(rng.random(rows) < 0.8, "train", "validation")


def digest(result: Any) -> str:
    return hashlib.sha256(b"".join(v.tobytes() for _, v in sorted(result.head.weights().items()))).hexdigest()


def undisturbed(rows: int, epochs: int) -> str:
    from sparkwright.training.arrays import fit_arrays

    x, y, split = table(rows)
    train, validation = split == "train", split == "validation"
    return digest(fit_arrays(x[train], y[train], config(epochs), validation=(x[validation], y[validation])))


# --- the job: a driver of its own ---


def job(master: str, data: str, run: str, transport: str, epochs: int, settings: dict[str, str]) -> None:
    """Train, and write what happens as lines of JSON."""
    from sparkwright import session
    from sparkwright.training.cluster.fit import train

    def say(**what: Any) -> None:
        print(json.dumps(what), flush=True)

    def emit(event: Event) -> None:
        if isinstance(event, EpochEnded):
            say(epoch=event.epoch)
        elif isinstance(event, Warned):
            say(warned=event.message)

    spark = session.start(master, conf=settings)
    rows = spark.read.parquet(data)
    say(started=True)
    result = train(
        rows,
        config(epochs),
        split="split",
        run=run,
        transport=transport,
        checkpoint_s=0.5,
        stall_limit_s=STALL_LIMIT_S,
        attempts=10,
        emit=emit,
    )
    say(digest=digest(result))
    spark.stop()


@dataclass
class Job:
    """A driver in a process of its own, and what it says."""

    command: list[str]
    folder: Path
    token: str
    process: subprocess.Popen[str] = field(init=False)
    said: "queue.Queue[dict[str, Any] | None]" = field(init=False, default_factory=queue.Queue)
    epoch: int = 0
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._log = (self.folder / "job.log").open("ab")
        environment = {
            **os.environ,
            "PYSPARK_PYTHON": sys.executable,
            "SPARKWRIGHT_SOAK": self.token,
            "SPARK_LOCAL_IP": "127.0.0.1",
        }
        self.process = subprocess.Popen(
            self.command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                self.said.put(json.loads(line))
        self.said.put(None)

    def hear(self, seconds: float) -> dict[str, Any] | None:
        """Return what the job says within some seconds; empty if nothing, None if it has ended."""
        try:
            said = self.said.get(timeout=seconds)
        except queue.Empty:
            return {}
        if said is not None:
            self.epoch = said.get("epoch", self.epoch)
            self.warnings += [said["warned"]] if "warned" in said else []
        return said

    def kill(self) -> None:
        """Kill the driver: its Python and its JVM. Executors are left to notice."""
        below = [process for process in psutil.Process(self.process.pid).children() if process.is_running()]
        for process in (self.process, *below):
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                process.kill()
        self.process.wait()

    def end(self) -> None:
        """Wait for its end; one that was interrupted is killed."""
        try:
            self.process.wait(0 if isinstance(sys.exception(), KeyboardInterrupt | SystemExit) else 60)
        except subprocess.TimeoutExpired:
            self.kill()
        self._log.close()


# --- what is killed ---


def of_soak(token: str) -> Iterator[psutil.Process]:
    """Yield the processes that were started, at whatever distance, for the jobs of a run."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("SPARKWRIGHT_SOAK") == token:
                yield process


def workers(token: str) -> list[psutil.Process]:
    """Return the Spark workers in Python: what a daemon of Spark has forked."""

    def is_daemon(process: psutil.Process | None) -> bool:
        return process is not None and "pyspark.daemon" in " ".join(process.cmdline())

    found = []
    for process in of_soak(token):
        with contextlib.suppress(psutil.Error):
            if is_daemon(process) and is_daemon(process.parent()):
                found.append(process)
    return found


def executors(token: str) -> list[psutil.Process]:
    found = []
    for process in of_soak(token):
        with contextlib.suppress(psutil.Error):
            if "CoarseGrainedExecutorBackend" in " ".join(process.cmdline()) and "java" in process.name():
                found.append(process)
    return found


def left_behind(token: str, seconds: float = 45) -> list[str]:
    """Return the command lines of processes that outlive their run."""
    deadline = time.monotonic() + seconds
    while True:
        found = []
        for process in of_soak(token):
            with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline())[:200])
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


@dataclass
class Soak:
    """One run after another until there were enough kills."""

    given: argparse.Namespace
    folder: Path
    master: str
    root: str
    settings: dict[str, str]
    expected: str
    kills: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.given.seed)
        self._victims = self.given.victims.split(",") if self.given.victims else VICTIMS

    def go(self) -> None:
        while len(self.kills) < self.given.kills:
            before = len(self.kills)
            goal = min(before + self.given.kills_per_run, self.given.kills)
            started = time.monotonic()
            token = uuid.uuid4().hex
            run = {"number": len(self.runs), **self._run(storage.join(self.root, f"run-{token}"), token, goal)}
            run |= {"kills": len(self.kills) - before, "seconds": round(time.monotonic() - started, 1)}
            run["left"] = left_behind(token)
            run["ok"] = run.get("digest") == self.expected and not run["left"]
            self.runs.append(run)
            print(json.dumps(run), flush=True)
            if "digest" not in run:
                return

    def _run(self, run: str, token: str, goal: int) -> dict[str, Any]:
        """Train once to the end, through kills."""
        warnings: list[str] = []
        settings = json.dumps({**self.settings, "spark.executorEnv.SPARKWRIGHT_SOAK": token})
        data, epochs = str(self.folder / "rows"), str(self.given.epochs)
        if self.given.yarn:
            data = f"file:{data}"
        command = [sys.executable, __file__, "--job", self.master, data, run, self.given.transport, epochs, settings]
        drivers = 0
        while True:
            job, drivers = Job(command, self.folder, token), drivers + 1
            try:
                outcome = self._watch(job, run, token, goal)
            finally:
                job.end()
            warnings += job.warnings
            if outcome != "driver":
                storage.remove(run)
                return {"drivers": drivers, "warnings": warnings, **outcome}

    def _watch(self, job: Job, run: str, token: str, goal: int) -> Any:
        """Kill until the job ends or its driver is killed; return what it ended with, or ``"driver"``."""
        kill, heard = self._next(goal), time.monotonic()
        since: float | None = None
        while True:
            said = job.hear(0.005 if kill and kill["moment"].startswith("while") else 0.05)
            if said is None:
                job.process.wait()
                return {"error": (self.folder / "job.log").read_text()[-2000:]}
            if said:
                heard = time.monotonic()
                since = since or heard
            if "digest" in said:
                return said
            if time.monotonic() - heard > PATIENCE_S:
                job.kill()
                return {"error": f"silent for {PATIENCE_S:g} s after epoch {job.epoch}"}
            if kill is None or since is None or not self._now(kill, job, run, time.monotonic() - since):
                continue
            if not self._killed(kill, job, token):
                continue
            self.kills.append(kill | {"epoch": job.epoch, "run": len(self.runs)})
            print(json.dumps(self.kills[-1]), flush=True)
            if kill["victim"] == "driver":
                return "driver"
            kill, since = self._next(goal), time.monotonic()

    def _next(self, goal: int) -> dict[str, Any] | None:
        """Draw the next kill."""
        if len(self.kills) >= goal:
            return None
        return {
            "victim": self._random.choice(self._victims),
            "moment": self._random.choice(MOMENTS),
            "after_s": round(self._random.uniform(0.2, self.given.within_s), 2),
        }

    def _now(self, kill: dict[str, Any], job: Job, run: str, since: float) -> bool:
        """Whether the moment has come; a moment that does not come in time is any."""
        if since > 4 * self.given.within_s:
            kill["moment"] = "after a while"
            return True
        match kill["moment"]:
            case "while writing a checkpoint":
                return since > kill["after_s"] and bool(unfinished(run))
            case "in the last epoch":
                return job.epoch == self.given.epochs - 1
            case _:
                return since > kill["after_s"]

    def _killed(self, kill: dict[str, Any], job: Job, token: str) -> bool:
        """Kill; return whether there was something to kill."""
        if kill["victim"] == "driver":
            job.kill()
            return True
        there = executors(token) if kill["victim"] == "executor" else workers(token)
        if not there:
            return False
        chosen = self._random.choice(sorted(there, key=lambda process: process.pid))
        with contextlib.suppress(psutil.Error):
            chosen.send_signal(signal.SIGSTOP if kill["victim"].startswith("stopped") else signal.SIGKILL)
            return True
        return False


def unfinished(run: str) -> list[str]:
    """Return the checkpoints that are being written."""
    folder = storage.join(run, "checkpoints")
    names = [name for name in storage.list_files(folder) if name.startswith(("selection", "refit"))]
    return [name for name in names if not storage.exists(storage.join(folder, name, "manifest.json"))]


# --- clusters ---


@contextlib.contextmanager
def cluster(folder: Path, *, yarn: bool) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Give a master, a folder that its machines share, and Spark settings."""
    short = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
    settings = {
        "spark.ui.enabled": "false",
        "spark.executor.memory": "512m",
        "spark.executor.cores": "1",
        "spark.executor.extraJavaOptions": short,
        "spark.driver.memory": "768m",
        "spark.driver.extraJavaOptions": short,
        "spark.local.dir": str(folder / "local"),
        "spark.sql.shuffle.partitions": "4",
        "spark.deploy.maxExecutorRetries": "-1",
    }
    if not yarn:
        yield "local-cluster[2,1,512]", str(folder / "runs"), settings
        return
    import pyspark

    program = Path(os.environ["SPARKWRIGHT_TEST_HADOOP"]) / "mini-hadoop"
    scratch = folder / "hadoop"
    scratch.mkdir()
    server = subprocess.Popen(
        [program, scratch, "1", "1"], stdin=subprocess.PIPE, env={**os.environ, "PYTHON": sys.executable}
    )
    try:
        ready, deadline = scratch / "conf" / "ready", time.monotonic() + 300
        while not ready.exists() or not ready.read_text().strip():
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((scratch / "hadoop.log").read_text()[-3000:])
            time.sleep(0.2)
        os.environ["HADOOP_CONF_DIR"] = str(ready.parent)
        more = {
            "spark.yarn.jars": f"local:{Path(pyspark.__file__).parent}/jars/*",
            "spark.executor.instances": "2",
            "spark.yarn.am.memory": "512m",
            "spark.executor.maxNumFailures": "1000",
            "spark.driver.host": "127.0.0.1",
        }
        yield "yarn", f"{ready.read_text().strip().rstrip('/')}/soak", settings | more
    finally:
        for process in [*psutil.Process(server.pid).children(recursive=True), server]:
            process.kill()
        server.communicate()


def parsed() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--kills", type=int, default=100)
    arguments.add_argument("--kills-per-run", type=int, default=5)
    arguments.add_argument("--within-s", type=float, default=10.0, help="of a sign of life, for a kill at any time")
    arguments.add_argument("--victims", help=f"comma-separated; by default {','.join(VICTIMS)}")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--rows", type=int, default=2000)
    arguments.add_argument("--epochs", type=int, default=60)
    arguments.add_argument("--transport", choices=("gang", "rounds"), default="gang")
    arguments.add_argument("--yarn", action="store_true")
    arguments.add_argument("--conf", metavar="K=V", action="append", default=[], help="a setting of Spark; repeatable")
    arguments.add_argument("--out", type=Path)
    return arguments.parse_args()


def main() -> None:
    given = parsed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what it started ends with it
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        x, y, split = table(given.rows)
        columns = {"features": pa.array(list(x), pa.list_(pa.float32())), "label": y, "split": split}
        pq.write_table(pa.table(columns), folder / "rows")
        with cluster(folder, yarn=given.yarn) as (master, root, settings):
            settings |= dict(setting.split("=", 1) for setting in given.conf)
            soak = Soak(given, folder, master, root, settings, undisturbed(given.rows, given.epochs))
            soak.go()
        shutil.rmtree(folder / "runs", ignore_errors=True)
    ok = all(run["ok"] for run in soak.runs)
    result = {
        "ok": ok,
        "arguments": {key: value for key, value in vars(given).items() if key != "out"},
        "runs": soak.runs,
        "kills": soak.kills,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": library_versions(),
    }
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{len(soak.kills)} kills in {len(soak.runs)} runs: {'all hashes equal' if ok else 'NOT ALL WELL'}")
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        job(*sys.argv[2:6], int(sys.argv[6]), json.loads(sys.argv[7]))
    else:
        main()
