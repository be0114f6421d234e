"""The command line in this process, on the shared session, and a finished run."""

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sparkwright import cli
from sparkwright.data.digits import write_digits

Printed = tuple[int, str, str]
Command = Callable[..., Printed]


@pytest.fixture(scope="package")
def sparkwright(spark: Any) -> Command:
    """Run the command on the shared session; return (exit code, stdout, stderr)."""

    @contextlib.contextmanager
    def shared(master: object, remote: object, conf: object) -> Iterator[Any]:
        yield spark

    return lambda *words: _run(words, shared)


@pytest.fixture(scope="package")
def plain() -> Command:
    """The same without a session."""
    return lambda *words: _run(words, cli.options.open_session)


def _run(words: tuple[object, ...], open_session: object) -> Printed:
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(cli.options, "open_session", open_session)
        patch.setattr(sys, "argv", ["sparkwright", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    code = ended.value.code or 0
    assert isinstance(code, int)
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="package")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of two digits in class folders."""
    folder = tmp_path_factory.mktemp("photos")
    write_digits(folder, digits=[5, 6])
    return folder


@dataclass(frozen=True)
class Transferred:
    """A finished run, and what the command printed that made it."""

    run: Path
    printed: Printed


@pytest.fixture(scope="package")
def transferred(sparkwright: Command, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Transferred:
    """The main job on `photos`."""
    run = tmp_path_factory.mktemp("runs") / "run"
    return Transferred(run, sparkwright("transfer", photos, "--network", "digits_cnn", "--out", run, "--json"))


@pytest.fixture
def done(transferred: Transferred) -> Path:
    """A finished run's folder."""
    return transferred.run
