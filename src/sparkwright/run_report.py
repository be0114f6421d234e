"""The report of a run, written from what its folder holds: no Spark, so that it can be written again anywhere."""

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Mapping
from typing import Any

from sparkwright import storage
from sparkwright.errors import InputError
from sparkwright.evaluation.report import RunRecord, Thumbnail, write_report
from sparkwright.evaluation.report.tuning import SearchRecord, measure_importance
from sparkwright.runs import AUGMENTED, IMPORTANCE, SPACE, THUMBNAILS, TRIALS, read_run
from sparkwright.training.config import FINETUNING, TrainingConfig

__all__ = ["write_run_report"]


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
        search=_searched(run, metrics),
        augmented=storage.read_bytes(sheet) if storage.exists(sheet) else b"",
        created=events[-1].time if events else "",
    )
    path = storage.join(run, "report.html")
    storage.write_bytes(path, write_report(record).encode())
    return path


def _searched(run: str, metrics: Mapping[str, Any]) -> SearchRecord | None:
    """Return the search that the run did, with its parameters' importance, which the run's folder keeps."""
    trials, kept = storage.join(run, TRIALS), storage.join(run, IMPORTANCE)
    if not storage.exists(trials):
        return None
    content = storage.read_bytes(trials)
    optimism = (metrics.get("search") or {}).get("optimism")
    search = SearchRecord.from_dict({**json.loads(content), "optimism": optimism})
    digest = hashlib.sha256(content).hexdigest()
    known = json.loads(storage.read_bytes(kept)) if storage.exists(kept) else {}
    if known.get("trials") != digest:  # a search that went on has other trials
        known = {"trials": digest, "importance": measure_importance(search)}
        storage.write_bytes(kept, json.dumps(known, indent=2, ensure_ascii=False).encode())
    return dataclasses.replace(search, importance=known["importance"])


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
    training, usual = config["training"], TrainingConfig(refit="search" not in config).to_dict()
    words += ["--replicas", str(training["replicas"])]
    words += _settings("--set", training, usual)
    if "search" in config:
        words += _search(config["search"], storage.join(run, SPACE).removeprefix("file://"))
    if "finetune" in config:
        words += ["--finetune", config["finetune"]]
        words += _settings("--finetune-set", config["finetuning"], FINETUNING.to_dict())
    if "augmentation" in config:
        words += ["--augment", json.dumps(config["augmentation"])]
    return shlex.join(words)


def _search(search: dict[str, Any], space: str) -> list[str]:
    """Return the options of a search in the space that lies in a file."""
    words = ["--space", space]
    for name, value in search.items():
        if name == "objectives":
            words += [word for each in value for word in ("--objective", each)]
        elif name != "space" and value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def _settings(option: str, training: dict[str, Any], usual: dict[str, Any]) -> list[str]:
    """Return the options that make the settings of a training of the usual ones."""
    words = []
    for name, value in training.items():
        if name not in ("seed", "replicas") and value != usual[name]:
            words += [option, f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return words
