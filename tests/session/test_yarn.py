"""On YARN, where executors run in folders of their own on (what could be) other machines."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyspark
import pytest

SCRIPT = """
import json, sys
from pathlib import Path
from sparkwright.data.images import read_images
from sparkwright.session import (
    check_workers, driver_hosts, ship_file, ship_library, shipped_path, slots, start, threads_per_task
)

conf, file, photos = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
spark = start("yarn", conf=conf)
check_workers(spark, ("numpy", "pyarrow"))
name = ship_file(spark, file)

def look(batches):
    import os, pyarrow, sparkwright
    for _ in batches:
        text = shipped_path(name).read_text()
        seen = "|".join([os.getcwd(), sparkwright.__file__, text])
        yield pyarrow.RecordBatch.from_pydict({"seen": [seen]})

seen = [row["seen"] for row in spark.range(0, 4, 1, 4).mapInArrow(look, "seen string").collect()]
images = read_images(spark, photos, labels="folder")
print(json.dumps({
    "seen": seen, "slots": slots(spark), "threads": threads_per_task(spark), "hosts": driver_hosts(spark),
    "counts": images.counts, "rows": images.rows.count(),
}))
spark.stop()
"""


@pytest.mark.cluster
@pytest.mark.timeout(420)
def test_the_library_files_and_photos_reach_executors_on_yarn(yarn, tmp_path):
    from hdfs_native import Client

    client = Client(yarn.address)
    for name in ("a/1.jpg", "a/2.jpg", "b ö/3.jpg"):
        with client.create(f"/photos/{name}") as photo:
            photo.write(b"x")
    (tmp_path / "weights.bin").write_text("the weights")
    conf = {
        "spark.yarn.jars": f"local:{Path(pyspark.__file__).parent}/jars/*",
        "spark.executor.instances": "2",
        "spark.executor.memory": "512m",
        "spark.yarn.am.memory": "512m",
        "spark.task.cpus": "1",
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(conf), tmp_path / "weights.bin", f"{yarn.address}/photos"],
        cwd=tmp_path,
        env={**os.environ, "HADOOP_CONF_DIR": str(yarn.conf)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert result["slots"] == 2
    assert result["threads"] == 1
    assert result["hosts"] == ["127.0.0.1"]
    assert result["counts"] == {"a": 2, "b ö": 1}
    assert result["rows"] == 3
    for seen in result["seen"]:
        folder, library, text = seen.split("|")
        assert "container_" in folder
        assert ".zip/sparkwright/" in library
        assert text == "the weights"
