"""The engine against values that were computed apart from it (expected/engine.json, state_machine.json)."""

from typing import Any

import numpy as np
import pytest

from closeloop.learning.market.bars import Bars
from closeloop.learning.market.carry import Carry
from closeloop.learning.market.engine import Rows, advance, named
from closeloop.learning.market.uptrend import S3, Machine, walk
from closeloop.models.market import Flag, Timeframe
from tests.learning.market.golden import golden
from tests.learning.market.series import POLICY, expected_series

WANT = golden("engine")


@pytest.fixture(scope="module")
def bars() -> Bars:
    return expected_series()


@pytest.fixture(scope="module")
def rows(bars: Bars) -> Rows:
    return advance(None, bars, Timeframe.h1, POLICY)[0]


def test_states(rows: Rows) -> None:
    names = [str(rows.state_of(i) or "warming_up") for i in range(len(rows))]
    runs = [[i, name] for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
    assert runs == WANT["states"]
    changes = [[i, names[i - 1], names[i]] for i in range(100, len(rows)) if names[i] != names[i - 1]]
    assert changes == WANT["transitions"]
    assert np.flatnonzero((rows.state == S3) & (rows.prev_state != S3)).tolist() == WANT["s3_starts"]
    assert rows.prev_state.tolist() == [-1, *rows.state[:-1].tolist()]


@pytest.mark.parametrize("flag", list(Flag))
def test_flags(rows: Rows, flag: Flag) -> None:
    wanted = [bar for first, last in WANT["flag_runs"].get(flag, []) for bar in range(first, last + 1)]
    assert np.flatnonzero(rows.flags[flag]).tolist() == wanted


def test_pivots(rows: Rows) -> None:
    kinds = {1: "high", -1: "low"}
    assert [
        {"confirmed": p.confirmed, "kind": kinds[p.side], "bar": p.bar, "price": p.price} for p in rows.pivots
    ] == WANT["pivots"]


def _values(rows: Rows, at: int) -> dict[str, float]:
    parts = {f"part {name}": values[at] for name, values in rows.edx_parts.items()}
    others = ("ts", "ox", "dx", "edx", "boost_ema60", "boost_ema333")
    return (
        {name: values[at] for name, values in rows.indicators.items()}
        | parts
        | {name: getattr(rows, name)[at] for name in others}
    )


@pytest.mark.parametrize("want", WANT["bars"], ids=lambda want: str(want["bar"]))
def test_indicators_and_scores(rows: Rows, want: dict[str, Any]) -> None:
    wanted = want["ta"] | want["scores"] | {f"part {name}": value for name, value in want["edx_parts"].items()}
    wanted |= {name: want[name] for name in ("boost_ema60", "boost_ema333")}
    found = {name: None if np.isnan(value) else float(value) for name, value in _values(rows, want["bar"]).items()}
    assert found == {
        name: value if value is None else pytest.approx(value, rel=1e-9, abs=1e-9 * 1e-3)
        for name, value in wanted.items()
    }
    assert sorted(flag for flag in Flag if rows.flags[flag][want["bar"]]) == sorted(want["flags"])


def test_levels(bars: Bars) -> None:
    wanted = {want["bar"]: [tuple(level) for level in want["levels"]] for want in WANT["bars"]}
    carry: Carry | None = None
    for bar in range(len(bars)):
        _, carry = advance(carry, bars[bar : bar + 1], Timeframe.h1, POLICY)
        if bar in wanted:
            assert [touches for _, touches in carry.search.levels] == [touches for _, touches in wanted[bar]]
            assert [price for price, _ in carry.search.levels] == pytest.approx(
                [price for price, _ in wanted[bar]], rel=1e-9
            )


@pytest.mark.parametrize("case", golden("state_machine"), ids=lambda case: case["name"])
def test_state_machine(case: dict[str, Any]) -> None:
    lengths = (20, 30, 60, 144, 250, 333)
    columns = np.array([row["ema20_30_60_144_250_333"] for row in case["rows"]], dtype=float).T
    close = np.array([row["close"] for row in case["rows"]], dtype=float)
    ema = dict(zip(lengths, columns, strict=True))
    walked = walk(Machine(), 0, ema, close, np.zeros(len(close)))
    assert [named(state) for state in walked.state.tolist()] == case["states"]
