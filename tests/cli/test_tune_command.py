"""`sparkwright tune`: the best configuration of many, chosen on validation rows, as a tested model."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sparkwright.runs import read_run

pytestmark = pytest.mark.timeout(240)

SPACE = {"learning_rate": {"low": 1e-3, "high": 0.3, "log": True}, "hidden": [[], [8]]}
QUICK = ("--trials", 5, "--epochs", 6, "--candidates", 2, "--seeds", 2, "--replicas", 2, "--parallel-trials", 2)
QUICK = (*QUICK, "--objective", "accuracy", "--set", "batch_size=8")
BOTH = ("--objective", "loss", "--objective", "parameters")
REFUSED = {
    "There is no space 'hed'": ("--space", "hed"),
    "`sampler` must be one of tpe, random, grid, cmaes, gp, not 'tpo'. Did you mean `tpe`?": ("--sampler", "tpo"),
    "there is no 'accurcy'. Did you mean `accuracy`?": ("--objective", "accurcy"),
    "The first of `objectives` must be a metric of the validation rows": ("--objective", "parameters"),
    "Unknown setting `learning_rat`. Did you mean `learning_rate`?": ("--set", "learning_rat=3"),
    "`trials` must be a whole number of at least 1; it is 0.": ("--trials", 0),
    "`min_epochs` (9) must not be more than the epochs of a trial (8)": ("--epochs", 8, "--min-epochs", 9),
    "`folds` and `validation_fraction` exclude each other": ("--folds", 3, "--set", "validation_fraction=0.2"),
    "A run tunes a classifier, not for the task 'regression'": ("--set", "task=regression"),
    "--label and --split are of tables": ("--label", "species"),
    "--space must be a name, or a file on this machine's disk": ("--space", "hdfs://there/space.yaml"),
    "`augmentation` needs whole networks": ("--space", "finetuning"),
    '`sampler="cmaes"` takes one of `objectives`': ("--sampler", "cmaes", *BOTH),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_searched_is_told_before_spark_starts(plain: Any, tmp_path: Path, message: str) -> None:
    code, out, err = plain("tune", tmp_path, "--out", tmp_path / "run", *REFUSED[message])
    assert (code, out) == (2, "")
    assert message in err
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    rng = np.random.default_rng(4)
    x = rng.normal(size=(200, 3))
    label = np.where(x[:, 0] + 0.3 * rng.normal(size=200) > 0, "high", "low")
    patient = np.arange(200) // 4
    rows = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "kind": label, "patient": patient})
    rows.to_csv(folder / "rows.csv", index=False)
    (folder / "space.json").write_text(json.dumps(SPACE))
    return folder


def test_a_search_ends_with_the_chosen_configuration_its_figures_and_a_report(
    sparkwright: Any, table: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ("tune", table / "rows.csv", "--features", "a,b,c", "--label", "kind", "--space", table / "space.json")
    code, out, err = sparkwright(*words, "--out", run, *QUICK)
    assert (code, err) == (0, "")
    for part in ("trials  ", "chosen  ", "validation     accuracy", "± ", "over 2 seeds", "test accuracy", "optimism"):
        assert part in out
    metrics = json.loads((run / "metrics.json").read_text())
    search = metrics["search"]
    assert sum(search["trials"].values()) == 5
    assert set(search["chosen"]["scores"]) == {"1", "2"}
    assert {"search", "selection", "training", "predictions"} <= set(metrics["seconds"])
    assert metrics["test"]["rows"] == 40
    assert metrics["test"]["accuracy"] > 0.8
    trials = json.loads((run / "trials.json").read_text())
    assert len(trials["trials"]) == 5
    assert len(trials["candidates"]) == 2
    assert (run / "tuning" / "journal.log").exists()
    assert not (run / "tuning" / "rows").exists()
    assert not (run / "tuning" / "trials").exists()
    # What is finished is not tried again.
    code, again, _ = sparkwright(*words, "--out", run, *QUICK, "--resume", "--json")
    assert code == 0
    assert json.loads(again)["metrics"]["search"] == search
    started = [line for line in (run / "events.jsonl").read_text().splitlines() if "TrialStarted" in line]
    assert len(started) == 5
    code, _, err = sparkwright(*words, "--out", run, *QUICK, "--eta", 2, "--resume")
    assert code == 2
    assert "search.eta: 3 → 2" in err
    report = (run / "report.html").read_text()
    command = shlex.split(report.partition("<h3>Command</h3>")[2].partition("<code>")[2].partition("</code>")[0])
    assert command[1:3] == ["tune", str(table / "rows.csv")]
    assert command[command.index("--space") + 1] == str(run / "space.json")
    assert read_run(str(run))[0]["command"] == "tune"


def test_wrong_columns_and_no_test_rows_are_told_before_the_search(
    sparkwright: Any, table: Path, tmp_path: Path
) -> None:
    words = ("tune", table / "rows.csv", "--features", "a,b", "--out", tmp_path / "run", *QUICK)
    code, _, err = sparkwright(*words, "--label", "kin")
    assert code == 2
    assert "Column `kin` not found" in err
    code, _, err = sparkwright(*words, "--label", "kind", "--group", "patients", "--folds", 2)
    assert code == 2
    assert "Did you mean `patient`?" in err
    code, _, err = sparkwright(*words, "--label", "kind", "--split", "0.8,0.2,0")
    assert code == 2
    assert "is on the test side" in err
    assert not (tmp_path / "run").exists()
