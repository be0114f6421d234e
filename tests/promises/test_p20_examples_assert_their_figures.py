"""P20: every example evaluates on rows that it did not train on, and asserts its figure."""

import csv
import gzip
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sparkwright.networks.catalogue import load_network

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
TRANSFERS = [path for path in EXAMPLES if "import transfer" in path.read_text(encoding="utf-8")]
EXAMPLES_BY_NAME = {path.stem: path for path in EXAMPLES}
examples = pytest.mark.parametrize("path", TRANSFERS, ids=lambda path: path.stem)


def load(path):
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def photos(tmp_path):
    for number in range(31):
        for name in ("cat", "dog"):
            path = tmp_path / "photos" / name / f"image_{number:04}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    return tmp_path / "photos"


def run(module, monkeypatch, photos, tmp_path, accuracy):
    """Run an example with a main job that reaches this accuracy on the test photos; return what it asked for."""
    asked = []

    def transfer(spark, images, network, out, **options):
        asked.append(options | {"images": images, "out": out})
        better_elsewhere = {"accuracy": 1.0, "rows": 99}
        test = {"accuracy": accuracy, "accuracy_interval": (0.0, 1.0), "rows": 22}
        return SimpleNamespace(metrics={"validation": better_elsewhere, "test": test})

    monkeypatch.setattr(module, "transfer", transfer)
    monkeypatch.setattr(module, "session", SimpleNamespace(start=lambda: SimpleNamespace(stop=lambda: None)))
    monkeypatch.setattr(module, "load_network", lambda name: load_network("digits_cnn"), raising=False)
    module.main(str(photos), "network", str(tmp_path / "runs"))
    return asked


def test_there_are_examples():
    assert {path.stem for path in TRANSFERS} >= {"aerial", "caltech"}
    assert set(EXAMPLES_BY_NAME) >= {"adult", "labelling", "mnist"}


@examples
def test_an_example_fails_if_the_test_photos_are_labelled_worse_than_it_says(path, monkeypatch, photos, tmp_path):
    module = load(path)
    with pytest.raises(AssertionError, match=f"expected at least {module.EXPECTED}"):
        run(module, monkeypatch, photos, tmp_path, module.EXPECTED - 0.001)
    asked = run(module, monkeypatch, photos, tmp_path, module.EXPECTED + 0.001)
    assert [options["seed"] for options in asked] == [0, 1, 2]
    assert len({options["out"] for options in asked}) == 3


@examples
def test_an_example_names_its_sides(path, monkeypatch, photos, tmp_path):
    module = load(path)
    for options in run(module, monkeypatch, photos, tmp_path, 1.0):
        split = options["split"]
        if split == "folder":  # the data set's own test folder
            continue
        with Path(split).open(newline="") as file:
            sides = {row["path"]: row["split"] for row in csv.DictReader(file)}
        assert len(sides) == 62
        tested = sorted(name for name, side in sides.items() if side == "test")
        assert tested == [f"{kind}/image_{number:04}.jpg" for kind in ("cat", "dog") for number in range(20, 31)]
        assert {side for name, side in sides.items() if name not in tested} == {"train", "validation"}


@pytest.mark.cluster
def test_photos_behind_urls_get_the_labels_that_the_network_is_known_for(data_dir, tmp_path):
    """In a process with a session of its own."""
    example = next(path for path in EXAMPLES if path.stem == "labelling")
    network = next((data_dir / "nets" / "mobilenet_v1_0.75_224").glob("*.onnx"))
    command = [sys.executable, example, data_dir / "images" / "imagenet_samples", network, tmp_path / "labels"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    labelled = re.search(r"100 photos: (\d+) labels right, (\d+) among the best five; errors: ", done.stdout)
    assert labelled, done.stdout
    assert max(abs(int(labelled[1]) - 82), abs(int(labelled[2]) - 97)) <= 2


def test_every_example_is_run_here_as_it_is_from_the_shell():
    for path in EXAMPLES:
        assert 'if __name__ == "__main__":\n    main(*sys.argv[1:])' in path.read_text(encoding="utf-8")
    assert sys.argv


def first_rows(path, rows, to):
    """Copy the first rows of a text file."""
    with path.open() as file:
        to.write_text("".join(line for line, _ in zip(file, range(rows), strict=False)))
    return str(to)


@pytest.mark.timeout(240)
def test_the_table_s_example_asserts_what_it_gets_right_on_the_test_file(
    spark, data_dir, monkeypatch, tmp_path, capsys
):
    """On fewer rows than it has."""
    module = load(EXAMPLES_BY_NAME["adult"])
    monkeypatch.setattr(module, "session", SimpleNamespace(start=lambda: spark))
    monkeypatch.setattr(type(spark), "stop", lambda self: None)
    train = first_rows(data_dir / "tabular" / "adult-train.csv", 4000, tmp_path / "train.csv")
    test = str(data_dir / "tabular" / "adult-test.csv")
    monkeypatch.setattr(module, "EXPECTED", 0.82)
    module.main(train, test)
    assert "16281 rows: accuracy 0.8" in capsys.readouterr().out

    asked = []

    def evaluate(rows, classes, label):
        asked.append((rows.count(), classes, label))
        return {"rows": 1, "errors": 0, "unlabelled": 0, "accuracy": 0.819, "accuracy_interval": (0, 1)}

    untrained = SimpleNamespace(fit=lambda rows: SimpleNamespace(transform=lambda rows: rows))
    monkeypatch.setattr(module, "Pipeline", lambda stages: untrained)
    monkeypatch.setattr(module, "evaluate", evaluate)
    with pytest.raises(AssertionError, match=r"expected at least 0\.82"):
        module.main(train, test)
    assert asked == [(16281, ["<=50K", ">50K"], "income")]


def first_digits(folder, to, train, test):
    """Copy the first rows of the digits' files."""
    for name, rows in (("train", train), ("t10k", test)):
        for kind, header, width in (("images-idx3", 16, 784), ("labels-idx1", 8, 1)):
            file = f"{name}-{kind}-ubyte.gz"
            content = gzip.decompress((folder / "mnist" / file).read_bytes())
            (to / file).write_bytes(gzip.compress(content[: header + rows * width], 1))


@pytest.mark.timeout(240)
def test_the_convolutional_example_asserts_what_it_gets_right_on_the_test_files(
    spark, data_dir, monkeypatch, tmp_path, capsys
):
    """On fewer rows than it has."""
    module = load(EXAMPLES_BY_NAME["lenet"])
    first_digits(data_dir, tmp_path, 1600, 500)
    monkeypatch.setattr(module, "session", SimpleNamespace(start=lambda _: spark))
    monkeypatch.setattr(type(spark), "stop", lambda self: None)
    monkeypatch.setitem(module.SETTINGS, "epochs", 2)
    with pytest.raises(AssertionError, match=r"expected at least 0\.992"):
        module.main(str(tmp_path))
    assert "500 digits: accuracy 0.8" in capsys.readouterr().out


def test_the_digits_example_asserts_what_it_gets_right_on_the_test_files(data_dir, monkeypatch, tmp_path, capsys):
    """On fewer rows than it has."""
    module = load(EXAMPLES_BY_NAME["mnist"])
    first_digits(data_dir, tmp_path, 4000, 1000)
    monkeypatch.setattr(module, "EXPECTED", 0.88)
    module.main(str(tmp_path))
    assert "1000 digits: accuracy 0." in capsys.readouterr().out
    monkeypatch.setattr(module, "EXPECTED", 0.99)
    with pytest.raises(AssertionError, match=r"expected at least 0\.99"):
        module.main(str(tmp_path))
