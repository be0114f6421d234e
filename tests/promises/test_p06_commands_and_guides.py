"""P6: what the docs call the default is the default: of commands, of Python, and in the guides."""

import inspect
import re
from pathlib import Path

import pytest
from typer.main import get_command

from sparkwright import transfer as main_job
from sparkwright.cli import app
from sparkwright.networks.preprocessing import Preprocessing
from sparkwright.scoring.features import featurize
from sparkwright.scoring.predictions import write_predictions
from sparkwright.training.config import TrainingConfig
from sparkwright.tuning.config import TuningConfig
from sparkwright.tuning.tune import tune

DOCS = Path(__file__).parents[2] / "docs"
PYTHON = {
    "transfer": main_job.transfer,
    "featurize": featurize,
    "train": main_job.train_features,
    "predict": write_predictions,
    "tune": tune,
}


def defaults(command):
    """The defaults that a command has."""
    return {param.name: param.default for param in get_command(app).commands[command].params}


@pytest.mark.parametrize("command", PYTHON)
def test_a_command_has_the_defaults_that_its_page_shows(command):
    page = (DOCS / "reference" / "command-line.md").read_text(encoding="utf-8")
    section = re.search(rf"^## `sparkwright {command}\b(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)[1]
    shown = dict(re.findall(r"^\| `--([\w-]+)` \| `([^`]*)` \|", section, re.MULTILINE))
    assert shown
    for name, value in shown.items():
        assert str(defaults(command)[name.replace("-", "_")]) == value, name


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("transfer", {"labels", "split", "seed", "max_error_rate", "overwrite", "resume", "weights", "layer", "group"}),
        ("featurize", {"max_error_rate", "overwrite"}),
        ("train", {"overwrite", "resume"}),
        ("predict", {"max_error_rate", "overwrite"}),
        ("tune", {"label", "split", "group", "overwrite", "resume"}),
    ],
)
def test_a_command_has_the_defaults_of_python(command, names):
    python = inspect.signature(PYTHON[command]).parameters
    given = defaults(command)
    for name in names:
        expected = python[name].default
        assert given[name] == (",".join(map(str, expected)) if name == "split" else expected), name


def test_the_command_searches_with_the_defaults_of_the_configuration():
    given, config = defaults("tune"), TuningConfig()
    for name in (
        "trials",
        "sampler",
        "eta",
        "candidates",
        "seeds",
        "together",
        "min_epochs",
        "folds",
        "parallel_trials",
    ):
        assert given[name] == getattr(config, name), name
    for name in ("max_parameters", "max_seconds_per_row", "max_epochs", "time_limit_s", "trial_time_limit_s"):
        assert given[name] is None is getattr(config, name), name
    assert given["refit"] == config.base.refit
    assert TuningConfig(given["space"]).searched.to_dict() == config.searched.to_dict()


@pytest.mark.parametrize("command", ["transfer", "train", "tune"])
def test_a_command_trains_with_the_defaults_of_the_configuration(command):
    given, config = defaults(command), TrainingConfig()
    assert (given["replicas"], given["seed"]) == (config.replicas, config.seed)


@pytest.mark.parametrize(
    ("page", "words", "given", "expected"),
    [
        ("how-to/bad-files.md", "more than 5 % of such rows", defaults("transfer")["max_error_rate"], 0.05),
        ("how-to/clusters.md", "`replicas` is fixed by you (four by default)", TrainingConfig().replicas, 4),
        ("tutorial/photos.md", "cut 60 : 20 : 20", defaults("transfer")["split"], "0.6,0.2,0.2"),
        ("tutorial/photos.md", "Four replicas of a linear head", TrainingConfig().hidden, ()),
        ("how-to/labels.md", "It is the default of `transfer`", defaults("transfer")["labels"], "folder"),
        ("how-to/bad-files.md", "more pixels than `max_pixels`", Preprocessing((1, 1)).max_pixels < 30_000**2, True),
    ],
)
def test_what_the_guides_call_the_default_is_the_default(page, words, given, expected):
    assert words in " ".join((DOCS / page).read_text(encoding="utf-8").split())
    assert given == expected
