"""The main job, from photos to a tested classifier."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sparkwright.errors import ExistsError, InputError, NameUnknownError, NotFoundError
from sparkwright.events import EpochEnded, Progress, RunEnded, StageEnded
from sparkwright.models import Model
from sparkwright.networks.augmentation import PRESETS
from sparkwright.runs import read_run
from sparkwright.scoring.feature_set import open_features
from sparkwright.scoring.predictor import Predictor
from sparkwright.training.config import TrainingConfig
from sparkwright.transfer import FINETUNING, _Job, train_features, transfer

on_connect_too = pytest.mark.connect


def folder(result):
    return Path(result.run.removeprefix("file://"))


@on_connect_too
def test_digits_are_told_apart(run):
    test = run.metrics["test"]
    assert test["accuracy"] > 0.9
    assert test["accuracy_interval"][0] < test["accuracy"] < test["accuracy_interval"][1]
    assert test["baseline"]["majority"]["accuracy"] < 0.5
    assert run.model.classes == ("5", "6", "7")


@on_connect_too
def test_every_photo_is_accounted_for(run, digits):
    data = run.metrics["data"]
    files = len(list(digits.glob("*/*.png")))
    assert sum(n for side in data["rows"].values() for n in side.values()) == files
    assert data["errors"]["count"] == 1
    assert data["errors"]["kinds"] == {"unreadable": 1}
    assert data["errors"]["examples"][0]["path"].endswith("7/broken é.png")
    assert run.metrics["features"]["computed"] == files


@on_connect_too
def test_the_run_folder_holds_what_is_documented(run):
    names = {path.name for path in folder(run).iterdir()}
    assert {"config.json", "events.jsonl", "metrics.json", "report.html", "model", "features", "predictions"} <= names
    document, metrics, events = read_run(run.run)
    assert document["config"]["training"]["replicas"] == 4
    assert metrics["test"]["accuracy"] == run.metrics["test"]["accuracy"]
    kinds = [type(stamped.event) for stamped in events]
    assert kinds[-1] is RunEnded
    assert kinds.count(StageEnded) >= 5
    assert EpochEnded in kinds
    assert any(isinstance(s.event, Progress) and s.event.stage == "features" and s.event.done for s in events)


@on_connect_too
def test_the_report_shows_the_result_and_loads_nothing(run):
    page = (folder(run) / "report.html").read_text()
    assert f"{100 * run.metrics['test']['accuracy']:.1f}" in page
    assert "broken é.png" in page
    assert len(page) < 5_000_000
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


@on_connect_too
def test_the_model_labels_photos_without_spark_as_the_run_did(run, spark, digits):
    predictor = Predictor.load(str(folder(run) / "model"))
    rows = spark.read.parquet(f"{run.run}/predictions").where("error IS NULL").orderBy("key").limit(20).collect()
    answers = predictor.predict([digits / row["key"] for row in rows])
    assert [answer.label for answer in answers] == [row["prediction"] for row in rows]
    np.testing.assert_allclose(
        [answer.probability for answer in answers], [row["probability"] for row in rows], atol=1e-6
    )


@pytest.mark.connect(only=True)
def test_training_again_on_the_features_gives_the_same_head(run, spark, tmp_path):
    again = train_features(spark, f"{run.run}/features", str(tmp_path / "again"))
    saved = Model.load(f"{again.run}/model")
    assert saved.head.fingerprint() == again.model.head.fingerprint()
    assert saved.metrics["test"]["accuracy"] == again.metrics["test"]["accuracy"]
    assert again.model.head.fingerprint() == run.model.head.fingerprint()
    assert again.model.lineage["data"] == run.model.lineage["data"]
    assert again.metrics["test"]["accuracy"] == run.metrics["test"]["accuracy"]


def test_another_run_takes_known_features_over(run, spark, digits, tmp_path):
    again = transfer(
        spark,
        str(digits),
        "digits_cnn",
        str(tmp_path / "again"),
        reuse=[f"{run.run}/features"],
        training=TrainingConfig(epochs=2),
        seed=1,
    )
    assert again.metrics["features"]["reused"] == run.metrics["features"]["computed"] - 1  # a failure is tried again
    assert open_features(spark, f"{again.run}/features").computed == 1
    # The same photos on other sides are other data.
    ours, theirs = again.model.lineage["data"], run.model.lineage["data"]
    assert ours["rows"] == theirs["rows"] > 0
    assert ours["fingerprint"] != theirs["fingerprint"]


@on_connect_too
def test_a_run_that_is_there_is_refused_before_anything_is_computed(run, spark, digits):
    with pytest.raises(ExistsError, match="holds a run already"):
        transfer(spark, str(digits), "digits_cnn", run.run)


def test_one_class_only_is_refused(spark, digits, tmp_path):
    shutil.copytree(digits / "5", tmp_path / "photos" / "5")
    with pytest.raises(InputError, match="at least two classes"):
        transfer(spark, str(tmp_path / "photos"), "digits_cnn", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_split_without_test_photos_is_refused_before_anything_is_computed(tmp_path):
    with pytest.raises(InputError, match=r"\(0\.8, 0\.2, 0\.0\) leaves no photos to test the classifier on"):
        transfer(None, "photos", "digits_cnn", str(tmp_path / "run"), split=(0.8, 0.2, 0.0))
    assert not (tmp_path / "run").exists()


def test_a_table_of_sides_without_test_photos_is_refused(spark, digits, tmp_path):
    photos = sorted((digits / "5").glob("*.png"))[:4] + sorted((digits / "6").glob("*.png"))[:4]
    lines = [f"{path.parent.name}/{path.name},train" for path in photos]
    (tmp_path / "split.csv").write_text("\n".join(["path,split", *lines]))
    with pytest.raises(InputError, match="No row with features and label is on the test side"):
        transfer(spark, str(digits), "digits_cnn", str(tmp_path / "run"), split=str(tmp_path / "split.csv"))


@on_connect_too
def test_no_such_path_is_named(spark, tmp_path):
    with pytest.raises(NotFoundError, match="nowhere"):
        transfer(spark, str(tmp_path / "nowhere"), "digits_cnn", str(tmp_path / "run"))


def test_an_unknown_layer_is_named_with_the_closest(spark, digits, tmp_path):
    with pytest.raises(LookupError, match="has no layer `polo`"):
        transfer(spark, str(digits), "digits_cnn", str(tmp_path / "run"), layer="polo")
    assert not (tmp_path / "run").exists()


@on_connect_too
def test_configuration_is_kept_as_it_was_asked_for(run):
    config = json.loads((folder(run) / "config.json").read_text())["config"]
    assert config["split"] == [0.6, 0.2, 0.2]
    assert config["labels"] == "folder"


def test_a_network_is_fine_tuned_from_a_layer_on(run, spark, digits, tmp_path):
    training = FINETUNING.replace(epochs=2, learning_rate=1e-3)
    common = {"finetune": "block2", "finetuning": training, "augmentation": "glyphs", "reuse": [f"{run.run}/features"]}
    result = transfer(spark, str(digits), "digits_cnn", str(tmp_path / "run"), **common)
    assert result.metrics["features"]["computed"] == 1  # the photo that cannot be read
    saved = Model.load(f"{result.run}/model")
    assert saved.full.fingerprint() == result.model.full.fingerprint()
    old, new = run.model.network.weights(), saved.network.weights()
    same = {name for name, value in new.items() if np.array_equal(value, old[name])}
    kept = ("running_mean", "running_var", "num_batches_tracked")  # BatchNorm's own, by default
    assert {name for name in new if name.startswith("block1") or name.endswith(kept)} == same
    assert result.metrics["test"]["accuracy"] > 0.9
    assert result.metrics["validation"]["loss"] < result.metrics["head"]["validation"]["loss"]
    epochs = [stamped.event.epoch for stamped in read_run(result.run)[2] if isinstance(stamped.event, EpochEnded)]
    assert epochs == [1, 2]  # the head's are told as progress
    assert not (folder(result) / "checkpoints").exists()
    report = (folder(result) / "report.html").read_text(encoding="utf-8")
    assert "<h2>Augmented photos</h2>" in report
    assert "--finetune block2 --finetune-set learning_rate=0.001 --finetune-set epochs=2 --augment" in report
    assert saved.full.preprocessing.augmentation == PRESETS["glyphs"]
    answers = Predictor.load(f"{result.run}/model").predict([digits / "7" / name for name in ("broken é.png",)])
    assert answers[0].error is not None


@pytest.mark.parametrize(("before", "after", "told"), [(0.9, 0.875, 1), (0.9, 0.9, 0), (0.875, 0.9, 0)])
def test_a_fine_tuning_that_did_not_help_is_told_of(before, after, told):
    events = []
    _Job(SimpleNamespace(emit=events.append))._warn_if_worse({"accuracy": before}, {"accuracy": after})
    assert len(events) == told
    assert all("of the validation photos 87.50% are right, and 90.00% were" in event.message for event in events)


def test_a_layer_that_leaves_nothing_to_fine_tune_is_refused_before_anything_is_computed(spark, digits, tmp_path):
    with pytest.raises(NameUnknownError, match="The network `digits_cnn` has no layer `block5`"):
        transfer(spark, str(digits), "digits_cnn", str(tmp_path / "run"), finetune="block5")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unfreeze": {1: "head", 3: "blok2"}}, r"`unfreeze` names `blok2`.*Did you mean `block2`\?"),
        ({"layer_rates": {"haed": 0.5}}, r"`layer_rates` names `haed`.*Did you mean `head`\?"),
        ({"layer_rates": {"block1": 0.5}}, "`layer_rates` names `block1`, which has no weights that train"),
    ],
)
def test_layers_that_the_fine_tuning_names_wrongly_are_told_before_anything_is_read(tmp_path, settings, message):
    wrong = {"finetune": "block2", "finetuning": FINETUNING.replace(**settings)}
    with pytest.raises(InputError, match=message):
        transfer(None, "nowhere", "digits_cnn", str(tmp_path / "run"), **wrong)


def test_augmentation_without_fine_tuning_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(InputError, match="`augmentation` changes photos while the network trains on them, which needs"):
        transfer(None, "nowhere", "digits_cnn", str(tmp_path / "run"), augmentation="glyphs")
    with pytest.raises(InputError, match="There is no augmentation 'glyph'"):
        transfer(None, "nowhere", "digits_cnn", str(tmp_path / "run"), finetune="all", augmentation="glyph")
