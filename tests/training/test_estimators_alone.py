"""The estimators on tables that this process holds: no Spark session is started."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyspark.ml import Pipeline

from sparkwright.errors import ColumnError, ErrorRateError, InputError, NameUnknownError
from sparkwright.events import EpochEnded, Event, Warned
from sparkwright.models import Model
from sparkwright.scoring.model_transformer import ModelTransformer
from sparkwright.training.arrays import fit_arrays, fit_table
from sparkwright.training.config import TrainingConfig
from sparkwright.training.estimators.heads import MLPClassifier, MLPRegressor
from sparkwright.training.estimators.models import MLPClassificationModel, to_model

FLOWERS = ["petal_length", "petal_width", "sepal"]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=240)
    x = (rng.normal(size=(3, 3)) * 4)[y] + rng.normal(size=(240, 3))
    data = dict(zip(FLOWERS, x.T, strict=True))
    return pd.DataFrame({**data, "kind": np.array(["iris", "lily", "rose"])[y], "price": 50 + 7 * x[:, 0] - x[:, 1]})


def classifier(**params: Any) -> MLPClassifier:
    settings = {"featuresCols": FLOWERS, "labelCol": "kind", "epochs": 15, "optimizer": "sgd", "batchSize": 8, **params}
    return MLPClassifier(**settings)


@pytest.fixture(scope="module")
def model(table: pd.DataFrame) -> MLPClassificationModel:
    fitted = classifier(validationFraction=0.25, hiddenLayers=8).fit(table)
    assert isinstance(fitted, MLPClassificationModel)
    return fitted


def digest(model: Model) -> str:
    assert model.head is not None
    return hashlib.sha256(b"".join(v.tobytes() for _, v in sorted(model.head.weights().items()))).hexdigest()


def test_a_table_of_pandas_is_fitted_and_predicted_without_a_session(table: pd.DataFrame, tmp_path: Path) -> None:
    """In a process of its own, where a session or a JVM would show."""
    table.to_csv(tmp_path / "table.csv", index=False)
    program = f"""
import pandas as pd, subprocess
from pyspark.sql import SparkSession
from sparkwright import MLPClassifier
table = pd.read_csv({str(tmp_path / "table.csv")!r})
model = MLPClassifier(featuresCols={FLOWERS}, labelCol="kind", epochs=15, optimizer="sgd", batchSize=8).fit(table)
assert (model.transform(table)["prediction"] == table["kind"]).mean() > 0.9
assert SparkSession.getActiveSession() is None
from pyspark import SparkContext
assert SparkContext._gateway is None
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=110)


@pytest.mark.parametrize("kind", ["pandas", "arrow", "numpy", "matrix"])
def test_the_result_does_not_depend_on_what_holds_the_table(
    kind: str, table: pd.DataFrame, model: MLPClassificationModel
) -> None:
    tables: dict[str, Callable[[], Any]] = {
        "pandas": lambda: table.sample(frac=1, random_state=1),
        "arrow": lambda: pa.Table.from_pandas(table),
        "numpy": lambda: {name: table[name].to_numpy() for name in table},
        "matrix": lambda: {"features": table[FLOWERS].to_numpy(np.float32), "kind": table["kind"].to_numpy()},
    }
    estimator = classifier(validationFraction=0.25, hiddenLayers=[8])
    if kind == "matrix":
        estimator.clear(estimator.featuresCols)
    fitted = estimator.fit(tables[kind]())
    assert digest(fitted.getModel()) == digest(model.getModel())
    predicted = fitted.transform(tables[kind]())
    assert (predicted["prediction"] == predicted["kind"]).mean() > 0.9


def test_predictions_stand_beside_the_table_under_its_index(table: pd.DataFrame, model: MLPClassificationModel) -> None:
    rows = table.iloc[[5, 3, 8]].drop(columns="kind")
    predicted = model.transform(rows)
    assert predicted.index.tolist() == [5, 3, 8]
    assert list(predicted) == [*rows, "prediction", "probability", "probabilities", "error"]
    assert list(rows) == [*FLOWERS, "price"]  # as it was
    assert predicted["probabilities"].map(max).tolist() == pytest.approx(predicted["probability"].tolist())
    assert list(model.copy({model.dropInput: True}).transform(rows))[:2] == ["price", "prediction"]
    assert model.transform(rows.iloc[:0]).shape == (0, 8)


def test_a_row_that_cannot_be_scored_keeps_its_place(table: pd.DataFrame, model: MLPClassificationModel) -> None:
    rows = table.copy()
    rows.loc[4, "sepal"] = np.nan
    predicted = model.transform(rows)
    assert predicted["prediction"].isna().to_numpy().nonzero()[0].tolist() == [4]
    assert predicted.loc[4, "error"] == {"kind": "not finite", "message": "The row holds NaN or infinity."}
    with pytest.raises(ErrorRateError, match="Row 4 failed: not finite: The row holds NaN or infinity"):
        model.copy({model.mode: "failfast"}).transform(rows)
    rows["sepal"] = None
    with pytest.raises(ErrorRateError, match="240 of 240 rows"):
        model.transform(rows.astype({"sepal": float}))


def test_a_saved_model_scores_tables_too(table: pd.DataFrame, model: MLPClassificationModel, tmp_path: Path) -> None:
    model.getModel().save(str(tmp_path / "model"))
    stage = ModelTransformer(model=str(tmp_path / "model"), inputCols=FLOWERS)
    pd.testing.assert_frame_equal(stage.transform(table), model.transform(table))


def test_history_is_a_table_of_the_epochs(model: MLPClassificationModel) -> None:
    history = model.history
    assert history["epoch"].tolist() == list(range(1, 16))
    assert {"train_loss", "validation_loss", "validation_accuracy", "learning_rate", "rows"} <= set(history)
    assert history.loc[history["best"], "epoch"].iloc[-1] == model.bestEpoch
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]


def test_rows_validate_by_share_or_by_their_side(table: pd.DataFrame, model: MLPClassificationModel) -> None:
    rows = model.getModel().lineage["training"]["rows"]
    assert rows["train"] + rows["validation"] == 240
    assert 40 < rows["validation"] < 80
    sides = table.assign(side=np.resize(["train", "train", "validation", "test"], len(table)))
    sided = classifier(splitCol="side").fit(sides)
    assert sided.getModel().lineage["training"]["rows"] == {"train": 120, "validation": 60}
    both = classifier(splitCol="side", validationFraction=0.5).fit(sides[sides["side"] != "validation"])
    assert 35 < both.getModel().lineage["training"]["rows"]["validation"] < 85
    with pytest.raises(InputError, match=r"`validationFraction` is 0.001, of 240 training rows, and none fell to"):
        classifier(validationFraction=0.001).fit(table)


def test_a_regression_predicts_numbers(table: pd.DataFrame) -> None:
    estimator = MLPRegressor(featuresCols=FLOWERS, labelCol="price", epochs=60, batchSize=8, learningRate=0.05)
    predicted = estimator.fit(table).transform(table)
    assert np.abs(predicted["prediction"] - table["price"]).max() < 1
    assert "probability" not in predicted


def test_a_pipeline_takes_tables_too(table: pd.DataFrame) -> None:
    fitted = Pipeline(stages=[classifier(predictionCol="flower")]).fit(table)
    assert (fitted.transform(table)["flower"] == table["kind"]).mean() > 0.9


@pytest.mark.parametrize("regression", [False, True])
def test_training_goes_on_from_a_model(table: pd.DataFrame, regression: bool, tmp_path: Path) -> None:
    estimator: MLPClassifier | MLPRegressor = classifier(hiddenLayers=[8], splitCol="side", calibrate=False)
    if regression:
        shared = {"featuresCols": FLOWERS, "labelCol": "price", "splitCol": "side"}
        estimator = MLPRegressor(**shared, hiddenLayers=[8], epochs=15, batchSize=8)
    sides = table.assign(side=np.resize(["train", "train", "validation"], len(table)))
    first = estimator.fit(sides)
    further = {estimator.initialModel: first, estimator.learningRate: 1e-7, estimator.epochs: 1}
    second = estimator.copy(further).fit(sides)
    loss = second.history["validation_loss"].iloc[0]
    assert loss == pytest.approx(first.history["validation_loss"].min(), rel=1e-3)
    assert loss < first.history["validation_loss"].iloc[0]
    first.getModel().save(str(tmp_path / "model"))
    again = estimator.copy({**further, estimator.initialModel: str(tmp_path / "model")}).fit(sides)
    assert digest(again.getModel()) == digest(second.getModel())


def test_a_model_of_other_layers_or_rows_is_not_gone_on_from(
    table: pd.DataFrame, model: MLPClassificationModel
) -> None:
    with pytest.raises(InputError) as caught:
        classifier(initialModel=model, hiddenLayers=[16], activation="gelu", standardise=False).fit(table)
    assert caught.value.problems == (
        "its `hidden` is [8], the training's [16].",
        "its `activation` is 'relu', the training's 'gelu'.",
        "its `standardise` is True, the training's False.",
    )
    further = {"initialModel": model, "hiddenLayers": [8]}
    with pytest.raises(InputError, match="The rows have 2 features; the model to go on from takes 3"):
        classifier(**further, featuresCols=FLOWERS[:2]).fit(table)
    with pytest.raises(ColumnError, match=r"`kind` holds labels that are no classes: tulip"):
        classifier(**further).fit(table.replace("rose", "tulip"))
    fewer = classifier(**further).fit(table[table["kind"] != "iris"])
    assert fewer.getModel().classes == ("iris", "lily", "rose")
    with pytest.raises(
        InputError, match="`classes` must be those of the model to go on from, in its order: iris, lily"
    ):
        fit_table(
            table,
            TrainingConfig(hidden=(8,)),
            features=FLOWERS,
            label="kind",
            classes=["rose", "lily", "iris"],
            initial=model.getModel(),
        )


def test_all_that_is_wrong_is_said_at_once(table: pd.DataFrame) -> None:
    with pytest.raises(InputError) as caught:
        MLPClassifier(
            featuresCols=["sepal", "Petal_Length", "kind"],
            labelCol="knid",
            optimizer="Adam",
            learningRate=-1,
            classWeights="even",
            handleInvalid="drop",
        ).fit(table)
    names = [*FLOWERS, "kind", "price"]
    assert caught.value.problems == (
        "`optimizer` must be one of sgd, adam, adamw, rmsprop, adadelta, adagrad, lamb, lars, not 'Adam'. Did you mean "
        "`adam`?",
        "`classWeights` must be None, 'balanced' or a mapping of classes, not 'even'.",
        "`learningRate` must be above 0, not -1.0.",
        "`handleInvalid` must be error or skip, not 'drop'.",
        f"Column `Petal_Length` not found in {names}. Did you mean `petal_length`?",
        f"Column `knid` not found in {names}. Did you mean `kind`?",
        "Column `kind` must hold vectors, arrays of numbers, or numbers; it holds string. Text of numbers: read the "
        "file with a schema, or cast the column. Text of categories: make columns of it with pandas' get_dummies, or "
        "with Spark's StringIndexer and OneHotEncoder.",
    )


def test_params_that_are_no_params_are_all_named() -> None:
    with pytest.raises(InputError) as caught:
        MLPClassifier(learning_rate=0.1, epochs="ten", featuresCols="sepal")
    assert caught.value.problems == (
        "there is no Param `learning_rate`. Did you mean `learningRate`?",
        "`epochs` cannot be 'ten': Could not convert ten to int",
        "`featuresCols` cannot be 'sepal': a list of columns' names is needed, not 'sepal'.",
    )
    with pytest.raises(
        NameUnknownError, match=r"MLPRegressor cannot be set up like this: there is no Param `xyz`\. It has"
    ):
        MLPRegressor(xyz=1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t: t.to_numpy(), InputError, r"or a mapping from names to arrays, .*; it got ndarray"),
        (lambda t: "table.csv", InputError, "it got str"),
        (lambda t: t.iloc[:0], InputError, "The table has no rows"),
        (lambda t: t.assign(sepal=None), ColumnError, "Column `sepal` holds nothing but nulls"),
        (
            lambda t: t.assign(sepal=["?", *t["sepal"][1:]]),
            ColumnError,
            r"`sepal` holds .* several types: .*'\?' in row 0",
        ),
        (lambda t: t.assign(kind=t["sepal"]), ColumnError, r"240 where `kind` is .*\(for regression use `MLPReg"),
        (lambda t: t.assign(kind=["iris", *[None] * 239]), ColumnError, "239 of 240 rows cannot be .*`kind` is null"),
        (lambda t: t.assign(kind="iris"), InputError, "needs rows of at least two classes .* only 'iris'"),
        (lambda t: t.assign(sepal=pd.Timestamp("2020-01-01")), ColumnError, "Make numbers of times"),
    ],
)
def test_a_table_that_cannot_be_trained_on_is_refused_by_name(
    change: Callable[[pd.DataFrame], Any], error: type[Exception], message: str, table: pd.DataFrame
) -> None:
    with pytest.raises(error, match=message):
        classifier().fit(change(table))


def test_labels_do_not_come_second(table: pd.DataFrame) -> None:
    with pytest.raises(InputError, match=r"`fit` takes one table, with the labels in it: fit\(\{"):
        classifier().fit(table[FLOWERS], table["kind"])
    with pytest.raises(ColumnError, match="`price` is among the features, and is the label"):
        MLPRegressor(featuresCols=["price"], labelCol="price").fit(table)
    with pytest.raises(InputError, match="`featuresCol` and `featuresCols` are both set"):
        classifier(featuresCol="sepal").fit(table)


def test_columns_that_a_model_needs_are_named_when_they_are_missing(
    table: pd.DataFrame, model: MLPClassificationModel
) -> None:
    with pytest.raises(ColumnError) as caught:
        model.transform(table.drop(columns="sepal").assign(prediction=1))
    assert [problem.partition(".")[0] for problem in caught.value.problems] == [
        "Column `sepal` not found in ['petal_length', 'petal_width', 'kind', 'price', 'prediction']",
        "Column `prediction` is to be added, but is there already",
    ]
    with pytest.raises(ColumnError, match="Column `kind` must hold numbers or arrays of numbers; it holds string"):
        model.copy({model.inputCols: ["petal_length", "petal_width", "kind"]}).transform(table)
    with pytest.raises(
        InputError, match="The model takes 3 numbers a row, and got the columns sepal, price: name those"
    ):
        model.copy({model.inputCols: ["sepal", "price"]}).transform(table)
    with pytest.raises(InputError, match=r"transform takes a DataFrame of Spark or pandas.*; it got ndarray"):
        model.transform(table.to_numpy())


def test_labels_of_all_kinds_come_back_as_they_were(table: pd.DataFrame) -> None:
    number = table["kind"].map({"iris": 10, "lily": 9, "rose": 8})
    for labels in (number, number.astype(float), number.astype("Int64"), table["kind"].astype("category")):
        predicted = classifier().fit(table.assign(kind=labels)).transform(table)["prediction"]
        assert (predicted == labels.astype(predicted.dtype)).mean() > 0.9


def test_weights_and_class_weights_by_number_reach_the_training(table: pd.DataFrame) -> None:
    number = table.assign(kind=table["kind"].map({"iris": 0, "lily": 1, "rose": 2}), w=1.0)
    plain = classifier(weightCol="w").fit(number)
    assert digest(plain.getModel()) == digest(classifier().fit(number).getModel())
    heavy = classifier(classWeights={0: 5.0}).fit(number)
    assert digest(heavy.getModel()) != digest(plain.getModel())
    with pytest.raises(InputError, match=r"`classWeights` names classes that no row has: 7"):
        classifier(classWeights={7: 5.0}).fit(number)


def test_a_table_and_arrays_give_the_same_weights(table: pd.DataFrame) -> None:
    config = TrainingConfig(epochs=3)
    by_name = to_model(fit_table(table, config, features=FLOWERS, label="kind"))
    assert digest(by_name) == digest(to_model(fit_arrays(table[FLOWERS], table["kind"], config)))


def test_a_training_that_was_interrupted_goes_on_in_its_run_folder(table: pd.DataFrame, tmp_path: Path) -> None:
    shared: dict[str, Any] = {"features": FLOWERS, "label": "kind", "run": str(tmp_path), "checkpoint_s": 0}
    config = TrainingConfig(epochs=6, validation_fraction=0.2, refit=True)
    told: list[Event] = []

    def interrupt(event: Event) -> None:
        told.append(event)
        if isinstance(event, EpochEnded) and event.epoch == 4 and len(told) < 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_table(table, config, **shared, emit=interrupt)
    assert list((tmp_path / "checkpoints").iterdir())
    with pytest.raises(
        InputError, match=r"of another configuration.*training.seed: 0 → 1\. Choose another folder, or remove it"
    ):
        fit_table(table, config.replace(seed=1), **shared)
    with pytest.raises(InputError, match=r"holds checkpoints of another training.*data.train: "):
        fit_table(table.iloc[1:], config, **shared)
    told.clear()
    told.extend([Warned("")] * 20)
    result = fit_table(table, config, **shared, emit=interrupt)
    assert next(event.epoch for event in told if isinstance(event, EpochEnded)) >= 4
    assert digest(to_model(result)) == digest(to_model(fit_table(table, config, features=FLOWERS, label="kind")))
    assert [event.epoch for event in result.history] == [1, 2, 3, 4, 5, 6]
    assert not (tmp_path / "checkpoints").exists()


def test_settings_of_the_run_are_checked_with_the_others(table: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        classifier(transport="round", runDir=tmp_path, checkpointSeconds=-1, memoryMib=0, stallLimitSeconds=0).fit(
            table
        )
    assert caught.value.problems == (
        "`transport` must be gang or rounds, not 'round'. Did you mean `rounds`?",
        "`memoryMib` must be at least 1, not 0.",
        "`checkpointSeconds` must be at least 0, not -1.0.",
        "`stallLimitSeconds` must be at least 1, not 0.0.",
        f"`runDir` must be the path of a folder, as text, not {tmp_path!r}.",
    )
    with pytest.raises(InputError, match="`transport` rounds needs a run folder"):
        classifier(transport="rounds").fit(table)


def test_rows_that_are_left_out_are_told(table: pd.DataFrame, caplog: pytest.LogCaptureFixture) -> None:
    broken = table.assign(sepal=[np.nan, np.inf, *table["sepal"][2:]])
    with pytest.raises(
        ColumnError, match="2 of 240 rows cannot be trained on: 2 where `sepal` is null, NaN or infinite"
    ):
        classifier().fit(broken)
    fitted = classifier(handleInvalid="skip").fit(broken)
    assert fitted.getModel().lineage["training"]["skipped"] == 2
    (told,) = caplog.messages
    why = "2 where `sepal` is null, NaN or infinite, for example `petal_length` -"
    assert told.startswith(f"2 rows could not be trained on and were left out: {why}")


def test_progress_shows_on_a_terminal_unless_it_is_not_wanted(
    table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    classifier(progress=False).fit(table)
    assert capsys.readouterr() == ("", "")
    classifier(refit=True, validationFraction=0.2).fit(table)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Training" in shown.err
    assert "15 epochs" in shown.err


def test_an_estimator_with_a_model_in_memory_is_not_saved(model: MLPClassificationModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="save the model first, and set initialModel to where it lies"):
        classifier(initialModel=model).save(str(tmp_path / "estimator"))
