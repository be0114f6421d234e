"""`sparkwright report`: write a run's report again."""

from typing import Annotated

import typer

from sparkwright.cli import options


def report(
    run: Annotated[str, typer.Argument(help="A run's folder.")],
    as_json: options.Json = False,
) -> None:
    """Write report.html of a run again, one that goes on or failed too, from its configuration, events and metrics."""
    from sparkwright.runs import write_run_report

    path = write_run_report(run)
    options.show({"report": path}, f"report  {path}", as_json=as_json)
