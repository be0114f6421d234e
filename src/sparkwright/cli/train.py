"""`sparkwright train`: features, or columns of a table → a tested model of them."""

from typing import Annotated, Any

import typer

from sparkwright.cli import options
from sparkwright.cli.transfer import show_result


def train(
    features: Annotated[
        str,
        typer.Argument(
            help="A folder of features with labels and sides, from `featurize`; or, with --features, a table: CSV with "
            "a header, or Parquet."
        ),
    ],
    out: options.Out,
    columns: Annotated[
        str | None,
        typer.Option("--features", metavar="A,B,C", help="Of a table: columns of numbers to learn from."),
    ] = None,
    label: Annotated[str, typer.Option(help="Of a table: the column of the classes.")] = "label",
    split: Annotated[
        str, typer.Option(help="Of a table: fractions of train,validation,test; or its column of the sides.")
    ] = "0.6,0.2,0.2",
    replicas: options.Replicas = 4,
    settings: options.Settings = None,
    checkpoint_s: options.CheckpointSeconds = 60.0,
    seed: options.Seed = 0,
    overwrite: options.Overwrite = False,
    resume: options.Resume = False,
    master: options.Master = None,
    remote: options.Remote = None,
    conf: options.Conf = None,
    as_json: options.Json = False,
) -> None:
    """Train a head on features, test it on the rows of the test side, and write model and report.

    With --features it trains on columns of a table instead.
    """
    from sparkwright.tabular import train_table
    from sparkwright.training.config import TrainingConfig
    from sparkwright.transfer import train_features

    training = TrainingConfig.from_dict(
        {"refit": True, **options.parse_settings(settings), "replicas": replicas, "seed": seed}
    )
    options.check_early(out, overwrite=overwrite, resume=resume)
    options.check_paths([features], master, remote, conf)
    with options.open_session(master, remote, conf) as spark:
        common: dict[str, Any] = {
            "training": training,
            "checkpoint_s": checkpoint_s,
            "overwrite": overwrite,
            "resume": resume,
            "sinks": options.progress_sinks(as_json),
        }
        if columns is None:
            result = train_features(spark, features, out, **common)
        else:
            named, sides = [name.strip() for name in columns.split(",")], options.parse_split(split)
            result = train_table(spark, features, out, columns=named, label=label, split=sides, **common)
    show_result(result, "photos" if columns is None else "rows", as_json=as_json)
