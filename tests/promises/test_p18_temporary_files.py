"""P18: temporary files are gone at the end, after failures too."""

import os
import subprocess
import sys

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
