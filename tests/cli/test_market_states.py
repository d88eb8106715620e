"""``market states``, and ``market levers`` on the same record."""

import json
from pathlib import Path

import pytest

from tests.cli.markets import AS_OF, fill, market_of
from tests.faults.stack_process import StackProcess

STATES = ("market", "states", *AS_OF)
LEVERS = ("market", "levers", "--bucket", "nano", "--timeframe", "1h", "--intent", "hi_buy=0.4")


async def test_states_and_levers(stack: StackProcess, no_stack: StackProcess, tmp_path: Path) -> None:
    async with market_of(stack) as (dsn, sessions):
        empty = await no_stack.cli(*STATES, DATABASE_URL=dsn)
        assert (empty.status, len(empty.out.splitlines())) == (0, 1)
        assert "No bars of the market as of 2026-05-04 12:00 UTC. 'closeloop status' says" in empty.out
        assert "CLOSELOOP_MARKET" in empty.out
        assert "prices import" in empty.out
        await fill(sessions)
        found = (await no_stack.cli(*STATES, "--json", DATABASE_URL=dsn)).json()
        told = await no_stack.cli(*STATES, DATABASE_URL=dsn)
        days = (await no_stack.cli(*STATES, "--timeframe", "1d", "--driver", "BTC", "--json", DATABASE_URL=dsn)).json()
        levers = (await no_stack.cli(*LEVERS, *AS_OF, "--json", DATABASE_URL=dsn)).json()
        (tmp_path / "states.json").write_text(json.dumps(found))
        what_if = (await no_stack.cli(*LEVERS, "--states", tmp_path / "states.json", "--json")).json()

    assert [(one["driver"], one["timeframe"], one["state"], one["warming_up"], one["stale"]) for one in found] == [
        ("BTC", "1m", None, True, False), ("BTC", "1h", "S0", False, True), ("BTC", "1d", "S3", False, False),
        ("ALT", "1h", "S1", False, False),
    ]  # fmt: skip
    assert days == [found[2]]
    assert found[2] == {
        "driver": "BTC", "timeframe": "1d", "state": "S3", "prev_state": "S3", "flags": ["trim_flag"],
        "scores": {"ts": None, "ox": 0.71, "dx": None, "edx": 0.5}, "bar_end": "2026-05-04T12:00:00Z",
        "warming_up": False, "stale": False, "provisional": False, "bars": None, "bars_needed": None, "revision": 0,
        "computed_at": "2026-05-04T12:00:01Z", "known_then": True,
    }  # fmt: skip

    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in told.out.splitlines() if line.startswith("│")]
    by_channel = {(row[0], row[1]): row for row in rows}
    assert by_channel["BTC", "1m"][2::8] == ["none yet", "no: warming up, bar 1 of 333"]
    assert by_channel["BTC", "1h"][2] == "S0 downtrend, S2 before"
    assert by_channel["BTC", "1h"][9:] == ["3 h 00", "no: too old"]
    assert by_channel["ALT", "1h"][2:5] == ["S1 early uptrend", "buy_signal", "0.70"]
    assert "Too old: BTC/1h: 'closeloop status'" in told.out
    assert "Without a bar, adding nothing to levers: ALT/1m, ALT/1d, nano/1m" in told.out

    # What the issue lists is there, and A and E follow from the states that are shown as used.
    assert {"A", "E", "position_size_frac", "regime", "intent", "bucket_multiplier", "contributions", "missing"} <= set(
        levers
    )
    assert set(levers["regime"]) == set(levers["intent"]) == {"A", "E"}
    assert {"driver", "timeframe", "state", "flags", "transition", "weight", "dA", "dE"} <= set(
        levers["contributions"][0]
    )
    assert [(one["driver"], one["timeframe"], one["state"]) for one in levers["contributions"]] == [
        ("BTC", "1d", "S3"), ("ALT", "1h", "S1"),
    ]  # fmt: skip
    assert levers["A"] == pytest.approx(0.5 + 0.4 * 0.25 + (0.20 - 0.25) * 0.15 + (0.25 + 0.20) * 0.33)
    assert levers["regime"] == pytest.approx(
        {"A": sum(one["dA"] for one in levers["contributions"]), "E": levers["regime"]["E"]}
    )
    assert (what_if["A"], what_if["E"], what_if["missing"]) == (levers["A"], levers["E"], levers["missing"])
