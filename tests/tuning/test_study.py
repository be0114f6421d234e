"""Where configurations come from: Optuna's samplers, asked anew each time."""

import importlib.util

import pytest

from sparkwright.errors import EnvironmentNotReadyError, InputError
from sparkwright.tuning.space import Space
from sparkwright.tuning.study import Asked, Study, pareto_front
from sparkwright.tuning.trials import Trial

SPACE = Space(
    {
        "learning_rate": {"low": 1e-4, "high": 1.0, "log": True},
        "optimizer": ["adamw", "sgd"],
        "momentum": {"low": 0.5, "high": 0.99, "when": {"optimizer": "sgd"}},
        "hidden": [[], [64]],
    }
)
ONE = {"loss": "min"}


def searched(study: Study, count: int, value=lambda values: values["learning_rate"], state="complete") -> list[Trial]:
    """Trials as a search would have them, each measured before the next is asked for."""
    trials: list[Trial] = []
    for number in range(count):
        asked = study.ask(number, trials)
        assert asked is not None
        figure = value(asked.values)
        trials.append(Trial(number, asked.values, state, value=figure, metrics={"loss": figure, "parameters": 10.0}))
    return trials


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid", "cmaes"])
def test_what_is_asked_depends_on_the_seed_and_the_trials_alone(sampler):
    first, again = (searched(Study(SPACE, sampler, ONE, seed=4), 16) for _ in range(2))
    assert [trial.values for trial in first] == [trial.values for trial in again]
    other = searched(Study(SPACE, sampler, ONE, seed=5), 16)
    assert [trial.values for trial in first] != [trial.values for trial in other]


def test_the_gaussian_process_is_asked_too():
    trials = searched(
        Study(Space({"dropout": {"low": 0.0, "high": 0.8}}), "gp", ONE, seed=1), 12, lambda values: values["dropout"]
    )
    assert min(trial.metrics["loss"] for trial in trials[10:]) < 0.1


@pytest.mark.parametrize("state", ["paused", "running", "stopped", "complete"])
def test_a_sampler_learns_from_what_is_measured_whatever_became_of_it(state):
    space = Space({"dropout": {"low": 0.0, "high": 0.8}})

    def near(sampler):
        trials = searched(Study(space, sampler, ONE), 30, lambda values: abs(values["dropout"] - 0.7), state)
        return sum(trial.values["dropout"] > 0.5 for trial in trials[15:])

    assert near("tpe") > near("random") + 3


def test_trials_are_compared_where_enough_of_them_have_come():
    """Those that have trained longer are better for that alone, wherever they are."""

    def near(longer: int) -> int:
        study, trials = Study(Space({"dropout": {"low": 0.0, "high": 0.8}}), "tpe", ONE), []
        for number in range(40):
            asked = study.ask(number, trials)
            distance = abs(asked.values["dropout"] - 0.7)
            rungs = {1: 1 + distance} | ({4: distance} if number < longer else {})
            value = min(rungs.values())
            trials.append(Trial(number, asked.values, "paused", value=value, metrics={"loss": value}, rungs=rungs))
        assert study.ask(40, trials[:30]) is not None
        return sum(trial.values["dropout"] > 0.6 for trial in trials[10:])

    assert near(longer=2) == near(longer=0) > 20  # two tell nothing of the later rung
    assert near(longer=3) != near(longer=0)


def test_a_sampler_keeps_away_from_what_failed():
    study, trials = Study(Space({"dropout": {"low": 0.0, "high": 0.8}}), "tpe", ONE, seed=2), []
    for number in range(40):
        asked = study.ask(number, trials)
        fails = asked.values["dropout"] > 0.4
        metrics = {} if fails else {"loss": abs(0.3 - asked.values["dropout"])}
        trials.append(Trial(number, asked.values, "failed" if fails else "complete", metrics=metrics))
    assert sum(trial.state == "failed" for trial in trials[20:]) < 6


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_what_was_proposed_before_is_taken_and_the_rest_is_the_same(sampler):
    trials = searched(Study(SPACE, sampler, ONE), 14)
    study = Study(SPACE, sampler, ONE)
    for number, trial in enumerate(trials[:12]):
        known = Asked(number, SPACE.parameters(trial.values), trial.values)
        assert study.ask(number, trials[:number], known) == known
    assert study.ask(12, trials[:12]).values == trials[12].values


def test_the_first_trial_may_be_given():
    first = {"learning_rate": 0.1, "optimizer": "sgd", "momentum": 0.9, "hidden": [64]}
    study = Study(SPACE, "tpe", ONE, first=first)
    assert study.ask(0, []).values == first


def test_no_configuration_is_proposed_twice_and_the_end_of_the_space_is_said():
    space = Space({"hidden": [[], [64]], "optimizer": ["adamw", "sgd", "lamb"]})
    for sampler in ("tpe", "random", "grid"):
        study = Study(space, sampler, ONE)
        trials = searched(study, 6, lambda values: len(values["hidden"]))
        assert len({str(trial.values) for trial in trials}) == 6
        assert study.ask(6, trials) is None


def test_a_grid_is_shuffled_by_the_seed_and_leaves_out_what_is_not_active():
    space = Space({"optimizer": ["adamw", "sgd"], "momentum": {"low": 0.5, "high": 0.9, "when": {"optimizer": "sgd"}}})
    trials = searched(Study(space, "grid", ONE, seed=1), 6, lambda values: 1.0)
    assert sorted(trial.values.get("momentum", 0) for trial in trials) == [0, 0.5, 0.6, 0.7, pytest.approx(0.8), 0.9]
    assert [trial.values for trial in trials] != [
        trial.values for trial in searched(Study(space, "grid", ONE, seed=2), 6, lambda values: 1.0)
    ]


def test_a_sampler_of_optuna_is_taken_as_it_is():
    import optuna

    study = Study(SPACE, optuna.samplers.TPESampler(n_startup_trials=5, seed=1), ONE)
    trials = searched(study, 12)
    assert len({trial.values["learning_rate"] for trial in trials}) == 12


def test_several_objectives_are_all_told_to_the_sampler():
    study = Study(SPACE, "tpe", {"loss": "min", "parameters": "min"}, limits={"parameters": 100})
    trials = searched(study, 15)
    assert study.directions() == ["minimize", "minimize"]
    assert len(trials) == 15


def test_limits_are_constraints():
    study = Study(SPACE, "random", ONE, limits={"parameters": 100.0, "seconds_per_row": 1e-3})
    assert study.constraints({"parameters": 150.0, "loss": 0.1}) == {"parameters": 0.5}
    assert study.constraints({"parameters": 50.0, "seconds_per_row": 1e-3}) == {
        "parameters": -0.5,
        "seconds_per_row": 0.0,
    }


def test_a_sampler_for_one_objective_refuses_several():
    with pytest.raises(InputError, match=r'sampler="cmaes".*one of `objectives`'):
        Study(SPACE, "cmaes", {"loss": "min", "parameters": "min"})


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentNotReadyError, match=r"pip install 'sparkwright\[cmaes\]'"):
        Study(SPACE, "cmaes", ONE)


def test_optunas_own_messages_are_as_before_after_an_ask():
    import optuna

    optuna.logging.set_verbosity(optuna.logging.INFO)
    Study(SPACE, "tpe", ONE).ask(0, [])
    assert optuna.logging.get_verbosity() == optuna.logging.INFO


def complete(number, state="complete", **metrics):
    return Trial(number, {}, state, metrics=metrics)


def test_the_pareto_front_holds_what_no_other_beats_in_all_objectives():
    trials = [
        complete(0, accuracy=0.9, parameters=100.0),
        complete(1, accuracy=0.8, parameters=50.0),
        complete(2, accuracy=0.8, parameters=60.0),  # 1 is as good, and smaller
        complete(3, accuracy=0.95, parameters=400.0),
        complete(4, accuracy=0.85, parameters=400.0),
        complete(5, "stopped", accuracy=0.99, parameters=1.0),  # not trained to its end
        complete(6, accuracy=0.9, parameters=100.0),  # as good as 0
    ]
    found = pareto_front(trials, {"accuracy": "max", "parameters": "min"})
    assert [trial.number for trial in found] == [0, 1, 3, 6]


def test_with_one_objective_the_front_is_the_best():
    trials = [complete(0, loss=0.5), complete(1, loss=0.3), complete(2, loss=0.4)]
    assert [trial.number for trial in pareto_front(trials, ONE)] == [1]
    assert pareto_front([], ONE) == []
