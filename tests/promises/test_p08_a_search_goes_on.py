"""P8: workers and an executor are killed during a search, which ends with the trials of one undisturbed.

Sixty trials and five kills: ``benchmarks/tuning.py``, case `killed`.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TUNING = Path(__file__).parents[1] / "tuning"


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_a_search_whose_workers_are_killed_has_the_same_trials_and_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(TUNING))
    import killed_search

    from sparkwright.tuning.runners.local import LocalRunner
    from sparkwright.tuning.search import Search
    from sparkwright.tuning.setup import Setup

    done = subprocess.run(
        [sys.executable, str(TUNING / "killed_search.py"), str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    killed = sorted(path.name for path in (tmp_path / "tuning").glob("killed-*"))
    assert killed == sorted(f"killed-{trial}" for trial in killed_search.KILLED)
    assert sum("lost its worker" in message for message in found["warned"]) >= 3
    monkeypatch.setattr("os.fsync", lambda file: None)
    setup = Setup(killed_search.BASE, killed_search.COLUMNS)
    runner = LocalRunner(killed_search.table(), setup, str(tmp_path / "alone"))
    expected = Search(killed_search.SEARCH, runner).run()
    assert len(expected) == 24
    wanted = [
        (trial.values, trial.state, trial.value, {str(e): v for e, v in trial.rungs.items()}) for trial in expected
    ]
    assert [(t["values"], t["state"], t["value"], t["rungs"]) for t in found["trials"]] == wanted
