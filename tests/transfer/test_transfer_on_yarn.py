"""The main job on a real HDFS and YARN, where executors see neither the project nor the driver's folders."""

import json
import os
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyspark
import pytest

from sparkwright import storage
from sparkwright.data.digits import write_digits

pytestmark = [pytest.mark.cluster, pytest.mark.hadoop, pytest.mark.timeout(400)]


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    """A Python with all packages but this one: ``-S`` keeps it from following an editable install to the project."""
    wrapper = tmp_path / "python"
    packages = sysconfig.get_paths()["purelib"]
    wrapper.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{packages}" exec "{sys.executable}" -S "$@"\n')
    wrapper.chmod(0o755)
    return wrapper


def test_the_main_job_over_hdfs_on_yarn(yarn, bare_python, tmp_path):
    write_digits(tmp_path / "photos", digits=[5, 6, 7])
    photos = sorted((tmp_path / "photos").glob("*/*.png"))[::5]
    with ThreadPoolExecutor(8) as pool:
        targets = [f"{yarn.address}/photos of digits/{path.parent.name}/{path.name}" for path in photos]
        list(pool.map(storage.upload, photos, targets))
    jars = Path(pyspark.__file__).parent / "jars"
    conf = {
        "spark.yarn.jars": f"local:{jars}/*",
        "spark.executor.instances": "2",
        "spark.executor.memory": "512m",
        "spark.yarn.am.memory": "512m",
        "spark.dynamicAllocation.enabled": "false",
    }
    command = [sys.executable, "-m", "sparkwright", "transfer", f"{yarn.address}/photos of digits", "--json"]
    command += ["--network", "digits_cnn", "--out", f"{yarn.address}/runs/one", "--master", "yarn"]
    command += [*(f"--conf={key}={value}" for key, value in conf.items())]
    environment = {**os.environ, "HADOOP_CONF_DIR": str(yarn.conf), "PYSPARK_PYTHON": str(bare_python)}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=360, env=environment, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["metrics"]["test"]["accuracy"] > 0.9
    run = f"{yarn.address}/runs/one"
    assert {"config.json", "events.jsonl", "metrics.json", "model", "report.html"} <= set(storage.list_files(run))
    events = storage.read_bytes(f"{run}/events.jsonl").decode().splitlines()
    shown = [json.loads(line) for line in events]
    assert any(event["kind"] == "Progress" and event["stage"] == "features" for event in shown)
    assert any(event["kind"] == "EpochEnded" for event in shown)
    assert shown[-1]["kind"] == "RunEnded"
