"""Of the best few configurations the one with the best mean less its error is taken, never the luckiest."""

import random
import threading

import pytest

from sparkwright.errors import InputError, WorkerError
from sparkwright.events import Progress, Warned
from sparkwright.tuning.runners._base import Runner
from sparkwright.tuning.selection import Candidate, Retraining, best_trials, choose, optimism
from sparkwright.tuning.trials import Measurement, Trial


def trial(number, value, state="complete", **rest):
    rest = {"values": {"learning_rate": 0.1 + number}, "folds": [Measurement(number, epoch=9)], **rest}
    return Trial(number, state=state, value=value, **rest)


def candidate(number, *scores, parameters=100, failure=""):
    return Candidate(number, {}, scores=dict(enumerate(scores)), parameters=parameters, failure=failure)


def test_the_best_mean_less_its_standard_error_wins_not_the_highest_figure():
    lucky = candidate(0, 0.99, 0.80, 0.95)
    steady = candidate(1, 0.92, 0.93, 0.91)
    assert choose([lucky, steady], "max").trial == 1
    assert lucky.mean > steady.mean - 0.02
    assert max(lucky.scores.values()) > max(steady.scores.values())


def test_a_metric_to_minimise_is_compared_the_other_way():
    assert choose([candidate(0, 0.1, 0.5, 0.3), candidate(1, 0.35, 0.34, 0.36)], "min").trial == 1
    assert choose([candidate(0, 0.2, 0.2, 0.2), candidate(1, 0.35, 0.34, 0.36)], "min").trial == 0


def test_among_equals_fewer_parameters_win_then_the_earlier_one():
    same = (0.9, 0.9)
    assert choose([candidate(0, *same, parameters=900), candidate(5, *same), candidate(7, *same)], "max").trial == 5


def test_one_that_fails_with_any_seed_is_not_chosen():
    failed = Candidate(3, {}, failure="NotFiniteError: the loss is not finite")
    assert choose([failed, candidate(4, 0.5)], "max").trial == 4
    with pytest.raises(InputError, match=r"and begin anew: .* Why: trial 3: NotFiniteError: the loss is not finite"):
        choose([failed], "max")


def test_candidates_differ_and_the_best_of_those_that_were_trained_to_their_end_come_first():
    trials = [
        trial(0, 0.8),
        trial(1, 0.99, "stopped"),
        trial(2, 0.9),
        trial(3, 0.9),
        trial(4, 0.95, values={"learning_rate": 9.9}),
        trial(5, 0.97, values={"learning_rate": 9.9}),
        trial(6, 1.0, "failed"),
        trial(7, float("nan")),
    ]
    assert [each.number for each in best_trials(trials, "max", 3)] == [5, 2, 3]
    assert [each.number for each in best_trials(trials, "min", 2)] == [0, 2]


def test_where_too_few_were_trained_to_their_end_those_that_got_furthest_come_next():
    epochs = (1, 9, 3, 9)
    trials = [trial(n, 0.9 + n / 100, "stopped", folds=[Measurement(n, epoch=epoch)]) for n, epoch in enumerate(epochs)]
    ended_early = trial(4, 0.5, "complete", folds=[Measurement(4, epoch=2)])
    assert [each.number for each in best_trials([*trials, ended_early], "max", 4)] == [4, 3, 1, 2]


def test_what_scores_too_slowly_is_left_out():
    slow, quick = (trial(n, 0.9 - n / 10, metrics={"seconds_per_row": seconds}) for n, seconds in enumerate((0.5, 0.1)))
    assert best_trials([slow, quick], "max", 1)[0].number == 0
    assert best_trials([slow, quick], "max", 1, max_seconds_per_row=0.2)[0].number == 1


def test_a_search_without_any_figure_says_what_became_of_its_trials():
    trials = [trial(n, None, "failed", reason="NotFiniteError") for n in range(4)]
    with pytest.raises(
        InputError, match=r"no configuration that can be chosen: 4 of 4 failed \(NotFiniteError\)\..*begin anew"
    ):
        best_trials(trials, "max", 3)


class Trained(Runner):
    """Gives figures at random, and loses some workers."""

    slots, together = 2, 2

    def __init__(self, lost=0):
        self.asked, self._lost, self._lock = [], lost, threading.Lock()

    def run(self, assignments):
        with self._lock:
            if self._lost:
                self._lost -= 1
                raise WorkerError("the executor is gone")
            self.asked += assignments
        return [
            Measurement(
                each.trial,
                each.fold,
                each.until,
                ended=True,
                best_epoch=each.until - 1,
                values={"accuracy": random.Random(f"{each.trial} {each.seed} {each.fold}").random()},
            )
            for each in assignments
        ]

    def parameters(self, values):
        return 7

    def drop(self, trial):
        pass

    def close(self):
        pass


def retrained(runner, folder, **rest):
    told = []
    rest = {"seeds": (1, 2, 3), "folds": 2, **rest}
    retraining = Retraining(runner, "accuracy", epochs=9, limit_s=60.0, folder=str(folder), emit=told.append, **rest)
    return retraining.run([trial(4, 0.9), trial(2, 0.8)]), told


def test_candidates_are_trained_with_each_seed_on_each_fold_and_not_again_on_resume(tmp_path):
    runner = Trained(lost=2)
    found, told = retrained(runner, tmp_path)
    assert [(each.trial, len(each.scores), len(each.epochs), each.parameters) for each in found] == [
        (4, 3, 6, 7),
        (2, 3, 6, 7),
    ]
    assert len(runner.asked) == 12
    assert all((each.until, each.epochs, each.limit_s) == (9, 9, 60.0) for each in runner.asked)
    done = [event.done for event in told if isinstance(event, Progress)]
    assert (done[0], done[-1]) == (0, 12)
    warned = [event.message for event in told if isinstance(event, Warned)]
    assert len(warned) == 2
    assert all("(trial 4) lost its worker: the executor is gone" in message for message in warned)
    again = Trained()
    assert retrained(again, tmp_path)[0] == found
    assert again.asked == []


def test_workers_that_are_always_lost_end_the_search(tmp_path):
    with pytest.raises(WorkerError, match=r"Trial 4, trained again with seed 1, .* the executor is gone.*--resume"):
        retrained(Trained(lost=99), tmp_path)


def test_of_trainings_of_one_job_only_the_one_that_kills_the_worker_is_done_again_on_resume(tmp_path):
    class Kills(Trained):
        def run(self, assignments):
            if any((each.trial, each.seed, each.fold) == (4, 1, 1) for each in assignments):
                raise WorkerError("out of memory")
            return super().run(assignments)

    with pytest.raises(WorkerError, match="Trial 4, trained again with seed 1, lost its workers 3 times"):
        retrained(Kills(), tmp_path)
    runner = Trained()
    retrained(runner, tmp_path)
    assert (4, 1, 0) not in {(each.trial, each.seed, each.fold) for each in runner.asked}
    assert (4, 1, 1) in {(each.trial, each.seed, each.fold) for each in runner.asked}


def test_a_failure_with_one_seed_is_kept_with_its_reason(tmp_path):
    class Failing(Trained):
        def run(self, assignments):
            results = super().run(assignments)
            return [
                Measurement(each.trial, failure="MemoryError") if (each.trial, each.seed) == (4, 2) else result
                for each, result in zip(assignments, results, strict=True)
            ]

    found, _ = retrained(Failing(), tmp_path)
    assert [each.failure for each in found] == ["MemoryError", ""]


def test_optimism_is_a_difference_of_shares_with_an_interval():
    told = optimism(0.95, 200, 0.90, 200)
    assert told["difference"] == pytest.approx(0.05)
    low, high = told["interval"]
    assert low < 0.0 < 0.05 < high
    # Newcombe 1998, table II: 56/70 and 48/80 give 0.0524 to 0.3339 by method 10.
    low, high = optimism(56 / 70, 70, 48 / 80, 80)["interval"]
    assert (low, high) == (pytest.approx(0.0524, abs=5e-5), pytest.approx(0.3339, abs=5e-5))
