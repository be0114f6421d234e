"""P13: every published figure has its command, seed, hardware, spread, and a confidence interval where it is a metric.

What can be checked of it: the page of results and its files, what benchmarks write, what examples and commands print.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sparkwright.cli.transfer import show_result
from sparkwright.evaluation.metrics import wilson_interval
from sparkwright.models import Model
from sparkwright.transfer import TransferResult

ROOT = Path(__file__).parents[2]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
PAGE = (ROOT / "benchmarks" / "results" / "README.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| question")
]
BEFORE = {"supervisor"}  # measured before the script told versions


def values(found: Any, key: str) -> list[Any]:
    """All values under a key, however deep."""
    if isinstance(found, list):
        return [value for part in found for value in values(part, key)]
    if not isinstance(found, dict):
        return []
    own = [found[key]] if key in found else []
    return own + [value for part in found.values() for value in values(part, key)]


def test_every_figure_names_the_command_that_made_it() -> None:
    assert len(ROWS) > 20
    command = ""
    for question, how, *_ in ROWS:
        if not how.startswith(("the same", "`… ")):  # that goes on from the row above
            command = how
        named = re.search(r"python (\S+\.py)", command)
        assert named, f"{question}: no command"
        assert (ROOT / named[1]).is_file(), f"{question}: there is no {named[1]}"


def test_every_accuracy_comes_with_its_spread() -> None:
    accuracies = [row for row in ROWS if row[0].startswith("accuracy on")]
    assert accuracies
    for question, _, result, *_ in accuracies:
        assert re.search(r"\((0\.\d+, ){2,}0\.\d+\)", result), f"{question}: one value tells no spread"
    assert "standard error" in PAGE


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_file_of_results_says_by_what_and_on_what_it_was_made(path: Path) -> None:
    script = ROOT / "benchmarks" / f"{path.stem}.py"
    assert script.is_file()
    found = json.loads(path.read_text(encoding="utf-8"))
    assert values(found, "machine") + values(found, "hardware") + values(found, "cores")
    assert path.stem in BEFORE or all("sparkwright" in versions for versions in values(found, "versions"))
    assert path.stem in BEFORE or values(found, "versions")


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_draws_is_drawn_by_a_seed(script: Path) -> None:
    source = script.read_text(encoding="utf-8")
    assert not re.search(r"default_rng\(\)|random\.Random\(\)|np\.random\.(rand|normal|permutation)", source)
    if ".json" in source or "json.dumps" in source:
        assert "library_versions" in source, "results without versions"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_an_example_that_tells_an_accuracy_tells_its_interval(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert "accuracy {" not in source or "interval" in source


def test_an_accuracy_on_the_terminal_has_its_interval(capsys: pytest.CaptureFixture[str]) -> None:
    low, high = wilson_interval(90, 100)
    assert (round(low, 4), round(high, 4)) == (0.8256, 0.9448)  # Wilson 1927
    baseline = {"majority": {"class": "cat", "accuracy": 0.5}}
    test = {"accuracy": 0.9, "accuracy_interval": [low, high], "evaluated": 100, "errors": 0, "baseline": baseline}
    model: Any = Model.__new__(Model)
    show_result(TransferResult("run", model, {"test": test}), as_json=False)
    assert "test accuracy  0.9000  (95 % interval 0.8256 to 0.9448, 100 photos" in capsys.readouterr().out
