"""P14: pip and a JVM are all it needs, and it works offline, on CPUs."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A network of the package, features, training, a model, a prediction: without a GPU, and without any connection.
PROGRAM = """
import socket, sys
def refuse(self, address, *rest):
    raise AssertionError(f"a connection to {address}")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = lambda host, *rest, **more: refuse(None, host)
from pathlib import Path
import numpy as np
from sparkwright import Model, Predictor, load_network
from sparkwright.data.digits import write_digits
from sparkwright.training.arrays import fit_arrays
write_digits(Path("photos"), digits=[5, 6])
photos = sorted(Path("photos").glob("*/*.png"))[::8]
network = load_network("digits_cnn")
network = network.cut(network.feature_layer)
pixels = np.stack([network.preprocessing.apply(path.read_bytes()) for path in photos])
labels = np.array([path.parent.name for path in photos])
trained = fit_arrays(network.forward(pixels), labels)
Model(network, trained.head, "classification", trained.classes).save("model")
answers = Predictor.load("model").predict(photos)
assert np.mean([answer.label == label for answer, label in zip(answers, labels)]) > 0.8
print("done")
"""


def test_features_training_and_prediction_need_neither_network_nor_gpu(tmp_path):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "SPARKWRIGHT_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=110,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr


def test_onnx_runtime_is_told_to_report_nothing():
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    program = "import os, sparkwright; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    for given, expected in (({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")):
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env=environment | given,
        )
        assert done.stdout.strip() == expected


def test_pip_alone_installs_it():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = project["project"]["dependencies"]
    assert needed
    assert not [requirement for requirement in needed if "@" in requirement or "://" in requirement]
    assert project["build-system"]["build-backend"] == "hatchling.build"  # nothing is compiled
    assert not [path for path in (ROOT / "src").rglob("*") if path.suffix in {".c", ".cpp", ".pyx", ".rs", ".jar"}]


@pytest.mark.parametrize("package", ["horovod", "petastorm", "tensorflow", "lightning"])
def test_what_the_library_replaces_is_not_needed(package):
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert package not in project
