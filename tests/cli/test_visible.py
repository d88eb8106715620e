"""Names from outside reach the terminal visibly: as text, never as commands to it."""

import asyncio
import json
import unicodedata
from pathlib import Path

import pytest

from closeloop.cli.visible import visible, visible_json
from tests.faults.stack_process import Result, StackProcess
from tests.faults.trades import jsonl, trades
from tests.gateways.test_trade_tables import BACKTESTING, table

TITLE = "\x1b]0;pwned\x07"
SPELLED = r"\x1b]0;pwned\x07"
MARKS = "[red]:smile:[bold]"
TURNED = "abc\u202egnp"  # an identifier may hold it: it is no control character


def hostile(text: str) -> set[str]:
    """What a terminal might obey."""
    return {one for one in text if one != "\n" and unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp")}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (TITLE, SPELLED),
        ("\x9b31m\x7f\r\b\tx\n", r"\x9b31m\x7f\r\x08\tx\n"),
        (TURNED, r"abc\u202egnp"),
        ("\u2028\udc80\U000e0001", r"\u2028\udc80\U000e0001"),
        ("Çà, 東京 🙂, a\u00a0b, [red]", "Çà, 東京 🙂, a\u00a0b, [red]"),
    ],
)
def test_what_is_spelled_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_line_breaks_of_ours_stay() -> None:
    assert visible("a\n\x1bb", lines=True) == "a\n\\x1bb"


def test_json_says_the_same_values() -> None:
    value = {"a\x7f\u202e": ["\x9b", "\U000e0001", "\u2028", "Ç 🙂"]}
    written = visible_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(written) == value
    assert hostile(written) == set()
    assert "Ç 🙂" in written


async def test_without_a_stack(no_stack: StackProcess, tmp_path: Path) -> None:
    """File names, cells of a table, and a command that was called wrongly."""
    named = tmp_path / f"{TITLE}{MARKS}.json"
    named.write_text("{")
    cells = tmp_path / "trades.csv"
    cells.write_text(table(BACKTESTING | {"Size": TITLE}, BACKTESTING | {"Tag": f"{MARKS}{TURNED}"}))
    told = await asyncio.gather(
        no_stack.cli("import", "freqtrade", named),
        no_stack.cli("import", "trades", named, "--map", TITLE),
        no_stack.cli("import", "jsonl", tmp_path / TITLE),
        no_stack.cli("outcomes", "--book", TITLE),
        no_stack.cli("outcomes", f"--{TITLE}"),
        no_stack.cli(TITLE),
        no_stack.cli("import", "trades", cells, "--explain", "--map", "backtesting-py", "--symbol", MARKS),
    )
    for result in told:
        _assert_visible(result)
    assert [result.status for result in told] == [1, 1, 2, 2, 2, 2, 0]
    assert SPELLED in told[0].err
    assert MARKS in told[0].err
    assert SPELLED in told[2].err
    assert f"{MARKS}abc" + r"\u202egnp" in told[6].out


async def test_names_on_record(stack: StackProcess, tmp_path: Path) -> None:
    """What an engine sent, in tables and in sentences."""
    rows = trades("visible", 3)
    for row, name in zip(rows, (TURNED, MARKS, "plain"), strict=True):
        row["position_id"] = row["symbol"] = name
        row["signals"] = [{"signal_id": "s", "producer_id": name}]
    rows[2]["exit_reason"] = TITLE
    file = tmp_path / f"{TITLE}.jsonl"
    file.write_text(jsonl(rows) + json.dumps({"book": "visible", "position_id": TITLE}) + "\n" + TITLE + "\n")
    book = ("--book", "visible")
    told = [
        await stack.cli("import", "jsonl", file),
        *await asyncio.gather(
            stack.cli("outcomes", *book),
            stack.cli("karma", *book),
            stack.cli("events", *book),
            stack.cli("outcomes", *book, "--json"),
            stack.cli("events", *book, "--json"),
            stack.cli("forecasts", "show", TITLE),
            stack.cli("lessons", "show", MARKS + TITLE),
            stack.cli("outcomes", *book, "--last", "1", "--before", TITLE),
            stack.cli("weights", "approve", f"visible/{TITLE}", "--by", TITLE),
        ),
    ]
    for result in told:
        _assert_visible(result)
    assert [result.status for result in told] == [1, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    for shown in told[1:3]:
        assert r"abc\u202egnp" in shown.out
        assert MARKS in shown.out
    assert {one["position_id"] for one in told[4].json()} == {TURNED, MARKS, "plain"}
    for refused in told[6:9]:
        assert SPELLED in refused.sentence()


def _assert_visible(result: Result) -> None:
    assert (hostile(result.out), hostile(result.err), "Traceback" in result.err) == (set(), set(), False), result
