"""A run's report: one HTML file that needs nothing else, neither network nor other files.

Example:
    >>> html = write_report(RunRecord(title="pets", config={}, metrics=metrics))    # doctest: +SKIP
    >>> Path("report.html").write_text(html, encoding="utf-8")                      # doctest: +SKIP
"""

from sparkwright.evaluation.report.page import write_report
from sparkwright.evaluation.report.record import RunRecord, Thumbnail, make_thumbnail

__all__ = ["RunRecord", "Thumbnail", "make_thumbnail", "write_report"]
