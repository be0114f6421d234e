"""The artefact: save, load, and what happens to damaged files."""

import dataclasses
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from sparkwright.errors import ExistsError, ModelError, NotFoundError
from sparkwright.models import Model, ModelFiles
from sparkwright.networks.mlp import mlp


@pytest.fixture(scope="module")
def model():
    body, head = mlp(4, 6, hidden=[5], seed=1), mlp(6, 3, seed=2)
    return Model(
        network=body,
        head=dataclasses.replace(head, classes=("a", "b", "ü")),
        task="classification",
        classes=("a", "b", "ü"),
        metrics={"test": {"accuracy": 0.5}},
        lineage={"seed": 0},
    )


@pytest.mark.parametrize("name", ["model", "model.zip"])
def test_a_model_saved_and_loaded_gives_the_same_bits(model, tmp_path, name):
    model.save(str(tmp_path / name))
    loaded = Model.load(str(tmp_path / name))
    x = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    assert np.array_equal(loaded.full.forward(x), model.full.forward(x))
    assert loaded.full.fingerprint() == model.full.fingerprint()
    assert loaded.network.fingerprint() == model.network.fingerprint()
    assert (loaded.classes, loaded.task, loaded.metrics, loaded.lineage) == (
        model.classes,
        model.task,
        model.metrics,
        model.lineage,
    )


def test_a_model_of_features_has_no_network(model, tmp_path):
    model.replace(network=None).save(str(tmp_path / "head"))
    loaded = Model.load(str(tmp_path / "head"))
    assert loaded.network is None
    assert loaded.full.input_shape == (6,)


def test_no_file_of_a_model_is_a_pickle(model, tmp_path):
    model.save(str(tmp_path / "model"))
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "model.json",
        "network.onnx",
        "weights.safetensors",
    ]
    json.loads((tmp_path / "model" / "model.json").read_text())


def test_an_existing_model_is_replaced_only_if_asked(model, tmp_path):
    model.save(str(tmp_path / "model"))
    with pytest.raises(ExistsError, match=r"exists\. Choose another place"):
        model.save(str(tmp_path / "model"))
    model.save(str(tmp_path / "model"), overwrite=True)


def test_a_folder_with_other_files_is_never_replaced_by_a_model(model, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ExistsError, match=r"holds something else than a model \(thesis\.txt\), so it is left alone"):
        model.save(str(tmp_path), overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def _altered(folder, name, change):
    path = folder / name
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize("name", ["weights.safetensors", "network.onnx"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-3], "cut short"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "was altered: its SHA-256"),
    ],
    ids=["truncated", "altered"],
)
def test_a_damaged_file_is_named(model, tmp_path, name, change, message):
    model.save(str(tmp_path / "model"))
    _altered(tmp_path / "model", name, change)
    with pytest.raises(ModelError, match=f"{name}.*{message}"):
        ModelFiles.read(str(tmp_path / "model"))


def test_a_missing_file_is_named(model, tmp_path):
    model.save(str(tmp_path / "model"))
    (tmp_path / "model" / "network.onnx").unlink()
    with pytest.raises(ModelError, match=r"network\.onnx is missing"):
        ModelFiles.read(str(tmp_path / "model"))


def test_a_newer_format_says_which_version_reads_it(model, tmp_path):
    model.save(str(tmp_path / "model"))
    _altered(tmp_path / "model", "model.json", lambda data: data.replace(b'"format": 1', b'"format": 2'))
    with pytest.raises(ModelError, match=r"is of format 2; sparkwright .* reads up to 1"):
        Model.load(str(tmp_path / "model"))


def test_a_damaged_manifest_is_named(model, tmp_path):
    model.save(str(tmp_path / "model"))
    _altered(tmp_path / "model", "model.json", lambda data: data[:40])
    with pytest.raises(ModelError, match=r"model\.json is damaged"):
        Model.load(str(tmp_path / "model"))


def test_a_truncated_zip_is_named(model, tmp_path):
    model.save(str(tmp_path / "model.zip"))
    _altered(tmp_path, "model.zip", lambda data: data[:-30])
    with pytest.raises(ModelError, match="is not a whole zip file"):
        Model.load(str(tmp_path / "model.zip"))


def test_a_folder_or_zip_without_a_model_is_not_found(tmp_path):
    with pytest.raises(NotFoundError, match=r"it has no model\.json"):
        Model.load(str(tmp_path))
    with pytest.raises(NotFoundError, match="there is no such file"):
        Model.load(str(tmp_path / "none.zip"))
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(NotFoundError, match=r"it has no model\.json"):
        Model.load(str(tmp_path / "other.zip"))


def test_a_model_of_torch_layers_loads_with_torch_alone(model, tmp_path):
    model.save(str(tmp_path / "model"))
    program = f"""
import sys
for name in ("pyspark", "pyarrow", "pandas", "onnx", "onnxruntime", "fsspec"):
    sys.modules[name] = None  # an import of it fails
from sparkwright import Model
import numpy as np
loaded = Model.load({str(tmp_path / "model")!r})
print(loaded.full.forward(np.ones((1, 4), np.float32)).argmax(), loaded.classes[0])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.split() == [str(model.full.forward(np.ones((1, 4), np.float32)).argmax()), "a"]
