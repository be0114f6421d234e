"""`sparkwright train TABLE --features …`: columns of a table to a tested model."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.datasets import load_iris

pytestmark = pytest.mark.timeout(240)

NAMES = ["sepal_length", "sepal width", "petal_length", "petal_width"]
QUICK = ("--replicas", "2", "--set", "epochs=12", "--set", "batch_size=8", "--set", "learning_rate=0.05")


@pytest.fixture(scope="module")
def irises() -> pd.DataFrame:
    bunch = load_iris()
    return pd.DataFrame(bunch.data, columns=NAMES).assign(species=bunch.target_names[bunch.target])


def test_a_csv_file_gives_a_tested_model_and_a_report(sparkwright: Any, irises: pd.DataFrame, tmp_path: Path) -> None:
    irises.to_csv(tmp_path / "irises.csv", index=False)
    words = ("train", tmp_path / "irises.csv", "--features", ",".join(NAMES), "--label", "species")
    code, out, err = sparkwright(*words, "--out", tmp_path / "run", *QUICK, "--json")
    assert (code, err) == (0, "")
    test = json.loads(out)["metrics"]["test"]
    assert (test["rows"], test["errors"]) == (30, 0)
    assert test["accuracy"] > 0.8
    rows = json.loads((tmp_path / "run" / "metrics.json").read_text())["data"]["rows"]
    assert {side: sum(counts.values()) for side, counts in rows.items()} == {"train": 90, "validation": 30, "test": 30}
    report = (tmp_path / "run" / "report.html").read_text()
    assert "irises.csv --out" in report
    assert "--label species" in report
    code, _, err = sparkwright(*words, "--out", tmp_path / "run", *QUICK)
    assert code == 2
    assert "holds a run already" in err
    label_and_evaluate(sparkwright, irises, tmp_path)


def label_and_evaluate(sparkwright: Any, irises: pd.DataFrame, tmp_path: Path) -> None:
    """`predict` and `evaluate` find the columns that the model was trained on."""
    model, table, labelled = tmp_path / "run", tmp_path / "irises.csv", tmp_path / "labelled.csv"
    code, out, _ = sparkwright("evaluate", model, table, "--json")
    assert (code, json.loads(out)["evaluated"]) == (0, 150)
    code, _, err = sparkwright("predict", model, table, "--out", labelled)
    assert (code, err) == (0, "")
    found = pd.read_csv(labelled)
    assert list(found.columns) == [*NAMES, "species", "prediction", "probability", "error"]
    accuracy = (found["species"] == found["prediction"]).mean()
    assert accuracy == pytest.approx(json.loads(out)["accuracy"])
    irises.head(3).rename(columns={"sepal width": "width"}).to_parquet(tmp_path / "few.parquet")
    code, _, err = sparkwright("predict", model, tmp_path / "few.parquet")
    assert code == 2
    assert "Column `sepal width` not found in" in err
    renamed = "sepal_length,width,petal_length,petal_width"
    code, out, _ = sparkwright("predict", model, tmp_path / "few.parquet", "--features", renamed)
    assert code == 0
    assert "5.1, 3.5, 1.4, 0.2  setosa 0.9" in out


def test_a_column_of_sides_is_kept_to(sparkwright: Any, irises: pd.DataFrame, tmp_path: Path) -> None:
    side = ["train", "train", "validation", "test", "test"] * 30
    irises.assign(side=side).to_parquet(tmp_path / "irises.parquet")
    words = ("train", tmp_path / "irises.parquet", "--features", ",".join(NAMES), "--label", "species")
    code, out, _ = sparkwright(*words, "--split", "side", "--out", tmp_path / "run", *QUICK)
    assert code == 0
    assert "60 rows" in out


def test_columns_that_are_not_there_or_hold_text_are_named(
    sparkwright: Any, irises: pd.DataFrame, tmp_path: Path
) -> None:
    irises.to_csv(tmp_path / "irises.csv", index=False)
    words = ("train", tmp_path / "irises.csv", "--out", tmp_path / "run")
    code, _, err = sparkwright(*words, "--features", "petal_lenght,petal_width", "--label", "kind")
    assert code == 2
    assert "Column `petal_lenght` not found" in err
    assert "Did you mean `petal_length`?" in err
    assert "Column `kind` not found" in err
    code, _, err = sparkwright(*words, "--features", "petal_width,species", "--label", "petal_length", "--overwrite")
    assert code == 2
    assert "`species` is null, NaN or infinite" in err
    code, _, err = sparkwright(*words, "--features", "petal_width", "--split", "sides", "--label", "species")
    assert code == 2
    assert "--split must be three fractions, or a column of" in err
