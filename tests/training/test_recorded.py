"""The run of a training that Python asked for: what is in its folder, when it goes on, and what it leaves alone."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sparkwright import storage
from sparkwright.errors import ColumnError, ExistsError, InputError, NotFiniteError
from sparkwright.events import EpochEnded, Event, RunEnded, RunStarted
from sparkwright.runs import Run, read_run, write_run_report
from sparkwright.training.arrays import fit_table
from sparkwright.training.config import TrainingConfig
from sparkwright.training.estimators.heads import MLPClassifier

CONFIG = TrainingConfig(epochs=4, hidden=(4,), replicas=2, batch_size=8, health_every=5, patience=None)
NAMES = {"config.json", "events.jsonl", "metrics.json", "report.html"}


@pytest.fixture(scope="module")
def table() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(120, 3))
    side = np.array(["train"] * 90 + ["validation"] * 30)
    return {"x": x, "kind": np.where(x[:, 0] + rng.normal(size=120) > 0, "a", "b"), "y": x[:, 1] * 9, "split": side}


def fit(table: dict[str, np.ndarray], run: str | Path, config: TrainingConfig = CONFIG, **settings: Any) -> Any:
    given = {"features": "x", "label": "kind", "split": "split", **settings}
    return fit_table(table, config, run=str(run), **given)


def headings(run: str | Path) -> list[str]:
    page = storage.read_bytes(storage.join(str(run), "report.html")).decode()
    return re.findall("<h2>(.*?)</h2>", page)


class Interruption:
    """Ends a training when so many epochs are over; takes events."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def __call__(self, event: Event) -> None:
        if isinstance(event, EpochEnded) and event.epoch == self.epoch:
            raise KeyboardInterrupt


def test_a_training_is_a_run_with_configuration_events_metrics_and_report(
    table: dict[str, np.ndarray], tmp_path: Path
) -> None:
    told: list[Event] = []
    result = fit(table, tmp_path / "run", emit=told.append)
    assert {path.name for path in (tmp_path / "run").iterdir()} == NAMES
    document, metrics, events = read_run(str(tmp_path / "run"))
    assert document["config"]["columns"] == {"features": ["x"], "label": "kind", "split": "split"}
    assert document["config"]["training"]["hidden"] == [4]
    assert document["shell"] == ""
    chosen = {"rows": 30, "epoch": result.best_epoch, "temperature": result.temperature}
    assert metrics["validation"] == {**result.validation, **chosen}
    assert metrics["parameters"] == 3 * 4 + 4 + 4 * 2 + 2
    assert metrics["rows"] == {"train": 90, "validation": 30}
    assert set(metrics["seconds"]) == {"rows", "selection"}
    kept = [stamped.event for stamped in events]
    assert kept[1:-1] == told
    assert (kept[0].name, kept[-1].ok) == ("fit", True)
    assert [event for event in kept if isinstance(event, EpochEnded)] == result.history
    assert headings(tmp_path / "run") == ["Learning", "Layers", "The run"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Command" not in page
    assert "banner" not in page.partition("</style>")[2]


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({"task": "regression"}, "y"),
        ({"task": "multilabel", "health_every": None}, "kinds"),
        ({"outputs": {"kind": "classification", "y": "regression"}}, "label"),
    ],
)
def test_a_run_of_another_task_has_a_report_without_empty_sections(
    table: dict[str, np.ndarray], tmp_path: Path, settings: dict[str, Any], label: str
) -> None:
    rows = pd.DataFrame({name: list(column) for name, column in table.items()})
    rows["kinds"] = [[kind, "c"][: 1 + number % 2] for number, kind in enumerate(rows["kind"])]
    result = fit(rows, tmp_path, CONFIG.replace(**settings), label=label)
    assert read_run(str(tmp_path))[1]["validation"].items() >= result.validation.items()
    assert headings(tmp_path) == ["Learning", *(["Layers"] if settings.get("health_every", 5) else []), "The run"]


@pytest.mark.parametrize("where", ["disk", "memory://recorded/run"])
def test_a_run_that_was_interrupted_goes_on_and_its_events_are_appended(
    table: dict[str, np.ndarray], tmp_path: Path, where: str
) -> None:
    run = str(tmp_path / "run") if where == "disk" else where
    with pytest.raises(KeyboardInterrupt):
        fit(table, run, checkpoint_s=0, emit=Interruption(3))
    assert "The run failed: KeyboardInterrupt" in storage.read_bytes(storage.join(run, "report.html")).decode()
    before = read_run(run)[2]
    with pytest.raises(InputError, match=r"of another configuration.*columns\.label: 'kind' → 'y'\. .* or remove it"):
        fit(table, run, label="y")
    assert read_run(run)[2] == before
    result = fit(table, run)
    _, _, events = read_run(run)
    assert events[: len(before)] == before
    assert [type(stamped.event) for stamped in events].count(RunStarted) == 2
    epochs = [stamped.event.epoch for stamped in events if isinstance(stamped.event, EpochEnded)]
    assert epochs in ([1, 2, 3, 3, 4], [1, 2, 3, 4])
    assert "The run failed" not in storage.read_bytes(storage.join(run, "report.html")).decode()
    assert len(result.history) == 4
    storage.remove(run)


def test_a_run_that_has_ended_is_replaced_and_leaves_the_model_beside_it(
    table: dict[str, np.ndarray], tmp_path: Path
) -> None:
    fit(table, tmp_path / "run")
    (tmp_path / "run" / "model").mkdir()
    fit(table, tmp_path / "run", CONFIG.replace(epochs=2), features=["x", "y"])
    document, _, events = read_run(str(tmp_path / "run"))
    assert document["config"]["training"]["epochs"] == 2
    assert [type(stamped.event) for stamped in events].count(EpochEnded) == 2
    assert (tmp_path / "run" / "model").exists()


def test_a_folder_of_another_run_or_of_something_else_is_left_alone(
    table: dict[str, np.ndarray], tmp_path: Path
) -> None:
    with Run(str(tmp_path / "run"), "transfer", {}):
        pass
    before = (tmp_path / "run" / "events.jsonl").read_text()
    with pytest.raises(ExistsError, match=r"holds a run of `sparkwright transfer`, which is left alone\. Choose"):
        fit(table, tmp_path / "run")
    assert (tmp_path / "run" / "events.jsonl").read_text() == before
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ExistsError, match="holds no run, so it is left alone"):
        fit(table, tmp_path)
    with pytest.raises(InputError, match="Name `run`, whose folder holds its checkpoints, or `checkpoints` alone"):
        fit(table, tmp_path / "new", checkpoints=str(tmp_path))


def test_a_folder_where_another_training_works_is_refused(table: dict[str, np.ndarray], tmp_path: Path) -> None:
    with (
        Run(str(tmp_path / "run"), "fit", {}),
        pytest.raises(ExistsError, match="is in use: process"),
    ):
        fit(table, tmp_path / "run")


def test_a_training_that_failed_has_a_report_that_says_why(table: dict[str, np.ndarray], tmp_path: Path) -> None:
    wild = CONFIG.replace(task="regression", learning_rate=1e30, optimizer="sgd")
    with pytest.raises(NotFiniteError, match="oss"):
        fit(table, tmp_path / "run", wild, label="y")
    (last,) = (s.event for s in read_run(str(tmp_path / "run"))[2] if isinstance(s.event, RunEnded))
    assert not last.ok
    assert last.message.startswith("NotFiniteError: ")
    assert "The run failed: NotFiniteError: " in (tmp_path / "run" / "report.html").read_text()
    assert not (tmp_path / "run" / "metrics.json").exists()
    fit(table, tmp_path / "run", wild.replace(learning_rate=1e-3), label="y")  # nothing there to go on from


def test_rows_that_are_refused_leave_no_folder(table: dict[str, np.ndarray], tmp_path: Path) -> None:
    broken = table | {"x": np.where(np.arange(120)[:, None] == 7, np.nan, table["x"])}
    with pytest.raises(ColumnError, match="1 where"):
        fit(broken, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_report_of_a_training_that_goes_on_can_be_written(table: dict[str, np.ndarray], tmp_path: Path) -> None:
    pages = []

    def look(event: Event) -> None:
        if isinstance(event, EpochEnded) and event.epoch == 2:
            pages.append(Path(write_run_report(str(tmp_path / "run"))).read_text())

    fit(table, tmp_path / "run", emit=look)
    assert "The run has not ended" in pages[0]
    assert "2 epochs of 90 rows" in pages[0]


def test_an_estimators_run_dir_is_a_run_too(table: dict[str, np.ndarray], tmp_path: Path) -> None:
    params = {"featuresCol": "x", "labelCol": "kind", "splitCol": "split", "epochs": 3, "healthEvery": None}
    model = MLPClassifier(runDir=str(tmp_path / "run"), **params).fit(table)
    document, metrics, _ = read_run(str(tmp_path / "run"))
    assert document["config"]["training"] == json.loads(json.dumps(model.getModel().lineage["training"]["config"]))
    assert metrics["validation"]["epoch"] == model.bestEpoch
    assert headings(tmp_path / "run") == ["Learning", "The run"]
