"""P20: the examples of texts and sounds evaluate on rows that they did not train on, and assert their figures."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def started(spark, monkeypatch):
    """What the examples take for `session`."""
    monkeypatch.setattr(type(spark), "stop", lambda self: None)
    return SimpleNamespace(start=lambda: spark)


def found(accuracy):
    return {"accuracy": accuracy, "accuracy_interval": (0.0, 1.0), "rows": 9, "errors": 0, "unlabelled": 0}


@pytest.mark.spark
@pytest.mark.timeout(240)
def test_spoken_digits_are_split_by_number_and_by_speaker(started, monkeypatch, tmp_path, capsys):
    for name in ("3_ann_0", "3_ann_6", "3_ann_9", "3_bob_2", "3_bob_11"):
        (tmp_path / f"{name}.wav").write_bytes(b"x")  # Spark passes empty files by
    module, sides = load("spoken_digits"), []

    def tested(rows):
        kept = rows.select("speaker", "n", "split").collect()
        sides.append({(row["speaker"], row["n"]): row["split"] for row in kept})
        return found(module.EXPECTED - 0.001)

    monkeypatch.setattr(module, "session", started)
    monkeypatch.setattr(module, "tested", tested)
    with pytest.raises(AssertionError, match=r"expected at least 0\.95"):
        module.main(str(tmp_path))
    known, ann, bob = sides
    assert known == {
        ("ann", 0): "test",
        ("ann", 6): "validation",
        ("ann", 9): "train",
        ("bob", 2): "test",
        ("bob", 11): "train",
    }
    for speaker, split in (("ann", ann), ("bob", bob)):
        assert all((side == "test") == (row[0] == speaker) for row, side in split.items())
    assert "bob, unknown: accuracy 0.9490" in capsys.readouterr().out


@pytest.mark.spark
@pytest.mark.timeout(240)
def test_sentences_that_test_are_not_among_those_that_train(started, monkeypatch, tmp_path):
    words = ["good", "bad", "film", "so", "it"]
    for kind in ("neg", "pos"):
        lines = [f"{kind} {first} {second} ." for first in words for second in words]
        (tmp_path / f"rt-polarity.{kind}").write_text("\n".join([*lines, lines[0], ""]))
    module, trained = load("sentences"), []

    class Classifier:
        """Keeps what it is to train on; scores nothing."""

        def __init__(self, **params):
            self.split = params["splitCol"]

        def fit(self, rows):
            trained.append(rows.select("text", self.split).collect())
            return self

        def transform(self, rows):
            return rows

        def getModel(self):
            return SimpleNamespace(metrics={"validation": {}}, classes=("neg", "pos"))

    def evaluate(rows, classes):
        trained.append(rows.select("text").collect())
        return found(module.EXPECTED - 0.001)

    for name, thing in (("session", started), ("NetworkClassifier", Classifier), ("evaluate", evaluate)):
        monkeypatch.setattr(module, name, thing)
    with pytest.raises(AssertionError, match=r"expected at least 0\.75"):
        module.main(str(tmp_path))
    given, tested = trained
    assert len(given) == 50
    assert {row["text"] for row in tested} == {row["text"] for row in given if row["split"] == "test"}
