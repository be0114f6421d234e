"""A disk that becomes full in the middle of a job: a message of our own, and the job goes on when there is space."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from sparkwright.data.digits import write_digits
from sparkwright.errors import StorageError, WorkerError
from sparkwright.events import Event, StageStarted, Stamped
from sparkwright.training.config import TrainingConfig
from sparkwright.transfer import transfer


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def resize(disk: Path, kib: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kib}k", disk], check=True)


@pytest.mark.timeout(240)
def test_a_disk_that_is_full_is_said_and_the_run_goes_on_when_there_is_space(
    spark: SparkSession, small_disk: Path, tmp_path: Path
) -> None:
    write_digits(tmp_path / "photos", digits=[5, 6])
    stages: list[str] = []

    def listen(stamped: Stamped) -> None:
        event: Event = stamped.event
        if isinstance(event, StageStarted):
            stages.append(event.stage)

    def run() -> float:
        photos, out = str(tmp_path / "photos"), str(small_disk / "run")
        training = TrainingConfig(epochs=5)
        result = transfer(spark, photos, "digits_cnn", out, training=training, resume=True, sinks=[listen])
        return float(result.metrics["test"]["accuracy"])

    resize(small_disk, 64)  # room for the configuration, not for the features
    with pytest.raises(WorkerError, match=r"The disk is full where a task writes .*run/features"):
        run()
    assert stages[-1] == "features"
    assert not list((small_disk / "run" / "features").glob("data-*"))  # what was written of them is gone

    resize(small_disk, 256)  # and now not for the model
    with pytest.raises(StorageError, match=r"run/model/.* cannot be written: No space left .* Free space there"):
        run()
    assert stages[-1] == "model"

    resize(small_disk, 8192)
    assert run() > 0.9
    assert (small_disk / "run" / "report.html").stat().st_size > 10_000
