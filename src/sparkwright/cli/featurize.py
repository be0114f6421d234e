"""`sparkwright featurize`: photos → features in Parquet."""

from typing import Annotated

import typer

from sparkwright.cli.options import (
    Conf,
    Group,
    Json,
    Labels,
    Layer,
    Master,
    MaxErrorRate,
    NetworkName,
    Out,
    Overwrite,
    Preset,
    Remote,
    Seed,
    Split,
    Weights,
    check_paths,
    open_session,
    parse_split,
    progress_sinks,
    show,
)


def featurize(
    images: Annotated[list[str], typer.Argument(help="Photos: paths, folders or globs that Spark reads.")],
    network: NetworkName,
    out: Out,
    labels: Labels = "none",
    split: Split = "none",
    group: Group = None,
    weights: Weights = None,
    preprocessing: Preset = None,
    layer: Layer = None,
    reuse: Annotated[
        list[str] | None, typer.Option(help="Features of an earlier run, found by content; may be repeated.")
    ] = None,
    max_error_rate: MaxErrorRate = 0.05,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    master: Master = None,
    remote: Remote = None,
    conf: Conf = None,
    as_json: Json = False,
) -> None:
    """Run a network over photos and keep the output of a layer as Parquet.

    Labels and sides are added where asked for; `none` adds none. Run again on a folder with ten more photos, it
    computes ten.
    """
    from sparkwright import transfer as steps
    from sparkwright.events import Bus, StageEnded, StageStarted
    from sparkwright.scoring.features import featurize as run_featurize
    from sparkwright.scoring.features import rehearsal

    sides = None if split == "none" else parse_split(split)
    check_paths(images, master, remote, conf)
    cut = steps.load_cut(network, weights, preprocessing, layer)
    bus = Bus(progress_sinks(as_json))
    with open_session(master, remote, conf) as spark:
        with rehearsal(spark, cut, out):
            rows, photos = steps.read_sides(
                spark, images, None if labels == "none" else labels, sides, group, seed, bus.emit
            )
        bus.emit(StageStarted("features", photos.files, unit="photos"))
        features = run_featurize(
            spark,
            rows,
            cut,
            out,
            reuse=reuse or (),
            max_error_rate=max_error_rate,
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
    }
    show(document, text, as_json=as_json)
