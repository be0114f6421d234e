"""`sparkwright predict`: labels for photos or features."""

from typing import TYPE_CHECKING, Annotated

import typer

from sparkwright.cli import options

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from sparkwright.models import Model
    from sparkwright.scoring.inputs.fetch import FetchLimits

_SHOWN = 20


def predict(
    model: Annotated[str, typer.Argument(help="A model's folder or .zip, or a run's folder.")],
    data: Annotated[list[str], typer.Argument(help=options.DATA)],
    out: Annotated[
        str | None, typer.Option(help="A folder for Parquet, or a .csv file. Default: print the first photos' labels.")
    ] = None,
    top: Annotated[int, typer.Option(help="How many labels a photo.", min=1)] = 1,
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
    """Label photos: path, label, probability, error of each, to Parquet, CSV or the terminal."""
    from sparkwright.events import Bus, StageEnded, StageStarted
    from sparkwright.models import Model
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
        rows, column, total = open_data(spark, data, None)
        if precision != "float32":
            found = reduce_precision(
                Model.load(path), rows, precision, input_column=column, threshold=min_agreement, fetch=fetch
            )
        if out is None:
            _print_first(rows, column, found, top, total, fetch, as_json=as_json)
            return
        bus.emit(StageStarted("predictions", total, unit="photos"))
        count, failed = write_predictions(
            rows,
            found,
            out,
            input_column=column,
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


def open_data(spark: "SparkSession", data: list[str], labels: str | None) -> "tuple[DataFrame, str, int]":
    """Open photos, a table of photos, or features; return rows, the column to score, and how many rows there are."""
    from sparkwright.data.images import read_images
    from sparkwright.data.photo_table import is_photo_table, read_photo_table
    from sparkwright.scoring.feature_set import open_features, read_manifest

    if len(data) == 1 and read_manifest(data[0]) is not None:
        found = open_features(spark, data[0])
        # Photos that could not be read keep their place, without a prediction.
        return found.rows.drop("error"), "features", found.manifest.rows
    if len(data) == 1 and is_photo_table(data[0]):
        return read_photo_table(spark, data[0])
    photos = read_images(spark, data, labels=labels)
    return photos.rows if labels else photos.rows.drop("label"), "content", photos.files


def _print_first(
    rows: "DataFrame",
    column: str,
    model: "str | Model",
    top: int,
    total: int,
    fetch: "FetchLimits",
    *,
    as_json: bool,
) -> None:
    """Label the first few photos and print them."""
    from pyspark.sql import functions as F  # noqa: N812

    from sparkwright.scoring.model_transformer import predict as predict_rows
    from sparkwright.session import worker_errors

    named = next((name for name in ("path", "url", "key") if name in rows.columns), None)
    first = rows.limit(_SHOWN).select(
        F.col(named) if named else F.lit("a photo").alias("path"), F.col(column).alias("input")
    )
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
    if total > len(shown):
        lines.append(f"… and {total - len(shown):,} more; --out FOLDER or --out FILE.csv writes them all.")
    options.show({"rows": total, "predictions": shown}, "\n".join(lines), as_json=as_json)
