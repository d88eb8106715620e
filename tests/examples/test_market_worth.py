"""The example that measures what states have been worth on candles, whose figures docs/market.md quotes."""

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.learning.market.golden import FOLDER

ROOT = Path(__file__).parents[2]
PAIRS = ("ADA", "ETH", "LTC", "TRX", "XMR")


def test_figures_of_the_document(shared_data: Callable[[str], Path]) -> None:
    said = measured("12,48", *(shared_data(f"candles-5m/{pair}_BTC.csv.gz") for pair in PAIRS))
    document = (ROOT / "docs" / "market.md").read_text()
    for horizon in (12, 48):
        value, low, high, by_chance_low, by_chance_high, _ = said[f"rank correlation, {horizon} bars"]
        assert f"| {value:.3f} [{low:.3f}, {high:.3f}] | [{by_chance_low:.3f}, {by_chance_high:.3f}] |" in document
    value, low, high, _ = said["after trim_flag, 48 bars (bp)"]
    assert f"{value:.1f} [{low:.1f}, {high:.1f}]" in document


def test_of_a_sample(tmp_path: Path) -> None:
    file = tmp_path / "candles.csv"
    with (FOLDER / "engine_series.csv").open() as source, file.open("w", newline="") as target:
        csv.writer(target).writerows([["date", *row[1:]] if row[0] == "t" else row for row in csv.reader(source)])
    said = measured("12", file, interval="1h")
    value, low, high, *_, bars = said["rank correlation, 12 bars"]
    assert low <= value <= high
    assert bars == 1500 - 332 - 12
    assert sum(numbers[-1] for name, numbers in said.items() if name.startswith("after S")) == pytest.approx(
        bars, abs=99
    )


def measured(horizons: str, *files: Path, interval: str = "5m") -> dict[str, list[float]]:
    """Numbers of each line, by its name."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "market_worth.py"), interval, horizons, *map(str, files)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if "[" in line]
    return {line[:38].strip(): [float(part) for part in _numbers(line[38:])] for line in lines}


def _numbers(text: str) -> list[str]:
    return text.replace("[", " ").replace("]", " ").replace(",", " ").split()
