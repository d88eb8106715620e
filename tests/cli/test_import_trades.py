"""``import trades``."""

import json
from pathlib import Path

from tests.faults.stack_process import StackProcess
from tests.gateways.test_trade_tables import BACKTESTING, EVENT, LEAN, SHORT_EVENT, lean, lines, table


async def test_events_are_imported_once(stack: StackProcess, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text(lines(EVENT | {"type": "PositionOpened"}, EVENT, SHORT_EVENT))
    first = await stack.json("import", "trades", file, "--book", "it-nautilus")
    again = await stack.json("import", "trades", file, "--book", "it-nautilus")
    counts = ("attributed", "already_attributed", "still_open", "rejected")
    assert [first["books"]["it-nautilus"][one] for one in counts] == [2, 0, 0, []]
    assert [again["books"]["it-nautilus"][one] for one in counts] == [0, 2, 0, []]
    stored = await stack.json("outcomes", "--book", "it-nautilus")
    assert sorted(float(one["realized_pnl"]) for one in stored) == [-1022.42, 2.58]
    assert {one["producer_id"] for one in await stack.json("karma", "--book", "it-nautilus")} == {"EMACross-000"}


async def test_what_is_refused_and_noted(stack: StackProcess, tmp_path: Path) -> None:
    file = tmp_path / "trades.csv"
    rows = [
        BACKTESTING | {"Tag": "x" * 255},
        BACKTESTING | {"EntryPrice": "high"},
        BACKTESTING | {"EntryTime": "2024-05-03", "ExitTime": ""},
        BACKTESTING | {"EntryTime": "2024-05-05", "ExitTime": "2024-05-06", "PnL": 100.0},
    ]
    file.write_text(table(*rows))
    arguments = ("import", "trades", file, "--book", "it-bt", "--symbol", "EURUSD")
    result = await stack.cli(*arguments, "--json")
    found = result.json()["books"]["it-bt"]
    assert result.status == 1
    assert (found["attributed"], found["still_open"], found["corrected"]) == (2, 1, 1)
    assert [(one["index"], one["field"]) for one in found["noted"]] == [(0, "Tag")]
    assert [one["index"] for one in found["rejected"]] == [1]
    assert "EntryPrice" in found["rejected"][0]["reason"]
    assert "backtesting-py" in (await stack.cli(*arguments)).err


async def test_another_run_is_refused(stack: StackProcess) -> None:
    arguments = ("import", "trades", "-", "--book", "it-lean")
    await stack.json(*arguments, stdin=lean(LEAN))
    other = lean(LEAN | {"exitPrice": 420.0, "profitLoss": 200.0})
    refused = await stack.cli(*arguments, stdin=other)
    assert refused.status == 1
    assert "--add" in refused.err
    assert len(await stack.json("outcomes", "--book", "it-lean")) == 1


async def test_explained_without_a_stack(no_stack: StackProcess, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_text(lean(LEAN, LEAN | {"exitTime": None}, LEAN | {"quantity": "many"}))
    text = await no_stack.cli("import", "trades", file, "--explain")
    assert text.status == 0
    for word in ("map lean", "profitLoss − totalFees", "still open", "quantity: must be a number", "Nothing was"):
        assert word in text.out
    found = (await no_stack.cli("import", "trades", file, "--explain", "--json")).json()
    assert (found["map"], found["guessed"]) == ("lean", True)
    assert [row["outcome"] for row in found["rows"]] == ["trade", "still open", "refused"]
    assert not no_stack.home.exists()


async def test_files_that_no_map_fits(no_stack: StackProcess) -> None:
    for content in ("a,b\n1,2\n", "", json.dumps([[1, 2]]), "\x00\x01", "[" * 100_000):
        result = await no_stack.cli("import", "trades", "-", "--book", "b", stdin=content)
        assert result.status == 1
        assert "Traceback" not in result.sentence()
