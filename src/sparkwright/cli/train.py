"""`sparkwright train`: features → a tested model of features."""

from typing import Annotated

import typer

from sparkwright.cli.options import (
    Conf,
    Json,
    Master,
    Out,
    Overwrite,
    Remote,
    Replicas,
    Resume,
    Seed,
    Settings,
    check_early,
    open_session,
    parse_settings,
    progress_sinks,
)
from sparkwright.cli.transfer import show_result


def train(
    features: Annotated[str, typer.Argument(help="A folder of features with labels and sides, from `featurize`.")],
    out: Out,
    replicas: Replicas = 4,
    settings: Settings = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    resume: Resume = False,
    master: Master = None,
    remote: Remote = None,
    conf: Conf = None,
    as_json: Json = False,
) -> None:
    """Train a head on features, test it on the rows of the test side, and write model and report."""
    from sparkwright.training.config import TrainingConfig
    from sparkwright.transfer import train_features

    training = TrainingConfig.from_dict({"refit": True, **parse_settings(settings), "replicas": replicas, "seed": seed})
    check_early(out, overwrite=overwrite, resume=resume)
    with open_session(master, remote, conf) as spark:
        result = train_features(
            spark, features, out, training, overwrite=overwrite, resume=resume, sinks=progress_sinks(as_json)
        )
    show_result(result, as_json=as_json)
