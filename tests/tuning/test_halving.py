"""Successive halving, against cases worked out by hand."""

import random

import pytest

from sparkwright.tuning.halving import Halving, rungs


def noted(values, epoch=1, **arguments):
    halving = Halving(**({"epochs": 27, "min_epochs": 1, "eta": 3, "direction": "min"} | arguments))
    for trial, value in enumerate(values):
        halving.note(trial, epoch, value, ended=False)
    return halving


def promotions(halving):
    found = []
    while (one := halving.promotion()) is not None:
        found.append(one)
    return found


@pytest.mark.parametrize(
    ("epochs", "min_epochs", "eta", "expected"),
    [
        (27, 1, 3, [1, 3, 9, 27]),
        (30, 1, 3, [1, 3, 9, 27, 30]),
        (50, 4, 2, [4, 8, 16, 32, 50]),
        (9, 9, 3, [9]),
        (1, 1, 3, [1]),
    ],
)
def test_rungs_lie_a_factor_apart_and_end_with_the_whole_length(epochs, min_epochs, eta, expected):
    assert rungs(epochs, min_epochs, eta) == expected


def test_a_trial_takes_the_first_rung_and_its_share_of_the_others():
    assert Halving(9, 1, 3, "min").epochs == pytest.approx(1 + 2 / 3 + 6 / 9)
    assert Halving(9, 9, 3, "min").epochs == 9


def test_nobody_goes_on_before_there_are_eta_trials():
    assert promotions(noted([0.1, 0.2])) == []


def test_the_best_third_goes_on_the_best_first():
    assert promotions(noted([0.5, 0.3, 0.9, 0.1, 0.7, 0.6, 0.8])) == [(3, 3), (1, 3)]


def test_more_is_better_where_the_direction_says_so():
    assert promotions(noted([0.5, 0.3, 0.9, 0.1, 0.7, 0.6], direction="max")) == [(2, 3), (4, 3)]


def test_of_equal_trials_the_one_with_the_lower_number_goes_on():
    halving = Halving(9, 1, 3, "min")
    for trial in (5, 2, 4, 3, 0, 1):
        halving.note(trial, 1, 0.5, ended=False)
    assert promotions(halving) == [(0, 3), (1, 3)]


def test_a_trial_goes_on_once_and_a_better_one_that_comes_later_goes_on_too():
    halving = noted([0.5, 0.6, 0.7])
    assert promotions(halving) == [(0, 3)]
    halving.note(3, 1, 0.1, ended=False)  # now the best, but one of four has gone on already
    assert promotions(halving) == [(3, 3)]  # it is in the top third, as 0 is no longer
    halving.note(4, 1, 0.2, ended=False)
    halving.note(5, 1, 0.9, ended=False)
    assert promotions(halving) == [(4, 3)]


def test_the_highest_rung_goes_first():
    halving = noted([0.5, 0.6, 0.7, 0.1, 0.2, 0.3])
    for trial, value in ((7, 0.5), (8, 0.4), (9, 0.6)):
        halving.note(trial, 9, value, ended=False)
    assert promotions(halving) == [(8, 27), (3, 3), (4, 3)]


def test_while_trials_start_those_that_have_gone_on_count_against_the_share():
    halving = noted([0.5, 0.6, 0.7])
    assert halving.promotion(sparing=True) == (0, 3)
    halving.note(3, 1, 0.1, ended=False)
    assert halving.promotion(sparing=True) is None  # one of four has gone on, though it is the best no longer
    for trial, value in enumerate([0.8, 0.9], 4):
        halving.note(trial, 1, value, ended=False)
    assert halving.promotion(sparing=True) == (3, 3)  # two of six
    halving.note(6, 1, 0.2, ended=False)
    assert halving.promotion(sparing=True) is None
    assert halving.promotion() == (6, 3)  # nobody starts any more


def test_a_promotion_may_be_asked_for_until_one_epoch():
    halving = noted([0.5, 0.6, 0.7])
    for trial, value in ((7, 0.5), (8, 0.4), (9, 0.6)):
        halving.note(trial, 3, value, ended=False)
    assert halving.promotion(27) is None
    assert halving.promotion(3) == (0, 3)
    assert halving.promotion(3) is None
    assert halving.promotion() == (8, 9)


def test_a_promotion_may_be_asked_for_of_so_many_epochs():
    halving = noted([0.5, 0.6, 0.7])
    for trial, value in ((7, 0.5), (8, 0.4), (9, 0.6)):
        halving.note(trial, 9, value, ended=False)
    assert halving.promotion(most=1.5) is None
    assert halving.promotion(most=17) == (0, 3)
    assert halving.promotion(most=18) == (8, 27)


def test_who_reached_the_last_rung_goes_nowhere():
    assert promotions(noted([0.1, 0.2, 0.3, 0.4], epoch=27)) == []


def test_a_trial_that_failed_is_as_if_it_had_never_been():
    halving = noted([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert halving.promotion() == (0, 3)
    halving.forget(0)
    assert promotions(halving) == [(1, 3)]  # the best of five
    halving.note(6, 1, 0.7, ended=False)
    assert promotions(halving) == [(2, 3)]  # two of six


def test_a_trial_that_ended_by_itself_stands_at_the_rungs_above_without_a_job():
    halving = Halving(9, 1, 3, "min")
    halving.note(0, 1, 0.1, ended=True)
    for trial, value in ((1, 0.2), (2, 0.3)):
        halving.note(trial, 1, value, ended=False)
    assert halving.promotion() is None  # 0 is the third that goes on, and has nothing left to do
    assert halving.place(0) == (3, 1, 1)
    for trial, value in ((3, 0.05), (4, 0.6), (5, 0.7)):
        halving.note(trial, 1, value, ended=False)
    assert promotions(halving) == [(3, 3)]
    halving.note(3, 3, 0.05, ended=False)
    halving.note(6, 3, 0.06, ended=False)
    assert promotions(halving) == [(3, 9)]  # of three at epoch 3, 0 among them


def test_asking_for_an_epoch_passes_over_who_goes_on_elsewhere_but_not_over_who_has_ended():
    halving = Halving(9, 1, 3, "min")
    for trial in range(3):
        halving.note(trial, 1, trial, ended=trial == 0)
    assert halving.promotion(9) is None
    assert halving.place(0) == (3, 1, 1)


def test_at_the_end_the_best_of_the_highest_rung_goes_on_until_one_is_trained_to_its_end():
    halving = noted([0.5, 0.4])
    assert promotions(halving) == []
    for epoch in (3, 9, 27):
        assert halving.last_promotion() == (1, epoch)
        halving.note(1, epoch, 0.4, ended=False)
    assert halving.last_promotion() is None


def test_at_the_end_the_next_best_goes_on_when_the_one_before_it_failed():
    halving = noted([0.5, 0.4])
    assert halving.last_promotion() == (1, 3)
    halving.forget(1)
    assert halving.last_promotion() == (0, 3)
    halving.forget(0)
    assert halving.last_promotion() is None


def test_at_the_end_nobody_goes_on_when_the_best_has_ended_by_itself():
    halving = Halving(9, 1, 3, "min")
    halving.note(0, 1, 0.1, ended=True)
    halving.note(1, 1, 0.2, ended=False)
    assert halving.last_promotion() is None


def test_one_rung_compares_nobody():
    halving = noted([0.1, 0.2, 0.3], epoch=5, epochs=5, min_epochs=5)
    assert promotions(halving) == []
    assert halving.last_promotion() is None


def test_a_trials_place_is_that_at_its_last_rung():
    halving = noted([0.5, 0.3, 0.9])
    halving.note(1, 3, 0.2, ended=False)
    assert halving.place(0) == (1, 2, 3)
    assert halving.place(1) == (3, 1, 1)


@pytest.mark.parametrize("eta", [2, 3, 4])
def test_after_all_have_come_in_any_order_at_least_the_best_of_each_rung_have_gone_on(eta):
    for seed in range(20):
        draw = random.Random(seed)
        halving = Halving(eta**3, 1, eta, "min")
        quality = {trial: draw.random() for trial in range(40)}
        for trial in draw.sample(range(40), 40):
            halving.note(trial, 1, quality[trial], ended=False)
            while (one := halving.promotion()) is not None:
                halving.note(*one, quality[one[0]], ended=False)
        ranked = sorted(quality, key=quality.__getitem__)
        for trial in ranked[: 40 // eta]:
            assert halving.place(trial)[0] > 1
        assert halving.place(ranked[0])[0] >= (eta**3 if eta**3 < 40 else eta**2)
