"""Which file it is: a backtest's result in whatever wrapping, a bot's trades, and what is neither."""

import gzip
import io
import json
import sqlite3
import zipfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from closeloop.gateways.freqtrade import files, read_freqtrade
from closeloop.gateways.trades import FileRun, FileTrade, NotTrades
from tests.gateways.exports import export, exports, read, short, trade, zipped

RESULT = "backtest-result-2026-01-02_03-04-05"


def why(file: Path | bytes) -> str:
    with pytest.raises(NotTrades) as refused:
        list(read_freqtrade(file).trades)
    return str(refused.value)


def written(path: Path, content: Any) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


# Results


def test_an_archive_of_two_results_gives_both() -> None:
    archive = zipped({"a.json": export(trade(), strategy="A"), "b.json": export(trade(), short(), strategy="B")})
    assert [(item.book, item.index) for item in read(archive)] == [("A", 0), ("B", 0), ("B", 1)]


def test_an_archive_of_two_runs_of_one_strategy_is_refused() -> None:
    said = why(zipped({"a.json": export(trade()), "b.json": export(short())}))
    assert "Trend" in said
    assert "--book" in said


def test_a_gzipped_result_reads_as_the_result_in_it() -> None:
    assert read(gzip.compress(export(trade()))) == read(export(trade()))
    assert "gzip" in why(gzip.compress(export(trade()))[:-9])


def test_a_folder_and_last_result_are_followed(tmp_path: Path) -> None:
    archive = written(tmp_path / f"{RESULT}.zip", zipped({f"{RESULT}.json": export(trade())}))
    written(tmp_path / "backtest-result-2025-01-01_00-00-00.json", export(short(), short()))
    last = written(tmp_path / ".last_result.json", {"latest_backtest": archive.name})
    for file in (tmp_path, last, archive):
        assert list(read_freqtrade(file).trades) == read(export(trade()))


@pytest.mark.parametrize(
    "name", ["../secret.json", "/etc/passwd", "..", ".", "gone.zip", ".last_result.json", 7, None, ""]
)
def test_last_result_leads_nowhere_else(tmp_path: Path, name: Any) -> None:
    written(tmp_path / "secret.json", export(trade()))
    folder = tmp_path / "results"
    folder.mkdir()
    written(folder / ".last_result.json", {"latest_backtest": name})
    assert ".last_result.json" in why(folder)


def test_a_folder_without_last_result_says_what_to_give(tmp_path: Path) -> None:
    assert "backtest-result-" in why(tmp_path)
    (tmp_path / "backtest_results").mkdir()
    assert "backtest_results" in why(tmp_path)


def test_a_run_is_told_by_its_metadata_also_beside_the_result(tmp_path: Path) -> None:
    section = {
        "trades": [trade()],
        "stake_currency": "EUR",
        "backtest_start_ts": 1514764800000,
        "backtest_end": "2018-02-01 00:00:00",
    }
    run = FileRun("abc", datetime(2018, 1, 1, tzinfo=UTC), datetime(2018, 2, 1, tzinfo=UTC), "EUR")
    inside = json.dumps({"strategy": {"Trend": section}, "metadata": {"Trend": {"run_id": "abc"}}}).encode()
    assert read_freqtrade(inside).runs == {"Trend": run}
    beside = json.dumps({"strategy": {"Trend": section}}).encode()
    assert read_freqtrade(beside).runs["Trend"].run_id is None
    metadata = written(tmp_path / f"{RESULT}.meta.json", {"Trend": {"run_id": "abc", "backtest_start_time": 1}})
    plain = written(tmp_path / f"{RESULT}.json", beside)
    packed = written(tmp_path / f"{RESULT}.zip", zipped({f"{RESULT}.json": beside}))
    assert read_freqtrade(plain).runs == read_freqtrade(packed).runs == {"Trend": run}
    assert "metadata" in why(metadata)
    assert f"{RESULT}.json" in why(metadata)


def test_strategies_of_two_currencies_do_not_fit_one_book() -> None:
    content = exports({name: {"trades": [trade()], "stake_currency": c} for name, c in (("A", "USDT"), ("B", "BTC"))})
    with pytest.raises(NotTrades, match="BTC, USDT"):
        read_freqtrade(content, "one")
    assert {name: run.currency for name, run in read_freqtrade(content).runs.items()} == {"A": "USDT", "B": "BTC"}
    assert [item.message["currency"] for item in read(content) if item.message] == ["USDT", "BTC"]


# What is neither


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([["ADA/BTC", 0.1, 1515568500, 1515568800, 0, 5, 1.0, 1.1, False, "roi"]], "before 2020-06"),
        ({"Trend": {"run_id": "a", "backtest_start_time": 1}}, ".meta.json"),
        ({"latest_backtest": f"{RESULT}.zip"}, f"{RESULT}.zip"),
        ({"latest_hyperopt": "strategy_x.fthypt"}, "names no backtest"),
        ({"loss": 1.0, "params_dict": {}, "results_metrics": {}}, "hyperopt"),
        ({"max_open_trades": 3, "exchange": {}}, '"max_open_trades", "exchange"'),
        ({"trades": [{"pair": "A/B"}]}, '"trades"'),
        ([], "empty list"),
        ([7], "list of something else"),
        (7, "single value"),
        (b"\x80\x04\x95pickle", "hyperopt"),
        (b'{"params_dict": {}, "loss": 1}\n{"params_dict": {}, "loss": 2}\n', "hyperopt"),
        (b'{"strategy": {}, "strategy": {"A": {"trades": []}}}', "stands twice"),
        (b"SQLite format 3\0" + b"\0" * 100, "path"),
    ],
)
def test_what_is_not_importable_is_named_with_what_to_do(content: Any, words: str) -> None:
    said = why(content if isinstance(content, bytes) else json.dumps(content).encode())
    assert words in said
    assert "give" in said or "would do" in said or "run the backtest again" in said or "twice" in said


def test_hyperopt_results_are_known_by_their_name(tmp_path: Path) -> None:
    assert "hyperopt" in why(written(tmp_path / "strategy_Trend_2026.fthypt", b"anything"))


def test_a_file_that_unpacks_to_too_much_is_refused_while_it_is_read(tmp_path: Path) -> None:
    """In the header of an archive, behind a header that lies, and in gzip, which says nothing before."""
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed, packed.open("a.json", "w") as member:
        for _ in range(files.MAX_BYTES // 2**20 + 1):
            member.write(b" " * 2**20)
    content = archive.read_bytes()
    size = (files.MAX_BYTES + 2**20).to_bytes(4, "little")
    lying = content.replace(size, (10).to_bytes(4, "little"))
    assert lying != content
    packed_gzip = io.BytesIO()
    with gzip.GzipFile(fileobj=packed_gzip, mode="wb", compresslevel=1) as target:
        for _ in range(files.MAX_BYTES // 2**20 + 1):
            target.write(b" " * 2**20)
    assert "256 MiB" in why(archive)
    assert "256 MiB" in why(packed_gzip.getvalue())
    assert why(lying)  # a member ends where its header says


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"PK\x03\x04", b"\x1f\x8b", b"\xef\xbb\xbf", b"SQLite format 3\0"])
)
def test_any_bytes_are_refused_by_a_sentence(content: bytes, start: bytes) -> None:
    assert why(start + content)


# A bot's own trades


def bot_trade(**changes: Any) -> dict[str, Any]:
    """A short that a bot closed: in at 50, stop 55, out at 40 by a forced exit; 4 units, 3x."""
    return {
        "trade_id": 7,
        "pair": "ETH/USDT:USDT",
        "quote_currency": "USDT",
        "exchange": "okx",
        "strategy": "Bot",
        "is_open": False,
        "is_short": True,
        "amount": 4.0,
        "stake_amount": 66.66666667,
        "open_rate": 50.0,
        "close_rate": 40.0,
        "fee_open": 0.0,
        "fee_close": 0.0,
        "profit_abs": 39.5,
        "profit_ratio": 0.5925,
        "funding_fees": -0.5,
        "initial_stop_loss_abs": 55.0,
        "initial_stop_loss_ratio": -0.3,
        "min_rate": 39.0,
        "max_rate": 52.0,
        "leverage": 3.0,
        "timeframe": 240,
        "enter_tag": " 41 42 ",
        "exit_reason": "force_exit",
        "open_date": "2026-03-01 10:00:03",
        "close_date": "2026-03-02 10:00:04",
        "orders": [],
    } | changes


def answers(*trades: Any) -> list[bytes]:
    listed = list(trades)
    rest = {"trades": listed, "trades_count": len(listed), "offset": 0, "total_trades": len(listed)}
    return [json.dumps(rest).encode(), json.dumps(listed).encode()]


@pytest.mark.parametrize("content", answers(bot_trade(), bot_trade(trade_id=8, is_open=True, close_date=None)))
def test_the_answers_of_a_bot(content: bytes) -> None:
    closed, still_open = read(content)
    assert still_open == FileTrade("Bot", 1, still_open=True)
    assert closed.message is not None
    assert closed.message["position_id"] == "okx 7 2026-03-01T10:00:03Z"
    assert closed.message["exit_reason"] == "force_exit"
    assert (closed.message["direction"], closed.message["currency"]) == ("short", "USDT")
    assert (closed.message["risk"], closed.message["realized_pnl"]) == ("20.00", "39.5")
    assert closed.message["entry_context"] == {"timeframe": "4h", "leverage": 3.0}
    assert [signal["producer_id"] for signal in closed.message["signals"]] == ["41 42"]
    assert (closed.notes, closed.corrected) == ((), False)
    file = read_freqtrade(content, split_tags=True)
    assert file.runs == {"Bot": FileRun(currency="USDT", live=True)}
    [message] = [item.message for item in file.trades if item.message]
    assert [signal["producer_id"] for signal in message["signals"]] == ["41", "42"]


def test_a_dry_run_is_a_book_of_its_own_unless_one_is_named() -> None:
    order = {"ft_is_entry": True, "filled": 4.0, "safe_price": 50.0, "order_id": "dry_run_sell_1"}
    content = answers(bot_trade(orders=[order]), bot_trade(trade_id=8))[0]
    assert [(item.book, item.index) for item in read(content)] == [("Bot-dry-run", 0), ("Bot", 0)]
    assert [(item.book, item.index) for item in read(content, "mine")] == [("mine", 0), ("mine", 1)]


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"strategy": None}, "strategy"), ({"trade_id": "7"}, "trade_id"), ({"exchange": ""}, "exchange")],
)
def test_a_bot_s_trade_without_an_identity_is_refused(changes: dict[str, Any], field: str) -> None:
    for content in answers(bot_trade(**changes), bot_trade()):
        refused, sound = read(content)
        assert (refused.reason or "").startswith(f"{field}: ")
        assert sound.message is not None


ORDER = "ft_trade_id INT, ft_order_side TEXT, order_id TEXT, status TEXT, amount REAL, filled REAL, average REAL"


def database(path: Path, wal: bool = False) -> sqlite3.Connection:
    """A bot's database with the trade above, whose REST answer rounds what this does not, and one that is open."""
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA journal_mode={'wal' if wal else 'delete'}")
    names = {
        "trade_id": "id",
        "quote_currency": "stake_currency",
        "initial_stop_loss_abs": "initial_stop_loss",
        "initial_stop_loss_ratio": "initial_stop_loss_pct",
        "profit_ratio": "close_profit",
        "profit_abs": "close_profit_abs",
    }
    closed = bot_trade(
        stake_amount=66.666666666667, open_date="2026-03-01 10:00:03.123456", close_date="2026-03-02 10:00:04.9"
    )
    del closed["orders"]
    columns = ", ".join(names.get(name, name) for name in closed)
    connection.execute(f"CREATE TABLE trades ({columns})")
    connection.execute(f"CREATE TABLE orders (id INTEGER PRIMARY KEY, {ORDER})")
    for row in (closed, closed | {"trade_id": 8, "is_open": True, "close_date": None}):
        connection.execute(f"INSERT INTO trades VALUES ({', '.join('?' * len(row))})", [*row.values()])
    connection.commit()
    return connection


def add_order(connection: sqlite3.Connection, *values: Any) -> None:
    connection.execute(f"INSERT INTO orders VALUES (NULL, {', '.join('?' * len(values))})", values)
    connection.commit()


@pytest.fixture
def untouched(tmp_path: Path) -> Path:
    """A folder in which reading makes and changes no file."""
    folder = tmp_path / "user_data"
    folder.mkdir()
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith("-shm")}


def test_a_database_reads_as_the_rest_answer(untouched: Path) -> None:
    path = untouched / "tradesv3.sqlite"
    database(path).close()
    before = contents(untouched)
    assert list(read_freqtrade(path).trades) == read(answers(bot_trade(), bot_trade(trade_id=8, is_open=True))[0])
    assert contents(untouched) == before


def test_a_running_bot_s_database_is_read_with_what_is_not_yet_in_it(untouched: Path) -> None:
    path = untouched / "tradesv3.sqlite"
    with closing(database(path, wal=True)) as bot:
        for filled in (1.0, 3.0):
            add_order(bot, 7, "sell", "1", "closed", 9.0, filled, 50.0)
        add_order(bot, 7, "sell", "2", "canceled", 5.0, 0.0, None)
        add_order(bot, 7, "buy", "3", "closed", 4.0, 4.0, 40.0)
        before = contents(untouched)
        closed, _ = read_freqtrade(path).trades
        assert contents(untouched) == before
        copied = untouched / "copy"
        copied.mkdir()
        for each in (path, path.with_name(path.name + "-wal")):
            (copied / each.name).write_bytes(each.read_bytes())
    assert closed.message is not None
    assert (closed.message["size"], closed.message["risk"]) == ("4.0", "20.00")
    assert "max_drawdown_pct" not in closed.message  # of two entry fills
    before = contents(copied)
    assert next(iter(read_freqtrade(copied / path.name).trades)) == closed
    assert contents(copied) == before
    assert sorted(each.name for each in copied.iterdir()) == sorted(before)


def test_a_dry_run_s_database_is_known_by_its_name_and_notes_by_its_columns(untouched: Path) -> None:
    path = untouched / "tradesv3.dryrun.sqlite"
    with closing(database(path)) as connection:
        connection.execute("UPDATE trades SET initial_stop_loss = 'nan' WHERE id = 7")
        connection.commit()
    closed, still_open = read_freqtrade(path).trades
    assert (closed.book, still_open.book) == ("Bot-dry-run", "Bot-dry-run")
    assert [note.field for note in closed.notes] == ["initial_stop_loss"]


def test_another_database_and_a_damaged_one_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE VIEW trades AS SELECT 1")
        connection.commit()
    assert "tradesv3.sqlite" in why(other)
    path = tmp_path / "tradesv3.sqlite"
    database(path).close()
    content = path.read_bytes()
    assert why(written(tmp_path / "cut.sqlite", content[:3000]))
    assert why(written(tmp_path / "noise.sqlite", content[:100] + b"\xff" * (len(content) - 100)))
