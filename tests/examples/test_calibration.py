"""The calibration example, on the real forecasts that the README's picture is drawn from, and on a sample."""

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from tests.samples import games as sample

ROOT = Path(__file__).parents[2]


def test_it_scores_and_draws(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    picture = tmp_path / "calibration.svg"
    games = shared_data("fivethirtyeight-nba-games.csv")
    scores = drawn(games, picture)
    assert scores["outcomes"] == 8886
    assert abs(scores["brier"] - 0.2147) < 1e-4
    assert picture.read_bytes() == (ROOT / "docs" / "calibration.svg").read_bytes(), "the README shows another picture"


def test_of_a_sample(tmp_path: Path) -> None:
    """Every outcome is counted, and the score is what adding up gives."""
    picture, games = tmp_path / "calibration.svg", tmp_path / "games.csv"
    sample(games)
    with games.open() as file:
        said = [(float(row["prob1"]), int(row["prob1_outcome"])) for row in csv.DictReader(file)]
    scores = drawn(games, picture)
    assert scores["outcomes"] == len(said)
    assert abs(scores["brier"] - sum((p - o) ** 2 for p, o in said) / len(said)) < 1e-4


def drawn(games: Path, picture: Path) -> dict[str, float]:
    """What the example prints; the picture that it draws is one."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "calibration.py"), str(games), str(picture)],
        capture_output=True, text=True, check=True, cwd=picture.parent,
    )  # fmt: skip
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")  # noqa: S314 (we drew it)
    return {line.split()[0]: float(line.split()[1]) for line in done.stdout.splitlines()}
