"""`sparkwright evaluate`: how good a model is on labelled rows."""

from typing import Annotated, Any

import typer

from sparkwright.cli import options
from sparkwright.errors import ColumnError, InputError, did_you_mean


def evaluate(
    model: Annotated[str, typer.Argument(help="A model's folder or .zip, or a run's folder.")],
    data: Annotated[list[str], typer.Argument(help=f"{options.DATA} Labelled.")],
    labels: Annotated[
        str, typer.Option(help="Of photos: `folder`, a regular expression on the path, or a table (path, label).")
    ] = "folder",
    side: Annotated[
        str | None,
        typer.Option(help="Of features and tables: only the rows of this side (train, validation, test) in `split`."),
    ] = None,
    columns: options.Columns = None,
    label: Annotated[
        str | None,
        typer.Option(help="Of a table of numbers: the column of the classes. Default: that of the training."),
    ] = None,
    master: options.Master = None,
    remote: options.Remote = None,
    conf: options.Conf = None,
    as_json: options.Json = False,
) -> None:
    """Predict labelled photos, features or table rows and compare: accuracy with its interval, and more with --json."""
    from sparkwright.cli.rows import open_rows
    from sparkwright.data.cuts import SIDES
    from sparkwright.evaluation.evaluate import evaluate as evaluate_rows
    from sparkwright.evaluation.evaluate import evaluate_multilabel
    from sparkwright.models import ModelFiles
    from sparkwright.scoring.model_transformer import predict

    options.check_paths(data, master, remote, conf)
    with options.open_session(master, remote, conf) as spark:
        model = options.find_model(model)
        manifest = ModelFiles.read(model).manifest
        if manifest["task"] == "regression":
            raise InputError(f"{model} predicts numbers; this command compares classes.")
        if manifest["task"] == "multitask":
            raise InputError(f"{model} has several outputs; `sparkwright.evaluate_outputs` compares each, in Python.")
        named = options.parse_columns(columns)
        given = open_rows(spark, data, manifest, labels=labels, columns=named, label=label)
        rows = given.rows
        if given.label not in rows.columns:
            raise ColumnError(
                f"{data[0]} has no column `{given.label}`.{did_you_mean(given.label, rows.columns)} Features get their "
                "labels by `featurize --labels`; a table must have them (of numbers: --label names the column)."
            )
        if side is not None:
            if "split" not in rows.columns:
                raise ColumnError(f"{data[0]} has no column `split`, so --side cannot choose rows.")
            if side not in SIDES:
                raise InputError(f"--side must be one of {', '.join(SIDES)}, not `{side}`.")
            rows = rows.where(rows["split"] == side)
        scored = predict(rows, model, input_column=given.column, dropInput=True, maxErrorRate=1.0)
        names, thresholds = [str(name) for name in manifest["classes"]], manifest["thresholds"]
        if manifest["task"] == "multilabel":
            result = evaluate_multilabel(scored, names, label=given.label, thresholds=thresholds).to_dict()
        else:
            threshold = next(iter(thresholds), None)
            result = evaluate_rows(scored, names, label=given.label, threshold=threshold).to_dict()
    if not result["evaluated"]:
        raise InputError(f"None of the {result['rows']:,} rows could be evaluated: no label that the model knows.")
    options.show(result, "\n".join(_lines(result)), as_json=as_json)


def _lines(result: dict[str, Any]) -> list[str]:
    rows = (
        f"rows               {result['rows']:,}: {result['evaluated']:,} evaluated, {result['errors']:,} failed, "
        f"{result['unlabelled']:,} without a label, {result['unknown_labels']['rows']:,} with an unknown one"
    )
    if result["task"] == "multilabel":
        return [
            f"micro F1           {result['micro']['f1']:.4f}",
            f"macro F1           {result['macro']['f1']:.4f}",
            f"all labels right   {result['subset_accuracy']:.4f}",
            f"wrong decisions    {result['hamming_loss']:.4f}",
            f"log-loss           {result['log_loss']:.4f}",
            rows,
        ]
    low, high = result["accuracy_interval"]
    return [
        f"accuracy           {result['accuracy']:.4f}  (95 % interval {low:.4f} to {high:.4f})",
        f"balanced accuracy  {result['balanced_accuracy']:.4f}",
        f"top-{result['top_k']} accuracy     {result['top_k_accuracy']:.4f}",
        f"log-loss           {result['log_loss']:.4f}",
        rows,
    ]
