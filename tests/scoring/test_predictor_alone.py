"""A model in a service: a virtual environment of its own that has ONNX Runtime, numpy and Pillow, and nothing else."""

import json
import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import sparkwright
from sparkwright.data.digits import write_digits
from sparkwright.models import Model
from sparkwright.networks.catalogue import load_network

PROGRAM = """
import importlib.util, json, pathlib, sys
from sparkwright import Predictor
photos = sorted(pathlib.Path(sys.argv[2]).glob("*/*.png"))
answers = Predictor.load(sys.argv[1]).predict([photo.read_bytes() for photo in photos])
right = sum(answer.label == photo.parent.name for answer, photo in zip(answers, photos))
there = [name for name in ("torch", "pyspark", "pyarrow", "onnx", "pandas") if importlib.util.find_spec(name)]
print(json.dumps({"right": right / len(photos), "there": there}))
"""


def with_requirements(names: tuple[str, ...]) -> set[str]:
    """Return these packages and all that they need."""
    needed: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            wanted = map(Requirement, distribution(name).requires or ())
            waiting += [one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    return needed


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment; its packages are links to those installed here, so that no index is needed."""
    venv = tmp_path_factory.mktemp("service") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=60)
    site = next(venv.glob("lib/python3*/site-packages"))
    for name in with_requirements(("onnxruntime", "numpy", "pillow")):
        found = distribution(name)
        for top in {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}:
            (site / top).symlink_to(found.locate_file(top))
    (site / "sparkwright").symlink_to(Path(sparkwright.__file__).parent)
    return venv / "bin" / "python"


@pytest.mark.parametrize("name", ["model", "model.zip"])
def test_a_photos_bytes_become_its_label_without_torch_and_spark(python: Path, tmp_path: Path, name: str) -> None:
    write_digits(tmp_path / "photos", digits=range(5))
    Model.of_network(load_network("digits_cnn")).save(str(tmp_path / name))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", PROGRAM, tmp_path / name, tmp_path / "photos"],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.stderr == ""
    seen = json.loads(done.stdout)
    assert seen["there"] == []
    assert seen["right"] > 0.95
