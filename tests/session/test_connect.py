import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.cluster
@pytest.mark.timeout(600)
@pytest.mark.skipif(os.environ.get("SPARKWRIGHT_TEST_SESSION") == "connect", reason="runs on Spark Connect already")
def test_what_is_marked_connect_passes_on_spark_connect_too():
    """One process can hold a session of one kind only, so that the tests run again in another."""
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(tests)],
        cwd=tests.parent,
        env={**os.environ, "SPARKWRIGHT_TEST_SESSION": "connect"},
        capture_output=True,
        text=True,
        timeout=590,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
