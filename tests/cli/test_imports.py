"""``import jsonl`` and ``import freqtrade``."""

import asyncio
import io
import json
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_positions import close
from tests.faults.stack_process import StackProcess
from tests.faults.trades import assert_attributed_once, jsonl, trades


async def test_bad_lines_are_reported_and_the_rest_goes_on(stack: StackProcess, tmp_path: Path) -> None:
    def line(position_id: str, **changes: Any) -> bytes:
        return json.dumps(close("im", position_id, **changes)).encode()

    lines: list[tuple[bytes, str]] = [
        (line("good-0"), "good"),
        (b"", "blank"),
        (b"{not json", "JSON"),
        (b" \t ", "blank"),
        (b'{"book": "im", "position_id": "\0"}', "NUL"),
        (b'{"book": "im", "position_id": "\xff"}', "UTF-8"),
        (line("long", entry_context={"note": "x" * 262_144}), "256 KiB"),
        (line("longer", entry_context={"note": "x" * 3_000_000}), "256 KiB"),
        (b"[]", "message"),
        (b"null", "message"),
        (b"[" * 5_000, "JSON"),
        (line("good-1") + b"\r", "good"),
        (line("bad", direction="up"), "im: direction"),
        (line("bad", symbol="\x00"), "im: symbol"),
        (line("bad", symbol="\ud800"), "JSON"),
        (line("bad", realized_pnl=None), "im: realized_pnl"),
        (line("bad").replace(b'"10.0"', b"1e999"), "im: realized_pnl"),
        (line("bad", closed_at="2999-01-01T00:00:00Z"), "im: closed_at"),
        (line("bad").replace(b'"im"', b'"a b"'), "book"),
        (line("good-0"), "again"),
        (line("good-0", realized_pnl="11"), "im: realized_pnl"),
        (line("good-2"), "good"),
    ]
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b"\n".join(text for text, _ in lines))
    result = await stack.cli("import", "jsonl", file, "--json")
    assert result.status == 1
    report = result.json()
    assert set(report["books"]) == {"im"}
    counts = report["books"]["im"]
    kinds = [kind for _, kind in lines]
    of_book = {i: kind.removeprefix("im: ") for i, kind in enumerate(kinds) if kind.startswith("im: ")}
    assert counts["read"] == kinds.count("good") + 1 + len(of_book)
    assert (counts["attributed"], counts["already_attributed"]) == (3, 1)
    for rejected, expected in (
        (counts["rejected"], of_book),
        (
            report["rejected"],
            {i: k for i, k in enumerate(kinds) if k not in ("good", "again", "blank") and ":" not in k},
        ),
    ):
        assert [r["index"] for r in rejected] == list(expected)
        for refusal in rejected:
            assert expected[refusal["index"]] in refusal["reason"]
    stored = await stack.sql("SELECT position_id FROM positions WHERE book_id IN ('im', 'a b') ORDER BY 1")
    assert [row[0] for row in stored] == ["good-0", "good-1", "good-2"]
    assert await stack.sql("SELECT 1 FROM import_rows") == []

    text = await stack.cli("import", "jsonl", file)
    assert text.status == 1
    assert "refused: book im, row 12: direction" in text.err
    assert text.err.count("refused: ") == len(counts["rejected"]) + len(report["rejected"])
    assert "row 0 is the first" in text.err


@pytest.mark.parametrize("content", ["", "\n\n  \n"])
async def test_an_empty_file(stack: StackProcess, content: str) -> None:
    report, text = await asyncio.gather(
        stack.json("import", "jsonl", "-", stdin=content), stack.cli("import", "jsonl", "-", stdin=content)
    )
    assert report["books"] == {}
    assert report["rejected"] == []
    assert text.status == 0


async def test_trades_under_other_ids_are_counted_and_told(stack: StackProcess) -> None:
    once = trades("im-again", 20)
    copies = [row | {"position_id": f"copy-{row['position_id']}"} for row in once[:7]]
    first = await stack.cli("import", "jsonl", "-", stdin=jsonl(once))
    assert "again:" not in first.err
    report = await stack.json("import", "jsonl", "-", stdin=jsonl(copies[:6]))
    assert report["books"]["im-again"]["repeated"] == 6
    text = await stack.cli("import", "jsonl", "-", stdin=jsonl(copies[6:]))
    assert "again: 1 trade is on record under another id as well" in text.err
    assert (text.status, first.status) == (0, 0)


async def test_from_standard_input_into_two_books(stack: StackProcess) -> None:
    one, two = trades("im-one", 20), trades("im-two", 30)
    report = await stack.json("import", "jsonl", "-", stdin=jsonl([*one, *two]))
    assert {book: counts["attributed"] for book, counts in report["books"].items()} == {"im-one": 20, "im-two": 30}
    await assert_attributed_once(stack, "im-one", one)
    await assert_attributed_once(stack, "im-two", two)


async def test_the_real_freqtrade_export(
    stack: StackProcess, shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    file = shared_data("freqtrade-backtest-2018.json")
    every = json.loads(file.read_bytes())["strategy"]["StrategyTestV3"]["trades"]
    trades_ = [trade for trade in every if trade["exit_reason"] != "force_exit"]
    first = await stack.json("import", "freqtrade", file)
    book = {"read": 179, "attributed": 176, "already_attributed": 0, "still_open": 3, "corrected": 176, "repeated": 0}
    book |= {"rejected": [], "noted": []}
    assert first["books"] == {"StrategyTestV3": book}
    packed = tmp_path / "backtest.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("backtest_config.json", "{}")
        archive.write(file, "backtest.json")
    summary, second, zipped, other, text = await asyncio.gather(
        stack.json("outcomes", "summary", "--book", "StrategyTestV3"),
        stack.json("import", "freqtrade", file),
        stack.json("import", "freqtrade", packed),
        stack.json("import", "freqtrade", file, "--book", "im.other_book-1"),
        stack.cli("import", "freqtrade", "-", stdin=file.read_bytes()),
    )
    assert (summary["count"], summary["wins"]) == (176, 48)
    assert abs(Decimal(summary["realized_pnl"]) - Decimal("0.0002915")) < Decimal("1e-12")
    assert second["books"] == {"StrategyTestV3": book | {"attributed": 0, "already_attributed": 176}}
    assert zipped["books"] == second["books"]
    assert other["books"] == {"im.other_book-1": book}
    assert text.status == 0
    assert "179" in text.out
    karma = {row["producer_id"]: row["trades"] for row in await stack.json("karma", "--book", "StrategyTestV3")}
    assert karma == _producers(trades_)


def _producers(trades_: list[dict[str, Any]]) -> dict[str, int]:
    names = [trade.get("enter_tag") or "StrategyTestV3" for trade in trades_]
    return {name: names.count(name) for name in names}


TRADE = {
    "pair": "BTC/USDT",
    "amount": 0.5,
    "open_date": "2024-01-01 00:00:00+00:00",
    "close_date": "2024-01-01 06:00:00+00:00",
    "open_rate": 100.0,
    "close_rate": 110.0,
    "profit_abs": 5.0,
    "initial_stop_loss_abs": 90.0,
    "min_rate": 95.0,
    "max_rate": 112.0,
    "is_short": False,
    "enter_tag": "",
    "exit_reason": "roi",
}


async def test_freqtrade_trades_that_cannot_be_read(stack: StackProcess) -> None:
    export = {
        "strategy": {
            "im.odd": {
                "trades": [
                    TRADE,
                    TRADE | {"pair": "ETH/USDT", "open_date": "yesterday"},
                    TRADE | {"pair": "ETH/USDT", "is_open": True},
                    TRADE | {"pair": "ETH/USDT", "profit_abs": float("nan")},
                    TRADE | {"pair": "ETH/USDT", "enter_tag": 7},
                    "no trade",
                    TRADE,
                ]
            },
            "no book's name": {"trades": [TRADE]},
        }
    }
    result = await stack.cli("import", "freqtrade", "-", "--json", stdin=json.dumps(export))
    assert result.status == 1
    report = result.json()
    assert set(report["books"]) == {"im.odd"}
    counts = report["books"]["im.odd"]
    # Two positions of one pair at once are two positions.
    assert (counts["read"], counts["attributed"], counts["still_open"]) == (7, 3, 1)
    assert [r["index"] for r in counts["rejected"]] == [1, 3, 5]
    assert [(r["index"], r["field"]) for r in counts["noted"]] == [(4, "enter_tag")]
    assert [r["index"] for r in report["rejected"]] == [0]
    assert "--book" in report["rejected"][0]["reason"]


async def test_a_freqtrade_trade_with_half_a_surrogate_pair(stack: StackProcess) -> None:
    export = {"strategy": {"im.half": {"trades": [TRADE | {"enter_tag": "a\ud800b"}, TRADE]}}}
    report = await stack.json("import", "freqtrade", "-", stdin=json.dumps(export))
    counts = report["books"]["im.half"]
    assert (counts["attributed"], counts["rejected"]) == (2, [])
    assert [(r["index"], r["field"]) for r in counts["noted"]] == [(0, "enter_tag")]


async def test_a_freqtrade_export_that_is_nested_too_deep(stack: StackProcess) -> None:
    result = await stack.cli("import", "freqtrade", "-", stdin=b"[" * 100_000)
    assert "freqtrade" in result.sentence()


async def test_what_is_no_freqtrade_export(stack: StackProcess) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("notes.txt", "nothing of use")
    contents = [
        b"",
        b"not json",
        b"\xff\xfe",
        b"[]",
        b'{"strategy": {}}',
        b'{"strategy": {"s": 7}}',
        archive.getvalue(),
        archive.getvalue()[:40],
    ]
    results = await asyncio.gather(*(stack.cli("import", "freqtrade", "-", "--json", stdin=c) for c in contents))
    for content, result in zip(contents, results, strict=True):
        assert "freqtrade" in result.sentence(), content[:40]
        assert result.out == ""


FREE = {"fee_open": 0.0, "fee_close": 0.0, "stake_amount": 50.0, "leverage": 1.0}


def backtest(run_id: str, *trades_: dict[str, Any]) -> str:
    """A result of strategy im.run, in EUR."""
    result = {"trades": list(trades_), "stake_currency": "EUR", "strategy_name": "im.run"}
    return json.dumps({"metadata": {"im.run": {"run_id": run_id}}, "strategy": {"im.run": result}})


async def test_what_an_operator_reads_of_two_backtests(stack: StackProcess) -> None:
    gross = {"profit_abs": 5.0, "profit_ratio": -0.05070119, "fee_open": 0.08, "fee_close": 0.06796117}
    first = backtest(
        "run-one",
        TRADE | FREE | {"profit_ratio": 0.1, "enter_tag": "t" * 255},
        TRADE | FREE | gross | {"open_date": "2024-01-02 00:00:00", "close_date": "2024-01-02 06:00:00"},
        TRADE | FREE | {"open_date": "2024-01-03 00:00:00", "close_date": None, "is_open": True},
    )
    shown = await stack.cli("import", "freqtrade", "-", stdin=first)
    assert shown.status == 0, shown.err
    counts = [cell.strip() for cell in shown.out.splitlines()[-2].strip("│").split("│")]
    assert counts == ["im.run", "3", "2", "0", "1", "1", "0", "0", "1"], shown.out
    assert "the PnL of 1 trade in the file was before fees; the net value was taken" in shown.err
    assert "still open: 1 trade had" in shown.err
    assert "noted: book im.run, row 0: enter_tag: " in shown.err

    second = backtest("run-two", TRADE | FREE | {"profit_ratio": 0.1, "open_date": "2024-01-01 03:00:00"})
    refused = await stack.cli("import", "freqtrade", "-", "--json", stdin=second)
    sentence = refused.sentence()
    assert refused.out == ""
    for word in ("im.run", "run-one", "run-two", "the input", "--book NAME", "--add"):
        assert word in sentence
    assert len(await stack.json("outcomes", "--book", "im.run")) == 2
    added = await stack.json("import", "freqtrade", "-", "--add", stdin=second)
    assert added["books"]["im.run"]["attributed"] == 1
    dollars = await stack.cli("import", "freqtrade", "-", "--add", stdin=second.replace("EUR", "USD"))
    assert "EUR" in dollars.sentence()
    assert "USD" in dollars.sentence()
