"""A trial is the training of its configuration on its rows, bit for bit, in one part or many; faults stay its own."""

import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from sparkwright.data.digits import write_digits
from sparkwright.errors import ColumnError, InputError, StorageError
from sparkwright.events import EpochEnded
from sparkwright.networks.catalogue import load_network
from sparkwright.training.arrays import fit_table
from sparkwright.training.config import FINETUNING, TrainingConfig
from sparkwright.training.replica.replica import Replica
from sparkwright.training.rows.columns import Columns
from sparkwright.training.subject import Head, WholeNetwork
from sparkwright.tuning.costs import measure_costs
from sparkwright.tuning.runners.local import LocalRunner
from sparkwright.tuning.setup import Setup
from sparkwright.tuning.trials import Assignment, Measurement

BASE = TrainingConfig(epochs=6, replicas=3, batch_size=16, learning_rate=0.01, patience=None, refit=True)
SIDED = Columns(("x",), "y", None, "split")
PLAIN = Columns(("x",), "y")


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda file: None)


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    y = rng.integers(3, size=200)
    x = ((rng.normal(size=(3, 6)) * 2)[y] + rng.normal(size=(200, 6))).astype(np.float32)
    x[7], y[7] = x[8], y[8]
    side = np.where(rng.random(200) < 0.7, "train", np.where(rng.random(200) < 0.7, "validation", "test"))
    return {"x": x, "y": y, "split": side, "patient": [f"p{number % 23}" for number in range(200)]}


def figures(history: list[EpochEnded]) -> list[Any]:
    return [(e.train_loss, e.replica_losses, e.training, e.validation, e.learning_rate, e.best) for e in history]


def in_parts(runner: LocalRunner, values: dict[str, Any], *untils: int, **more: Any) -> Measurement:
    for until in untils:
        (measured,) = runner.run([Assignment(0, values, until, 6, **more)])
        assert (measured.failure, measured.epoch, measured.ended) == ("", until, until == 6)
    return measured


@pytest.mark.parametrize(
    "values",
    [
        {"learning_rate": 0.03},
        {"optimizer": "sgd", "hidden.layers": 2, "hidden.width": 5, "dropout": 0.2},
        {"replicas": 1, "batch_size": 64},
        {"replicas": 5, "strategy": "outer", "class_weights": "balanced"},
        {"schedule": "plateau", "weight_average": "ema"},
        {"sampling": "balanced", "standardise": False},
    ],
    ids=lambda values: "-".join(map(str, values.values())),
)
def test_a_trial_in_parts_is_the_training_of_its_configuration(
    table: dict[str, Any], tmp_path: Path, values: dict[str, Any]
) -> None:
    runner = LocalRunner(table, Setup(BASE, SIDED), str(tmp_path))
    measured = in_parts(runner, values, 1, 3, 6)
    config = BASE.replace(**{name: value for name, value in values.items() if "." not in name})
    if "hidden.width" in values:
        config = config.replace(hidden=(5, 5))
    expected = fit_table(table, config, features="x", label="y", split="split")
    assert figures(measured.history) == figures(expected.history)
    assert (measured.best_epoch, measured.values) == (expected.best_epoch, expected.validation)
    assert not list((tmp_path / "trials").glob("*"))


@pytest.mark.parametrize("group", [None, "patient"])
def test_a_trial_on_a_fold_is_the_training_with_that_column_of_sides(
    table: dict[str, Any], tmp_path: Path, group: str | None
) -> None:
    runner = LocalRunner(table, Setup(BASE, PLAIN, group=group, folds=3), str(tmp_path))
    values, seen = {"hidden": [4]}, []
    for fold in range(3):
        measured = in_parts(runner, values, 2, 6, fold=fold)
        sides = np.where(runner._rows._fold_N == fold, "validation", "train")  # rows are in the table's order
        seen.append(sides == "validation")
        rows = {"x": table["x"], "y": table["y"], "split": sides}
        expected = fit_table(rows, BASE.replace(hidden=(4,)), features="x", label="y", split="split")
        assert figures(measured.history) == figures(expected.history)
    assert (np.sum(seen, axis=0) == 1).all()
    if group is not None:
        names = np.array(table["patient"])
        twins = np.isin(np.arange(200), [7, 8])  # equal rows, which two patients have
        for name in np.unique(names):
            assert len({tuple(column) for column in np.array(seen).T[(names == name) & ~twins]}) == 1


def test_a_validation_fraction_chooses_the_rows_that_fit_table_chooses(table: dict[str, Any], tmp_path: Path) -> None:
    base = BASE.replace(validation_fraction=0.3, seed=5)
    measured = in_parts(LocalRunner(table, Setup(base, PLAIN), str(tmp_path)), {"replicas": 2}, 6)
    assert figures(measured.history) == figures(
        fit_table(table, base.replace(replicas=2), features="x", label="y").history
    )


def test_a_trial_with_another_seed_draws_other_weights_and_has_a_folder_of_its_own(
    table: dict[str, Any], tmp_path: Path
) -> None:
    runner = LocalRunner(table, Setup(BASE, SIDED), str(tmp_path))
    first = runner.run([Assignment(4, {}, 2, 6), Assignment(4, {}, 2, 6, seed=1), Assignment(4, {}, 6, 6, seed=1)])
    assert sorted(path.name for path in (tmp_path / "trials").iterdir()) == ["00004"]
    assert [measured.epoch for measured in first] == [2, 2, 6]
    assert first[0].history[0].train_loss != first[1].history[0].train_loss
    assert figures(first[2].history)[:2] == figures(first[1].history)
    runner.drop(4)
    runner.drop(4)
    assert not list((tmp_path / "trials").glob("*"))


def test_what_a_network_costs_is_measured_where_it_is_asked_for(table: dict[str, Any], tmp_path: Path) -> None:
    runner = LocalRunner(table, Setup(BASE, SIDED, costs=("parameters", "seconds_per_row")), str(tmp_path))
    (measured,) = runner.run([Assignment(0, {"hidden": [10]}, 1, 6)])
    assert measured.values["parameters"] == runner.parameters({"hidden": [10]}) == 6 * 10 + 10 + 10 * 3 + 3
    assert 0 < measured.values["seconds_per_row"] < 0.01
    (again,) = runner.run([Assignment(1, {"hidden": [10]}, 1, 6, costs=False)])
    assert again.values == {
        name: value for name, value in measured.values.items() if name in again.history[0].validation
    }
    assert measured.where.partition("/")[2].isdigit()
    population, rows = runner._rows.trial(BASE)
    rows[0] = replace(rows[0], side=np.full_like(rows[0].side, -1))  # hashes may leave a replica without rows
    assert 0 < measure_costs(("seconds_per_row",), BASE, population, rows, Head())["seconds_per_row"] < 0.01
    assert measured.seconds > 0


def test_a_trials_own_failure_is_in_its_measurement_and_leaves_nothing(
    table: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = BASE.replace(optimizer="sgd", nesterov=False, momentum=0.0)
    runner = LocalRunner(table, Setup(base, SIDED), str(tmp_path))
    tried = [
        {"learning_rate": 1e30},
        {"replicas": 150},
        {"sampling": "balanced", "class_weights": "balanced"},
        {"augmentation": "photos"},
    ]
    failures = [each.failure for each in runner.run([Assignment(n, v, 6, 6) for n, v in enumerate(tried)])]
    assert [failure.partition(":")[0] for failure in failures] == ["NotFiniteError", *["InputError"] * 3]
    assert "`replicas` is 150, but there are only" in failures[1]
    assert "each evens classes out" in failures[2]
    assert "a head trains on features" in failures[3]
    for error in (MemoryError("4 GiB"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 4 GiB")):

        def fail(*_: Any, error: Exception = error) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(Replica, "backward", fail)
            assert runner.run([Assignment(9, {}, 6, 6)])[0].failure.startswith("MemoryError: ")
    assert not list((tmp_path / "trials").glob("*"))
    assert runner.run([Assignment(9, {}, 6, 6)])[0].failure == ""


@pytest.mark.parametrize("together", ["trial", "shared"])
def test_a_trial_whose_time_is_over_fails_and_those_beside_it_go_on(
    table: dict[str, Any], tmp_path: Path, together: str
) -> None:
    runner = LocalRunner(table, Setup(BASE, SIDED, together=together), str(tmp_path))
    limits = (None, 0.0, 600.0)
    unlimited, late, early = runner.run([Assignment(n, {}, 6, 6, limit_s=limit) for n, limit in enumerate(limits)])
    assert late.failure.startswith("TimeLimitError: Its time was over in epoch 1. Raise `trial_time_limit_s`")
    assert (unlimited.failure, early.failure) == ("", "")
    assert figures(early.history) == figures(unlimited.history)
    assert not list((tmp_path / "trials").glob("*"))


def test_a_poisson_loss_takes_counts_in_a_trial_too(table: dict[str, Any], tmp_path: Path) -> None:
    below, base = table | {"y": table["y"] - 1.0}, BASE.replace(task="regression")
    tried = [Assignment(number, {"loss": loss}, 6, 6) for number, loss in enumerate(("huber", "poisson"))]
    huber, poisson = LocalRunner(below, Setup(base, SIDED), str(tmp_path)).run(tried)
    assert (huber.failure, poisson.failure.partition(",")[0]) == ("", "InputError: `y` is negative")


@pytest.mark.parametrize("together", ["trial", "shared"])
def test_a_runner_that_is_closed_trains_no_further_epoch(
    table: dict[str, Any], tmp_path: Path, together: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = LocalRunner(table, Setup(BASE, SIDED, together=together), str(tmp_path))
    began, goes_on, epochs, start_epoch = Event(), Event(), [], Replica.start_epoch

    def waiting(replica: Replica, epoch: int, steps: int) -> None:
        epochs.append(epoch)
        began.set()
        goes_on.wait(60)
        start_epoch(replica, epoch, steps)

    monkeypatch.setattr(Replica, "start_epoch", waiting)
    with ThreadPoolExecutor(2) as threads:
        job = threads.submit(runner.run, [Assignment(0, {}, 6, 6)])
        began.wait(60)
        closing = threads.submit(runner.close)
        while not runner._over.is_set():
            time.sleep(0.01)
        assert not closing.done()
        goes_on.set()
        closing.result(60)
        with pytest.raises(CancelledError, match="search is over"):
            job.result()
    assert set(epochs) == {1}
    with pytest.raises(CancelledError, match="search is over"):
        runner.run([Assignment(1, {}, 6, 6)])


def test_a_trial_that_cannot_be_kept_is_no_failure_of_its_own(table: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    runner = LocalRunner(table, Setup(BASE, SIDED), str(tmp_path / "file"))
    with pytest.raises(StorageError, match=r"cannot be written"):
        runner.run([Assignment(0, {}, 2, 6)])


def test_rows_that_no_search_can_use_are_refused_before_it(table: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing says which rows validate: name a column of the rows' sides"):
        LocalRunner(table, Setup(BASE, PLAIN), str(tmp_path))
    only = table | {"split": ["train"] * 200}
    with pytest.raises(InputError, match=r"No row validates, so no trial is better than another"):
        LocalRunner(only, Setup(BASE, SIDED), str(tmp_path))
    with pytest.raises(ColumnError, match=r"Column `patients` of the groups not found .* Did you mean `patient`\?"):
        LocalRunner(table, Setup(BASE, PLAIN, group="patients", folds=3), str(tmp_path))
    with pytest.raises(InputError, match=r"`folds` is 30, and there are 23 groups"):
        LocalRunner(table, Setup(BASE, PLAIN, group="patient", folds=30), str(tmp_path))
    broken = table | {"x": np.where(np.arange(200)[:, None] == 3, np.nan, table["x"])}
    with pytest.raises(ColumnError, match=r"1 of \d+ rows cannot be trained on: 1 where `x` holds"):
        LocalRunner(broken, Setup(BASE, SIDED), str(tmp_path))
    runner = LocalRunner(broken, Setup(BASE, PLAIN, folds=3, invalid="skip"), str(tmp_path))
    assert runner.population.census.problems.total()


def test_a_whole_network_is_tuned_with_its_augmentation(tmp_path: Path) -> None:
    write_digits(tmp_path / "photos", digits=[5, 6])
    paths = sorted((tmp_path / "photos").glob("*/*.png"))[::3]
    photos = {
        "content": [path.read_bytes() for path in paths],
        "label": [path.parent.name for path in paths],
        "split": ["validation" if n % 4 == 0 else "train" for n in range(len(paths))],
    }
    base = FINETUNING.replace(epochs=6, replicas=2, learning_rate=1e-3, calibrate=False)
    network = load_network("digits_cnn")
    columns = Columns(("content",), "label", None, "split")
    runner = LocalRunner(photos, Setup(base, columns, subject=WholeNetwork.of(network, new_head=True)), str(tmp_path))
    seen = []
    for augmentation in (None, {"rotate": 20.0}):
        measured = in_parts(runner, {"augmentation": augmentation, "weight_decay": 0.1}, 1, 6)
        subject = WholeNetwork.of(network.with_augmentation(augmentation), new_head=True)
        expected = fit_table(photos, base.replace(weight_decay=0.1), features="content", split="split", subject=subject)
        assert figures(measured.history) == figures(expected.history)
        seen.append(measured.history[-1].train_loss)
    assert seen[0] != seen[1]


def test_heads_of_a_job_share_a_pass_and_one_alone_has_the_same_bits(table: dict[str, Any], tmp_path: Path) -> None:
    shared = LocalRunner(table, Setup(BASE, SIDED, together="shared", costs=("parameters",)), str(tmp_path / "shared"))
    assert shared.together > 1
    values = [
        {"learning_rate": 0.03},
        {"hidden": [5]},
        {"replicas": 2},
        {"learning_rate": 1e30, "optimizer": "sgd"},
        {"replicas": 150},
        {"dropout": 0.1},
    ]
    together = shared.run([Assignment(number, each, 2, 6) for number, each in enumerate(values)])
    assert [measured.failure.partition(":")[0] for measured in together] == [
        "",
        "",
        "",
        "NotFiniteError",
        "InputError",
        "",
    ]
    assert [measured.epoch for measured in together if not measured.failure] == [2] * 4
    ended = [shared.run([Assignment(number, values[number], 6, 6)])[0] for number in (0, 1, 2, 5)]
    alone = LocalRunner(table, Setup(BASE, SIDED, together="shared"), str(tmp_path / "alone"))
    for number, measured in zip((0, 1, 2, 5), ended, strict=True):
        (expected,) = alone.run([Assignment(number, values[number], 6, 6)])
        assert figures(measured.history) == figures(expected.history)
        assert measured.ended
        single = in_parts(LocalRunner(table, Setup(BASE, SIDED), str(tmp_path / "single")), values[number], 6)
        assert measured.values["loss"] == pytest.approx(single.values["loss"], rel=1e-3)
    assert not list((tmp_path / "shared" / "trials").glob("*"))


def test_only_heads_share_a_pass(tmp_path: Path) -> None:
    write_digits(tmp_path / "photos", digits=[5, 6])
    paths = sorted((tmp_path / "photos").glob("*/*.png"))[::40]
    photos = {"content": [path.read_bytes() for path in paths], "label": [path.parent.name for path in paths]}
    subject = WholeNetwork.of(load_network("digits_cnn"), new_head=True)
    chosen: dict[str, Any] = {"subject": subject, "folds": 2}
    with pytest.raises(InputError, match=r"`together` 'shared' is for heads on features; whole networks train with"):
        LocalRunner(photos, Setup(FINETUNING, Columns(("content",)), together="shared", **chosen), str(tmp_path))
    runner = LocalRunner(photos, Setup(FINETUNING, Columns(("content",)), together="auto", **chosen), str(tmp_path))
    assert runner.together == 1
