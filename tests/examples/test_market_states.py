"""The example that draws the states of real candles, whose picture the documentation shows."""

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.learning.market.golden import FOLDER

ROOT = Path(__file__).parents[2]


def test_it_counts_and_draws(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    picture = tmp_path / "states.svg"
    said = drawn(shared_data("candles-5m/ETH_BTC.csv.gz"), "5m", picture, "ETH/BTC")
    assert said["bars"] == 5760
    assert abs(said["S3"] - 0.62) < 0.01
    assert picture.read_bytes() == (ROOT / "docs" / "market-states.svg").read_bytes(), "docs/ has another picture"


def test_of_a_sample(tmp_path: Path) -> None:
    file = tmp_path / "candles.csv"
    with (FOLDER / "engine_series.csv").open() as source, file.open("w", newline="") as target:
        csv.writer(target).writerows([["date", *row[1:]] if row[0] == "t" else row for row in csv.reader(source)])
    said = drawn(file, "1h", tmp_path / "states.svg", "series")
    assert (said["bars"], said["changes"]) == (1500, 28)
    assert abs(said["S3"] - (117 + 251) / 1401) < 1e-4


def drawn(candles: Path, interval: str, picture: Path, title: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "market_states.py"), str(candles), interval, str(picture), title],
        capture_output=True, text=True, check=True, cwd=picture.parent,
    )  # fmt: skip
    assert picture.stat().st_size < 200_000
    return {line.split()[0]: float(line.split()[1]) for line in done.stdout.splitlines()}
