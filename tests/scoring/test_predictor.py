import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparkwright.errors import InputError, NotFoundError
from sparkwright.models import Model
from sparkwright.networks.mlp import mlp
from sparkwright.scoring.predictor import Prediction, Predictor
from sparkwright.scoring.process.engine import RowError

from .photos import means_network, png

CLASSES = ("cat", "dog", "eel")


def photo_model() -> Model:
    head = mlp(3, 3, hidden=[4], seed=1, mean=np.full(3, 100.0), scale=np.full(3, 0.01))
    return Model(means_network(), head, "classification", CLASSES)


@pytest.fixture
def saved(tmp_path: Path) -> str:
    photo_model().save(str(tmp_path / "model"))
    return str(tmp_path / "model")


def test_bytes_paths_and_images_give_the_same_answer(saved: str, tmp_path: Path) -> None:
    content = png(20, 200, 90)
    (tmp_path / "photo.png").write_bytes(content)
    path = tmp_path / "photo.png"
    answers = Predictor.load(saved).predict([content, path, str(path), Image.open(io.BytesIO(content))])
    assert len(answers) == 4
    assert len(set(answers)) == 1
    assert answers[0].label in CLASSES
    assert answers[0].probability == answers[0].top[0][1]
    assert sum(probability for _, probability in answers[0].top) == pytest.approx(1)


def test_the_answer_is_the_softmax_of_the_model(saved: str) -> None:
    model = Model.load(saved)
    features = 2 * np.array([[20, 200, 90]], np.float32)
    scores = model.head.forward(features)[0].astype(np.float64)
    expected = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    (answer,) = Predictor.load(saved, top=9).predict([png(20, 200, 90)])
    assert dict(answer.top) == pytest.approx(dict(zip(CLASSES, expected, strict=True)), abs=1e-6)
    assert answer.label == CLASSES[int(expected.argmax())]


def test_bad_photos_get_an_error_in_their_place(saved: str) -> None:
    answers = Predictor.load(saved).predict([png(1), b"text", png(2), "/nowhere.jpg"])
    assert [answer.error is None for answer in answers] == [True, False, True, False]
    assert answers[1] == Prediction(error=RowError("unreadable", answers[1].error.message))
    assert answers[3].error.message == "There is no file /nowhere.jpg."


def test_more_photos_than_a_block_come_back_in_order(saved: str) -> None:
    predictor = Predictor.load(saved, threads=2)
    photos = [png(red) for red in range(256)] * 3
    answers = list(predictor.iterate(iter(photos)))
    assert len(answers) == 768
    assert answers[:256] == answers[256:512] == answers[512:]
    assert predictor.predict([]) == []


def test_a_model_of_features_takes_rows_of_numbers() -> None:
    head = mlp(2, 1, seed=3)
    predictor = Predictor(Model(None, head, "regression").to_files())
    x = np.array([[1, 2], [3, 4]], np.float32)
    assert [answer.values for answer in predictor.predict(x)] == [tuple(y) for y in head.forward(x).tolist()]
    bad = predictor.predict([[1.0], [np.nan, 1.0], ["a", "b"], None])
    assert [answer.error.kind for answer in bad] == ["wrong shape", "not finite", "wrong type", "wrong shape"]


def test_what_cannot_work_is_said(saved: str) -> None:
    with pytest.raises(NotFoundError, match="No model at /nowhere"):
        Predictor.load("/nowhere")
    with pytest.raises(InputError, match="top must be at least 1; got 0"):
        Predictor.load(saved, top=0)


def test_torch_spark_and_arrow_are_not_needed(saved: str, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(png(20, 200, 90))
    program = f"""
import sys
for name in ("torch", "pyspark", "pyarrow", "pandas", "onnx", "safetensors", "fsspec"):
    sys.modules[name] = None  # an import of it fails
from sparkwright import Predictor
print(Predictor.load({saved!r}).predict([{str(photo)!r}])[0].label)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout.strip() == Predictor.load(saved).predict([photo])[0].label
