"""The command `sparkwright`: a file a command.

Exit codes: 0 done, 1 failed, 2 wrong usage or input. Heavy parts load inside the commands, so that ``--help`` is quick.
"""

import json
import sys

import typer

import sparkwright
from sparkwright.cli import (
    doctor,
    evaluate,
    featurize,
    networks,
    pack,
    predict,
    quickstart,
    report,
    train,
    transfer,
    tune,
)
from sparkwright.errors import InputError, ModelError, SparkwrightError

__all__ = ["app", "main"]

app = typer.Typer(
    name="sparkwright",
    help="Deep learning on the Spark cluster you already have.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(quickstart.quickstart)
app.command()(transfer.transfer)
app.command()(featurize.featurize)
app.command()(train.train)
app.command()(tune.tune)
app.command()(evaluate.evaluate)
app.command()(predict.predict)
app.command()(pack.pack)
app.command()(report.report)
app.command("networks")(networks.list_networks)
app.command()(networks.summary)
app.command()(doctor.doctor)


def _show_version(value: bool) -> None:
    if value:
        print(sparkwright.__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Print the version."),
) -> None:
    del version


def main() -> None:
    """Run the command line; what a user can cause ends with one message, not a traceback."""
    try:
        app()
    except (SparkwrightError, OSError) as error:
        if "--json" in sys.argv:
            print(json.dumps({"error": {"kind": type(error).__name__, "message": str(error)}}, ensure_ascii=False))
        print("\n".join([f"error: {error}", *getattr(error, "__notes__", ())]), file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError | ModelError) else 1)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
