"""P20: the example of a search tests on rows that neither train nor choose, and asserts its figure."""

import gzip
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "tuning.py"


@pytest.fixture
def example():
    spec = importlib.util.spec_from_file_location("example_tuning", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_digits(folder, name, rows):
    """Write files of the data set; the first pixel of the digits that test is black."""
    images = bytes([255 if name == "t10k" else 0, *[0] * 783]) * rows
    (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + images))
    (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + bytes(k % 10 for k in range(rows))))


def test_the_digits_that_test_are_those_of_the_test_files(example, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(example, "TRAIN", 30)
    monkeypatch.setattr(example, "VALIDATE", 20)
    write_digits(tmp_path, "train", 60)
    write_digits(tmp_path, "t10k", 40)
    asked = []

    def tune(spark, table, out, config, **options):
        asked.append((table, config, options))
        test = {"accuracy": example.EXPECTED - 0.001, "accuracy_interval": (0.0, 1.0), "rows": 40}
        better_elsewhere = {"accuracy": 1.0}
        metrics = {"validation": better_elsewhere, "test": test}
        return SimpleNamespace(trials=[], chosen=SimpleNamespace(values={}), metrics=metrics)

    monkeypatch.setattr(example, "tune", tune)
    monkeypatch.setattr(example, "session", SimpleNamespace(start=lambda: SimpleNamespace(stop=lambda: None)))
    with pytest.raises(AssertionError, match=f"expected at least {example.EXPECTED}"):
        example.main(str(tmp_path), str(tmp_path / "run"))
    assert "40 test digits: accuracy 0.9540 (0.0000 to 1.0000)" in capsys.readouterr().out
    ((table, config, options),) = asked
    assert config.searched.searched == ["learning_rate", "hidden.layers", "hidden.width", "dropout", "schedule"]
    rows = pq.read_table(table)
    sides = {side: rows.filter(pc.equal(rows["split"], side)) for side in ("train", "validation", "test")}
    assert [len(side) for side in sides.values()] == [30, 20, 40]
    assert {pixels[0] for pixels in sides["test"]["pixels"].to_pylist()} == {1.0}
    assert {pixels[0] for side in ("train", "validation") for pixels in sides[side]["pixels"].to_pylist()} == {0.0}
    assert (options["columns"], options["label"], options["split"]) == (["pixels"], "digit", "split")
