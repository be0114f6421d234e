"""Pieces of HTML: figures as text, tables, sections. Every text that is not markup passes `text`."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sparkwright.events import Stamped, Warned

__all__ = [
    "NONE",
    "SHARES",
    "Cell",
    "Column",
    "counted",
    "decimal",
    "figure",
    "findings",
    "metric_name",
    "percent",
    "seconds",
    "section",
    "table",
    "text",
    "whole",
]

SHARES = ("accuracy", "precision", "recall", "f1")
"""Metrics whose names end so are shown as percentages."""

_NAMES = {"f1": "F1", "rmse": "RMSE", "mae": "MAE", "r2": "R²"}

NONE = "–"  # noqa: RUF001
"""Stands for a figure that is not defined."""


def text(value: object) -> str:
    """Escape a text for HTML, attributes too."""
    return html.escape(str(value))


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share as a percentage."""
    return NONE if share is None else f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def decimal(value: float | None, digits: int = 3) -> str:
    """Write a number with a fixed number of decimals; very large or small ones with as many significant digits."""
    if value is None:
        return NONE
    if value and not 10**-digits <= abs(value) < 1e5:
        return f"{value:.{digits}g}"
    return f"{value:.{digits}f}"


def whole(value: int | None) -> str:
    """Write a count."""
    return NONE if value is None else f"{value:,}"


def metric_name(metric: str) -> str:
    """Write the name of a metric in words: ``macro_f1`` as "macro F1", ``kind.rmse`` of an output as "kind: RMSE"."""
    output, _, name = metric.rpartition(".")
    words = " ".join(_NAMES.get(word, word) for word in name.split("_"))
    return f"{output}: {words}" if output else words


def counted(count: int, noun: str) -> str:
    """Write a count with its noun."""
    return f"{count:,} {noun}{'s' if count != 1 else ''}"


def seconds(value: float) -> str:
    """Write a duration."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def section(name: str, title: str, *parts: str, note: str = "") -> str:
    """Return a section with a heading, or nothing if it has no content; `note` is markup."""
    content = "".join(parts)
    if not content:
        return ""
    intro = f'<p class="note">{note}</p>' if note else ""
    return f'<section id="{name}"><h2>{text(title)}</h2>{intro}{content}</section>'


def figure(picture: str, caption: str, details: str = "") -> str:
    """Return a picture with its caption (markup) and, folded away, its numbers."""
    folded = f"<details><summary>The numbers</summary>{details}</details>" if details else ""
    return f"<figure><figcaption>{caption}</figcaption>{picture}{folded}</figure>"


def findings(events: Iterable[Stamped], about: str = "") -> str:
    """Return the warnings that stand in a section, each once, or nothing if there are none."""
    warnings = [stamped.event for stamped in events if isinstance(stamped.event, Warned)]
    own = dict.fromkeys(warning.message for warning in warnings if warning.about == about)
    listed = "".join(f"<li>{text(message)}</li>" for message in own)
    return f'<h3>Warnings</h3><ul class="findings">{listed}</ul>' if listed else ""


@dataclass(frozen=True)
class Column:
    """A table's column: its heading, whether it holds numbers, and an explanation of the heading."""

    title: str
    numeric: bool = True
    hint: str = ""


@dataclass(frozen=True)
class Cell:
    """A table's cell: what it shows, what it sorts by, and the length of the bar behind it, 0…1."""

    shown: str
    value: float | None = None
    bar: float | None = None

    def to_html(self, numeric: bool) -> str:
        """Return the ``<td>``."""
        kind = ' class="n"' if numeric else ""
        sort = f' data-v="{self.value:.6g}"' if self.value is not None else ""
        bar = f' style="--bar:{100 * self.bar:.1f}%"' if self.bar is not None else ""
        return f"<td{kind}{sort}{bar}>{text(self.shown)}</td>"


def table(
    columns: Sequence[Column],
    rows: Iterable[Sequence[Cell | Any]],
    *,
    caption: str,
    sorted_by: int | None = None,
    tall: bool = False,
) -> str:
    """Return a table; the first cell of a row is its heading.

    Args:
        columns: The columns.
        rows: Of each row the cells, or values to show as they are.
        caption: What the table says, for those who cannot see where it stands.
        sorted_by: The column by which the rows are sorted already, ascending; given, a click on a heading sorts.
        tall: Scroll inside a box instead of filling pages (on screens, not on paper).
    """
    heads = []
    for place, column in enumerate(columns):
        kind = ' class="n"' if column.numeric else ""
        hint = f' title="{text(column.hint)}"' if column.hint else ""
        order = ' aria-sort="ascending"' if place == sorted_by else ""
        name = text(column.title) if sorted_by is None else f"<button>{text(column.title)}</button>"
        heads.append(f'<th scope="col"{kind}{hint}{order}>{name}</th>')
    body = []
    for row in rows:
        cells = [cell if isinstance(cell, Cell) else Cell(str(cell)) for cell in row]
        rest = "".join(c.to_html(column.numeric) for c, column in zip(cells[1:], columns[1:], strict=True))
        kind = ' class="n"' if columns[0].numeric else ""
        body.append(f'<tr><th scope="row"{kind}>{text(cells[0].shown)}</th>{rest}</tr>')
    sortable = "" if sorted_by is None else ' class="sortable"'
    return (
        f'<div class="scroll{" tall" if tall else ""}" tabindex="0" role="region" aria-label="{text(caption)}">'
        f"<table{sortable}><caption>{text(caption)}</caption><thead><tr>{''.join(heads)}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
