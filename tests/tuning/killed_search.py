"""Runs a search on a cluster of two executors while its workers die; writes the trials to a file.

python killed_search.py FOLDER
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from sparkwright.events import Event, Warned
from sparkwright.training.config import TrainingConfig
from sparkwright.training.replica.replica import Replica
from sparkwright.training.rows.columns import Columns
from sparkwright.tuning.config import TuningConfig
from sparkwright.tuning.runners import spark as on_spark
from sparkwright.tuning.runners.spark import TrialJob
from sparkwright.tuning.setup import Setup

BASE = TrainingConfig(epochs=4, replicas=2, batch_size=16, patience=None, monitor="loss")
SPACE = {
    "learning_rate": {"low": 1e-4, "high": 1.0, "log": True},
    "hidden": [[], [8], [16]],
    "dropout": {"low": 0.0, "high": 0.5},
}
SEARCH = TuningConfig(space=SPACE, trials=24, base=BASE, min_epochs=1, eta=4, parallel_trials=2)
COLUMNS = Columns(("x",), "y", None, "split")
KILLED = {3: "worker", 10: "executor", 18: "worker"}


def table() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    y = rng.integers(3, size=160)
    x = ((rng.normal(size=(3, 5)))[y] + rng.normal(size=(160, 5))).astype(np.float32)
    return {"x": x, "y": y, "split": np.where(np.arange(160) % 3 == 0, "validation", "train")}


@dataclass(frozen=True)
class KilledJob(TrialJob):
    """The worker, or its executor, is killed in the midst of the trials of `KILLED`, once in each."""

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        trial, backward = (self.assignments[0].trial if self.assignments else -1), Replica.backward
        mark = Path(self.setting.folder.removeprefix("file://")).parent / f"killed-{trial}"

        def dying(replica: Any, number: int, step: int) -> None:
            if trial in KILLED and step == 3 and not mark.exists():
                mark.touch()
                worker = psutil.Process()
                (worker if KILLED[trial] == "worker" else worker.parent().parent()).send_signal(signal.SIGKILL)
                signal.pause()
            backward(replica, number, step)

        Replica.backward = dying  # type: ignore[method-assign]
        try:
            yield from super().__call__(batches)
        finally:
            Replica.backward = backward  # type: ignore[method-assign]  # the process is used again


def main(folder: str) -> None:
    import pandas as pd
    from pyspark import cloudpickle

    from sparkwright.session import start
    from sparkwright.tuning.search import Search

    sys.modules["killed_search"] = sys.modules["__main__"]
    cloudpickle.register_pickle_by_value(sys.modules["__main__"])
    on_spark.TrialJob = KilledJob  # type: ignore[misc]
    # Spark would try a lost task again by itself; here the search has to.
    settings = {"spark.task.maxFailures": "1", "spark.local.dir": f"{folder}/local", "spark.driver.memory": "512m"}
    settings |= {
        "spark.executor.memory": "512m",
        "spark.executor.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",  # they live for seconds
    }
    spark = start("local-cluster[2,1,512]", conf=settings)
    rows = spark.createDataFrame(pd.DataFrame({**table(), "x": table()["x"].tolist()}))
    warned: list[str] = []

    def emit(event: Event) -> None:
        if isinstance(event, Warned):
            warned.append(event.message)

    runner = on_spark.SparkRunner(rows, Setup(BASE, COLUMNS), f"{folder}/tuning")
    trials = Search(SEARCH, runner, f"{folder}/tuning", emit=emit).run()
    runner.close()
    found = {"trials": [trial.to_dict() for trial in trials], "warned": warned, "slots": runner.slots}
    Path(folder, "found.json").write_text(json.dumps(found))
    spark.stop()


if __name__ == "__main__":
    main(sys.argv[1])
    os._exit(0)
