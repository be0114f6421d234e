"""Networks of several outputs, each with its own labels and task, train at once."""

from collections import namedtuple
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from sparkwright.errors import ColumnError, InputError
from sparkwright.evaluation.evaluate import evaluate_outputs
from sparkwright.models import Model
from sparkwright.networks import factory
from sparkwright.networks.factory import from_factory
from sparkwright.networks.torch_network import TorchNetwork
from sparkwright.scoring.model_transformer import ModelTransformer
from sparkwright.scoring.predictions import write_predictions
from sparkwright.scoring.predictor import Predictor
from sparkwright.training.arrays import fit_arrays, fit_table
from sparkwright.training.cluster.fit import train
from sparkwright.training.config import TrainingConfig
from sparkwright.training.estimators.models import to_model
from sparkwright.training.result import TrainingResult
from sparkwright.training.rows.columns import Columns
from sparkwright.training.rows.encoding import Encoding
from sparkwright.training.rows.files import RowFiles
from sparkwright.training.rows.store import Store
from sparkwright.training.subject import WholeNetwork
from sparkwright.training.tasks import Classification, Regression, Several, Weighted

MODULE = """
import torch
from torch import nn


class Many(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 16)
        self.kind = nn.Linear(16, 3)
        self.height = nn.Linear(16, 1)
        self.tags = nn.Linear(16, 2)

    def forward(self, x):
        seen = torch.relu(self.body(x))
        return {"kind": self.kind(seen), "height": self.height(seen)[:, 0], "tags": self.tags(seen)}
"""
OUTPUTS = {
    "kind": "classification",
    "height": {"task": "regression", "loss": "huber", "weight": 0.5},
    "tags": "multilabel",
}
CONFIG = TrainingConfig(outputs=OUTPUTS, epochs=25, replicas=2, batch_size=8, patience=None, health_every=20)
LABELS = {"kind": "what", "height": "cm"}  # `tags` is found in the column of its own name


@pytest.fixture(autouse=True)
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets_of_many.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(factory, "_trusted", set())


def many(*names: str) -> TorchNetwork:
    return from_factory("nets_of_many:Many", (4,), output=names or tuple(OUTPUTS))


def table(rows: int = 200) -> pa.Table:
    """Rows of which some lack one label or two."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 4)).astype(np.float32)
    what = np.array(["oak", "fir", "elm"], object)[np.digitize(x[:, 0], [-0.5, 0.5])]
    tags = [[name for name, value in zip("uv", row, strict=True) if value > 0] for row in x[:, 2:]]
    number = np.arange(rows)
    return pa.table(
        {
            "x": list(x),
            "what": pa.array(np.where(number % 5 == 1, None, what)),
            "cm": pa.array(100 + 30 * x[:, 1], mask=number % 3 == 0),
            "tags": pa.array([None if row % 5 == 2 else own for row, own in enumerate(tags)]),
            "split": np.where(number % 4 == 0, "validation", "train"),
        }
    )


def fit(config: TrainingConfig = CONFIG) -> TrainingResult:
    return fit_table(table(), config, features="x", label=LABELS, split="split", subject=WholeNetwork.of(many()))


def same(one: TrainingResult, other: TrainingResult) -> bool:
    here, there = one.network or one.head, other.network or other.head
    assert here is not None
    assert there is not None
    return all(np.array_equal(value, there.weights()[name]) for name, value in here.weights().items())


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingResult, str]:
    """What is learnt, and where the model of it lies."""
    folder = tmp_path_factory.mktemp("learnt")
    with pytest.MonkeyPatch.context() as patch:
        (folder / "nets_of_many.py").write_text(MODULE)
        patch.syspath_prepend(str(folder))
        result = fit()
        to_model(result).save(str(folder / "model"))
    return result, str(folder / "model")


def test_each_output_learns_from_the_rows_that_have_its_label(learnt: tuple[TrainingResult, str]) -> None:
    found = learnt[0].validation
    assert found["kind.accuracy"] > 0.8
    assert found["height.rmse"] < 10  # the deviation is 30
    assert found["tags.subset_accuracy"] > 0.8
    weighted = found["kind.loss"] + 0.5 * found["height.loss"] + found["tags.loss"]
    assert found["loss"] == pytest.approx(weighted)
    named = {output.name: (output.task, output.classes, output.width) for output in learnt[0].outputs}
    assert named == {
        "kind": ("classification", ("elm", "fir", "oak"), 3),
        "height": ("regression", (), 1),
        "tags": ("multilabel", ("u", "v"), 2),
    }


def test_an_output_of_the_saved_model_is_a_column_here_and_in_the_predictor(learnt: tuple[TrainingResult, str]) -> None:
    result, path = learnt
    factory.trust("nets_of_many:Many")
    rows, network = table(40), result.network
    assert network is not None
    x = np.stack(rows["x"].to_numpy())
    scores = network.forward(x)
    assert np.array_equal(Model.load(path).full.forward(x), scores)
    scored = ModelTransformer(model=path, inputCol="x", topCol="top", top=1).transform(rows)
    expected = np.array(["elm", "fir", "oak"])[scores[:, :3].argmax(1)]
    assert scored["kind_prediction"].tolist() == expected.tolist()
    assert np.allclose(scored["height_prediction"], scores[:, 3], rtol=1e-5)
    assert [list(own) for own in scored["tags_prediction"]] == [
        [name for name, value in zip("uv", row, strict=True) if value >= 0] for row in scores[:, 4:]
    ]
    assert [name for name in scored.columns if name not in rows.column_names] == [
        *(f"kind_{name}" for name in ("prediction", "probability", "probabilities", "top")),
        "height_prediction",
        *(f"tags_{name}" for name in ("prediction", "probabilities", "top")),
        "error",
    ]
    answers = Predictor.load(path).predict([*x, "no numbers"])
    assert [answer.outputs["kind"].label for answer in answers[:-1]] == expected.tolist()
    assert np.allclose([answer.outputs["height"].values[0] for answer in answers[:-1]], scores[:, 3], rtol=1e-5)
    assert answers[-1].outputs == {}
    assert answers[-1].error is not None


def test_a_metric_of_one_output_chooses_the_epoch() -> None:
    result = fit(CONFIG.replace(monitor="height.r2", epochs=6))
    figures = [event.validation["height.r2"] for event in result.history]
    assert result.best_epoch == 1 + int(np.argmax(figures))


def test_a_row_without_an_outputs_label_weighs_nothing_there() -> None:
    kind, height = Classification(np.ones(3, np.float32)), Regression(100.0, 30.0)
    several = Several({"kind": Weighted(kind, 1.0, 1.0), "height": Weighted(height, 0.5, 1.25)})
    rng = np.random.default_rng(0)
    output, weight = (torch.from_numpy(rng.random(size=shape)) for shape in ((12, 4), (12,)))
    classes, values = torch.from_numpy(rng.integers(3, size=12)), torch.from_numpy(100 + 30 * rng.normal(size=12))
    number = torch.arange(12)
    known, measured = number % 3 > 0, number % 4 > 0
    y = torch.stack([classes.double().where(known, torch.nan), values.where(measured, torch.nan)], 1)
    expected = kind.loss(output[:, :3], classes, weight * known) + 0.625 * height.loss(
        output[:, 3:], values, weight * measured
    )
    assert torch.allclose(several.loss(output, y, weight), expected)
    found = several.metrics(several.measure(output, y, weight).numpy())
    own = {
        "kind": kind.metrics(kind.measure(output[known][:, :3], classes[known], weight[known]).numpy()),
        "height": height.metrics(height.measure(output[measured][:, 3:], values[measured], weight[measured]).numpy()),
    }
    for name, metrics in own.items():
        assert {metric: found[f"{name}.{metric}"] for metric in metrics} == pytest.approx(metrics)
    assert found["loss"] == pytest.approx(own["kind"]["loss"] + 0.5 * own["height"]["loss"])


def test_an_output_without_labels_on_a_side_is_refused() -> None:
    rows, config = table(), CONFIG.replace(epochs=1)
    no_heights = rows.set_column(2, "cm", pa.array([1.0 if row == 1 else None for row in range(200)], pa.float64()))
    with pytest.raises(
        InputError, match=r"Output `height`: none of 50 validation rows has a label in `cm`, so nothing"
    ):
        fit_table(no_heights, config, features="x", label=LABELS, split="split")


def test_rows_without_any_label_are_counted_and_refused_or_left_out() -> None:
    rows = pa.table(
        {"x": [[1.0, 2.0, 3.0, 4.0]] * 4, "kind": ["a", "b", None, "a"], "height": [1.0, 2.0, None, np.nan]}
    )
    config = TrainingConfig(outputs={"kind": "classification", "height": "regression"}, epochs=1, replicas=1)
    with pytest.raises(ColumnError, match=r"1 of 4 rows .*: 1 where `kind`, `height` are null: no output has a label"):
        fit_table(rows, config, features="x")
    assert fit_table(rows, config, features="x", invalid="skip").skipped == 1


def test_rows_of_several_outputs_come_back_from_files_as_they_are_in_memory(tmp_path: Path) -> None:
    columns = Columns.of("x", LABELS, outputs=tuple(OUTPUTS))
    batches = list(Encoding.of(CONFIG, columns, (0, 0))(iter(table().to_batches())))
    store = Store(range(2), limit_bytes=1 << 30, folder=tmp_path)
    for batch in batches:
        store.add(batch)
    files = RowFiles("key", 0, tmp_path)
    assert files.keep(batches, range(2)).census == store.census
    found = files.load(range(2), 4, 1 << 30)
    assert found is not None
    for replica, rows in store.finish(4).items():
        assert rows.target.shape == (len(rows.key), 3)
        assert np.array_equal(found[replica].target, rows.target, equal_nan=True)
        assert found[replica].label.equals(rows.label)


def test_a_head_on_features_may_have_several_outputs_and_arrays_do_as_well() -> None:
    rows, config = table(), CONFIG.replace(hidden=16, epochs=10)
    names = {"kind": "what", "height": "cm", "tags": "tags"}
    alone = rows.drop_columns(["split"])
    one = fit_table(alone, config, features="x", label=LABELS)
    labels = {
        name: alone[column].to_pandas() if name == "height" else alone[column].to_pylist()
        for name, column in names.items()
    }
    other = fit_arrays(np.stack(rows["x"].to_numpy()), labels, config)
    assert same(one, other)
    assert one.head is not None
    values = one.head.forward(np.stack(rows["x"].to_numpy()))[:, 3]
    assert np.sqrt(np.mean((values - np.array(100 + 30 * np.stack(rows["x"].to_numpy())[:, 1])) ** 2)) < 15


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"outputs": {}}, r"`outputs` must map names of outputs to tasks, such as outputs=\{'kind': 'classification'"),
        (
            {"outputs": {"kind": "clasification"}},
            r"Output 'kind': `task` must be one of.*Did you mean `classification`",
        ),
        ({"outputs": {"kind": {"task": "regression", "los": 1}}}, r"no setting `los`\. Did you mean `loss`"),
        (
            {"outputs": {"kind": {"task": "regression", "loss": "hubr"}}},
            r"Output 'kind': `loss` .*Did you mean `huber`",
        ),
        ({"outputs": {"kind": {"task": "regression", "weight": 0}}}, r"`weight` must be above 0, not 0"),
        ({"outputs": {"a-b": "regression"}}, r"'a-b': its name must be of letters, digits and underscores"),
        ({"task": "regression"}, r"`task` is each output's own.*leave out `task` 'regression'"),
        ({"task": "multitask", "outputs": None}, r"`outputs` must map names of outputs to tasks.*got None"),
        (
            {"monitor": "kind.acuracy"},
            r"`monitor` must be one of auto, loss, kind\.loss, .*Did you mean `kind\.accuracy`",
        ),
        ({"loss": "huber"}, r"`loss` is each output's own, such as outputs=\{'kind': \{…, 'loss': 'huber'\}\}"),
        ({"sampling": "balanced"}, r"`sampling` 'balanced' is for one output"),
        ({"threshold_metric": "f1"}, r"`threshold_metric` 'f1' is for one output"),
    ],
)
def test_what_several_outputs_cannot_be_told_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainingConfig(**{"outputs": OUTPUTS, **settings})  # type: ignore[arg-type]


def test_outputs_that_the_network_does_not_have_are_refused_before_the_training() -> None:
    with pytest.raises(
        InputError, match=r"gives no output 'hight'; it gives kind, height, tags\. Did you mean `height`"
    ):
        many("kind", "hight")
    with pytest.raises(InputError, match=r"must have names of letters, digits.*output=\{'kind': 0, 'height': 1\}"):
        from_factory("nets_of_many:Many", (4,), output=[0, 1])  # type: ignore[list-item]
    other = CONFIG.replace(outputs={"kind": "classification", "hight": "regression"})
    with pytest.raises(InputError, match=r"no output `hight`\. Did you mean `height`\?\n- `height` learns nothing"):
        WholeNetwork(many("kind", "height")).check(other)
    with pytest.raises(InputError, match=r"in this order; the configuration's are kind, height, tags: Sort them so"):
        WholeNetwork(many("height", "kind", "tags")).check(CONFIG)
    with pytest.raises(InputError, match=r"has the outputs kind, height, tags: say what each learns"):
        fit_table(table(), TrainingConfig(), features="x", label="what", subject=WholeNetwork(many()))
    two = table().filter(pa.compute.not_equal(table()["what"], "oak"))
    with pytest.raises(InputError, match=r"not as wide as they must be: `kind` gives 3, and its labels want 2"):
        fit_table(two, CONFIG, features="x", label=LABELS, subject=WholeNetwork(many()))


def test_columns_of_labels_that_do_not_fit_are_refused() -> None:
    subject = WholeNetwork.of(many())
    with pytest.raises(InputError, match=r"There is no output `hight`\. Did you mean `height`"):
        fit_table(table(), CONFIG, features="x", label={"hight": "cm"}, subject=subject)
    with pytest.raises(InputError, match=r"`label` must map them to their columns, such as \{'kind': 'what', …\}"):
        fit_table(table(), CONFIG, features="x", label="what", subject=subject)
    with pytest.raises(ColumnError, match=r"Column `kind` not found in .*\n- Column `cm` must hold arrays of text"):
        fit_table(table(), CONFIG, features="x", label={"height": "cm", "tags": "cm"}, subject=subject)
    with pytest.raises(InputError, match=r"`y` must map each output to its labels: kind, height, tags; got a list"):
        fit_arrays([[0.0] * 4], ["a"], CONFIG)


@pytest.mark.parametrize("key", [{"kind": 0, "height": 1}, ["kind", "height"]])
def test_outputs_are_found_by_index_and_as_attributes_of_a_named_tuple(key: object) -> None:
    class Two(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return namedtuple("Found", ["kind", "height"])(x, x[:, 0])

    adapted = factory.Adapted(Two(), {}, dict(key) if isinstance(key, dict) else {name: name for name in key})  # type: ignore[attr-defined]
    adapted.measure((3,))
    assert adapted.widths == {"kind": 3, "height": 1}
    x = torch.arange(6.0).reshape(2, 3)
    assert adapted(x).tolist() == [[0, 1, 2, 0], [3, 4, 5, 3]]


def test_the_guides_example_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "from-scratch.md").read_text(encoding="utf-8")
    section = page.partition("## Several outputs")[2]
    (tmp_path / "trees.py").write_text(MODULE.replace("Many", "Tree"))
    monkeypatch.chdir(tmp_path)
    named = {"species": table()["what"], "height_m": table()["cm"].fill_null(100.0)}
    names = {"rows": pa.table({"x": table()["x"], **named})}
    exec(section.partition("```python\n")[2].partition("```")[0], names)
    added = [name for name in names["scored"].columns if name.endswith("_prediction")]
    assert added == ["kind_prediction", "height_prediction"]
    assert {"loss", "kind.loss", "kind.accuracy", "height.loss", "height.rmse"} <= names["result"].validation.keys()
    assert Model.load("run/trees").outputs == names["model"].outputs


@pytest.mark.spark
@pytest.mark.timeout(240)
def test_workers_train_several_outputs_to_the_same_bits_and_a_stage_adds_a_column_each(spark, tmp_path: Path) -> None:
    config = CONFIG.replace(hidden=8, epochs=2, validation_fraction=0.2)
    rows = table(80).drop_columns(["split"])
    here = fit_table(rows, config, features="x", label=LABELS)
    frame = spark.createDataFrame(
        [(row["x"], row["what"], row["cm"], row["tags"]) for row in rows.to_pylist()],
        "x array<float>, what string, cm double, tags array<string>",
    ).repartition(3)
    one, two = (train(frame, config, features="x", label=LABELS, num_workers=workers) for workers in (1, 2))
    assert same(here, one)
    assert same(here, two)
    assert here.validation == one.validation == two.validation
    assert here.outputs == two.outputs
    model = to_model(two)
    stage = ModelTransformer(model=model, inputCol="x")
    scored = stage.transform(frame).cache()
    found, local = (
        each.assign(first=[row[0] for row in each["x"]]).sort_values("first", ignore_index=True)
        for each in (scored.toPandas(), stage.transform(rows))
    )
    shown = ["kind_prediction", "kind_probability", "height_prediction"]
    pd.testing.assert_frame_equal(found[shown], local[shown])
    figures = evaluate_outputs(scored, model.outputs, label=LABELS)
    known, measured = local["what"].notna(), local["cm"].notna()
    assert figures["kind"]["accuracy"] == (local["kind_prediction"] == local["what"])[known].mean()
    assert (figures["kind"]["evaluated"], figures["kind"]["unlabelled"]) == (known.sum(), (~known).sum())
    assert figures["height"]["mae"] == pytest.approx((local["height_prediction"] - local["cm"])[measured].abs().mean())
    assert figures["tags"]["evaluated"] == local["tags"].notna().sum()
    with pytest.raises(InputError, match=r"There is no output `hight`\. Did you mean `height`"):
        evaluate_outputs(scored, model.outputs, label={"hight": "cm"})
    write_predictions(frame, model, str(tmp_path / "found.csv"), input_column="x", top=2)
    assert list(pd.read_csv(tmp_path / "found.csv").columns) == [
        *("what", "cm", "kind_prediction", "kind_probability", "height_prediction", "tags_prediction"),
        *("kind_label_2", "kind_probability_2", "tags_label_1", "tags_probability_1", "tags_label_2"),
        *("tags_probability_2", "error"),
    ]
