import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest

from sparkwright.models import Model
from sparkwright.networks.mlp import mlp
from sparkwright.scoring.model_transformer import ModelTransformer

from .photos import means_network, png

Spark = Any
SCHEMA = "path string, modificationTime timestamp, length bigint, content binary"

STREAM = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from scoring.test_streaming import score_stream
from sparkwright import start

folder = sys.argv[2]
spark = start("local[2]", conf={"spark.local.dir": folder + "/local", "spark.ui.enabled": "false"})
score_stream(spark, folder + "/model", Path(folder))
"""


def photo_model() -> Model:
    head = mlp(3, 3, hidden=[4], seed=1, mean=np.full(3, 100.0), scale=np.full(3, 0.01))
    return Model(means_network(), head, "classification", ("cat", "dog", "eel"))


def write_photos(folder: Path, count: int) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / f"photo{number:03}.png").write_bytes(b"text" if number == 5 else png(number))


def score_stream(spark: Spark, model: Model | str, folder: Path) -> None:
    """Score what is new in a folder's `photos`, two at a time, into its `out`."""
    files = spark.readStream.format("binaryFile").schema(SCHEMA).option("maxFilesPerTrigger", 2)
    stage = ModelTransformer(model=model, maxErrorRate=1.0, dropInput=True)
    rows = stage.transform(files.load(str(folder / "photos")).select("path", "content"))
    writer = rows.writeStream.option("checkpointLocation", str(folder / "checkpoint")).trigger(availableNow=True)
    writer.start(str(folder / "out")).awaitTermination()


@pytest.mark.connect
def test_a_stream_of_files_is_scored_as_they_come(spark: Spark, tmp_path: Path) -> None:
    photos = tmp_path / "photos"

    def run() -> list[Any]:
        score_stream(spark, photo_model(), tmp_path)
        return spark.read.parquet(str(tmp_path / "out")).orderBy("path").collect()

    write_photos(photos, 3)
    first = run()
    write_photos(photos, 6)  # the first three are overwritten, not new
    os.utime(photos / "photo000.png", (1, 1))
    second = run()
    assert [Path(row.path).name for row in first] == [f"photo{number:03}.png" for number in range(3)]
    assert [Path(row.path).name for row in second] == [f"photo{number:03}.png" for number in range(6)]
    assert [row.error and row.error.kind for row in second] == [None] * 5 + ["unreadable"]
    assert all(row.prediction for row in second[:5])


@pytest.mark.cluster
@pytest.mark.timeout(240)
def test_a_stream_killed_midway_and_started_again_writes_each_file_once(spark: Spark, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    write_photos(photos, 12)
    photo_model().save(str(tmp_path / "model"))
    command = [sys.executable, "-c", STREAM, str(Path(__file__).parents[1]), str(tmp_path)]
    with (tmp_path / "log").open("wb") as log:
        stream = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + 110
            while not (out / "_spark_metadata" / "2").exists():
                assert stream.poll() is None, (tmp_path / "log").read_text()[-3000:]
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            os.killpg(stream.pid, signal.SIGKILL)  # Python and Java, in the midst of their work
            stream.wait()
    assert not (out / "_spark_metadata" / "5").exists()
    score_stream(spark, str(tmp_path / "model"), tmp_path)
    committed = read_committed(out)
    assert sorted(Path(path).name for path in committed) == sorted(path.name for path in photos.iterdir())


def read_committed(out: Path) -> list[str]:
    """Return the paths in the files that the sink's log names, as Spark reads them."""
    files: list[str] = []
    for log in sorted((out / "_spark_metadata").iterdir(), key=lambda path: path.name):
        if log.name.isdigit():
            lines = log.read_text().splitlines()[1:]
            files += [json.loads(line)["path"].removeprefix("file://") for line in lines]
    paths: list[str] = ds.dataset(files).to_table(columns=["path"])["path"].to_pylist()
    return paths
