"""`sparkwright predict`: labels for photos, features, or rows of a table."""

from typing import TYPE_CHECKING, Annotated

import typer

from sparkwright.cli import options
from sparkwright.errors import InputError

if TYPE_CHECKING:
    from sparkwright.cli.rows import GivenRows
    from sparkwright.models import Model
    from sparkwright.scoring.inputs.fetch import FetchLimits

_SHOWN = 20
_NUMBERS = 5  # by which a row of a table is told from others


def predict(
    model: Annotated[str, typer.Argument(help="A model's folder or .zip, or a run's folder.")],
    data: Annotated[list[str], typer.Argument(help=options.DATA)],
    out: Annotated[
        str | None, typer.Option(help="A folder for Parquet, or a .csv file. Default: print the first rows' labels.")
    ] = None,
    top: Annotated[int, typer.Option(help="How many labels a row.", min=1)] = 1,
    columns: options.Columns = None,
    max_error_rate: options.MaxErrorRate = 0.05,
    failfast: options.Failfast = False,
    allow_private: options.AllowPrivate = False,
    precision: options.PrecisionName = "float32",
    min_agreement: options.MinAgreement = 0.98,
    overwrite: options.Overwrite = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Do not label again what a call that was stopped had labelled.")
    ] = False,
    master: options.Master = None,
    remote: options.Remote = None,
    conf: options.Conf = None,
    as_json: options.Json = False,
) -> None:
    """Label photos, features or rows of a table: label, probability, error of each, to Parquet, CSV or the terminal."""
    from sparkwright.cli.rows import open_rows
    from sparkwright.events import Bus, StageEnded, StageStarted
    from sparkwright.models import Model, ModelFiles
    from sparkwright.scoring.inputs.fetch import FetchLimits
    from sparkwright.scoring.precision import check_precision, reduce_precision
    from sparkwright.scoring.predictions import write_predictions

    bus = Bus(options.progress_sinks(as_json))
    check_precision(precision)
    fetch = FetchLimits(allow_private=allow_private)
    options.check_paths(data, master, remote, conf)
    with options.open_session(master, remote, conf) as spark:
        path = options.find_model(model)
        found: str | Model = path
        manifest = ModelFiles.read(path).manifest
        if out is None and manifest["task"] == "multitask":
            raise InputError(f"{path} has several outputs: give --out, a folder or a .csv file.")
        given = open_rows(spark, data, manifest, columns=options.parse_columns(columns))
        if precision != "float32":
            found = reduce_precision(
                Model.load(path),
                given.rows,
                precision,
                input_column=given.column,
                threshold=min_agreement,
                fetch=fetch,
            )
        if out is None:
            _print_first(given, found, top, fetch, as_json=as_json)
            return
        bus.emit(StageStarted("predictions", given.count, unit=given.unit))
        count, failed = write_predictions(
            given.rows,
            found,
            out,
            input_column=given.column,
            top=top,
            max_error_rate=max_error_rate,
            failfast=failfast,
            fetch=fetch,
            overwrite=overwrite,
            resume=resume,
            emit=bus.emit,
        )
        bus.emit(StageEnded("predictions", 0.0, rows=count, errors=failed))
    text = f"predictions  {out}\nrows         {count:,} ({failed:,} failed)"
    options.show({"predictions": out, "rows": count, "errors": failed}, text, as_json=as_json)


def _print_first(given: "GivenRows", model: "str | Model", top: int, fetch: "FetchLimits", *, as_json: bool) -> None:
    """Label the first few rows and print them."""
    from pyspark.sql import functions as F  # noqa: N812

    from sparkwright.scoring.model_transformer import predict as predict_rows
    from sparkwright.session import worker_errors

    rows = given.rows.limit(_SHOWN)
    named = next((name for name in given.shown if name in rows.columns), None)
    if named is None:
        numbers = F.array_join(F.slice(given.column, 1, _NUMBERS).cast("array<string>"), ", ")
        rows = rows.withColumn("path", numbers if given.unit == "rows" else F.lit("a photo"))
    first = rows.select(F.col(named or "path").cast("string"), F.col(given.column).alias("input"))
    scored = predict_rows(
        first, model, input_column="input", top=top, dropInput=True, maxErrorRate=1.0, fetchLimits=fetch
    )
    path = F.col(named or "path").alias("path")
    with worker_errors():
        shown = [row.asDict(recursive=True) for row in scored.select(path, "top", "error").collect()]
    shown.sort(key=lambda row: str(row["path"]))
    lines = []
    for row in shown:
        labels = ", ".join(f"{pair['label']} {pair['probability']:.3f}" for pair in row["top"] or ())
        error = row["error"]
        lines.append(
            f"{row['path']}  {labels}" if error is None else f"{row['path']}  {error['kind']}: {error['message']}"
        )
    if given.count > len(shown):
        lines.append(f"… and {given.count - len(shown):,} more; --out FOLDER or --out FILE.csv writes them all.")
    options.show({"rows": given.count, "predictions": shown}, "\n".join(lines), as_json=as_json)
