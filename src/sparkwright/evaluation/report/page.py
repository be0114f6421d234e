"""The report as one page."""

from datetime import datetime
from importlib import resources

from sparkwright.evaluation.report.confusion import confusion_section
from sparkwright.evaluation.report.layers import layers_section
from sparkwright.evaluation.report.markup import text
from sparkwright.evaluation.report.quality import (
    augmented_section,
    calibration_section,
    classes_section,
    headline_section,
    wrong_section,
)
from sparkwright.evaluation.report.record import RunRecord
from sparkwright.evaluation.report.run import data_section, learning_section, run_section
from sparkwright.evaluation.report.tuning import tuning_sections
from sparkwright.events import RunEnded, RunStarted

__all__ = ["write_report"]

_SIDES = ("test", "validation", "train")  # the first that was evaluated is the headline


def write_report(record: RunRecord) -> str:
    """Return the report as one HTML page that loads nothing.

    Runs on the driver, from what the run's folder holds; no Spark. Sections without content are left out, so that a
    run that failed half way has a report too. The page follows the reader's light or dark setting, and prints.
    """
    # A side that was not evaluated may have figures of its own there, such as the chosen epoch's.
    sides = {name: record.metrics[name] for name in _SIDES if "task" in record.metrics.get(name, {})}
    classified = [side for side in sides.values() if side["task"] == "classification" and side["evaluated"]]
    shown = classified[0] if classified else None
    several = [side for side in sides.values() if side["task"] == "multilabel" and side["evaluated"]]
    labelled = next(iter([*classified, *several]), None)
    sections = [
        headline_section(sides),
        tuning_sections(record.search) if record.search else "",
        learning_section(record.events),
        layers_section(record.events),
        confusion_section(shown) if shown else "",
        classes_section(labelled) if labelled else "",
        calibration_section(shown) if shown else "",
        wrong_section(record.thumbnails),
        augmented_section(record.events),
        data_section(record.metrics.get("data") or {}, sides),
        run_section(record),
    ]
    created = f"<p>{text(_moment(record.created))}</p>" if record.created else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{text(record.title)}</title><style>{_file('style.css')}</style></head><body>"
        f"<header><h1>{text(record.title)}</h1>{created}</header><main>{_banner(record)}{''.join(sections)}</main>"
        f"<footer>Made by sparkwright {text(record.versions.get('sparkwright', ''))}</footer>"
        f"<script>{_file('sort.js')}</script></body></html>\n"
    )


def _banner(record: RunRecord) -> str:
    """Return what to know before all else: that the run failed, or has not ended."""
    ends = [stamped.event for stamped in record.events if isinstance(stamped.event, RunStarted | RunEnded)]
    last = ends[-1] if ends else None  # a run that failed may have been resumed
    if isinstance(last, RunEnded) and not last.ok:
        what, _, more = last.message.partition("\n")
        told = f'<pre tabindex="0">{text(more)}</pre>' if more else ""
        return f'<div class="banner" role="alert">The run failed: {text(what)}{told}</div>'
    if isinstance(last, RunStarted) and not record.metrics:
        return '<p class="banner" role="alert">The run has not ended: it goes on, or was interrupted.</p>'
    return ""


def _moment(created: str) -> str:
    """Write a time stamp for people; any other text stays as it is."""
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{moment:%Y-%m-%d %H:%M} {moment.tzname() or ''}".rstrip()


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
