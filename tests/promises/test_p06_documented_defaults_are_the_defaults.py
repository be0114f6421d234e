"""P6: what the docs call the default is the default."""

import dataclasses
import re
from pathlib import Path

from sparkwright.scoring.inputs.fetch import FetchLimits
from sparkwright.training.config import TrainingConfig


def test_every_setting_of_a_training_is_documented() -> None:
    documented = TrainingConfig.__doc__ or ""
    missing = [f.name for f in dataclasses.fields(TrainingConfig) if f"        {f.name}: " not in documented]
    assert missing == []


def test_the_estimators_take_their_defaults_from_the_configuration() -> None:
    from sparkwright.training.estimators.heads import MLPClassifier, MLPRegressor

    config = TrainingConfig()
    # The task is an estimator's own, and it trains one output.
    fields = {f.name for f in dataclasses.fields(TrainingConfig)} - {"task", "outputs"}
    assert set(MLPClassifier.fields.values()) | set(MLPRegressor.fields.values()) == fields
    assert all(hasattr(config, field) for field in fields)


def test_the_guide_to_urls_names_every_limit_with_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "inputs.md").read_text(encoding="utf-8")
    told: dict[str, str] = {}
    for names, values in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ([^|]+) \|", page, re.MULTILINE):
        told |= zip(names.replace("`", "").split(", "), values.split(", "), strict=False)
    defaults = {f.name: f.default for f in dataclasses.fields(FetchLimits)}
    assert defaults.pop("max_bytes") == int(told["max_bytes"].removesuffix(" MiB")) << 20
    assert defaults.pop("allow_private") is ("True" in told["allow_private"])
    assert {name: float(told[name]) for name in defaults} == defaults
