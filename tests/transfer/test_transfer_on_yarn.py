"""On a real HDFS and YARN, where executors see neither the project nor the driver's folders: one application."""

import json
import os
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyspark
import pytest

from sparkwright import storage
from sparkwright.data.digits import write_digits

pytestmark = [pytest.mark.cluster, pytest.mark.hadoop, pytest.mark.timeout(400)]

SHORT_LIVED = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
CONF = {
    "spark.yarn.jars": f"local:{Path(pyspark.__file__).parent}/jars/*",
    "spark.executor.instances": "2",
    "spark.executor.memory": "512m",
    "spark.yarn.am.memory": "512m",
    "spark.dynamicAllocation.enabled": "false",
    "spark.task.cpus": "1",
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.extraJavaOptions": SHORT_LIVED,
    "spark.executor.extraJavaOptions": SHORT_LIVED,
    "spark.yarn.am.extraJavaOptions": SHORT_LIVED,
}

# What is seen on executors, and then the command line, which finds the session running.
SCRIPT = """
import json, sys
from pathlib import Path
from sparkwright import cli
from sparkwright.data.images import read_images
from sparkwright.session import (
    check_workers, driver_hosts, ship_file, ship_library, shipped_path, slots, start, threads_per_task
)

conf, file, photos, out = json.loads(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
spark = start("yarn", conf=conf)
check_workers(spark, ("numpy", "pyarrow"))
name = ship_file(spark, file)

def look(batches):
    import os, pyarrow, sparkwright
    for _ in batches:
        text = shipped_path(name).read_text()
        yield pyarrow.RecordBatch.from_pydict({
            "folder": [os.getcwd()], "library": [sparkwright.__file__], "text": [text]
        })

seen = spark.range(0, 4, 1, 4).mapInArrow(look, "folder string, library string, text string").collect()
images = read_images(spark, photos, labels="folder")
print(json.dumps({
    "seen": [row.asDict() for row in seen], "slots": slots(spark), "threads": threads_per_task(spark),
    "hosts": driver_hosts(spark), "counts": images.counts, "rows": images.rows.count(),
}), flush=True)
sys.argv = ["sparkwright", "transfer", photos, "--network", "digits_cnn", "--out", out, "--master", "yarn", "--json"]
cli.main()
"""


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with all packages but this one: ``-S`` keeps it from following an editable install to the project."""
    wrapper = tmp_path_factory.mktemp("bare") / "python"
    packages = sysconfig.get_paths()["purelib"]
    wrapper.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{packages}" exec "{sys.executable}" -S "$@"\n')
    wrapper.chmod(0o755)
    return wrapper


@pytest.fixture(scope="module")
def application(
    yarn: Any, bare_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """What was seen on the executors, what the command printed, and the run's folder."""
    folder = tmp_path_factory.mktemp("driver")
    write_digits(folder / "photos", digits=[5, 6, 7])
    photos = sorted((folder / "photos").glob("*/*.png"))[::5]
    with ThreadPoolExecutor(8) as pool:
        targets = [f"{yarn.address}/photos of digits/{path.parent.name} ö/{path.name}" for path in photos]
        list(pool.map(storage.upload, photos, targets))
    (folder / "weights.bin").write_text("the weights")
    run = f"{yarn.address}/runs/one"
    command = [sys.executable, "-c", SCRIPT, json.dumps(CONF), str(folder / "weights.bin")]
    command += [f"{yarn.address}/photos of digits", run]
    environment = {**os.environ, "HADOOP_CONF_DIR": str(yarn.conf), "PYSPARK_PYTHON": str(bare_python)}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=360, env=environment, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    seen, printed = ended.stdout.split("\n", 1)
    return json.loads(seen), json.loads(printed), run


def test_the_library_files_and_photos_reach_executors(application):
    seen, printed, _ = application
    assert (seen["slots"], seen["threads"], seen["hosts"]) == (2, 1, ["127.0.0.1"])
    assert set(seen["counts"]) == {"5 ö", "6 ö", "7 ö"}
    assert seen["rows"] == sum(seen["counts"].values()) == printed["metrics"]["features"]["computed"]
    for executor in seen["seen"]:
        assert "container_" in executor["folder"]
        assert ".zip/sparkwright/" in executor["library"]
        assert executor["text"] == "the weights"


def test_the_main_job_over_hdfs(application):
    _, printed, run = application
    assert printed["metrics"]["test"]["accuracy"] > 0.9
    assert {"config.json", "events.jsonl", "metrics.json", "model", "report.html"} <= set(storage.list_files(run))
    shown = [json.loads(line) for line in storage.read_bytes(f"{run}/events.jsonl").decode().splitlines()]
    assert any(event["kind"] == "Progress" and event["stage"] == "features" for event in shown)
    assert any(event["kind"] == "EpochEnded" for event in shown)
    assert shown[-1]["kind"] == "RunEnded"
