"""What is taken for what: the confusion matrix as a table or a picture, and the pairs confused most."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sparkwright.evaluation.report.markup import Cell, Column, figure, percent, section, table, text, whole

__all__ = ["confusion_section", "taken_for"]

_TABLE_CLASSES = 30  # more than these do not fit a page as a table
_FEW_CLASSES = 5  # so few have wide cells
_BESIDE_CLASSES = 12  # and of these the table leaves room for another one
_PICTURE_PIXELS = 250  # more classes share pixels, because smaller ones cannot be seen
_PAIRS = 15
_RIGHT, _WRONG = (58, 123, 240), (235, 110, 30)  # seen on white as on black


def confusion_section(side: Mapping[str, Any]) -> str:
    """Return the section for an `Evaluation.to_dict()` of a classification."""
    names, confusion = side["classes"], side["confusion"]
    if not confusion["rows"]:
        return ""
    matrix = np.zeros((len(names), len(names)), np.int64)
    matrix[confusion["true"], confusion["predicted"]] = confusion["rows"]
    small = len(names) <= _TABLE_CLASSES
    picture = _heat_table(names, matrix) if small else _heat_map(names, matrix)
    caption = (
        "Each row is a true class, each column what the model said. "
        '<span class="legend"><span class="key right"><i></i>right</span>'
        '<span class="key wrong"><i></i>wrong</span></span> '
        "&ensp;The stronger the colour, the larger the share of the row."
    )
    pairs = _pairs_table(names, matrix) if len(names) > 2 else ""
    fits = not small or len(names) <= _BESIDE_CLASSES
    layout = "wide-left" if pairs and fits else "stacked"
    return section("confusion", "Confusion", f'<div class="{layout}">{figure(picture, caption)}{pairs}</div>')


def taken_for(names: Sequence[str], confusion: Mapping[str, Sequence[int]]) -> dict[str, tuple[str, int]]:
    """Return for each class the wrong one that its rows were given most often, and how many rows."""
    found: dict[str, tuple[str, int]] = {}
    for true, predicted, rows in zip(confusion["true"], confusion["predicted"], confusion["rows"], strict=True):
        if true != predicted and rows > found.get(names[true], ("", 0))[1]:
            found[names[true]] = (names[predicted], rows)
    return found


def _shares(matrix: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    shares: npt.NDArray[np.float64] = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    return shares


def _heat_table(names: Sequence[str], matrix: npt.NDArray[np.int64]) -> str:
    shares = _shares(matrix)
    head = "".join(f'<th scope="col"><span>{text(name)}</span></th>' for name in names)
    rows = []
    for true, name in enumerate(names):
        cells = []
        for predicted, other in enumerate(names):
            count, share = int(matrix[true, predicted]), shares[true, predicted]
            if not count:
                cells.append("<td></td>")
                continue
            # The root lets a single mistake among many rows be seen.
            strength = round(100 * share**0.5)
            kind = ("right" if true == predicted else "wrong") + (" strong" if strength > 60 else "")
            hint = f"{name} → {other}: {count:,} ({100 * share:.1f} %)"
            cells.append(f'<td class="{kind}" style="--s:{strength}%" title="{text(hint)}">{count}</td>')
        rows.append(f'<tr><th scope="row">{text(name)}</th>{"".join(cells)}</tr>')
    size = " few" if len(names) <= _FEW_CLASSES else " many"
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Confusion matrix"><table class="heat{size}">'
        f"<caption>Rows of each true class by predicted class</caption>"
        f'<thead><tr><td class="corner"><span>true ↓ predicted →</span></td>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _heat_map(names: Sequence[str], matrix: npt.NDArray[np.int64]) -> str:
    """Return the matrix as a picture of one pixel a pair (or a block of classes), scaled up without smoothing."""
    shares = _shares(matrix)
    block = -(-len(names) // _PICTURE_PIXELS)
    size = -(-len(names) // block)
    right, wrong = np.diag(np.diag(shares)), shares * (1 - np.eye(len(names)))
    pixels = np.zeros((size, size, 4), np.uint8)
    for part, colour in ((wrong, _WRONG), (right, _RIGHT)):
        strength = _block_maximum(part, block, size) ** 0.5
        seen = strength > 0
        pixels[seen, :3] = colour
        pixels[seen, 3] = (255 * (0.45 + 0.55 * strength[seen])).astype(np.uint8)
    png = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(png, "PNG", optimize=True)
    url = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
    every = -(-len(names) // 25)
    left, top, side = 150, 130, 600
    ticks = []
    for place in range(0, len(names), every):
        at = round((place + 0.5) / len(names) * side, 1)
        name = text(names[place] if len(names[place]) <= 19 else names[place][:18] + "…")
        ticks.append(f'<text x="{left - 6}" y="{top + at + 3.5}" text-anchor="end">{name}</text>')
        ticks.append(f'<text transform="translate({left + at + 3},{top - 6}) rotate(-60)">{name}</text>')
    accuracy = np.trace(matrix) / max(matrix.sum(), 1)
    summary = f"Confusion matrix of {len(names)} classes, {percent(float(accuracy))} of the rows on its diagonal"
    # Rows and columns of the array are true and predicted classes, as in the table.
    return (
        f'<svg class="map" viewBox="0 0 {left + side + 70} {top + side + 4}" role="img" aria-label="{text(summary)}">'
        f'<rect class="frame" x="{left}" y="{top}" width="{side}" height="{side}"/>'
        f'<image href="{url}" x="{left}" y="{top}" width="{side}" height="{side}" preserveAspectRatio="none"/>'
        f"{''.join(ticks)}</svg>"
    )


def _block_maximum(matrix: npt.NDArray[np.float64], block: int, size: int) -> npt.NDArray[np.float64]:
    if block == 1:
        return matrix
    padded = np.zeros((size * block, size * block))
    padded[: len(matrix), : len(matrix)] = matrix
    largest: npt.NDArray[np.float64] = padded.reshape(size, block, size, block).max((1, 3))
    return largest


def _pairs_table(names: Sequence[str], matrix: npt.NDArray[np.int64]) -> str:
    wrong, shares = matrix - np.diag(np.diag(matrix)), _shares(matrix)
    true, predicted = np.nonzero(wrong)
    order = np.lexsort((-shares[true, predicted], -wrong[true, predicted]))[:_PAIRS]
    if not len(order):
        return '<p class="note">No row was given a wrong class.</p>'
    rows = [
        [
            names[true[i]],
            names[predicted[i]],
            Cell(whole(int(wrong[true[i], predicted[i]]))),
            Cell(percent(float(shares[true[i], predicted[i]])), bar=float(shares[true[i], predicted[i]])),
        ]
        for i in order
    ]
    columns = [
        Column("True class", numeric=False),
        Column("Taken for", numeric=False),
        Column("Rows"),
        Column("Share", hint="of the true class"),
    ]
    mistakes = int(wrong.sum())
    listed = int(wrong[true[order], predicted[order]].sum())
    caption = f"Pairs confused most: {listed:,} of {mistakes:,} mistakes"
    return table(columns, rows, caption=caption)
