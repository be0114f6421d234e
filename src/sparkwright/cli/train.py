"""`sparkwright train`: features → a tested model of features."""

from typing import Annotated

import typer

from sparkwright.cli import options
from sparkwright.cli.transfer import show_result


def train(
    features: Annotated[str, typer.Argument(help="A folder of features with labels and sides, from `featurize`.")],
    out: options.Out,
    replicas: options.Replicas = 4,
    settings: options.Settings = None,
    checkpoint_s: options.CheckpointSeconds = 60.0,
    seed: options.Seed = 0,
    overwrite: options.Overwrite = False,
    resume: options.Resume = False,
    master: options.Master = None,
    remote: options.Remote = None,
    conf: options.Conf = None,
    as_json: options.Json = False,
) -> None:
    """Train a head on features, test it on the rows of the test side, and write model and report."""
    from sparkwright.training.config import TrainingConfig
    from sparkwright.transfer import train_features

    training = TrainingConfig.from_dict(
        {"refit": True, **options.parse_settings(settings), "replicas": replicas, "seed": seed}
    )
    options.check_early(out, overwrite=overwrite, resume=resume)
    options.check_paths([features], master, remote, conf)
    with options.open_session(master, remote, conf) as spark:
        result = train_features(
            spark,
            features,
            out,
            training,
            checkpoint_s=checkpoint_s,
            overwrite=overwrite,
            resume=resume,
            sinks=options.progress_sinks(as_json),
        )
    show_result(result, as_json=as_json)
