"""Pinned versions, the version, and the two commands."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import sparkwright

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
)
REQUIREMENTS = [
    *PROJECT["project"]["dependencies"],
    *PROJECT["dependency-groups"]["dev"],
    *PROJECT["build-system"]["requires"],
]


@pytest.mark.parametrize("requirement", REQUIREMENTS)
def test_requirement_is_pinned_to_a_version_that_it_admits(requirement: str) -> None:
    wanted = Requirement(requirement)
    assert wanted.name in PINS, f"{wanted.name} is not in constraints.txt: run scripts/pin"
    assert wanted.specifier.contains(PINS[wanted.name]), "constraints.txt is older than pyproject.toml: run scripts/pin"


def test_torch_is_pinned_without_the_name_of_a_build() -> None:
    assert "+" not in PINS["torch"]


def test_changelog_has_an_entry_for_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(sparkwright.__version__)}\b", changelog, re.MULTILINE)


@pytest.mark.parametrize("script", ["quickstart", "test", "scripts/set-up", "scripts/pin", ".ci/run"])
def test_script_is_executable_and_parses(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    run = subprocess.run(["bash", "-n", path], capture_output=True, text=True, timeout=10, check=False)
    assert run.returncode == 0, run.stderr
