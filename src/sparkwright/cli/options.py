"""Options that several commands share, and what they open."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparkwright.errors import InputError
from sparkwright.events import Sink, Stamped, Warned

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = [
    "DATA",
    "AllowPrivate",
    "CheckpointSeconds",
    "Columns",
    "Conf",
    "Failfast",
    "Group",
    "Json",
    "Labels",
    "Layer",
    "Master",
    "MaxErrorRate",
    "MinAgreement",
    "NetworkName",
    "Out",
    "Overwrite",
    "PrecisionName",
    "Preset",
    "Remote",
    "Replicas",
    "Resume",
    "Reuse",
    "Seed",
    "Settings",
    "Split",
    "Weights",
    "check_early",
    "check_paths",
    "find_model",
    "open_session",
    "parse_augmentation",
    "parse_columns",
    "parse_conf",
    "parse_master",
    "parse_settings",
    "parse_split",
    "progress_sinks",
    "show",
]

Master = Annotated[str | None, typer.Option(help="Spark master: local[*], yarn, spark://… Default: local[*].")]
Remote = Annotated[str | None, typer.Option(help="A Spark Connect server instead of a master: sc://host:port.")]
Conf = Annotated[list[str] | None, typer.Option("--conf", metavar="K=V", help="A Spark setting; may be repeated.")]
MaxErrorRate = Annotated[float, typer.Option(help="Share of photos that may fail.", min=0.0, max=1.0)]
Seed = Annotated[int, typer.Option(help="Seed of split, initial weights and order of rows.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
AllowPrivate = Annotated[
    bool, typer.Option("--allow-private", help="Fetch the URLs of a table from private addresses and this machine too.")
]
DATA = (
    "Photos (paths, folders, globs); a table (*.csv, *.parquet) with `path` or `url`, or with the columns of numbers "
    "that the model was trained on; or a folder of features."
)
Columns = Annotated[
    str | None,
    typer.Option(
        "--features",
        metavar="A,B,C",
        help="Of a table of numbers: the model's columns, in their order. Default: those that it was trained on.",
    ),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on in a run folder of the same configuration, in training from its checkpoint."),
]
CheckpointSeconds = Annotated[float, typer.Option("--checkpoint-s", help="Seconds between two checkpoints.", min=0.0)]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
Out = Annotated[str, typer.Option(help="Output folder: a path or any URI that Spark writes.")]
NetworkName = Annotated[
    str, typer.Option("--network", help="A name from `sparkwright networks`, or a file or folder with a network.")
]
Weights = Annotated[
    str | None, typer.Option(help="A .safetensors file for the network, or `random`. Default: its published weights.")
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preprocessing", help="Of an .onnx file that is not in the catalogue: imagenet, inception or caffe."
    ),
]
Layer = Annotated[str | None, typer.Option(help="The layer whose output is kept. Default: the one before the classes.")]
Labels = Annotated[
    str,
    typer.Option(help="Where labels come from: `folder`, a regular expression on the path, or a table (path, label)."),
]
Split = Annotated[
    str,
    typer.Option(help="Fractions of train,validation,test; or `folder`; or a table (path, split)."),
]
Group = Annotated[
    str | None,
    typer.Option(help="Rows of a group stay on one side: a regular expression on the path, or a table (path, group)."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A setting of the training (epochs=30, hidden=[256], learning_rate=0.02 …); may be repeated.",
    ),
]
PrecisionName = Annotated[
    str,
    typer.Option(
        "--precision",
        help="float32, int8 (calibrated on some of the photos) or bfloat16: faster, where they agree.",
    ),
]
MinAgreement = Annotated[
    float, typer.Option(help="The least agreement of a reduced precision with float32.", min=0.0, max=1.0)
]
Failfast = Annotated[bool, typer.Option("--failfast", help="Stop at the first photo that fails, and name it.")]
Reuse = Annotated[list[str] | None, typer.Option(help="Features of an earlier run, found by content; may be repeated.")]
Replicas = Annotated[int, typer.Option(help="Copies of the weights that train side by side; part of the result.")]


def parse_augmentation(text: str | None) -> str | dict[str, Any] | None:
    """Read the name of a preset, or a JSON object with an augmentation's fields.

    Raises:
        InputError: a text that begins as a JSON object is none.
    """
    if text is None or not text.startswith("{"):
        return text
    try:
        fields: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise InputError(f"--augment must be the name of a preset or a JSON object; got {text!r} ({error}).") from error
    return fields


def parse_conf(conf: Sequence[str] | None) -> dict[str, str]:
    """Read Spark settings of the form ``key=value``.

    Raises:
        InputError: one has no equals sign.
    """
    settings = {}
    for item in conf or ():
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise InputError(f"--conf needs KEY=VALUE, and got `{item}`.")
        settings[key.strip()] = value.strip()
    return settings


def parse_master(master: str | None, remote: str | None) -> str | None:
    """Return the master to start with; None with a Spark Connect server.

    Raises:
        InputError: both are given.
    """
    if master and remote:
        raise InputError("--master and --remote exclude each other; give one of them.")
    return None if remote else master or "local[*]"


@contextmanager
def open_session(master: str | None, remote: str | None, conf: Sequence[str] | None) -> "Iterator[SparkSession]":
    """Start a session, and stop it at the end.

    Raises:
        InputError: a setting is not of the form key=value, or both master and remote are given.
    """
    from sparkwright import session

    spark = session.start(parse_master(master, remote), remote, parse_conf(conf))
    try:
        yield spark
    finally:
        spark.stop()


def check_early(out: str, *, overwrite: bool = False, resume: bool = False) -> None:
    """Refuse an output folder before Spark starts, where that can be known from this machine's disk.

    Other file systems are looked at later: the HDFS client starts threads, and a process with such threads must not
    fork, which starting Spark's JVM does.

    Raises:
        ExistsError: see `sparkwright.runs.check_folder`.
    """
    from sparkwright import storage
    from sparkwright.runs import check_folder

    if storage.is_local(out):
        check_folder(out, overwrite=overwrite, resume=resume)


def check_paths(paths: Sequence[str], master: str | None, remote: str | None, conf: Sequence[str] | None) -> None:
    """Refuse paths before Spark starts that are not there, where that can be known from this machine's disk.

    A path without a scheme lies on Spark's default file system: with a local master the disk, unless Spark or Hadoop
    is configured.

    Raises:
        NotFoundError: One is not there; with the closest name that is.
    """
    from sparkwright.data.listing import missing_here

    configured = any(os.environ.get(name) for name in ("HADOOP_CONF_DIR", "SPARK_CONF_DIR", "SPARK_HOME"))
    configured = configured or any("fs.defaultFS" in setting for setting in conf or ())
    if configured or not (parse_master(master, remote) or "").startswith("local"):
        return
    for path in paths:
        missing = missing_here(path)
        if missing is not None:
            raise missing


def find_model(path: str) -> str:
    """Return where the model is: `path`, or the model of the run whose folder it is.

    Any file system; it may look at HDFS, so Spark must have started (see `check_early`).
    """
    from sparkwright import storage
    from sparkwright.models import MANIFEST

    inside = storage.join(path, "model")
    if path.endswith(".zip") or storage.exists(storage.join(path, MANIFEST)):
        return path
    return inside if storage.exists(storage.join(inside, MANIFEST)) else path


def parse_split(text: str) -> tuple[float, float, float] | str:
    """Read ``0.6,0.2,0.2`` as fractions; anything else is ``folder`` or a table's path.

    Raises:
        InputError: the fractions are not three, or do not add up to one.
    """
    try:
        fractions = [float(part) for part in text.split(",")]
    except ValueError:
        return text
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(f"--split needs three fractions that add up to 1 (train,validation,test), and got `{text}`.")
    train, validation, test = fractions
    return train, validation, test


def parse_settings(settings: Sequence[str] | None) -> dict[str, Any]:
    """Read ``name=value`` pairs; values are JSON where they can be read so, text elsewhere.

    Raises:
        InputError: a pair has no equals sign.
    """
    parsed: dict[str, Any] = {}
    for item in settings or ():
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise InputError(f"--set needs NAME=VALUE, and got `{item}`.")
        try:
            parsed[name.strip()] = json.loads(value)
        except ValueError:
            parsed[name.strip()] = value.strip()
    return parsed


def parse_columns(text: str | None) -> list[str] | None:
    """Read names of columns, separated by commas; None for none."""
    return None if text is None else [name.strip() for name in text.split(",")]


def progress_sinks(as_json: bool) -> list[Sink]:
    """Return the terminal's progress display; where it would be in the way, warnings alone, on standard error."""
    from sparkwright.monitoring.progress import TerminalProgress

    return [_print_warning] if as_json or not sys.stderr.isatty() else [TerminalProgress()]


def _print_warning(stamped: Stamped) -> None:
    if isinstance(stamped.event, Warned):
        print(f"warning: {stamped.event.message}", file=sys.stderr)


def show(result: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print a command's result: `text` for people, or `result` as one JSON document."""
    print(json.dumps(result, indent=2, ensure_ascii=False) if as_json else text)
