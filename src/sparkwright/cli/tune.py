"""`sparkwright tune`: features, or columns of a table → the best configuration of many, as a tested model."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparkwright.cli import options
from sparkwright.errors import InputError

if TYPE_CHECKING:
    from sparkwright.tuning.tune import TuningResult


def tune(
    features: Annotated[
        str,
        typer.Argument(
            help="A folder of features with labels and sides, from `featurize`; or, with --features, a table: CSV with "
            "a header, or Parquet."
        ),
    ],
    out: options.Out,
    space: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="What is searched: head, linear, mlp, or a YAML or JSON file.")
    ] = "head",
    trials: Annotated[int, typer.Option(help="Configurations to try, at most.")] = 100,
    sampler: Annotated[str, typer.Option(help="tpe, random, grid, cmaes or gp.")] = "tpe",
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of a trial that is trained to its end. Default: that of the training.")
    ] = None,
    min_epochs: Annotated[
        int | None,
        typer.Option(help="Epochs after which trials are compared first. Default: three comparisons before the end."),
    ] = None,
    eta: Annotated[int, typer.Option(help="One of so many trials goes on from a comparison.")] = 3,
    folds: Annotated[
        int | None,
        typer.Option(help="Parts of training and validation rows that validate in turn, instead of the latter."),
    ] = None,
    candidates: Annotated[int, typer.Option(help="The best so many are trained again with other seeds.")] = 3,
    seeds: Annotated[int, typer.Option(help="So often each; mean and spread choose.")] = 3,
    refit: Annotated[
        bool, typer.Option("--refit", help="Train the chosen one on the validation rows too, at the end.")
    ] = False,
    objective: Annotated[
        list[str] | None,
        typer.Option(
            help="What is compared: calibrated_loss, loss, accuracy, balanced_accuracy or macro_f1; then also "
            "parameters or seconds_per_row; may be repeated. Default: calibrated_loss."
        ),
    ] = None,
    max_parameters: Annotated[int | None, typer.Option(help="Weights that a trial may have.")] = None,
    max_seconds_per_row: Annotated[float | None, typer.Option(help="What scoring a row may take.")] = None,
    max_epochs: Annotated[int | None, typer.Option(help="Epochs that all trials together may train, about.")] = None,
    time_limit_s: Annotated[
        float | None, typer.Option(help="Seconds after which no more trials start or go on.")
    ] = None,
    trial_time_limit_s: Annotated[
        float | None,
        typer.Option(help="Seconds that a trial may train, on each fold; one that takes longer has failed."),
    ] = None,
    parallel_trials: Annotated[
        int | None,
        typer.Option(
            help="Jobs at a time, so that the trials do not depend on the slots. Default: as many as there are slots, "
            "which does not repeat."
        ),
    ] = None,
    together: Annotated[
        str, typer.Option(help="trial: a job trains one trial. shared: many heads over one stream of batches. auto.")
    ] = "auto",
    columns: Annotated[
        str | None,
        typer.Option("--features", metavar="A,B,C", help="Of a table: columns of numbers to learn from."),
    ] = None,
    label: Annotated[str, typer.Option(help="Of a table: the column of the classes.")] = "label",
    split: Annotated[
        str, typer.Option(help="Of a table: fractions of train,validation,test; or its column of the sides.")
    ] = "0.6,0.2,0.2",
    group: Annotated[
        str | None, typer.Option(help="Column of what folds, and fractions of a table, must not divide.")
    ] = None,
    replicas: options.Replicas = 4,
    settings: options.Settings = None,
    seed: options.Seed = 0,
    overwrite: options.Overwrite = False,
    resume: options.Resume = False,
    master: options.Master = None,
    remote: options.Remote = None,
    conf: options.Conf = None,
    as_json: options.Json = False,
) -> None:
    """Search for the hyperparameters of a head, train the best, and test it on the rows of the test side.

    Trials are compared on validation rows and most are stopped early; the test rows are read once, after the choice.
    With --features it searches on columns of a table instead. --set fixes what the space does not search.
    """
    from sparkwright import storage
    from sparkwright.training.config import TrainingConfig
    from sparkwright.tuning.config import TuningConfig
    from sparkwright.tuning.tune import check_heads
    from sparkwright.tuning.tune import tune as run_tune

    if not storage.is_local(space):  # see `options.check_early`
        raise InputError(f"--space must be a name, or a file on this machine's disk; it is {space}. Copy it here.")
    named = options.parse_settings(settings)
    if refit:
        named["refit"] = True
    if epochs is not None:
        named["epochs"] = epochs
    config = TuningConfig(
        space=space,
        trials=trials,
        base=TrainingConfig.from_dict({**named, "replicas": replicas, "seed": seed}),
        sampler=sampler,
        min_epochs=min_epochs,
        eta=eta,
        folds=folds,
        candidates=candidates,
        seeds=seeds,
        parallel_trials=parallel_trials,
        together=together,
        max_parameters=max_parameters,
        max_seconds_per_row=max_seconds_per_row,
        objectives=tuple(objective or ()),
        max_epochs=max_epochs,
        time_limit_s=time_limit_s,
        trial_time_limit_s=trial_time_limit_s,
    )
    check_heads(config)
    if columns is None and (label != "label" or split != "0.6,0.2,0.2"):
        raise InputError(
            "--label and --split are of tables: name the columns to learn from with --features A,B,C. Features have "
            "the labels and sides that `featurize` gave them."
        )
    sides = options.parse_split(split)
    options.check_early(out, overwrite=overwrite, resume=resume)
    options.check_paths([features], master, remote, conf)
    with options.open_session(master, remote, conf) as spark:
        result = run_tune(
            spark,
            features,
            out,
            config,
            columns=None if columns is None else [name.strip() for name in columns.split(",")],
            label=label,
            split=sides,
            group=group,
            overwrite=overwrite,
            resume=resume,
            sinks=options.progress_sinks(as_json),
        )
    show_result(result, "photos" if columns is None else "rows", as_json=as_json)


def show_result(result: "TuningResult", unit: str, *, as_json: bool) -> None:
    """Print what was chosen, its figures on rows that are called `unit`, and where everything lies."""
    search, test = result.metrics["search"], result.metrics["test"]
    low, high = test["accuracy_interval"]
    run = result.run.removeprefix("file://")
    lines = [
        f"trials         {_counted(search['trials'])}; {search['epochs']:,} epochs",
        f"chosen         trial {result.chosen.trial}: {_settings(result.chosen.values)}",
        _validation(search),
        f"test accuracy  {test['accuracy']:.4f}  (95 % interval {low:.4f} to {high:.4f}, {test['evaluated']:,} {unit}, "
        "read once, after the choice)",
    ]
    optimism = search["optimism"]
    if optimism is not None:
        lower, upper = (100 * end for end in optimism["interval"])
        lines.append(
            f"optimism       {100 * optimism['difference']:+.1f} points: validation accuracy less that of the test "
            f"(95 % interval {lower:+.1f} to {upper:+.1f})"
        )
    lines += [f"report         {run}/report.html", f"model          {run}/model"]
    document: dict[str, Any] = {"run": result.run, "chosen": result.chosen.to_dict(), "metrics": result.metrics}
    options.show(document, "\n".join(lines), as_json=as_json)


def _counted(states: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {state}" for state, count in states.items())


def _settings(values: dict[str, Any]) -> str:
    shown = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in values.items()}
    return ", ".join(f"{name}={value}" for name, value in shown.items()) or "the defaults"


def _validation(search: dict[str, Any]) -> str:
    """Return the line on the validation figures of the chosen configuration."""
    chosen, metric = search["chosen"], search["metric"]
    seeds = len(chosen["scores"])
    spread = f" ± {chosen['spread']:.4f} over {seeds} seeds" if seeds > 1 else ""
    line = f"validation     {metric} {chosen['mean']:.4f}{spread}"
    if metric != "accuracy" and "accuracy" in chosen["metrics"]:
        line += f"; accuracy {chosen['metrics']['accuracy']:.4f}"
    return line
