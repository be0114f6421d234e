"""The report of a run, written from what its folder holds: no Spark, so that it can be written again anywhere."""

import json
import shlex
from typing import Any

from sparkwright import storage
from sparkwright.errors import InputError
from sparkwright.evaluation.report import RunRecord, Thumbnail, write_report
from sparkwright.runs import read_run
from sparkwright.training.config import FINETUNING, TrainingConfig

__all__ = ["AUGMENTED", "THUMBNAILS", "write_run_report"]

THUMBNAILS = "wrong.json"
"""File of a run: the photos that the model was most sure of, and wrong about, made small."""

AUGMENTED = "augmented.jpg"
"""File of a run: training photos as augmentation changes them (`draw_contact_sheet`)."""


def write_run_report(run: str) -> str:
    """Write ``report.html`` of a run from what its folder holds, without Spark; return its URI.

    Raises:
        NotFoundError: there is no run.
        InputError: the run has no metrics, because it did not end.
    """
    document, metrics, events = read_run(run)
    if not metrics:
        raise InputError(f"The run {run} has no metrics.json: it has not ended, or it failed. Run it to its end first.")
    wrong = storage.join(run, THUMBNAILS)
    thumbnails = json.loads(storage.read_bytes(wrong)) if storage.exists(wrong) else []
    sheet = storage.join(run, AUGMENTED)
    if "task" not in metrics.get("validation", {}):  # the figures of the chosen epoch: the learning curves show them
        metrics = {side: value for side, value in metrics.items() if side != "validation"}
    record = RunRecord(
        title=run.rstrip("/").rsplit("/", 1)[-1],
        config=document["config"],
        metrics=metrics,
        events=events,
        versions=document["versions"],
        command=_command(document, run),
        thumbnails=[Thumbnail.from_dict(data) for data in thumbnails],
        augmented=storage.read_bytes(sheet) if storage.exists(sheet) else b"",
        created=events[-1].time if events else "",
    )
    path = storage.join(run, "report.html")
    storage.write_bytes(path, write_report(record).encode())
    return path


def _command(document: dict[str, Any], run: str) -> str:
    """Return the shell command that repeats a run."""
    config = document["config"]
    words = ["sparkwright", document["command"]]
    words += [config["features"]] if "features" in config else [*config["images"], "--network", config["network"]]
    words += ["--out", run.removeprefix("file://")]
    split = config.get("split")
    if split is not None:
        words += ["--split", split if isinstance(split, str) else ",".join(map(str, split))]
    if "columns" in config:
        words += ["--features", ",".join(config["columns"])]
    for name in ("label", "labels", "group", "weights", "preprocessing", "layer", "seed", "max_error_rate"):
        if config.get(name) is not None:
            words += [f"--{name.replace('_', '-')}", str(config[name])]
    training, usual = config["training"], TrainingConfig(refit=True).to_dict()
    words += ["--replicas", str(training["replicas"])]
    words += _settings("--set", training, usual)
    if "finetune" in config:
        words += ["--finetune", config["finetune"]]
        words += _settings("--finetune-set", config["finetuning"], FINETUNING.to_dict())
    if "augmentation" in config:
        words += ["--augment", json.dumps(config["augmentation"])]
    return shlex.join(words)


def _settings(option: str, training: dict[str, Any], usual: dict[str, Any]) -> list[str]:
    """Return the options that make the settings of a training of the usual ones."""
    words = []
    for name, value in training.items():
        if name not in ("seed", "replicas") and value != usual[name]:
            words += [option, f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return words
