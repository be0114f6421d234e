"""The search: which trials it tries, whatever runs them, whatever dies."""

import itertools
import json
import threading
from dataclasses import replace

import pytest
from simulated import DiedError, Simulated, dying, searching

from sparkwright.errors import ErrorRateError, InputError, WorkerError
from sparkwright.events import SearchAdvanced, TrialEnded, TrialMeasured, TrialStarted, Warned
from sparkwright.tuning.attempts import ATTEMPTS
from sparkwright.tuning.search import Search
from sparkwright.tuning.trials import Trial


def outline(trials: list[Trial]) -> list[tuple]:
    """What must be the same, however a search ran."""
    return [(t.number, t.values, t.state, t.reason, t.value, t.rungs, t.epochs, t.metrics) for t in trials]


def test_a_search_finds_what_is_good_and_trains_it_to_its_end_for_a_part_of_the_epochs():
    trials = Search(searching(trials=40), Simulated(2)).run()
    complete = [trial for trial in trials if trial.state == "complete"]
    assert 1 <= len(complete) <= 20
    assert min(trial.value for trial in complete) < 0.15
    assert {trial.state for trial in trials} == {"complete", "stopped"}
    assert sum(trial.epochs for trial in trials) < 0.6 * 40 * 9


def test_the_first_trial_is_what_holds_without_a_search():
    trials = Search(searching(), Simulated()).run()
    assert trials[0].values == {"learning_rate": 0.5, "dropout": 0.1, "optimizer": "adamw", "hidden": []}


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes"])
def test_trials_and_scores_are_the_same_on_one_two_or_four_slots_that_are_slow_at_random(sampler):
    config = searching(sampler=sampler, parallel_trials=4, trials=16)
    alone = outline(Search(config, Simulated(1)).run())
    for slots in (2, 4):
        assert outline(Search(config, Simulated(slots, delay_s=0.01, seed=slots)).run()) == alone


def test_another_seed_gives_other_trials():
    first, second = (Search(searching({"seed": seed}), Simulated()).run() for seed in (1, 2))
    assert [trial.values for trial in first[1:]] != [trial.values for trial in second[1:]]


def test_workers_that_are_lost_at_random_change_no_trial():
    config = searching(parallel_trials=3)
    undisturbed = outline(Search(config, Simulated(3)).run())
    events = []
    runner = Simulated(3, delay_s=0.005, loses=0.1, seed=5)
    assert outline(Search(config, runner, emit=events.append).run()) == undisturbed
    warned = [event.message for event in events if isinstance(event, Warned)]
    assert len(warned) > 1
    assert all("lost its worker: Executor 3 was lost" in message and "\n" not in message for message in warned)


def test_a_trial_that_always_loses_its_worker_fails_with_the_reason_and_the_search_goes_on():
    class Kills(Simulated):
        def run(self, assignments):
            if any(assignment.trial == 4 for assignment in assignments):
                self.jobs.append(list(assignments))
                raise WorkerError("The worker was killed: out of memory")
            return super().run(assignments)

    runner = Kills(2)
    trials = Search(searching(), runner).run()
    assert trials[4].state == "failed"
    assert trials[4].reason == "WorkerError: The worker was killed: out of memory"
    assert trials[4].attempts == ATTEMPTS
    tries = [assignment.attempt for job in runner.jobs for assignment in job if assignment.trial == 4]
    assert tries == [1, 2, 3]
    assert len(trials) == 20
    assert {trial.state for trial in trials if trial.number != 4} == {"complete", "stopped"}


def test_of_trials_that_train_together_only_the_one_that_kills_the_worker_fails():
    class Kills(Simulated):
        def run(self, assignments):
            if any(assignment.trial == 4 for assignment in assignments):
                raise WorkerError("Out of memory")
            return super().run(assignments)

    trials = Search(searching(), Kills(together=5)).run()
    assert [trial.number for trial in trials if trial.state == "failed"] == [4]


def test_a_cluster_that_is_gone_stops_the_search_and_its_trials_are_tried_again(tmp_path):
    config = searching(parallel_trials=2)
    undisturbed = outline(Search(config, Simulated()).run())

    class Gone(Simulated):
        def run(self, assignments):
            if len(self.jobs) >= 5:
                raise WorkerError("No executor is left")
            return super().run(assignments)

    with pytest.raises(WorkerError, match=r"3 jobs .* lost their workers 3 times each.*No executor is left.*--resume"):
        Search(config, Gone(2), str(tmp_path)).run()
    assert outline(Search(config, Simulated(2), str(tmp_path)).run()) == undisturbed


@pytest.mark.parametrize("parallel_trials", [1, 3])
def test_a_search_that_dies_at_any_event_goes_on_to_the_same_trials(tmp_path, parallel_trials):
    config = searching(trials=8, parallel_trials=parallel_trials)
    events = []
    undisturbed = outline(Search(config, Simulated(), emit=events.append).run())
    for after in range(1, len(events) + 1, 4):
        folder = str(tmp_path / str(after))
        with pytest.raises(DiedError):
            Search(config, Simulated(2, delay_s=0.001, seed=after), folder, emit=dying(after)).run()
        first = json.loads((tmp_path / str(after) / "asked" / "000000.json").read_text())
        assert first["number"] == 0
        assert outline(Search(config, Simulated(), folder).run()) == undisturbed, f"died at event {after}"


def test_a_search_that_dies_again_and_again_repeats_no_result(tmp_path):
    config = searching(trials=15, parallel_trials=2)
    undisturbed = outline(Search(config, Simulated()).run())
    runners = []
    for _ in range(20):
        runners.append(Simulated(2))
        try:
            found = Search(config, runners[-1], str(tmp_path), emit=dying(18)).run()
            break
        except DiedError:
            continue
    assert outline(found) == undisturbed
    assert len(runners) > 2
    ran = sum(len(runner.jobs) for runner in runners)
    results = len(list((tmp_path / "results").iterdir()))
    assert results <= ran <= results + 3 * len(runners)  # what was at work when it died runs again


def test_a_fast_search_goes_on_after_its_death_on_another_number_of_slots(tmp_path):
    config = searching(trials=15)
    with pytest.raises(DiedError):
        Search(config, Simulated(3, delay_s=0.005), str(tmp_path), emit=dying(40)).run()
    kept = [json.loads(path.read_text()) for path in sorted((tmp_path / "results").iterdir())]
    runner = Simulated(1)
    trials = Search(config, runner, str(tmp_path)).run()
    assert len(trials) == 15
    for result in kept:
        for measurement in result["measurements"]:
            assert trials[measurement["trial"]].rungs[result["until"]] == measurement["values"]["loss"]
    ran = {(each.trial, each.until) for job in runner.jobs for each in job}
    assert not ran & {(m["trial"], result["until"]) for result in kept for m in result["measurements"]}


def test_a_search_that_is_done_runs_nothing_again_and_tells_only_its_end_again(tmp_path):
    config = searching(parallel_trials=2)
    first = Search(config, Simulated(), str(tmp_path)).run()
    runner, events = Simulated(), []
    search = Search(config, runner, str(tmp_path), emit=events.append)
    assert outline(search.run()) == outline(first)
    assert runner.jobs == []
    assert not [event for event in events if isinstance(event, TrialStarted | TrialMeasured)]


def test_what_is_kept_of_another_search_is_refused(tmp_path):
    Search(searching(parallel_trials=2), Simulated(), str(tmp_path)).run()
    with pytest.raises(InputError, match=r"job \d+ was .*trial, fold, epoch.*overwrite=True"):
        Search(searching(parallel_trials=2, min_epochs=2), Simulated(), str(tmp_path)).run()


@pytest.mark.parametrize(("slots", "parallel_trials"), [(4, None), (2, 4)])
def test_all_slots_are_at_work_while_trials_may_start(slots, parallel_trials):
    class Meets(Simulated):
        """The first jobs wait for each other: one that did not come would break the barrier."""

        barrier = threading.Barrier(slots, timeout=60)
        number = itertools.count()

        def run(self, assignments):
            if next(self.number) < 10 * slots:
                self.barrier.wait()
            return super().run(assignments)

    runner = Meets(slots)
    Search(searching(trials=12 * slots, parallel_trials=parallel_trials, sampler="random"), runner).run()
    assert runner.most == slots


def test_in_a_fast_search_nobody_waits_for_a_long_job():
    class Long(Simulated):
        enough = threading.Event()

        def run(self, assignments):
            if len(self.jobs) > 20:
                self.enough.set()
            if assignments[0].trial == 0:
                assert self.enough.wait(60)
            return super().run(assignments)

    trials = Search(searching(), Long(2)).run()
    assert trials[0].state != "failed"


def test_no_more_jobs_run_at_a_time_than_results_may_be_missing():
    runner = Simulated(4, delay_s=0.005)
    Search(searching(parallel_trials=2), runner).run()
    assert runner.most == 2


def test_events_tell_of_each_trial_in_order():
    events = []
    trials = Search(searching(parallel_trials=2), Simulated(2), emit=events.append).run()
    for trial in trials:
        own = [event for event in events if getattr(event, "trial", None) == trial.number]
        assert own[0] == TrialStarted(trial.number, trial.values)
        assert [(event.epoch, event.value) for event in own[1:-1]] == list(trial.rungs.items())
        assert own[-1] == TrialEnded(trial.number, trial.state, trial.value, trial.reason, trial.metrics)
    measured = [event for event in events if isinstance(event, TrialMeasured)]
    best = list(itertools.accumulate((event.value for event in measured), min))
    assert [event.best for event in measured] == best
    assert measured[-1].epochs == sum(trial.epochs for trial in trials)
    seconds = [event.seconds for event in measured]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("limit_s", [None, 0.2])
def test_events_tell_of_slots_at_work_and_of_the_time_that_is_left(limit_s):
    told, waiting = [], threading.Event()

    def emit(event):
        if isinstance(event, SearchAdvanced):
            told.append(event)
            waiting.set()

    class Waits(Simulated):
        def run(self, assignments):
            assert waiting.wait(60)
            return super().run(assignments)

    Search(searching(parallel_trials=3, trials=8, time_limit_s=limit_s), Waits(2), emit=emit).run()
    assert told[0] == SearchAdvanced(2, 2, None)
    assert {event.slots for event in told} == {2}
    assert {event.working for event in told} <= {0, 1, 2}
    assert all(0 <= event.seconds_left <= (limit_s or 60) for event in told[3:])


def test_trials_that_end_are_dropped_by_the_runner():
    runner = Simulated()
    trials = Search(searching(), runner).run()
    assert sorted(runner.dropped) == [trial.number for trial in trials]


def test_a_trial_that_stops_says_where_it_stood():
    trials = Search(searching(trials=9), Simulated()).run()
    stopped = [trial for trial in trials if trial.state == "stopped" and list(trial.rungs) == [1]]
    assert len(stopped) >= 3
    assert stopped[0].reason.endswith("of 9 at epoch 1")


def test_a_trial_that_fails_is_recorded_with_its_reason_and_the_search_goes_on():
    def fault(values):
        return "NotFiniteError: The loss is nan at step 12." if values["learning_rate"] > 0.3 else ""

    events = []
    trials = Search(searching(trials=30), Simulated(2, fault=fault), emit=events.append).run()
    failed = [trial for trial in trials if trial.state == "failed"]
    assert failed
    assert trials[0] in failed
    assert {trial.reason for trial in failed} == {"NotFiniteError: The loss is nan at step 12."}
    assert {trial.values["learning_rate"] > 0.3 for trial in trials if trial.state != "failed"} == {False}
    assert len(failed) < 10  # the sampler has learnt where they lie
    assert sum(isinstance(event, TrialEnded) and event.state == "failed" for event in events) == len(failed)


def test_a_value_that_is_not_finite_is_a_failure():
    class Nan(Simulated):
        def _measure(self, assignment):
            measurement = super()._measure(assignment)
            if assignment.trial == 3:
                measurement.values["loss"] = float("nan")
            return measurement

    trials = Search(searching(), Nan()).run()
    assert (trials[3].state, trials[3].reason) == ("failed", "`loss` is nan")


def test_more_than_half_of_the_trials_failing_stops_the_search_with_the_reasons_and_a_way_out(tmp_path):
    def fault(values):
        return "MemoryError: 3 GiB more are needed\nTraceback …" if values["dropout"] != 0.1 else ""

    said = (
        r"9 of 10 trials failed.*\n- MemoryError: 3 GiB more are needed \(9\)\n.*would end here again.*overwrite=True"
    )
    with pytest.raises(ErrorRateError, match=said):
        Search(searching(), Simulated(fault=fault), str(tmp_path)).run()
    with pytest.raises(ErrorRateError, match=said):
        Search(searching(), Simulated(), str(tmp_path)).run()


def test_configurations_above_a_limit_are_not_trained():
    runner = Simulated()
    trials = Search(searching(max_parameters=200, trials=15), runner).run()
    rejected = [trial for trial in trials if trial.state == "rejected"]
    assert rejected
    assert all(trial.values["hidden"] == [256, 64] for trial in rejected)
    assert rejected[0].reason == "`parameters` is 420; it may be 200 at most."
    assert len(trials) - len(rejected) == 15
    assert not {trial.number for trial in rejected} & {each.trial for job in runner.jobs for each in job}


def test_trials_above_a_measured_limit_go_nowhere():
    class Timed(Simulated):
        def _measure(self, assignment):
            measurement = super()._measure(assignment)
            measurement.values["seconds_per_row"] = 1e-3 if assignment.values["optimizer"] == "sgd" else 1e-5
            return measurement

    trials = Search(searching(max_seconds_per_row=1e-4), Timed()).run()
    rejected = [trial for trial in trials if trial.state == "rejected"]
    assert rejected
    assert {trial.values["optimizer"] for trial in rejected} == {"sgd"}
    assert rejected[0].reason == "`seconds_per_row` is 0.001; it may be 0.0001 at most."
    assert all(list(trial.rungs) == [1] for trial in rejected)


def test_costs_are_measured_once_and_stay_known():
    class Timed(Simulated):
        def _measure(self, assignment):
            measurement = super()._measure(assignment)
            if assignment.costs:
                measurement.values["seconds_per_row"] = 1e-5 * (1 + assignment.fold)
            return measurement

    runner = Timed()
    trials = Search(searching(objectives=("loss", "seconds_per_row"), folds=2), runner).run()
    assert all(each.costs == (each.until == 1) for job in runner.jobs for each in job)
    assert [trial.metrics["seconds_per_row"] for trial in trials] == [pytest.approx(1.5e-5)] * len(trials)


def test_what_the_training_refuses_is_rejected_with_its_words():
    space = {"optimizer": ["adamw", "lars"], "learning_rate": {"low": 0.001, "high": 0.1}}
    trials = Search(searching(space=space, trials=10), Simulated()).run()
    rejected = [trial for trial in trials if trial.state == "rejected"]
    assert {trial.reason for trial in rejected} == {"`optimizer` may not be lars here"}


def test_a_space_of_which_nothing_can_be_trained_is_an_error():
    with pytest.raises(InputError, match=r"None of 100 configurations.*`parameters` is \d+; it may be 50 at most"):
        Search(searching(max_parameters=50, sampler="random"), Simulated()).run()


def test_a_space_that_is_exhausted_ends_the_search():
    space = {"hidden": [[], [64], [256, 64]], "optimizer": ["adamw", "sgd"]}
    for sampler in ("tpe", "random", "grid"):
        trials = Search(searching(space=space, sampler=sampler), Simulated(2)).run()
        assert len(trials) == 6
        assert len({str(trial.values) for trial in trials}) == 6


def test_the_best_of_a_space_that_is_exhausted_go_on_however_late_they_came():
    for seed in range(5):
        space = {"learning_rate": [10**-k for k in range(13)]}
        config = searching(base={"seed": seed}, space=space, sampler="grid", trials=100)
        trials = Search(config, Simulated()).run()
        best = sorted(trials, key=lambda trial: trial.rungs[1])[: len(trials) // 3]
        assert all(3 in trial.rungs for trial in best)


def test_a_grid_is_tried_as_a_whole():
    space = {"learning_rate": {"low": 0.001, "high": 1.0, "log": True}, "dropout": [0.0, 0.3]}
    config = searching(space=space, sampler="grid", min_epochs=9)
    trials = Search(config, Simulated()).run()
    assert len(trials) == 10
    assert {trial.state for trial in trials} == {"complete"}
    assert sum(trial.epochs for trial in trials) == 90


def test_the_time_limit_starts_nothing_more_and_ends_all(tmp_path):
    config = searching(trials=10_000, time_limit_s=0.3, sampler="random")
    search = Search(config, Simulated(2, delay_s=0.02), str(tmp_path))
    trials = search.run()
    assert 3 < len(trials) < 200
    assert 0.3 <= search.seconds < 10
    assert not [trial for trial in trials if trial.state in ("running", "paused")]
    again = Search(config, Simulated(2), str(tmp_path)).run()
    assert outline(again) == outline(trials)


def test_a_trial_that_goes_on_has_what_is_left_of_its_time_on_each_fold():
    class Timed(Simulated):
        def _measure(self, assignment):
            measurement = super()._measure(assignment)
            history = [replace(epoch, seconds=1.0 + assignment.fold) for epoch in measurement.history]
            return replace(measurement, history=history)

    runner = Timed()
    Search(searching(trial_time_limit_s=100.0, folds=2), runner).run()
    left = {(each.fold, each.until): each.limit_s for job in runner.jobs for each in job}
    assert left == {(0, 1): 100, (1, 1): 100, (0, 3): 99, (1, 3): 98, (0, 9): 97, (1, 9): 94}
    runner = Simulated()
    Search(searching(trials=3), runner).run()
    assert {each.limit_s for job in runner.jobs for each in job} == {None}


def test_the_epochs_are_limited_and_the_best_is_trained_to_its_end():
    for limit in (12, 30, 60):
        trials = Search(searching(trials=500, max_epochs=limit), Simulated(2)).run()
        spent = sum(trial.epochs for trial in trials)
        assert limit - 9 <= spent <= (limit if limit > 12 else limit + 9)
        assert [trial for trial in trials if trial.state == "complete"]


def test_a_trial_that_ends_by_itself_is_complete_and_takes_no_more_jobs():
    runner = Simulated(patience=lambda values: 2 if values["dropout"] < 0.4 else 99)
    trials = Search(searching(), runner).run()
    early = [trial for trial in trials if trial.values["dropout"] < 0.4 and max(trial.rungs) > 1]
    assert early
    assert {(trial.state, trial.epochs) for trial in early} == {("complete", 2)}
    assert {each.until for job in runner.jobs for each in job if each.trial == early[0].number} == {1, 3}


def test_a_trials_value_is_the_mean_over_its_folds():
    runner = Simulated(3, delay_s=0.002)
    trials = Search(searching(folds=3, parallel_trials=3), runner).run()
    assert trials[0].value == pytest.approx(sum(fold.values["loss"] for fold in trials[0].folds) / 3)
    assert [fold.fold for fold in trials[0].folds] == [0, 1, 2]
    assert trials[0].epochs == 3 * trials[0].folds[0].epoch
    complete = [trial for trial in trials if trial.state == "complete"]
    assert complete
    assert {trial.epochs for trial in complete} == {27}
    assert outline(Search(searching(folds=3, parallel_trials=3), Simulated()).run()) == outline(trials)


def test_a_trial_that_fails_on_one_fold_is_failed_and_takes_no_more_jobs():
    class Fails(Simulated):
        def _measure(self, assignment):
            if (assignment.trial, assignment.fold) == (2, 1):
                return type(super()._measure(assignment))(2, 1, failure="NotFiniteError: nan")
            return super()._measure(assignment)

    runner = Fails()
    trials = Search(searching(folds=4, parallel_trials=1), runner).run()
    assert (trials[2].state, trials[2].reason) == ("failed", "NotFiniteError: nan")
    assert [each.fold for job in runner.jobs for each in job if each.trial == 2] == [0, 1]


def test_folds_that_end_by_themselves_need_no_job_at_the_next_rung():
    class Early(Simulated):
        def _measure(self, assignment):
            self._patience = lambda values: 1 if assignment.fold == 0 else 99
            return super()._measure(assignment)

    runner = Early()
    trials = Search(searching(folds=2, parallel_trials=1), runner).run()
    complete = next(trial for trial in trials if trial.state == "complete")
    ran = [(each.fold, each.until) for job in runner.jobs for each in job if each.trial == complete.number]
    assert ran == [(0, 1), (1, 1), (1, 3), (1, 9)]
    assert complete.epochs == 10


def test_jobs_hold_assignments_of_one_length_and_fold():
    runner = Simulated(2, together=6)
    config = searching(trials=30, folds=2, parallel_trials=2, together="shared")
    trials = Search(config, runner).run()
    assert len(trials) == 30
    assert max(len(job) for job in runner.jobs) == 6
    assert all(len({(each.until, each.fold) for each in job}) == 1 for job in runner.jobs)
    assert outline(Search(config, Simulated(1, together=6, delay_s=0.002)).run()) == outline(trials)


def test_of_trials_that_train_together_so_few_are_asked_for_at_once_that_the_sampler_learns():
    for arguments, most in (({}, 2), ({"sampler": "random"}, 16), ({"together": "shared"}, 16), ({"trials": 4}, 1)):
        runner = Simulated(together=16)
        Search(searching(parallel_trials=1, **({"trials": 20} | arguments)), runner).run()
        assert len(runner.jobs[0]) == most


def test_several_objectives_are_searched_at_once():
    config = searching(objectives=("loss", "parameters"), parallel_trials=2)
    trials = Search(config, Simulated(2)).run()
    assert all(trial.metrics["parameters"] >= 100 for trial in trials)
    assert trials[0].value == trials[0].metrics["loss"]


def test_one_epoch_and_one_trial_make_a_search_too():
    trials = Search(searching({"epochs": 1}, trials=1), Simulated(4)).run()
    assert [trial.state for trial in trials] == ["complete"]


def test_an_error_that_no_worker_is_to_blame_for_ends_the_search():
    class Broken(Simulated):
        def run(self, assignments):
            raise InputError("Column `label` not found")

    with pytest.raises(InputError, match="Column `label` not found"):
        Search(searching(), Broken(2)).run()
