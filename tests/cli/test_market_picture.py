"""The picture of the market: what is painted of many bars, of few, and of gaps."""

from pathlib import Path

import numpy as np
import pytest

from closeloop.cli.market_picture import MarketPicture, draw
from closeloop.learning.market.engine import advance
from closeloop.models.market import Timeframe
from tests.learning.market.series import POLICY, random_series


def picture(count: int, levers: bool = False) -> MarketPicture:
    bars = random_series(1, count)
    rows, _ = advance(None, bars, Timeframe.m1, POLICY)
    share = np.linspace(0, 1, count)
    return MarketPicture(
        "BTC 1m", 60, bars.start, bars.close, rows.state, levers=(bars.start, share, 1 - share) if levers else None
    )


@pytest.mark.parametrize("levers", [False, True])
def test_the_file_stays_small_however_many_bars_there_are(tmp_path: Path, levers: bool) -> None:
    draw(tmp_path / "p.svg", picture(200_000, levers))
    assert 20_000 < (tmp_path / "p.svg").stat().st_size < 200_000


def test_the_same_picture_is_the_same_file(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        draw(tmp_path / name, picture(3_000))
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_only_states_that_are_painted_are_in_the_legend(tmp_path: Path) -> None:
    whole = picture(400)
    colours = {}
    for state in (0, 3):
        one = MarketPicture("x", 60, whole.start, whole.close, np.full(400, state, dtype=np.int8))
        draw(tmp_path / "p.svg", one)
        colours[state] = (tmp_path / "p.svg").read_text()
    assert "#f2b8a2" in colours[0]
    assert "#a3d9bf" not in colours[0]
    assert "#a3d9bf" in colours[3]


@pytest.mark.parametrize("count", [1, 2, 50])
def test_a_few_bars_and_a_gap(tmp_path: Path, count: int) -> None:
    whole = picture(count)
    start = whole.start.copy()
    start[count // 2 :] += 86_400
    draw(tmp_path / "p.svg", MarketPicture("x", 60, start, whole.close, whole.state, int(start[-1])))
    assert (tmp_path / "p.svg").stat().st_size > 5_000


def test_nothing_to_draw(tmp_path: Path) -> None:
    whole = picture(10)
    with pytest.raises(ValueError, match="no bars"):
        draw(tmp_path / "p.svg", MarketPicture("x", 60, whole.start[:0], whole.close[:0], whole.state[:0]))
    assert not (tmp_path / "p.svg").exists()
