"""The shell command that repeats a run: what a report shows of one that the command line, or its functions, made."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from sparkwright import storage
from sparkwright.runs import SPACE
from sparkwright.training.config import FINETUNING, TrainingConfig

__all__ = ["shell_command"]


def shell_command(command: str, config: Mapping[str, Any], out: str) -> str:
    """Return the shell command that repeats a run.

    Args:
        command: Of the command line: ``transfer``, ``train`` or ``tune``.
        config: What ``config.json`` is to hold of it.
        out: The run's folder.
    """
    out = storage.to_uri(out).removeprefix("file://")
    words = ["sparkwright", command]
    words += [config["features"]] if "features" in config else [*config["images"], "--network", config["network"]]
    words += ["--out", out]
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
        words += _search(config["search"], storage.join(out, SPACE))
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
