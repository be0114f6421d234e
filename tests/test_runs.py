"""The run's folder."""

import json

import pytest

from sparkwright.errors import ExistsError, InputError, NotFoundError
from sparkwright.events import RunEnded, RunStarted, Warned
from sparkwright.runs import Run, read_run


def test_a_run_keeps_configuration_events_and_metrics(tmp_path):
    with Run(str(tmp_path / "run"), "transfer", {"split": (0.6, 0.4)}) as run:
        run.emit(Warned("é"))
        run.metrics = {"test": {"accuracy": 0.5}}
        run.write("metrics.json", run.metrics)
    config, metrics, events = read_run(str(tmp_path / "run"))
    assert config["config"] == {"split": [0.6, 0.4]}
    assert metrics == {"test": {"accuracy": 0.5}}
    assert [type(e.event) for e in events] == [RunStarted, Warned, RunEnded]
    assert events[-1].event == RunEnded(ok=True, metrics=metrics)


def test_a_failed_run_records_why(tmp_path):
    with pytest.raises(ValueError, match="boom"), Run(str(tmp_path / "run"), "transfer", {}):
        raise ValueError("boom")
    assert read_run(str(tmp_path / "run"))[2][-1].event == RunEnded(ok=False, message="ValueError: boom")


def test_input_that_is_refused_leaves_no_folder_unless_something_was_made(tmp_path):
    with pytest.raises(InputError, match="no"), Run(str(tmp_path / "run"), "transfer", {}):
        raise InputError("no")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "run").mkdir()
    run = Run(str(tmp_path / "run"), "transfer", {})
    run.write("features/features.json", {})
    run.__exit__(InputError, InputError("no"), None)
    assert (tmp_path / "run" / "features").exists()


def test_an_existing_run_is_refused_and_overwrite_begins_anew_but_keeps_features(tmp_path):
    folder = tmp_path / "run"
    with Run(str(folder), "transfer", {"seed": 0}) as run:
        run.write("metrics.json", {})
        for name in ("features/features.json", "wrong.json", "space.json", "importance.json"):
            run.write(name, {})
    with pytest.raises(ExistsError, match="holds a run already"):
        Run(str(folder), "transfer", {"seed": 0})
    with Run(str(folder), "transfer", {"seed": 1}, overwrite=True):
        assert not (folder / "metrics.json").exists()
        assert not [*folder.glob("[wsim]*.json")]  # which would be in the report of this one
    assert (folder / "features" / "features.json").exists()
    assert len((folder / "events.jsonl").read_text().splitlines()) == 2


def test_a_folder_that_holds_no_run_is_never_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ExistsError, match="holds no run, so it is left alone"):
        Run(str(tmp_path), "transfer", {}, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_resume_of_another_configuration_lists_the_differences(tmp_path):
    with Run(str(tmp_path / "run"), "transfer", {"seed": 0, "replicas": 4}):
        pass
    with pytest.raises(InputError, match=r"seed: 0 → 1\."):
        Run(str(tmp_path / "run"), "transfer", {"seed": 1, "replicas": 4}, resume=True)
    with Run(str(tmp_path / "run"), "transfer", {"seed": 0, "replicas": 4}, resume=True):
        pass


def test_an_event_line_cut_short_by_a_kill_is_left_out(tmp_path):
    with Run(str(tmp_path / "run"), "transfer", {}):
        pass
    path = tmp_path / "run" / "events.jsonl"
    path.write_text(path.read_text() + json.dumps({"time": "x"})[:-3])
    assert len(read_run(str(tmp_path / "run"))[2]) == 2


def test_read_run_of_another_folder_says_what_is_missing(tmp_path):
    with pytest.raises(NotFoundError, match=r"has no config\.json"):
        read_run(str(tmp_path))
