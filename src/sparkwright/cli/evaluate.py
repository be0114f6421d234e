"""`sparkwright evaluate`: how good a model is on labelled rows."""

from typing import Annotated

import typer

from sparkwright.cli import options
from sparkwright.errors import ColumnError, InputError


def evaluate(
    model: Annotated[str, typer.Argument(help="A model's folder or .zip, or a run's folder.")],
    data: Annotated[list[str], typer.Argument(help=f"{options.DATA} Labelled.")],
    labels: Annotated[
        str, typer.Option(help="Of photos: `folder`, a regular expression on the path, or a table (path, label).")
    ] = "folder",
    side: Annotated[
        str | None, typer.Option(help="Of features: only the rows of this side (train, validation, test).")
    ] = None,
    master: options.Master = None,
    remote: options.Remote = None,
    conf: options.Conf = None,
    as_json: options.Json = False,
) -> None:
    """Predict labelled photos or features and compare: accuracy with its interval, and more with --json."""
    from sparkwright.cli.predict import open_data
    from sparkwright.data.cuts import SIDES
    from sparkwright.evaluation.evaluate import evaluate as evaluate_rows
    from sparkwright.models import ModelFiles
    from sparkwright.scoring.model_transformer import predict

    options.check_paths(data, master, remote, conf)
    with options.open_session(master, remote, conf) as spark:
        model = options.find_model(model)
        manifest = ModelFiles.read(model).manifest
        if manifest["task"] != "classification":
            raise InputError(f"{model} predicts numbers; this command compares classes.")
        rows, column, _ = open_data(spark, data, labels)
        if "label" not in rows.columns:
            raise ColumnError(
                f"{data[0]} has no column `label`. Features get it by `featurize --labels`; a table must have it."
            )
        if side is not None:
            if "split" not in rows.columns:
                raise ColumnError(f"{data[0]} has no column `split`, so --side cannot choose rows.")
            if side not in SIDES:
                raise InputError(f"--side must be one of {', '.join(SIDES)}, not `{side}`.")
            rows = rows.where(rows["split"] == side)
        scored = predict(rows, model, input_column=column, dropInput=True, maxErrorRate=1.0)
        result = evaluate_rows(scored, [str(name) for name in manifest["classes"]]).to_dict()
    if not result["evaluated"]:
        raise InputError(f"None of the {result['rows']:,} rows could be evaluated: no label that the model knows.")
    low, high = result["accuracy_interval"]
    text = "\n".join(
        [
            f"accuracy           {result['accuracy']:.4f}  (95 % interval {low:.4f} to {high:.4f})",
            f"balanced accuracy  {result['balanced_accuracy']:.4f}",
            f"top-{result['top_k']} accuracy     {result['top_k_accuracy']:.4f}",
            f"log-loss           {result['log_loss']:.4f}",
            f"rows               {result['rows']:,}: {result['evaluated']:,} evaluated, {result['errors']:,} failed, "
            f"{result['unlabelled']:,} without a label, {result['unknown_labels']['rows']:,} with an unknown one",
        ]
    )
    options.show(result, text, as_json=as_json)
