"""The calibration example, on the real forecasts that the README's picture is drawn from."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]


def test_it_scores_and_draws(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    picture = tmp_path / "calibration.svg"
    games = shared_data("fivethirtyeight-nba-games.csv")
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "calibration.py"), str(games), str(picture)],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    scores = {line.split()[0]: float(line.split()[1]) for line in done.stdout.splitlines()}
    assert scores["outcomes"] == 8886
    assert abs(scores["brier"] - 0.2147) < 1e-4
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")  # noqa: S314 (we drew it)
    assert picture.read_bytes() == (ROOT / "docs" / "calibration.svg").read_bytes(), "the README shows another picture"
