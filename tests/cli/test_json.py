"""``--json``: one JSON document on stdout and nothing else, for every command that has it."""

import asyncio
import json
from pathlib import Path

from tests.cli.test_help import EVERY
from tests.faults.stack_process import StackProcess
from tests.faults.trades import Trade, jsonl, trades

FORECAST = {
    "forecast_id": "json-forecast",
    "book": "json",
    "producer_id": "ta",
    "asset": "JSON/BTC",
    "horizon": "4h",
    "action": "long",
    "confidence": 0.6,
    "issued_at": "2026-01-01T00:00:00Z",
}

# What commands are tried with that have to succeed; those that need no argument and are not here are tried without.
ARGUMENTS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("outcomes",): ("--book", "history"),
    ("outcomes", "summary"): ("--book", "history"),
    ("karma",): ("--book", "history"),
    ("karma", "rebuild"): ("--book", "history"),
    ("events",): ("--book", "history"),
    ("positions", "close"): ("{folder}/close.jsonl",),
    ("convictions", "add"): ("{folder}/conviction.jsonl",),
    ("import", "jsonl"): ("{folder}/import.jsonl",),
    ("import", "freqtrade"): ("{folder}/export.json",),
    ("import", "trades"): ("{folder}/trades.csv", "--book", "json-trades", "--symbol", "SPY"),
    ("books", "show"): ("history",),
    ("books", "add"): ("json-books",),
    ("books", "remove"): ("json-removed", "--by", "ann"),
    ("weights", "cycle"): ("--book", "json-weights"),
    ("weights", "show"): ("--book", "history"),
    ("weights", "history"): ("--book", "history"),
    ("weights", "simulate"): ("--book", "history"),
    ("forecasts", "add"): ("{folder}/forecast.jsonl",),
    ("decisions", "add"): ("{folder}/decision.jsonl",),
    ("params", "mode"): ("json", "shadow", "--by", "ann"),
    ("prices", "import"): ("{folder}/candles.csv", "--asset", "JSON/BTC", "--interval", "5m"),
    ("producers", "calibration"): ("flow", "--book", "history"),
    ("producers", "heartbeat"): ("ta", "--book", "json"),
    ("meta", "propose"): ("--book", "json-meta"),
    ("meta", "shadow"): ("--by", "ann", "--book", "json-meta"),
    ("overrides", "match"): ("--pattern", "k", "--action", "entry"),
    ("market", "replay"): ("{folder}/candles.csv", "--driver", "BTC", "--timeframe", "1m"),
    ("market", "backfill"): ("--book", "history"),
    ("market", "contexts"): ("--book", "history"),
    ("market", "evidence"): ("--book", "history"),
    ("market", "propose"): ("--book", "history"),
    ("market", "drivers"): ("--book", "history"),
    ("market", "revert"): ("--book", "history", "--by", "ann"),
    ("market", "levers"): ("--bucket", "nano", "--timeframe", "1h"),
    ("market", "tokens", "import"): ("{folder}/tokens.csv",),
    ("tokens", "add"): ("json", "--scope", "operate"),
    ("tokens", "create"): ("json-as-in-0.1", "--scope", "operate"),
}
# What is asked for does not exist: status 1, and nothing on stdout but a document.
REFUSED: dict[tuple[str, ...], tuple[str, ...]] = {
    ("approvals", "show"): ("weights/json/nothing",),
    ("approvals", "approve"): ("override/json/nothing", "--by", "ann"),
    ("approvals", "reject"): ("meta/json/nothing", "--by", "ann"),
    ("weights", "approve"): ("json/nothing", "--by", "ann"),
    ("weights", "reject"): ("json/nothing", "--by", "ann"),
    ("weights", "revert"): ("json/nothing", "--by", "ann"),
    ("books", "restore"): ("nothing", "--by", "ann"),
    ("tokens", "revoke"): ("nothing",),
    ("forecasts", "show"): ("nothing",),
    ("decisions", "show"): ("nothing",),
    ("meta", "approve"): ("--by", "ann", "--book", "json"),
    ("meta", "reject"): ("--by", "ann", "--book", "json"),
    ("lessons", "show"): ("nothing",),
    ("overrides", "approve"): ("nothing", "--by", "ann"),
    ("overrides", "reject"): ("nothing", "--by", "ann"),
    ("research", "show"): ("999999999",),
    ("prices", "delete"): (
        "--asset",
        "NO/SUCH",
        "--from",
        "2026-10-01T00:00:00Z",
        "--to",
        "2026-10-02T00:00:00Z",
        "--yes",
    ),
}
WITH_JSON = {
    path: command for path, command in EVERY.items() if any("--json" in parameter.opts for parameter in command.params)
}


def test_every_command_is_tried() -> None:
    needing = {path for path, command in WITH_JSON.items() if any(p.required for p in command.params)}
    assert needing - set(ARGUMENTS) - set(REFUSED) == set(), "say with which arguments they are tried"
    assert set(ARGUMENTS) | set(REFUSED) <= set(WITH_JSON), "there are no such commands"


async def test_one_document_and_nothing_else(stack: StackProcess, history: list[Trade], tmp_path: Path) -> None:
    (tmp_path / "close.jsonl").write_text(jsonl(trades("json", 2)))
    (tmp_path / "import.jsonl").write_text(jsonl(trades("json-import", 2)) + "{not json\n")
    (tmp_path / "export.json").write_text('{"strategy": {"json": {"trades": []}}}')
    (tmp_path / "trades.csv").write_text(
        "Size,EntryPrice,ExitPrice,PnL,Commission,ReturnPct,EntryTime,ExitTime,SL,Tag\n"
        "10,100,110,98,2,0.098,2024-05-01,2024-05-02,90,\n"
    )
    conviction = {"book": "json", "symbol": "X", "conviction_id": "c", "cycle_id": "y", "domain_scores": {"d": 0.5}}
    (tmp_path / "conviction.jsonl").write_text(json.dumps(conviction))
    (tmp_path / "forecast.jsonl").write_text(json.dumps(FORECAST))
    decision = {
        "book": "json",
        "decision_id": "d",
        "symbol": "X",
        "timestamp": "2026-01-01T00:00:00Z",
        "thesis": {"recommendation": "BUY", "confidence": 0.6},
    }
    (tmp_path / "decision.jsonl").write_text(json.dumps(decision))
    (tmp_path / "candles.csv").write_text("timestamp,open,high,low,close,volume\n1767225600,1,2,1,2,5\n")
    (tmp_path / "tokens.csv").write_text("asset,bucket,valid_from\nJSON/BTC,big,2026-01-01T00:00:00Z\n")
    for book in (
        "default",
        "json",
        "json-weights",
        "json-meta",
        "json-removed",
    ):  # what only reads or decides makes none
        assert (await stack.cli("books", "add", book)).status == 0
    tried = dict.fromkeys((path for path in WITH_JSON if path not in REFUSED), ()) | ARGUMENTS
    results = await asyncio.gather(
        *(
            stack.cli(*path, *(text.format(folder=tmp_path) for text in arguments), "--json")
            for path, arguments in tried.items()
        )
    )
    for path, result in zip(tried, results, strict=True):
        status = 1 if path == ("import", "jsonl") else 0  # one of its rows is refused
        assert (result.status, result.err if "Traceback" in result.err else "") == (status, ""), (path, result)
        assert isinstance(result.json(), dict | list), path
        assert result.out.endswith("\n"), path


async def test_what_is_refused(stack: StackProcess) -> None:
    results = await asyncio.gather(*(stack.cli(*path, *arguments, "--json") for path, arguments in REFUSED.items()))
    for path, result in zip(REFUSED, results, strict=True):
        assert result.status == 1, (path, result)
        if result.out:
            assert isinstance(result.json(), dict | list), path
        else:
            assert result.sentence(), path


READING = (
    *(("outcomes",), ("outcomes", "summary"), ("karma",), ("events",), ("coefficients",)),
    *(
        ("producers",),
        ("producers", "agreement"),
        ("forecasts", "list"),
        ("forecasts", "outcomes"),
        ("research", "list"),
    ),
)
SET_UP = (
    ("market", "contexts"),
    ("market", "evidence"),
    ("karma", "rebuild"),
    ("weights", "show"),
    ("weights", "history"),
    ("meta", "status"),
)


async def test_of_a_book_that_nobody_knows(stack: StackProcess, history: list[Trade]) -> None:
    """A name that was typed wrong is no empty book: it is refused, and those that there are are named."""
    commands = READING + SET_UP
    results = await asyncio.gather(*(stack.cli(*command, "--book", "histroy", "--json") for command in commands))
    for command, result in zip(commands, results, strict=True):
        assert (result.status, "There is no book histroy. There are: history" in result.err) == (1, True), (
            command,
            result,
        )
        assert result.out == "", command
    assert "histroy" not in [book["book"] for book in await stack.json("books", "list")]


async def test_of_a_book_with_forecasts_only(stack: StackProcess, tmp_path: Path) -> None:
    """It exists: there is something to read of it, or nothing yet."""
    file = tmp_path / "forecast.jsonl"
    file.write_text(json.dumps(FORECAST | {"book": "json-said", "forecast_id": "json-said"}))
    assert (await stack.cli("forecasts", "add", file)).status == 0
    results = await asyncio.gather(*(stack.cli(*command, "--book", "json-said") for command in READING + SET_UP))
    assert [result.status for result in results] == [0] * len(results), results


async def test_of_a_book_with_convictions_only(stack: StackProcess, tmp_path: Path) -> None:
    """It can be asked about before its first close."""
    file = tmp_path / "conviction.jsonl"
    conviction = {"book": "json-ahead", "symbol": "X", "conviction_id": "c", "cycle_id": "y"}
    file.write_text(json.dumps(conviction | {"domain_scores": {"d": 0.5}}))
    assert (await stack.cli("convictions", "add", file)).status == 0
    results = await asyncio.gather(*(stack.cli(*command, "--book", "json-ahead") for command in READING))
    assert [result.status for result in results] == [0] * len(results), results


async def test_of_a_book_without_closes(stack: StackProcess) -> None:
    book = ("--book", "json-empty")
    assert (await stack.cli("books", "add", "json-empty")).status == 0
    outcomes, karma, events, summary, rebuilt = await asyncio.gather(
        stack.json("outcomes", *book),
        stack.json("karma", *book),
        stack.json("events", *book),
        stack.json("outcomes", "summary", *book),
        stack.cli("karma", "rebuild", *book, "--json"),
    )
    assert outcomes == karma == events == []
    assert summary["book"] == "json-empty"
    assert (summary["count"], summary["wins"], summary["realized_pnl"]) == (0, 0, "0")
    assert summary["hit_rate"] is summary["hit_rate_low"] is summary["hit_rate_high"] is None
    assert isinstance(rebuilt.json(), dict)


async def test_tables_of_a_book_without_closes(stack: StackProcess) -> None:
    assert (await stack.cli("books", "add", "json-nothing")).status == 0
    commands = (("outcomes",), ("karma",), ("events",), ("outcomes", "summary"))
    results = await asyncio.gather(*(stack.cli(*command, "--book", "json-nothing") for command in commands))
    for result in results:
        assert (result.status, result.err) == (0, "")
        assert len(result.out.splitlines()) == 1, result.out


async def test_a_reader_that_has_enough(stack: StackProcess, history: list[Trade]) -> None:
    """``| head``: neither a traceback nor a wrong sentence."""
    commands = ("outcomes --json", "events --json", "outcomes", "events")
    script = 'closeloop {} --book history | head -n 1; echo " ${{PIPESTATUS[0]}}"'
    results = await asyncio.gather(*(stack.shell(script.format(command)) for command in commands))
    for command, result in zip(commands, results, strict=True):
        assert result.err == "", command
        assert result.out.rsplit(" ", 1)[1].strip() == "0", command
