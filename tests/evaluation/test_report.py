"""The report: what stands in it, and how a browser shows it."""

import base64
import dataclasses
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from sparkwright.evaluation.metrics import ClassificationState
from sparkwright.evaluation.report import RunRecord, Thumbnail, make_thumbnail, write_report
from sparkwright.events import (
    EpochEnded,
    LayersMeasured,
    PhotosAugmented,
    RunEnded,
    RunStarted,
    Stamped,
    SyncIntervalChosen,
    Warned,
)

VOID = {"meta", "img"}


class Page(HTMLParser):
    """A page's texts, headings and attributes; an element closed by the wrong tag is an error."""

    def __init__(self, markup):
        super().__init__()
        self.open, self.texts, self.headings, self.links, self.tags = [], [], [], [], []
        self.feed(markup)
        assert self.open == []
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)
            if self.open[-1] == "h2":
                self.headings.append(data)


@pytest.fixture(scope="module")
def pages(record_of):
    """Reports of several numbers of classes."""
    return {count: write_report(record_of(count)) for count in (2, 5, 21, 100, 1000)}


@pytest.mark.parametrize("count", [2, 5, 21, 100, 1000])
def test_report_is_one_sound_small_page_that_loads_nothing(pages, count):
    page = Page(pages[count])
    assert len(pages[count].encode()) < 5e6
    assert all(link.startswith("data:image/") for link in page.links)
    assert "link" not in page.tags
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp", pages[count])
    assert page.headings == [
        "Learning",
        "Confusion",
        "Classes",
        "Calibration",
        "Most confidently wrong",
        "Data",
        "The run",
    ]


def test_headline_has_accuracy_interval_and_baselines(pages, record_of):
    test = record_of(21).metrics["test"]
    text = Page(pages[21]).text
    low, high = test["accuracy_interval"]
    assert f"{100 * test['accuracy']:.1f} % test accuracy 95 % interval {100 * low:.1f} % to {100 * high:.1f} %" in text
    assert "4.8 % guessing" in text
    assert f"always “{test['baseline']['majority']['class']}”" in text
    assert "1,100 test rows that the model never saw. Not counted: 2 could not be read or scored." in text


def test_learning_curves_show_every_replica_the_best_epoch_and_the_retraining(pages):
    page = pages[21]
    assert page.count('class="line replica"') == 4
    assert page.count('class="line refit"') == 1
    assert page.count('class="line validation"') == 2  # loss and accuracy
    assert "best: 26" in page
    assert re.search(
        r"on 4 replicas\. Epoch 26 is the best on the validation rows: loss 0\.\d+, accuracy [\d.]+ %\. Then it",
        Page(page).text.replace("\N{NO-BREAK SPACE}", " "),
    )


def test_a_metric_of_the_training_rows_is_drawn_beside_that_of_the_validation_rows(monkeypatch):
    # What an event with training metrics gives.
    plain = EpochEnded.to_dict
    monkeypatch.setattr(EpochEnded, "to_dict", lambda event: {**plain(event), "training": {"accuracy": 0.9}})
    epochs = [EpochEnded(i, 2, 0.5, [0.5], {"accuracy": 0.8}) for i in (1, 2)]
    page = write_report(RunRecord("t", events=[Stamped(epoch, "", 0.0) for epoch in epochs]))
    assert page.count('class="line train"') == 2


def test_learning_of_one_epoch_with_a_loss_that_is_not_finite_is_drawn():
    for loss in (float("nan"), 0.0, 1e9):
        epoch = EpochEnded(1, 1, loss, [loss], {"loss": 0.5})
        assert "Learning" in Page(write_report(RunRecord("t", events=[Stamped(epoch, "", 0.0)]))).headings


def test_what_replicas_sent_and_how_often_they_combined_is_told():
    chosen = SyncIntervalChosen(19, 0.001, 0.0015, 0.05, 0.05)
    epoch = EpochEnded(1, 1, 0.5, [0.5], {"loss": 0.5}, sent_bytes=3 << 20, saved_bytes=9 << 20)
    page = Page(write_report(RunRecord("t", events=[Stamped(event, "", 0.0) for event in (chosen, epoch)]))).text
    assert "every 19 steps: a step was measured to take 1.0 ms, a sync 1.5 ms, and syncs were to take 5.0 %" in page
    assert "Sent Saved by compression" in page
    assert "3.0 MiB 9.0 MiB" in page


def test_layers_have_a_table_and_a_line_each_and_steps_told_again_count_once():
    def look(step, ratio):
        layers = [
            {"name": "conv1", "update_ratio": ratio, "gradient_norm": 0.5, "dead": 0.25, "spread": 1.5},
            {"name": "<fc>", "update_ratio": ratio / 2, "gradient_norm": 0.25, "dead": None, "spread": None},
        ]
        return Stamped(LayersMeasured("selection", 1, step, layers), "", 0.0)

    refit = Stamped(dataclasses.replace(look(300, 9.0).event, phase="refit"), "", 0.0)
    page = write_report(RunRecord("t", events=[look(200, 9.0), look(400, 0.002), look(200, 0.004), refit]))
    assert page.count('class="line replica"') == 2
    assert page.count('class="line train"') == 1
    shown = Page(page)
    assert "Layers" in shown.headings
    assert "One replica was looked at 2 times." in shown.text
    assert "conv1 0.003 0.5 0.5 1.5 25.0 %" in shown.text
    assert "<fc> 0.0015 0.25 0.25" in shown.text


def test_a_refit_that_counts_its_steps_anew_hides_no_look_of_the_selection():
    layers = [{"name": "fc", "update_ratio": 0.1, "gradient_norm": 1.0, "dead": None, "spread": None}]
    looks = [("selection", 200), ("selection", 400), ("refit", 200)]
    events = [Stamped(LayersMeasured(phase, 1, step, layers), "", 0.0) for phase, step in looks]
    page = Page(write_report(RunRecord("t", events=events))).text
    assert "One replica was looked at 2 times." in page
    assert "Dead" not in page.partition("Update ratio")[2]  # nothing is known of it


def test_metrics_of_several_outputs_have_the_names_of_the_outputs_as_they_are():
    epoch = EpochEnded(1, 1, 0.5, [0.5], {"loss": 0.5, "my_kind.macro_f1": 0.5, "height.r2": 0.25}, best=True)
    page = Page(write_report(RunRecord("t", events=[Stamped(epoch, "", 0.0)]))).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "Epoch 1 is the best on the validation rows: loss 0.500, my_kind: macro F1 50.0 %, height: R² 0.250." in page


def test_layers_that_begin_to_train_later_are_among_those_shown():
    first = LayersMeasured("selection", 1, 200, [{"name": "fc", "update_ratio": 0.1, "gradient_norm": 1.0}])
    layers = [{"name": name, "update_ratio": 0.3, "gradient_norm": 2.0} for name in ("conv", "fc")]
    events = [Stamped(event, "", 0.0) for event in (first, LayersMeasured("selection", 2, 400, layers))]
    page = Page(write_report(RunRecord("t", events=events))).text
    assert "conv 0.3 2 2" in page
    assert "fc 0.2 1 2" in page


def test_warnings_about_layers_stand_with_the_layers_and_others_with_the_run():
    look = LayersMeasured("selection", 1, 200, [{"name": "fc", "update_ratio": 0.1, "gradient_norm": 1.0}])
    events = [look, Warned("dead <units>", about="layers"), Warned("a photo is broken"), Warned("a photo is broken")]
    page = write_report(RunRecord("t", config={"seed": 1}, events=[Stamped(event, "", 0.0) for event in events]))
    layers, _, run = page.partition('<section id="run">')
    assert layers.count("dead &lt;units&gt;") == 1
    assert "a photo is broken" not in layers
    assert "dead" not in run
    assert run.count("a photo is broken") == 1


def test_confusion_is_a_table_for_few_classes_and_a_picture_for_many(pages):
    for count, is_table in {2: True, 21: True, 100: False, 1000: False}.items():
        assert ('class="heat' in pages[count]) is is_table
        assert ("data:image/png" in pages[count]) is not is_table
    assert "Pairs confused most" not in pages[2]
    for count in (21, 100, 1000):
        assert "Pairs confused most" in pages[count]


def test_the_confusion_picture_has_true_classes_as_rows():
    side = side_with_one_mistake(40, true=3, predicted=30)
    page = write_report(RunRecord("t", metrics={"test": side}))
    png = re.search(r"data:image/png;base64,([^\"]*)", page)[1]
    picture = Image.open(io.BytesIO(base64.b64decode(png)))
    assert picture.size == (40, 40)
    assert picture.getpixel((30, 3))[3] > 0  # x: predicted, y: true
    assert picture.getpixel((3, 30))[3] == 0
    assert "class_03 class_30 1 100.0 %" in Page(page).text


def side_with_one_mistake(count, true, predicted):
    names = [f"class_{i:02d}" for i in range(count)]
    probabilities = np.full((count, count), 0.5 / (count - 1))
    place = np.arange(count)
    place[true] = predicted
    probabilities[np.arange(count), place] = 0.5
    state = ClassificationState(count)
    state.update(probabilities, np.arange(count))
    return {"task": "classification", "evaluated": count, "classes": names, **state.result(names)}


def test_every_class_has_its_row_the_worst_first(pages, record_of):
    test = record_of(100).metrics["test"]
    table = pages[100].split('<section id="classes">')[1].split("</section>")[0]
    listed = re.findall(r'<tr><th scope="row">([^<]*)</th>', table)
    expected = sorted(test["per_class"], key=lambda row: (row["f1"], row["class"]))
    assert listed == [row["class"] for row in expected]


def test_data_errors_duplicates_and_files_left_out_are_listed(pages):
    text = Page(pages[2]).text
    for part in (
        "Failed rows: 2 (1 unreadable, 1 too large).",
        "image file is truncated",
        "Copies of another row: 3, on different sides of the split: 1 , so that the figures flatter.",
        "photos/a/1.jpg = photos/b/9.jpg",
        "Files that match no label rule, left out: 1.",
        "Files that are no photos, ignored: 4.",
        "Class `laptop` has one photo",
    ):
        assert part in text


def test_the_run_has_its_command_configuration_versions_and_seconds(pages):
    text = Page(pages[2]).text
    for part in (
        "sparkwright transfer hdfs://cluster/photos --network mobilenet_v1_0.75_224 --out run",
        "training.learning_rate 0.01",
        "torch 2.9.0",
        "features 48.2 s 3,100 64.3/s",
        "all 1 min 02 s",
    ):
        assert part in text


def test_where_a_photos_time_went_is_summed_over_the_last_attempt_of_each_task(pages):
    text = Page(pages[2]).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "Where a photo's time goes Step A photo Share read 0.26 ms 1.7 % decode 2.65 ms 17.7 %" in text
    assert "resize 0.84 ms 5.6 % forward 11.10 ms 74.1 % write 0.13 ms 0.9 %" in text


def test_photos_show_what_was_said_and_what_is_true(pages):
    page = pages[2]
    assert page.count("data:image/jpeg") == 12
    assert "malignant 99.9 % is benign image 0000.jpg" in Page(page).text


def test_names_from_outside_are_text_never_markup(record_of):
    evil = '<script>alert("x")</script>'
    record = record_of(3)
    test = json.loads(json.dumps(record.metrics["test"]).replace('"benign"', json.dumps(evil)))
    record = dataclasses.replace(
        record,
        title=evil,
        command=evil,
        config={evil: evil},
        versions={evil: evil},
        metrics={**record.metrics, "test": test},
        thumbnails=[Thumbnail(evil, evil, evil, 0.9)],
    )
    page = write_report(record)
    assert page.count("<script>") == 1  # the page's own
    assert "alert(&quot;x&quot;)" in page
    Page(page)


def test_a_run_that_failed_early_says_why(failed_record):
    page = Page(write_report(failed_record))
    assert "The run failed: ErrorRateError: 60 % of the rows <failed>" in page.text


def test_what_a_worker_said_of_its_failure_keeps_its_lines():
    ended = RunEnded(ok=False, message="WorkerError: Rank 0 failed\n  line <1>\n  line 2")
    page = write_report(RunRecord("t", events=[Stamped(ended, "", 0.0)]))
    assert "The run failed: WorkerError: Rank 0 failed" in Page(page).text
    assert "  line &lt;1&gt;\n  line 2</pre>" in page


def test_a_run_that_has_not_ended_says_so_until_there_are_metrics():
    events = [Stamped(RunStarted("fit"), "", 0.0), Stamped(EpochEnded(1, 9, 1.0, [1.0]), "", 0.0)]
    assert "The run has not ended" in Page(write_report(RunRecord("t", events=events))).text
    assert "not ended" not in write_report(RunRecord("t", events=events, metrics={"seconds": {"selection": 1.0}}))


def test_a_run_that_was_resumed_shows_its_last_attempt():
    first = [
        RunStarted("transfer"),
        *(EpochEnded(i, 9, 1.0, [1.0]) for i in (1, 2, 3)),
        RunEnded(ok=False, message="no"),
    ]
    second = [RunStarted("transfer"), *(EpochEnded(i, 9, 0.5, [0.5]) for i in (3, 4)), RunEnded(ok=True)]
    events = [Stamped(event, "", 0.0) for event in first + second]
    page = Page(write_report(RunRecord("t", events=events)))
    assert "The run failed" not in page.text
    assert "4 epochs of" in page.text


def test_a_side_that_was_not_evaluated_is_left_out(record_of):
    record = record_of(2)
    metrics = {**record.metrics, "validation": {"loss": 0.3, "accuracy": 0.9, "rows": 12}}
    assert "validation 9" not in Page(write_report(dataclasses.replace(record, metrics=metrics))).text


def test_the_time_is_written_for_people():
    assert "2026-01-02 03:04 UTC" in write_report(RunRecord("t", created="2026-01-02T03:04:05.678+00:00"))
    assert "yesterday" in write_report(RunRecord("t", created="yesterday"))


def test_a_regression_has_its_own_figures(regression_record):
    page = Page(write_report(regression_record))
    assert "test root mean squared error" in page.text
    assert "always the mean of the training rows" in page.text
    assert "R²" in page.text
    assert "Confusion" not in page.headings


def test_sides_without_evaluated_rows_and_empty_runs_have_a_page_too():
    state = ClassificationState(2)
    state.update(np.zeros((0, 2)), np.zeros(0, int))
    side = {"task": "classification", "evaluated": 0, "errors": 3, "classes": ["a", "b"], **state.result(["a", "b"])}
    page = Page(write_report(RunRecord("empty", metrics={"test": side})))
    assert "No row could be evaluated" in page.text
    Page(write_report(RunRecord("nothing")))


def test_thumbnail_is_a_small_jpeg_and_empty_for_what_is_no_photo():
    out = io.BytesIO()
    Image.new("CMYK", (800, 400)).save(out, "JPEG")
    small = Image.open(io.BytesIO(make_thumbnail(out.getvalue())))
    assert (small.format, small.mode, small.size) == ("JPEG", "RGB", (160, 80))
    assert make_thumbnail(b"no photo") == b""
    assert make_thumbnail(out.getvalue()[:100]) == b""


def test_thumbnail_travels_through_json():
    thumbnail = Thumbnail("a.jpg", "cat", "dog", 0.9, b"\xff\xd8\x00")
    assert Thumbnail.from_dict(json.loads(json.dumps(thumbnail.to_dict()))) == thumbnail


def test_augmented_photos_stand_in_the_report():
    out = io.BytesIO()
    Image.new("RGB", (60, 40)).save(out, "JPEG")
    sheet = PhotosAugmented(base64.b64encode(out.getvalue()).decode())
    page = Page(write_report(RunRecord("t", events=[Stamped(sheet, "", 0.0)])))
    assert page.headings[0] == "Augmented photos"
    assert page.links == [f"data:image/jpeg;base64,{sheet.sheet}"]


@pytest.fixture(scope="module")
def chromium():
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium is installed")
    return found


# What the browser makes of the page, written into its title.
PROBE = """<script>
const buttons = [...document.querySelectorAll("#classes thead button")];
const click = (name) => buttons.find((button) => button.textContent === name).click();
const column = (i) => [...document.querySelectorAll("#classes tbody tr")].map((row) => row.cells[i].textContent);
click("Rows"); const rows = column(1); click("Class"); const classes = column(0);
document.title = JSON.stringify({
  rows, classes, width: document.documentElement.scrollWidth, window: innerWidth,
  ground: getComputedStyle(document.body).backgroundColor,
  broken: [...document.images].filter((i) => !i.complete || !i.naturalWidth).length,
});
</script>"""


def browse(chromium, page, folder, *flags):
    path = folder / "page.html"
    path.write_text(page.replace("</body>", PROBE + "</body>").replace('loading="lazy"', ""), encoding="utf-8")
    command = [
        *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--user-data-dir={folder / 'profile'}", *flags, "--virtual-time-budget=2000", "--dump-dom", path.as_uri()),
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    title = re.search(r"<title>(.*?)</title>", run.stdout, re.DOTALL)[1]
    return json.loads(title.replace("&amp;", "&"))


@pytest.mark.parametrize("count", [2, 100])
def test_chromium_sorts_the_table_shows_the_photos_and_fits_the_window(chromium, pages, tmp_path, count):
    seen = browse(chromium, pages[count], tmp_path, "--window-size=1200,900")
    rows = [int(n) for n in seen["rows"]]
    assert rows == sorted(rows, reverse=True)
    assert len(seen["classes"]) == count
    assert seen["classes"][0] == min(seen["classes"])
    assert seen["broken"] == 0
    assert seen["width"] <= seen["window"]
    assert seen["ground"] == "rgb(251, 251, 252)"


def test_chromium_shows_the_page_dark_and_on_a_narrow_screen(chromium, pages, tmp_path):
    flags = ("--window-size=500,900", "--blink-settings=preferredColorScheme=0")
    seen = browse(chromium, pages[21], tmp_path, *flags)
    assert seen["ground"] == "rgb(15, 20, 26)"
    assert seen["width"] <= seen["window"]
