"""The command line: results, messages, exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparkwright import cli
from sparkwright.cli import options
from sparkwright.errors import InputError


def test_transfer_prints_one_json_document(transferred):
    code, out, err = transferred.printed
    assert code == 0
    assert err == ""
    assert json.loads(out)["metrics"]["test"]["accuracy"] > 0.9


def test_transfer_into_an_existing_run_exits_with_2_and_says_what_to_do(sparkwright, photos, done):
    code, out, err = sparkwright("transfer", photos, "--network", "digits_cnn", "--out", done)
    assert (code, out) == (2, "")
    assert "holds a run already" in err
    assert "--overwrite" in err
    assert "Traceback" not in err


def test_predict_prints_labels_and_writes_csv_and_parquet(sparkwright, spark, photos, done, tmp_path):
    code, out, _ = sparkwright("predict", f"{done}/model", photos / "5", "--top", "2")
    assert code == 0
    assert out.count(".png  5 ") > 15
    assert "more; --out" in out
    code, out, _ = sparkwright("predict", done, photos, "--out", tmp_path / "labels.csv", "--top", "5")
    assert code == 0
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    more = "label_2,probability_2,label_3,probability_3"  # of the three classes that there are
    assert lines[0] == f"path,prediction,probability,{more},error"
    assert len(lines) == 1 + len(list(photos.glob("*/*")))
    code, out, _ = sparkwright("predict", f"{done}/model", photos, "--out", tmp_path / "labels", "--json")
    assert json.loads(out)["rows"] == spark.read.parquet(str(tmp_path / "labels")).count()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels", "labels.csv"]


def test_predict_refuses_too_many_failures_and_leaves_nothing(sparkwright, done, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"no photo")
    code, _, err = sparkwright("predict", f"{done}/model", tmp_path / "photos", "--out", tmp_path / "out")
    assert code == 1
    assert "1 of 1 rows failed" in err
    assert "unreadable" in err
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_predict_never_replaces_a_folder_of_something_else(sparkwright, photos, done):
    code, _, err = sparkwright("predict", f"{done}/model", photos / "5", "--out", photos / "6", "--overwrite")
    assert code == 2
    assert "holds something else than predictions" in err
    assert len(list((photos / "6").glob("*.png"))) > 100


def test_evaluate_photos_and_features(sparkwright, photos, done):
    code, out, _ = sparkwright("evaluate", f"{done}/model", photos, "--json")
    assert code == 0
    assert json.loads(out)["evaluated"] == len(list(photos.glob("*/*")))
    code, out, _ = sparkwright("evaluate", f"{done}/model", f"{done}/features", "--side", "test", "--json")
    metrics = json.loads((done / "metrics.json").read_text())
    assert json.loads(out)["accuracy"] == metrics["test"]["accuracy"]


def test_featurize_then_train_gives_a_tested_model(sparkwright, photos, tmp_path):
    features = tmp_path / "features"
    words = ("featurize", photos, "--network", "digits_cnn", "--out", features, "--labels", "folder")
    code, out, _ = sparkwright(*words, "--split", "0.6,0.2,0.2")
    assert code == 0
    assert "computed" in out
    code, out, _ = sparkwright("train", features, "--out", tmp_path / "run", "--set", "epochs=3")
    assert code == 0
    assert "test accuracy" in out


def test_packed_photos_take_the_place_of_the_loose_ones(sparkwright, photos, done, tmp_path):
    code, out, err = sparkwright("pack", photos, "--out", tmp_path / "packed", "--json")
    assert (code, err) == (0, "")
    files = len(list(photos.rglob("*.png")))
    assert {key: json.loads(out)[key] for key in ("photos", "reused", "files")} == {
        "photos": files,
        "reused": 0,
        "files": 1,
    }
    code, out, _ = sparkwright("evaluate", done / "model", tmp_path / "packed", "--labels", "folder", "--json")
    assert json.loads(out)["evaluated"] == files
    code, _, err = sparkwright("pack", done / "model", "--out", tmp_path / "packed")
    assert code == 2
    assert "No photos" in err


def test_train_on_features_without_labels_says_how_to_make_them(sparkwright, photos, tmp_path):
    sparkwright("featurize", photos, "--network", "digits_cnn", "--out", tmp_path / "features")
    code, _, err = sparkwright("train", tmp_path / "features", "--out", tmp_path / "run")
    assert code == 2
    assert "no column label and no column split" in err


def test_report_is_written_again(sparkwright, done):
    before = (done / "report.html").read_text()
    (done / "report.html").unlink()
    code, out, _ = sparkwright("report", done)
    assert code == 0
    assert "report.html" in out
    assert "test accuracy" in before
    assert (done / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("transfer", "nowhere", "--network", "digits_cnn", "--out", "{}/x"), "No such path: "),
        (("transfer", "{photos}", "--network", "digits_cn", "--out", "{}/x"), "Did you mean `digits_cnn`?"),
        (("transfer", "{photos}", "--network", "digits_cnn", "--out", "{}/x", "--split", "1,2,3"), "add up to 1"),
        (("transfer", "{photos}", "--network", "digits_cnn", "--out", "{}/x", "--set", "epoch=3"), "`epochs`?"),
        (("transfer", "{photos}", "--network", "digits_cnn", "--out", "{}/x", "--set", "epochs"), "NAME=VALUE"),
        (("transfer", "{photos}", "--network", "digits_cnn", "--out", "{}/x", "--split", "fodler"), "mean `folder`?"),
        (("evaluate", "{}/none", "{photos}"), "No model at"),
        (("report", "{}"), "No run at"),
        (("summary", "vgg-16"), "Did you mean `vgg16`?"),
    ],
)
def test_wrong_input_exits_with_2_and_a_message_without_a_traceback(sparkwright, photos, tmp_path, words, message):
    code, out, err = sparkwright(*(word.format(tmp_path, photos=photos) for word in words))
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_wrong_usage_exits_with_2(plain):
    code, _, err = plain("transfer")
    assert code == 2
    assert "Missing argument" in err


def test_a_mistyped_path_is_noticed_before_spark_starts(plain, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("sparkwright.session.start", lambda *args: pytest.fail("Spark was started"))
    for words in (
        ("transfer", f"{photos}s", "--network", "digits_cnn", "--out", tmp_path / "x"),
        ("featurize", f"{photos}s", "--network", "digits_cnn", "--out", tmp_path / "x"),
        ("pack", f"{photos}s", "--out", tmp_path / "x"),
        ("train", f"{photos}s", "--out", tmp_path / "x"),
        ("predict", "model", f"{photos}s"),
        ("evaluate", "model", f"{photos}s", "--master", "local[2]"),
    ):
        code, _, err = plain(*words)
        assert code == 2
        assert f"No such path: {photos}s. Did you mean `{photos.name}`?" in err


@pytest.mark.parametrize(
    ("paths", "master", "remote", "conf"),
    [
        (["hdfs://x/nowhere", "nowhere/*.jpg"], None, None, []),
        (["nowhere"], "yarn", None, []),
        (["nowhere"], None, "sc://x", []),
        (["nowhere"], "local[2]", None, ["spark.hadoop.fs.defaultFS=hdfs://x"]),
    ],
)
def test_a_path_that_may_lie_elsewhere_is_left_to_spark(paths, master, remote, conf):
    cli.options.check_paths(paths, master, remote, conf)


def test_a_path_on_a_configured_file_system_is_left_to_spark(monkeypatch):
    monkeypatch.setenv("HADOOP_CONF_DIR", "/etc/hadoop")
    cli.options.check_paths(["nowhere"], None, None, None)


def test_a_mistyped_master_is_noticed_before_spark_starts(plain, photos, tmp_path):
    code, _, err = plain("predict", "model", photos, "--master", "locl")
    assert code == 2
    assert err.strip().endswith("not 'locl'. Did you mean `local`?")


def test_errors_are_json_too_where_json_is_asked_for(plain, tmp_path):
    code, out, _ = plain("report", tmp_path, "--json")
    assert code == 2
    assert json.loads(out)["error"]["kind"] == "NotFoundError"


def test_master_and_remote_exclude_each_other(plain, tmp_path):
    words = ("evaluate", tmp_path, tmp_path, "--master", "local[1]", "--remote", "sc://x")
    code, _, err = plain(*words)
    assert code == 2
    assert err


def test_networks_lists_the_catalogue(plain):
    code, out, _ = plain("networks")
    assert code == 0
    assert "vgg16" in out


def test_summary_of_vgg16_counts_its_parameters_without_a_download(plain):
    code, out, _ = plain("summary", "vgg16")
    assert code == 0
    assert "138,357,544" in out


def test_version(plain):
    import sparkwright as package

    assert plain("--version")[:2] == (0, f"{package.__version__}\n")


def test_doctor_finds_all_well_and_says_what_it_looked_at(sparkwright):
    code, out, _ = sparkwright("doctor", "--json")
    document = json.loads(out)
    assert (code, document["ok"]) == (0, True)
    assert {"Java", "Python", "Packages", "Memory"} <= {check["name"] for check in document["checks"]}


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_the_quickstart_ends_in_a_tested_model(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "sparkwright", "quickstart", "--master", "local[2]", "--out", "run"]
    environment = os.environ | {"TMPDIR": str(scratch)}
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    # P18; the folder of torch's compiler, which is not used here, is made once for all processes of a user.
    assert [path for path in scratch.iterdir() if not path.name.startswith("torchinductor_")] == []
    assert "test accuracy  0.9" in ended.stdout
    report = next(line.split()[1] for line in ended.stdout.splitlines() if line.startswith("report"))
    assert Path(report).is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "scratch"]


def test_an_augmentation_is_the_name_of_a_preset_or_a_json_object():
    assert options.parse_augmentation(None) is None
    assert options.parse_augmentation("aerial") == "aerial"
    assert options.parse_augmentation('{"crop": [0.5, 1], "mixup": 0.2}') == {"crop": [0.5, 1], "mixup": 0.2}
    with pytest.raises(InputError, match="--augment must be the name of a preset or a JSON object"):
        options.parse_augmentation("{crop: 0.5}")
