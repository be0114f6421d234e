"""P18: temporary files are gone at the end, after failures too."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from sparkwright.errors import InputError
from sparkwright.runs import Run

# Export, save, score: all that makes files without Spark; then an end that nobody wanted.
PROGRAM = """
import sys
from sparkwright import Model, Predictor, load_network, mlp
network = load_network("digits_cnn")
network = network.cut(network.feature_layer)
head = mlp(network.output_shape[0], 2)
Model(network, head, "classification", ("even", "odd")).save(sys.argv[1])
predictor = Predictor.load(sys.argv[1])
print(predictor.predict([b"no photo"])[0].error.kind)
predictor.predict(7)
"""


def test_a_process_that_fails_leaves_no_temporary_files(tmp_path):
    for name in ("tmp", "home", "work"):
        (tmp_path / name).mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"TMPDIR": str(tmp_path / "tmp"), "SPARKWRIGHT_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "model")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, cwd=tmp_path / "work", env=environment, check=False
    )
    assert done.stdout.strip() == "unreadable"
    assert done.returncode == 1
    # Torch makes a folder for a compiler that is not used here, once for all processes of a user; nothing lies in it.
    left = [path for path in (tmp_path / "tmp").rglob("*") if not path.name.startswith("torchinductor_")]
    assert left == []
    assert list((tmp_path / "work").iterdir()) == []
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["onnx"]


@pytest.mark.parametrize("fails", [True, False])
def test_a_run_elsewhere_leaves_nothing_on_this_disk(tmp_path, monkeypatch, fails):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run = Run(f"memory://{tmp_path.name}/{fails}", "transfer", {})
    assert len(list(tmp_path.iterdir())) == 1
    error = InputError("no") if fails else None
    run.__exit__(type(error) if error else None, error, None)
    assert list(tmp_path.iterdir()) == []


# Two jobs on Spark, whose photos kill the processes that score them: one that ends well and one that fails.
JOBS = """
import os, pathlib, sys, tempfile
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from faults import CRASH
from faulty_job import network
from scoring.photos import png
from sparkwright import session
from sparkwright.scoring.features import featurize
spark = session.start("local[2]", conf={"spark.driver.memory": "1g"})
spark.addArtifacts(sys.argv[2] + "/faults.py", pyfile=True)
images = spark.createDataFrame([(png(1),), (CRASH,), (None,), (png(2),)] * 2, "content binary").repartition(2)
try:
    featurize(spark, images, network(), "features", max_error_rate=1.0)
    print("featurized")
    featurize(spark, images, network(), "too many errors", max_error_rate=0.1)
finally:
    spark.stop()
"""


@pytest.mark.cluster
@pytest.mark.timeout(240)
def test_jobs_on_spark_leave_no_files_and_no_processes(tmp_path: Path) -> None:
    for name in ("tmp", "home", "work"):
        (tmp_path / name).mkdir()
    tests = Path(__file__).parents[1]
    temporary = str(tmp_path / "tmp")
    environment = {**os.environ, "TMPDIR": temporary, "SPARKWRIGHT_HOME": str(tmp_path / "home")}
    environment |= {"SPARK_LOCAL_DIRS": temporary, "JAVA_TOOL_OPTIONS": f"-Djava.io.tmpdir={temporary}"}
    command = [sys.executable, "-c", JOBS, str(tests), str(tests / "scoring")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, cwd=tmp_path / "work", env=environment, check=False
    )
    assert (done.returncode, done.stdout) == (1, "featurized\n"), done.stderr
    assert "4 of 8 rows failed" in done.stderr
    ours = [process for process in psutil.process_iter(["environ"]) if _temporary(process) == temporary]
    psutil.wait_procs(ours, timeout=20)
    assert not [process for process in ours if process.is_running()]
    # The JVM's own record of itself is removed by the next JVM.
    left = [
        path
        for path in Path(temporary).rglob("*")
        if "hsperfdata" not in str(path) and "torchinductor" not in str(path)
    ]
    assert left == []
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["features", "too many errors"]


def _temporary(process: psutil.Process) -> str | None:
    return (process.info["environ"] or {}).get("TMPDIR")
