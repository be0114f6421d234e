"""`sparkwright transfer`: the whole main job."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparkwright.cli import options
from sparkwright.errors import InputError

if TYPE_CHECKING:
    from sparkwright.transfer import TransferResult


def transfer(
    images: Annotated[list[str], typer.Argument(help="Photos: paths, folders or globs that Spark reads.")],
    network: options.NetworkName,
    out: options.Out,
    labels: options.Labels = "folder",
    split: options.Split = "0.6,0.2,0.2",
    group: options.Group = None,
    weights: options.Weights = None,
    preprocessing: options.Preset = None,
    layer: options.Layer = None,
    replicas: options.Replicas = 4,
    settings: options.Settings = None,
    finetune: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER", help="Then train the network on the photos, from this layer on, or `all` of its layers."
        ),
    ] = None,
    finetune_epochs: Annotated[
        int | None, typer.Option(help="Passes of the fine-tuning over the training photos.", min=1)
    ] = None,
    finetune_set: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A setting of the fine-tuning (learning_rate=1e-4 …); may be repeated. With some thousand photos or "
            "more try batch_norm=averaged: by default BatchNorm keeps the statistics that it came with.",
        ),
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|JSON",
            help="What the fine-tuning's photos go through: photos, aerial, glyphs, or fields of an Augmentation.",
        ),
    ] = None,
    reuse: options.Reuse = None,
    max_error_rate: options.MaxErrorRate = 0.05,
    checkpoint_s: options.CheckpointSeconds = 60.0,
    seed: options.Seed = 0,
    overwrite: options.Overwrite = False,
    resume: options.Resume = False,
    master: options.Master = None,
    remote: options.Remote = None,
    conf: options.Conf = None,
    as_json: options.Json = False,
) -> None:
    """From labelled photos and a pre-trained network to a tested classifier.

    Splits the photos, runs the network over all of them, trains a head on the features across the cluster, tests it on
    rows that it has not seen, and writes model and report. With --finetune the network itself is trained in between.
    """
    from sparkwright.training.config import TrainingConfig
    from sparkwright.transfer import FINETUNING
    from sparkwright.transfer import transfer as run_transfer

    training = TrainingConfig.from_dict({"refit": True, **options.parse_settings(settings), "replicas": replicas})
    if finetune is None and (finetune_epochs or finetune_set):
        raise InputError("--finetune-epochs and --finetune-set need --finetune: a layer, or `all`.")
    finetuning = FINETUNING.replace(**options.parse_settings(finetune_set))
    if finetune_epochs is not None:
        finetuning = finetuning.replace(epochs=finetune_epochs)
    sides = options.parse_split(split)
    options.check_early(out, overwrite=overwrite, resume=resume)
    options.check_paths(images, master, remote, conf)
    with options.open_session(master, remote, conf) as spark:
        result = run_transfer(
            spark,
            images,
            network,
            out,
            weights=weights,
            preprocessing=preprocessing,
            layer=layer,
            labels=labels,
            split=sides,
            group=group,
            seed=seed,
            training=training,
            finetune=finetune,
            finetuning=finetuning if finetune is not None else None,
            augmentation=options.parse_augmentation(augment),
            max_error_rate=max_error_rate,
            checkpoint_s=checkpoint_s,
            reuse=reuse or (),
            overwrite=overwrite,
            resume=resume,
            sinks=options.progress_sinks(as_json),
        )
    show_result(result, as_json=as_json)


def show_result(result: "TransferResult", unit: str = "photos", *, as_json: bool) -> None:
    """Print what came out of rows that are called `unit`, and where it lies."""
    test: dict[str, Any] = result.metrics["test"]
    low, high = test["accuracy_interval"]
    run = result.run.removeprefix("file://")
    baseline = test["baseline"]["majority"]
    lines = [
        f"test accuracy  {test['accuracy']:.4f}  (95 % interval {low:.4f} to {high:.4f}, {test['evaluated']:,} {unit}; "
        f"always “{baseline['class']}”: {baseline['accuracy']:.4f})",
        f"report         {run}/report.html",
        f"model          {run}/model",
    ]
    if test["errors"]:
        lines.insert(1, f"unreadable     {test['errors']:,} {unit} of the test side; see the report")
    options.show({"run": result.run, "metrics": result.metrics}, "\n".join(lines), as_json=as_json)
