"""`sparkwright featurize`: photos → features in Parquet."""

from typing import Annotated

import typer

from sparkwright.cli import options
from sparkwright.errors import InputError


def featurize(
    images: Annotated[
        list[str],
        typer.Argument(help="Photos: paths, folders or globs that Spark reads; or a table with `path` or `url`."),
    ],
    network: options.NetworkName,
    out: options.Out,
    labels: options.Labels = "none",
    split: options.Split = "none",
    group: options.Group = None,
    weights: options.Weights = None,
    preprocessing: options.Preset = None,
    layer: options.Layer = None,
    reuse: options.Reuse = None,
    max_error_rate: options.MaxErrorRate = 0.05,
    failfast: options.Failfast = False,
    allow_private: options.AllowPrivate = False,
    precision: options.PrecisionName = "float32",
    min_agreement: options.MinAgreement = 0.98,
    seed: options.Seed = 0,
    overwrite: options.Overwrite = False,
    master: options.Master = None,
    remote: options.Remote = None,
    conf: options.Conf = None,
    as_json: options.Json = False,
) -> None:
    """Run a network over photos and keep the output of a layer as Parquet.

    Labels and sides are added where asked for; `none` adds none. A table keeps all its columns. Run again on a folder
    with ten more photos, it computes ten; run again after it was stopped, it goes on where it was.
    """
    from sparkwright import transfer as steps
    from sparkwright.data.photo_table import is_photo_table, read_photo_table
    from sparkwright.events import Bus, StageEnded, StageStarted
    from sparkwright.scoring.features import featurize as run_featurize
    from sparkwright.scoring.features import rehearsal
    from sparkwright.scoring.inputs.fetch import FetchLimits
    from sparkwright.scoring.precision import check_precision, reduce_precision

    sides = None if split == "none" else options.parse_split(split)
    check_precision(precision)
    fetch = FetchLimits(allow_private=allow_private)
    table = len(images) == 1 and is_photo_table(images[0])
    if table and (labels, split, group) != ("none", "none", None):
        raise InputError(
            f"{images[0]} is a table of photos: its columns `label` and `split` are kept as they are. Leave out "
            "--labels, --split and --group."
        )
    options.check_paths(images, master, remote, conf)
    cut = steps.load_cut(network, weights, preprocessing, layer)
    bus = Bus(options.progress_sinks(as_json))
    with options.open_session(master, remote, conf) as spark:
        with rehearsal(spark, cut, out):
            if table:
                rows, column, total = read_photo_table(spark, images[0])
            else:
                label_rule = None if labels == "none" else labels
                rows, photos = steps.read_sides(spark, images, label_rule, sides, group, seed, bus.emit)
                column, total = "content", photos.files
        if precision != "float32":
            cut = reduce_precision(cut, rows, precision, input_column=column, threshold=min_agreement, fetch=fetch)
        bus.emit(StageStarted("features", total, unit="photos"))
        features = run_featurize(
            spark,
            rows,
            cut,
            out,
            input_column=column,
            fetch=fetch,
            reuse=reuse or (),
            max_error_rate=max_error_rate,
            failfast=failfast,
            overwrite=overwrite,
            emit=bus.emit,
        )
        bus.emit(StageEnded("features", 0.0, rows=features.manifest.rows, errors=features.manifest.errors))
    manifest = features.manifest
    text = (
        f"features  {out}\n"
        f"rows      {manifest.rows:,} of {manifest.key.width:,} numbers each "
        f"({manifest.computed:,} computed, {manifest.reused:,} reused, {manifest.errors:,} failed)"
    )
    document = {
        "features": out,
        "rows": manifest.rows,
        "errors": manifest.errors,
        "computed": manifest.computed,
        "reused": manifest.reused,
        "width": manifest.key.width,
        "precision": cut.precision.to_dict() if cut.precision else None,
    }
    options.show(document, text, as_json=as_json)
