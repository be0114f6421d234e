"""A search's journal, as Optuna's own tools read it."""

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from simulated import DiedError, Simulated, dying, searching

from sparkwright import storage
from sparkwright.tuning.search import Search


def read(folder):
    found = JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    return optuna.load_study(study_name="sparkwright", storage=found)


def test_optuna_reads_all_trials_under_their_numbers(tmp_path):
    def fault(values):
        return "MemoryError: more" if values["dropout"] > 0.6 else ""

    config = searching(trials=15, parallel_trials=2, max_parameters=300)
    trials = Search(config, Simulated(2, fault=fault), str(tmp_path)).run()
    study = read(tmp_path)
    assert [trial.number for trial in study.trials] == [trial.number for trial in trials]
    words = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
    for ours, theirs in zip(trials, study.trials, strict=True):
        assert theirs.state == words.get(ours.state, TrialState.FAIL)
        assert theirs.intermediate_values == ours.rungs
        assert config.searched.values(theirs.params) == ours.values == theirs.user_attrs["values"]
        assert (theirs.user_attrs["state"], theirs.user_attrs["reason"]) == (ours.state, ours.reason)
    assert {trial.state for trial in trials} == {"complete", "stopped", "failed", "rejected"}
    best = min((trial for trial in trials if trial.state == "complete"), key=lambda trial: trial.value)
    assert (study.best_trial.number, study.best_value) == (best.number, best.value)


def test_a_search_that_goes_on_has_one_journal(tmp_path):
    config = searching(trials=10, parallel_trials=2)
    with pytest.raises(DiedError):
        Search(config, Simulated(2), str(tmp_path), emit=dying(20)).run()
    with (tmp_path / "journal.log").open("a") as file:
        file.write('{"op_code": 4, "study')  # the driver died while it wrote
    trials = Search(config, Simulated(2), str(tmp_path)).run()
    assert [theirs.user_attrs["values"] for theirs in read(tmp_path).trials] == [trial.values for trial in trials]


def test_several_objectives_are_kept(tmp_path):
    trials = Search(searching(objectives=("loss", "parameters")), Simulated(), str(tmp_path)).run()
    study = read(tmp_path)
    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert complete
    for trial in complete:
        assert trial.values == [trials[trial.number].metrics[name] for name in ("loss", "parameters")]


def test_the_journal_of_a_search_elsewhere_is_copied_there():
    folder = "memory://searches/a"
    trials = Search(searching(trials=6), Simulated(), folder).run()
    assert storage.list_files(folder) == ["asked", "journal.log", "results"]
    lines = storage.read_bytes(f"{folder}/journal.log").decode().splitlines()
    assert len(lines) > 6 * 8
    runner = Simulated()
    assert [trial.rungs for trial in Search(searching(trials=6), runner, folder).run()] == [t.rungs for t in trials]
    assert runner.jobs == []
