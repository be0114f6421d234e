"""The sections on how good the model is, with photos that it was wrong about, and such as it learnt from."""

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

from sparkwright.evaluation.report.charts import calibration_chart, legend
from sparkwright.evaluation.report.confusion import taken_for
from sparkwright.evaluation.report.markup import (
    Cell,
    Column,
    decimal,
    figure,
    percent,
    section,
    table,
    text,
    whole,
)
from sparkwright.evaluation.report.record import Thumbnail
from sparkwright.events import PhotosAugmented, Stamped

__all__ = ["augmented_section", "calibration_section", "classes_section", "headline_section", "wrong_section"]

Side = Mapping[str, Any]

_TALL = 25  # a table of more rows scrolls in a box


def headline_section(sides: Mapping[str, Side]) -> str:
    """Return the figure that matters most, beside what costs nothing to reach, and all other figures.

    Args:
        sides: `Evaluation.to_dict()` by side; the first is the one in the headline.
    """
    if not sides:
        return ""
    name, side = next(iter(sides.items()))
    headline = {"classification": _accuracy, "multilabel": _labels, "regression": _regression}[side["task"]](name, side)
    return f'<section id="result" aria-label="Result">{headline}{_figures(sides)}</section>'


def _rows_note(name: str, side: Side) -> str:
    kept = {
        "test": "rows that the model never saw",
        "validation": "rows that chose the epoch, so that the figure flatters",
    }.get(name, "rows")
    left_out = [
        f"{side[key]:,} {words}"
        for key, words in (("errors", "could not be read or scored"), ("unlabelled", "had no label"))
        if side.get(key)
    ]
    unknown = side.get("unknown_labels", {}).get("rows", 0)
    if unknown:
        left_out.append(f"{unknown:,} had a label that the model does not know")
    extra = f" Not counted: {', '.join(left_out)}." if left_out else ""
    return f"{side['evaluated']:,} {text(name)} {kept}.{extra}"


def _accuracy(name: str, side: Side) -> str:
    accuracy = side["accuracy"]
    if accuracy is None:
        return f'<p class="note">No row could be evaluated: {_rows_note(name, side)}</p>'
    low, high = side["accuracy_interval"]
    baseline = side["baseline"]
    marks = [
        (baseline["chance"]["accuracy"], "guessing"),
        (baseline["majority"]["accuracy"], f"always “{baseline['majority']['class']}”"),
    ]
    rows = "".join(f'<span class="base" style="--x:{100 * x:.2f}%"></span>' for x, _ in marks if x is not None)
    legend_rows = "".join(f"<li><b>{percent(x)}</b> {text(words)}</li>" for x, words in marks if x is not None)
    spoken = text(
        f"Accuracy {percent(accuracy)}, interval {percent(low)} to {percent(high)}; "
        + "; ".join(f"{words} {percent(x)}" for x, words in marks)
    )
    return (
        f'<div class="headline"><div class="big"><p class="value">{percent(accuracy)}</p>'
        f'<p class="name">{text(name)} accuracy</p>'
        f'<p class="range">95 % interval {percent(low)} to {percent(high)}</p></div>'
        f'<div class="ruler-box"><div class="ruler" role="img" aria-label="{spoken}">'
        f'<span class="fill" style="--x:{100 * accuracy:.2f}%"></span>'
        f'<span class="interval" style="--x:{100 * low:.2f}%;--to:{100 * high:.2f}%"></span>{rows}</div>'
        f'<div class="scale" aria-hidden="true"><span>0 %</span><span>50 %</span><span>100 %</span></div>'
        f'<ul class="baselines"><li class="what">Without a model:</li>{legend_rows}</ul>'
        f'<p class="note">{_rows_note(name, side)}</p></div></div>'
    )


def _labels(name: str, side: Side) -> str:
    """Return the headline where a row has any number of labels."""
    figures, none = side["micro"], side["baseline"]["none"]["hamming_loss"]
    return (
        f'<div class="headline"><div class="big"><p class="value">{percent(figures["f1"])}</p>'
        f'<p class="name">{text(name)} F1 of all decisions</p>'
        f'<p class="range">precision {percent(figures["precision"])}, recall {percent(figures["recall"])}</p></div>'
        f'<div class="ruler-box"><ul class="baselines plain"><li class="what">Wrong decisions:</li>'
        f"<li><b>{percent(side['hamming_loss'], 2)}</b> with the model</li>"
        f"<li><b>{percent(none, 2)}</b> without any label</li></ul>"
        f'<p class="note">{_rows_note(name, side)}</p></div></div>'
    )


def _regression(name: str, side: Side) -> str:
    guess = side["baseline"]["mean"]["rmse"]
    return (
        f'<div class="headline"><div class="big"><p class="value">{decimal(side["rmse"])}</p>'
        f'<p class="name">{text(name)} root mean squared error</p></div>'
        f'<div class="ruler-box"><ul class="baselines plain"><li class="what">Without a model:</li>'
        f"<li><b>{decimal(guess)}</b> always the mean of the training rows</li></ul>"
        f'<p class="note">{_rows_note(name, side)}</p></div></div>'
    )


def _figures(sides: Mapping[str, Side]) -> str:
    """Return all figures of all sides as a list of tiles, the first side's large."""
    first = next(iter(sides.values()))
    entries: list[tuple[str, Callable[[Side], str], str]]
    if first["task"] == "regression":
        entries = [
            ("R²", lambda s: decimal(s["r2"]), "1 is perfect, 0 as good as the mean"),
            ("Mean absolute error", lambda s: decimal(s["mae"]), ""),
            ("Root mean squared error", lambda s: decimal(s["rmse"]), ""),
            ("Bias", lambda s: decimal(s["bias"]), "mean of prediction - label"),
        ]
    elif first["task"] == "multilabel":
        entries = [
            ("All labels right", lambda s: percent(s["subset_accuracy"]), "share of rows whose labels are all right"),
            ("Wrong decisions", lambda s: percent(s["hamming_loss"], 2), "of all: does a row have a label?"),
            ("Micro F1", lambda s: decimal(s["micro"]["f1"]), "F1 of all decisions together"),
            ("Macro F1", lambda s: decimal(s["macro"]["f1"]), "mean F1 of the labels"),
            ("Log loss", lambda s: decimal(s["log_loss"]), "mean of -ln(probability of what is the case)"),
            ("ROC area", lambda s: decimal(s["roc_area"]), "mean of the labels; chance: 0.5"),
            ("PR area", lambda s: decimal(s["pr_area"]), "mean average precision of the labels"),
            ("Labels a row", lambda s: decimal(s["labels_per_row"]["predicted"]), "as predicted"),
        ]
    else:
        k = first["top_k"]
        entries = [
            ("Accuracy", lambda s: percent(s["accuracy"]), "share of rows given their own class"),
            ("Balanced accuracy", lambda s: percent(s["balanced_accuracy"]), "mean recall of the classes"),
            (f"Top {k}", lambda s: percent(s["top_k_accuracy"]), f"own class among the {k} most probable"),
            ("Macro F1", lambda s: decimal(s["macro"]["f1"]), "mean F1 of the classes"),
            ("Log loss", lambda s: decimal(s["log_loss"]), "mean of -ln(probability of the own class)"),
            ("Calibration error", lambda s: percent(s["calibration_error"]), "mean gap of confidence and accuracy"),
            ("Matthews", lambda s: decimal(s["mcc"]), "correlation of labels and predictions"),
            ("ROC area", lambda s: decimal(s["roc_area"]), "chance: 0.5"),
            ("PR area", lambda s: decimal(s["pr_area"]), "average precision"),
        ]
        if len(first["classes"]) <= k:
            entries = [entry for entry in entries if not entry[0].startswith("Top")]
    tiles = []
    for name, show, hint in entries:
        others = "".join(f"<span>{text(side)} {show(s)}</span>" for side, s in list(sides.items())[1:])
        tiles.append(
            f'<div class="tile" title="{text(hint)}"><dt>{text(name)}</dt><dd>{show(first)}{others}</dd></div>'
        )
    return f'<dl class="tiles">{"".join(tiles)}</dl>'


def classes_section(side: Side) -> str:
    """Return the table of all classes, the worst first."""
    confused = "confusion" in side  # where a row has one class
    kind = "class" if confused else "label"
    mistaken = taken_for(side["classes"], side["confusion"]) if confused else {}
    rows = []
    for row in sorted(side["per_class"], key=lambda row: (row["f1"], row["class"])):
        other, times = mistaken.get(row["class"], ("", 0))
        areas = [Cell(decimal(row[key]), row[key] if row[key] is not None else -1) for key in ("roc_area", "pr_area")]
        rows.append(
            [
                row["class"],
                Cell(whole(row["rows"]), row["rows"]),
                *(Cell(percent(row[key]), row[key], bar=row[key]) for key in ("precision", "recall", "f1")),
                *areas,
                *([Cell(f"{other} ({times:,})" if other else "", -times)] if confused else []),
            ]
        )
    columns = [
        Column(kind.capitalize(), numeric=False),
        Column("Rows"),
        Column("Precision", hint=f"of the rows given this {kind}, how many have it"),
        Column("Recall", hint=f"of the rows that have this {kind}, how many were given it"),
        Column("F1", hint="harmonic mean of precision and recall"),
        Column("ROC area", hint=f"this {kind} against the rest"),
        Column("PR area", hint=f"this {kind} against the rest: average precision"),
        *([Column("Most often taken for", numeric=False, hint="with the number of rows")] if confused else []),
    ]
    bound = side.get("roc_area_bound")
    areas_note = f" The areas are exact to ± {bound:.1g} on average." if bound is not None and bound >= 5e-4 else ""
    return section(
        "classes",
        "Classes" if confused else "Labels",
        table(columns, rows, caption=f"Figures of each {kind}", sorted_by=4, tall=len(rows) > _TALL),
        note=f"The worst first; a click on a heading sorts.{areas_note}",
    )


def calibration_section(side: Side) -> str:
    """Return how far confidence can be trusted."""
    calibration = side["calibration"]
    total = sum(calibration["rows"])
    if not total:
        return ""
    pairs = list(zip(calibration["rows"], calibration["confidence"], strict=True))
    confidence = sum(n * c for n, c in pairs if c is not None) / total
    gap = confidence - side["accuracy"]
    verdict = (
        "about as sure as it is right"
        if abs(gap) < 0.01
        else f"{'surer' if gap > 0 else 'less sure'} than it is right, by {100 * abs(gap):.1f} percentage points"
    )
    picture = calibration_chart(calibration["rows"], calibration["confidence"], calibration["accuracy"])
    caption = legend(
        [
            ("bar", "accuracy"),
            ("bar few", "of fewer than 10 rows"),
            ("validation dot", "mean confidence"),
            ("rows", "rows"),
        ]
    )
    numbers = table(
        [Column("Confidence up to"), Column("Rows"), Column("Mean confidence"), Column("Accuracy")],
        [
            [percent((i + 1) / len(pairs)), whole(rows), percent(mean), percent(calibration["accuracy"][i])]
            for i, (rows, mean) in enumerate(pairs)
            if rows
        ],
        caption="Calibration by bin",
    )
    note = (
        f"The model is {verdict}: mean confidence {percent(confidence)}, accuracy {percent(side['accuracy'])}, "
        f"calibration error {percent(side['calibration_error'])}. Where it can be trusted, bars reach the diagonal."
    )
    return section(
        "calibration", "Calibration", f'<div class="beside">{figure(picture, caption)}{numbers}</div>', note=note
    )


def wrong_section(thumbnails: Sequence[Thumbnail]) -> str:
    """Return the photos that the model was sure of, and wrong about."""
    photos = []
    for each in thumbnails:
        where = unquote(each.path) if "://" in each.path or each.path.startswith("file:") else each.path
        short = PurePosixPath(where).name
        picture = (
            f'<img loading="lazy" src="data:image/jpeg;base64,{base64.b64encode(each.jpeg).decode()}" '
            f'alt="{text(f"Photo of class {each.label}")}">'
            if each.jpeg
            else '<span class="missing">no picture</span>'
        )
        photos.append(
            f'<li><div class="photo">{picture}</div><p class="said"><b>{text(each.predicted)}</b> '
            f'<span>{percent(each.probability)}</span></p><p class="true">is {text(each.label)}</p>'
            f'<p class="path" title="{text(where)}">{text(short)}</p></li>'
        )
    grid = f'<ul class="photos">{"".join(photos)}</ul>' if photos else ""
    note = "What the model said, how sure it was, and what the label says. Wrong labels are found here too."
    return section("wrong", "Most confidently wrong", grid, note=note)


def augmented_section(events: Sequence[Stamped]) -> str:
    """Return photos as the network saw them in training, if they were augmented."""
    sheets = [stamped.event.sheet for stamped in events if isinstance(stamped.event, PhotosAugmented)]
    if not sheets:
        return ""
    source = f"data:image/jpeg;base64,{text(sheets[-1])}"
    picture = f'<img loading="lazy" class="sheet" src="{source}" alt="Augmented training photos">'
    note = (
        "Training photos as an epoch may show them to the network. If you can no longer tell what they are, "
        "augmentation is too strong; if they all look alike, it could be stronger."
    )
    return section("augmented", "Augmented photos", picture, note=note)
