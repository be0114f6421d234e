"""The report of a search: what its sections say, of many trials, of few, and of odd ones."""

import dataclasses
import json
import math
import re

import pytest
from made_up_search import made_up_search
from test_report import Page, browse, chromium  # noqa: F401  a fixture

from sparkwright.evaluation.report import RunRecord, write_report
from sparkwright.evaluation.report.axes import Axis, Categories, short
from sparkwright.evaluation.report.tuning import SearchRecord, measure_importance
from sparkwright.evaluation.report.tuning.efficiency import efficiency_section
from sparkwright.evaluation.report.tuning.importance import importance_section
from sparkwright.evaluation.report.tuning.parameters import parameters_of
from sparkwright.evaluation.report.tuning.pareto import front
from sparkwright.evaluation.report.tuning.score import ScoreAxis
from sparkwright.runs import write_run_report
from sparkwright.training.config import TrainingConfig

SECTIONS = [
    "The chosen configuration",
    "All configurations",
    "History of the search",
    "Which parameters go with which figure",
    "How much each parameter matters",
    "One parameter at a time",
    "Two parameters together",
    "Error against learning rate by network size",
    "Learning curves of all trials",
    "Trials that came to nothing",
    "What the search cost",
    "The run",
]


def read(document):
    return SearchRecord.from_dict(json.loads(json.dumps(document)))


def page_of(document):
    return write_report(RunRecord("search", search=read(document)))


@pytest.fixture(scope="module")
def large():
    return made_up_search(200)


@pytest.fixture(scope="module")
def large_page(large):
    search = read(large)
    shares = {"learning_rate": 0.6, "hidden.width": 0.3, "dropout": 0.1}
    known = {"method": "forest", "trials": 190, "shares": shares, "explained": 0.6}
    return write_report(RunRecord("search", search=dataclasses.replace(search, importance=known)))


def test_two_hundred_trials_make_one_sound_small_page(large_page):
    page = Page(large_page)
    assert page.headings == SECTIONS
    assert len(large_page.encode()) < 1e6
    assert page.links == []
    assert "nan" not in re.sub(r"<title>.*?</title>|loss is nan", "", large_page.split("<main>")[1])


def test_the_choice_tells_validation_spread_test_and_how_much_the_validation_figure_flattered(large):
    large = {
        **large,
        "candidates": [{"trial": 4, "scores": {"1": 0.97, "2": 0.96, "3": 0.98}}],
        "chosen": 4,
        "test": 0.962,
    }
    interval = {"metric": "accuracy", "validation": 0.97, "test": 0.962, "difference": 0.008, "interval": [-0.01, 0.02]}
    text = Page(page_of({**large, "optimism": interval})).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "Trained again with 3 other seeds it reached 97.00 % (standard deviation 1.00 percentage points)." in text
    assert "On the test rows, opened once, after the choice: accuracy 96.20 % ." in text
    assert "The validation figure flattered by 0.80 percentage points." in text
    assert (
        "ahead of test rows by 0.80 percentage points (95 % interval -1.00 to 2.00): no more than chance may make."
        in text
    )
    assert "The same search again gives the same trials and figures." in text


def test_a_tested_loss_is_not_compared_with_that_of_the_search():
    text = Page(page_of(made_up_search(20, metric="loss"))).text
    assert "On the test rows, opened once" in text
    assert "validation figure" not in text


def test_accuracies_are_told_of_a_search_by_the_calibrated_loss():
    document = made_up_search(20, metric="loss") | {"metric": "calibrated_loss", "direction": "min", "test": 0.31}
    document |= {"objectives": {"calibrated_loss": "min"}, "chosen": None, "candidates": []}
    for trial in document["trials"]:
        trial["metrics"]["accuracy"] = 0.9 + trial["number"] / 1000
    read_once = {"metric": "accuracy", "validation": 0.91, "test": 0.9, "difference": 0.01, "interval": [-0.01, 0.02]}
    text = Page(page_of(document | {"optimism": read_once})).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "On the test rows, opened once, after the choice: calibrated loss 0.31, accuracy 90.00 % ." in text
    assert "The validation figure " in text  # one is like the other
    assert "90.30 %" in text.partition("All configurations")[2]
    text = Page(page_of(document | {"optimism": read_once, "test": None})).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "after the choice: accuracy 90.00 % ." in text  # folds leave no rows to calibrate on
    assert "In accuracy validation rows were ahead" in text


def test_every_trial_has_its_row_its_line_and_its_curve(large, large_page):
    scored = [trial for trial in large["trials"] if trial["value"] is not None]
    table = large_page.split('<section id="trials">')[1].split("</section>")[0]
    assert table.count("<tr>") == 200 + 1
    lines = large_page.split('<section id="parallel">')[1].split("</section>")[0]
    assert lines.count("<polyline") == len(scored)
    curves = large_page.split('<section id="curves">')[1].split("</section>")[0]
    assert curves.count("<polyline") == len(scored)
    assert curves.count('class="mark"') == 3  # rungs


def test_stopped_failed_and_rejected_trials_are_counted(large, large_page):
    states = [trial["state"] for trial in large["trials"]]
    text = Page(large_page).text
    assert f"{states.count('complete')} to the end, {states.count('stopped')} stopped early: " in text
    assert f"Of 200 trials {states.count('failed')} failed; {states.count('rejected')} were rejected" in text
    assert f"NotFiniteError failed {states.count('failed')}" in text


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_few_trials_have_a_page_too(count):
    page = Page(page_of(made_up_search(count, faults=False)))
    assert page.headings[:2] == SECTIONS[:2]
    assert ("History of the search" in page.headings) is (count > 1)


def test_a_search_without_trials_or_with_failed_ones_alone_says_so():
    assert Page(page_of({})).headings == ["The run"]
    search = made_up_search(4, faults=False)
    for trial in search["trials"]:
        trial |= {"state": "failed", "reason": "MemoryError: no room", "value": None, "folds": [], "metrics": {}}
    page = Page(page_of({**search, "candidates": [], "chosen": None, "test": None}))
    assert page.headings[0] == "No configuration could be chosen"
    assert "4 trials, and none gave a figure." in page.text
    assert "MemoryError failed 4 0, 1, 2, 3 MemoryError: no room" in page.text


ODD = ('<img src=x onerror="alert(1)">', "ünïcödé 日本 ∞", "long " * 30, "", None)


def odd_search():
    search = made_up_search(40)
    for trial in search["trials"]:
        number = trial["number"]
        trial["values"] |= {
            "<script>alert(1)</script>": ODD[number % len(ODD)],
            "many": f"category {number % 37}",
            "list": [[], [256], [512, 256]][number % 3],
            "flag": bool(number % 2),
            "constant": 1.5,
            "strange": math.nan if number == 3 else number / 7,
        }  # fmt: skip
        trial["value"] = {0: math.nan, 1: math.inf, 2: -1e9}.get(number % 11, trial["value"])
    return search


def test_odd_values_are_shown_as_text_and_what_is_not_finite_left_out():
    html = page_of(odd_search())
    page = Page(html)
    assert html.count("<script>") == 1  # the page's own
    assert "<img" not in html
    assert "ünïcödé 日本 ∞" in page.text
    assert "512, 256" in page.text
    assert "The same in all: epochs 27; constant 1.5." in page.text


def test_trials_that_are_all_alike_have_a_page_and_no_importance():
    search = made_up_search(30, faults=False)
    for trial in search["trials"]:
        trial["value"] = 0.5
        for epoch in trial["folds"][0]["history"]:
            epoch["validation"]["accuracy"] = 0.5
    Page(page_of(search))
    assert measure_importance(read(search)) is None


def test_one_parameter_alone_has_slices_and_no_map():
    search = made_up_search(30, faults=False)
    for trial in search["trials"]:
        trial |= {"values": {"learning_rate": trial["values"]["learning_rate"]}, "metrics": {}}
    headings = Page(page_of(search)).headings
    assert "One parameter at a time" in headings
    assert "Two parameters together" not in headings
    assert "Error against learning rate" in headings  # of one network size


def test_a_loss_is_better_where_it_is_smaller():
    search = read(made_up_search(30, metric="loss"))
    values = [trial.value for trial in search.scored]
    assert values == sorted(values)
    axis = ScoreAxis.of(search, 100, 0)
    assert axis(values[0]) > axis(values[-1])
    assert "loss (log)" in axis.title("loss")


def test_accuracies_near_one_lie_apart_and_what_went_astray_stands_at_the_edge():
    search = dataclasses.replace(read(made_up_search(50)))
    axis = ScoreAxis.of(search, 0, 100)
    assert axis(0.98) - axis(0.97) > 5
    assert axis(-1e9) == 0
    assert {"90 %", "95 %"} <= {label for _, label in axis.ticks()}


def with_scores(document, score):
    """A search of which only one parameter makes a difference."""
    for trial in document["trials"]:
        trial |= {"state": "complete", "value": score(trial["values"])}
    return read(document)


def test_importance_of_conditional_parameters_is_that_of_a_forest():
    search = with_scores(made_up_search(60, faults=False), lambda values: -abs(math.log10(values["learning_rate"]) + 2))
    found = measure_importance(search)
    assert found["method"] == "forest"
    assert next(iter(found["shares"])) == "learning_rate"
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert found["explained"] > 0.5
    assert measure_importance(search) == found
    assert "permutation importance" in importance_section(dataclasses.replace(search, importance=found))


def test_importance_of_parameters_that_all_trials_have_is_fanova():
    document = made_up_search(60, faults=False)
    for trial in document["trials"]:
        for name in ("momentum", "hidden.width"):
            trial["values"].pop(name, None)
    search = with_scores(document, lambda values: values["dropout"])
    found = measure_importance(search)
    assert found["method"] == "fanova"
    assert next(iter(found["shares"])) == "dropout"
    assert "fANOVA" in importance_section(dataclasses.replace(search, importance=found))


def test_a_forest_that_knows_nothing_is_not_to_be_relied_on():
    known = {"method": "forest", "trials": 9, "shares": {"dropout": 1.0}, "explained": -0.2}
    assert "Not to be relied on" in importance_section(SearchRecord(importance=known))


def test_the_front_holds_what_no_other_trial_beats():
    objectives = {"accuracy": "max", "parameters": "min"}
    document = made_up_search(40, objectives=objectives)
    search = read(document)
    best = front(search)
    points = {trial.number: (trial.metrics["accuracy"], trial.metrics["parameters"]) for trial in search.scored}
    for trial in search.scored:
        accuracy, parameters = points[trial.number]
        beaten = any(more > accuracy and fewer < parameters for more, fewer in points.values())
        assert not (beaten and trial in best)
    page = Page(page_of(document))
    assert f"{len(best)} of {len(search.scored)} trials on the front" in page.text


def test_the_cost_counts_slots_epochs_and_leaves_a_pause_out():
    def trial(number, where, started):
        job = {"fold": 0, "until": 4, "where": where, "started": started, "stopped": started + 10}
        folds = [{"epoch": 4, "history": []}]
        return {"number": number, "values": {"x": number}, "value": 0.5, "folds": folds, "jobs": [job]}

    # The last two train in one pass, after the driver was away for long.
    trials = [trial(0, "a/1", 100), trial(1, "a/2", 100), trial(2, "a/1", 900), trial(3, "a/1", 900)]
    search = read({"metric": "accuracy", "direction": "max", "epochs": 8, "slots": 2, "trials": trials})
    text = Page("<main>" + efficiency_section(search) + "</main>").text.replace("\N{NO-BREAK SPACE}", " ")
    assert "Time that slots trained 30.0 s of 4 trials: 7.5 s each, on average" in text
    assert "Time from the first to the last 20.0 s 13 min 10 s of pause left out" in text
    assert "Slots at work 75.0 % of the time of 2 slots" in text
    assert "Speed-up over one slot 1.50 at most 2" in text
    assert "Epochs trained 16 … beside all trials to their end 50.0 % of 32 epochs: 4 trials of 8" in text


def test_parameters_are_read_from_the_space_and_from_what_was_tried(large):
    found = {parameter.name: parameter for parameter in parameters_of(read(large))}
    assert (found["learning_rate"].low, found["learning_rate"].high, found["learning_rate"].log) == (1e-4, 1.0, True)
    assert (found["momentum"].low, found["momentum"].high) == (0.5, 0.99)  # of all alternatives
    assert found["hidden.layers"].categories == ("0", "1", "2", "3")
    assert found["batch_size"].categories == ("16", "32", "64", "128")
    assert "epochs" not in found
    assert {each.name for each in parameters_of(read({**large, "space": {}}))} == set(found)


def test_ticks_are_short_round_and_in_order():
    assert [short(x) for x in (0, 0.001, 1e-4, 3e-5, 12_000, 1_500_000, -2.5)] == [
        *("0", "0.001", "10⁻⁴", "3·10⁻⁵", "12k", "1.5M", "-2.5")
    ]
    assert [Axis(1e-4, 1, 0, 100, log=True)(x) for x in (1e-4, 1e-2, 1)] == [0, 50, 100]
    assert [Categories(("a", "b"), 0, 100)(x) for x in "ab"] == [25, 75]


def test_a_runs_report_keeps_the_importance_until_the_trials_are_others(tmp_path, monkeypatch):
    measured = []
    found = {"method": "forest", "trials": 5, "shares": {"dropout": 1.0}, "explained": 0.9}
    monkeypatch.setattr("sparkwright.runs.measure_importance", lambda search: measured.append(search) or found)
    config = {"features": "features", "training": TrainingConfig().to_dict()}
    document = {"command": "train", "config": config, "versions": {}}
    metrics = {"seconds": {"training": 1.0}}
    files = {"config.json": document, "metrics.json": metrics, "trials.json": made_up_search(5)}
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "events.jsonl").touch()
    for _ in range(2):
        write_run_report(str(tmp_path))
    assert len(measured) == 1
    assert "How much each parameter matters" in (tmp_path / "report.html").read_text(encoding="utf-8")
    (tmp_path / "trials.json").write_text(json.dumps(made_up_search(6)))
    write_run_report(str(tmp_path))
    assert len(measured) == 2


def test_chromium_fits_the_search_into_wide_and_narrow_windows(chromium, large_page, tmp_path):  # noqa: F811
    probe = large_page.replace('id="trials"', 'id="classes"')  # whose table the probe sorts
    probe = probe.replace("<button>Trial</button>", "<button>Rows</button>").replace(
        "<button>Rank</button>", "<button>Class</button>"
    )
    for size in ("1200,900", "500,900"):
        seen = browse(chromium, probe, tmp_path, f"--window-size={size}")
        assert seen["width"] <= seen["window"]
        assert [int(number) for number in seen["rows"]] == list(range(199, -1, -1))
