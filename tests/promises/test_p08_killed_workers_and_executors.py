"""P8: on a cluster whose worker and whose executor are killed, a training ends with the bits of one undisturbed.

Drivers, stopped workers, YARN and a hundred kills: ``benchmarks/soak.py``, of which this is the shortest run.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_a_killed_worker_and_a_killed_executor_change_no_bit_and_leave_no_process(tmp_path: Path) -> None:
    arguments = ["--kills", "2", "--kills-per-run", "2", "--victims", "worker,executor", "--seed", "1"]
    arguments += ["--epochs", "30", "--rows", "1000", "--within-s", "4", "--out", str(tmp_path / "result.json")]
    done = subprocess.run(
        [sys.executable, str(SOAK), *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["ok"]
    assert [kill["victim"] for kill in result["kills"]] == ["worker", "executor"]
    (run,) = result["runs"]
    assert (run["left"], run["drivers"]) == ([], 1)
    assert any("is followed by another, from" in warning for warning in run["warnings"])
