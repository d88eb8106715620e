"""Trades of a file: what is reported of them, and which run a book takes in. Beside them: what is refused, and why."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import TextClause, text
from temporalio.client import Client

from closeloop import store
from closeloop.gateways.trades import FileRun, FileTrade, Noted, NotTrades, TradeFile
from closeloop.models.errors import NotAcceptable, NotPossibleNow
from closeloop.models.policy import ImportsPolicy
from closeloop.models.positions import ClosedPosition
from closeloop.services import imports
from closeloop.services.imports import BOOKS_AN_IMPORT, ImportSource, RunningImport
from closeloop.store.database import Sessions
from tests.activities.attributing import attributed
from tests.closes import closed, message
from tests.store.databases import query, scratch_database, sessions_on

pytestmark = pytest.mark.usefixtures("worker")

POLICY = ImportsPolicy(max_new_books=5)
DAY = datetime(2024, 3, 1, tzinfo=UTC)


def close(book: str, number: int, index: int | None = None, **changes: Any) -> FileTrade:
    """A trade of an hour, opened ``number`` hours after DAY; ``changes`` are of its message."""
    opened = DAY + timedelta(hours=number)
    times = {"opened_at": opened.isoformat(), "closed_at": (opened + timedelta(hours=1)).isoformat()}
    return FileTrade(book, number if index is None else index, message(book, f"p-{number}", **times | changes))


def source(trades: Iterable[FileTrade], *books: str, name: str = "a.json", **run: Any) -> ImportSource:
    """A file of trades; each of ``books`` is of the run that ``run`` describes."""
    return imports.trades_source(TradeFile(trades, {book: FileRun(**run) for book in books}), "freqtrade", name)


async def begin(client: Client, sessions: Sessions, given: ImportSource, add: bool = False) -> RunningImport:
    async with sessions() as session:
        return await imports.begin(client, session, given, POLICY, add)


async def take(client: Client, sessions: Sessions, given: ImportSource, add: bool = False) -> dict[str, Any]:
    """The whole report, its lists read."""
    running = await begin(client, sessions, given, add)
    report = await imports.outcome(running)
    async with sessions() as session:
        return await _read(imports.whole(session, running, report))


async def _read(value: Any) -> Any:
    if isinstance(value, AsyncIterator):
        return [item.model_dump() async for item in value]
    return {key: await _read(item) for key, item in value.items()} if isinstance(value, dict) else value


async def attributed_of(client: Client, sessions: Sessions, given: ImportSource, add: bool = False) -> dict[str, int]:
    report = await take(client, sessions, given, add)
    return {book: counts["attributed"] for book, counts in report["books"].items()}


async def refusal(client: Client, sessions: Sessions, given: ImportSource, add: bool = False) -> str:
    """The sentence for which a file is refused; nothing of it is stored."""
    count = "SELECT (SELECT count(*) FROM imports) AS imports, (SELECT count(*) FROM book_runs) AS runs"
    before = await query(sessions, count)
    with pytest.raises(NotPossibleNow) as refused:
        await begin(client, sessions, given, add)
    assert await query(sessions, count) == before
    return str(refused.value)


async def test_the_report_has_all_keys_for_every_book(book: str, client: Client, sessions: Sessions) -> None:
    opened, bad, empty = f"{book}-open", f"{book}-bad", f"{book}-empty"
    trades = [
        close(book, 0),
        close(book, 1),
        FileTrade(book, 2, close(book, 2).message, corrected=True, notes=(Noted("enter_tag", "too long"),)),
        FileTrade(book, 3, still_open=True),
        FileTrade(opened, 0, still_open=True),
        FileTrade(bad, 0, reason="pair: must be a text"),
        FileTrade(bad, 1, close(bad, 1, direction="up").message, notes=(Noted("max_rate", "not a number"),)),
        FileTrade("no book's name", 7, close(book, 4).message),
    ]
    first = await take(client, sessions, source(trades, book, opened, bad, empty))
    nothing = dict.fromkeys(("read", "attributed", "already_attributed", "still_open", "corrected", "repeated"), 0)
    none = nothing | {"rejected": [], "noted": []}
    assert first["books"][book] == none | {
        "read": 4,
        "attributed": 3,
        "still_open": 1,
        "corrected": 1,
        "repeated": 2,  # the three are one trade under three ids
        "noted": [{"index": 2, "field": "enter_tag", "reason": "too long"}],
    }
    assert first["books"][opened] == none | {"read": 1, "still_open": 1}
    assert first["books"][empty] == none
    refused = first["books"][bad].pop("rejected")
    assert first["books"][bad] == nothing | {"read": 2, "noted": []}, "nothing of a refused row was taken"
    assert [row["index"] for row in refused] == [0, 1]
    assert [row["index"] for row in first["rejected"]] == [7]
    again = await take(client, sessions, source(trades, book, opened, bad, empty))
    assert again["books"][book] == first["books"][book] | {"attributed": 0, "already_attributed": 3, "repeated": 0}


async def test_a_longer_range_of_a_run_adds_to_it(book: str, client: Client, sessions: Sessions) -> None:
    short = [close(book, 0), FileTrade(book, 1, still_open=True)]
    longer = [close(book, 0), close(book, 1), close(book, 5)]
    assert await attributed_of(client, sessions, source(short, book, run_id="r1")) == {book: 1}
    assert await attributed_of(client, sessions, source(longer, book, run_id="r1")) == {book: 2}


async def test_another_run_is_refused_as_a_whole(book: str, client: Client, sessions: Sessions) -> None:
    other = f"{book}-other"
    first = [close(book, 0), close(book, 1), close(book, 2)]
    second = [close(book, 0), close(book, 1, realized_pnl="-3"), close(book, 2), close(other, 0)]
    assert await attributed_of(client, sessions, source(first, book, run_id="r1")) == {book: 3}
    said = await refusal(client, sessions, source(second, book, other, name="b.json", run_id="r2"))
    for word in ("--book", "--add", book, "r1", "r2", "a.json", "b.json", "'p-1'", "realized_pnl"):
        assert word in said
    assert await query(sessions, "SELECT 1 FROM books WHERE book_id = :b", b=other) == []
    added = await take(client, sessions, source([*second[2:], close(book, 9)], book, other, run_id="r2"), add=True)
    assert [added["books"][b]["attributed"] for b in (book, other)] == [1, 1]
    assert await attributed_of(client, sessions, source([close(book, 12)], book, run_id="r2")) == {book: 1}


@pytest.mark.parametrize(
    ("hours", "why"),
    [
        ([0, 2, 5], "'p-2' is only in the file"),
        ([0, 5], "1 positions of"),
        ([20, 21], "no time in common"),
        ([3, 4], "no position is in both"),
    ],
)
async def test_without_a_run_id_the_positions_tell(
    book: str, client: Client, sessions: Sessions, hours: list[int], why: str
) -> None:
    assert await attributed_of(client, sessions, source([close(book, n) for n in (0, 1, 5)], book)) == {book: 3}
    assert why in await refusal(client, sessions, source([close(book, n) for n in hours], book))


async def test_the_same_positions_in_the_common_period_are_the_same_run(
    book: str, client: Client, sessions: Sessions
) -> None:
    first = source([close(book, n) for n in (0, 1, 5)], book, run_id="of the old version")
    assert await attributed_of(client, sessions, first) == {book: 3}
    later = [close(book, n, exit_reason="renamed" if n == 9 else "roi") for n in (1, 5, 9)]
    begins = DAY + timedelta(minutes=30)
    assert await attributed_of(client, sessions, source(later, book, run_id="newer", begins=begins)) == {book: 1}


async def test_where_a_range_begins_or_ends_a_position_may_be_missing(
    book: str, client: Client, sessions: Sessions
) -> None:
    ends = DAY + timedelta(hours=6)
    first = source([close(book, 0), close(book, 1), FileTrade(book, 2, still_open=True)], book, ends=ends)
    assert await attributed_of(client, sessions, first) == {book: 2}
    assert await attributed_of(client, sessions, source([close(book, n) for n in (0, 1, 5)], book)) == {book: 1}


async def test_positions_whose_run_is_not_on_record_are_compared(book: str, client: Client, sessions: Sessions) -> None:
    legacy = [close(book, n).message for n in (0, 1, 2)]
    await attributed(sessions, *(ClosedPosition.model_validate(one) for one in legacy))
    said = await refusal(client, sessions, source([close(book, n) for n in (0, 2)], book, run_id="r1"))
    assert "3 positions of 2024-03-01 to 2024-03-01 whose run is not on record" in said
    same = source([close(book, n) for n in (0, 1, 2, 7)], book, run_id="r1")
    assert await attributed_of(client, sessions, same) == {book: 1}
    assert await attributed_of(client, sessions, source([close(book, 8)], book, run_id="r1")) == {book: 1}


async def test_a_file_that_tells_of_no_run_is_never_refused(book: str, client: Client, sessions: Sessions) -> None:
    assert await attributed_of(client, sessions, source([close(book, 0)], book, run_id="r1")) == {book: 1}
    assert await attributed_of(client, sessions, source([close(book, 7)])) == {book: 1}


async def test_a_bot_s_files_are_one_run_and_no_backtest(book: str, client: Client, sessions: Sessions) -> None:
    assert await attributed_of(client, sessions, source([close(book, 0)], book, live=True)) == {book: 1}
    assert await attributed_of(client, sessions, source([close(book, 4)], book, live=True)) == {book: 1}
    assert "a bot's trades" in await refusal(client, sessions, source([close(book, 2)], book, run_id="r1"))
    backtest = f"{book}-backtest"
    assert await attributed_of(client, sessions, source([close(backtest, 0)], backtest)) == {backtest: 1}
    assert "--add" in await refusal(client, sessions, source([close(backtest, 0)], backtest, live=True))


@pytest.mark.parametrize("add", [False, True])
async def test_another_currency_is_refused_whatever_is_added(
    book: str, client: Client, sessions: Sessions, add: bool
) -> None:
    first = source([close(book, 0, currency="EUR")], book, run_id="r1", currency="EUR")
    assert await attributed_of(client, sessions, first) == {book: 1}
    said = await refusal(client, sessions, source([close(book, 1)], book, run_id="r1", currency="JPY"), add)
    assert " EUR " in said
    assert " JPY." in said
    assert "--add" not in said


async def test_of_two_runs_into_a_new_book_at_once_one_is_taken(book: str, client: Client, sessions: Sessions) -> None:
    files = [source([close(book, n)], book, run_id=f"r{n}") for n in range(4)]
    answers = await asyncio.gather(*(begin(client, sessions, file) for file in files), return_exceptions=True)
    taken = [answer for answer in answers if isinstance(answer, RunningImport)]
    assert len(taken) == 1
    assert sum(isinstance(answer, NotPossibleNow) for answer in answers) == 3
    assert (await imports.outcome(taken[0])).books[book].attributed == 1


async def test_an_import_under_way_counts_and_is_joined_by_its_like(
    book: str, client: Client, sessions: Sessions
) -> None:
    trades = [close(book, 0), close(book, 1)]
    async with sessions() as holding:
        await store.books.hold(holding, book)
        await holding.execute(_position(book, "p-0"))
        first = await begin(client, sessions, source(trades, book))
        second = await begin(client, sessions, source(trades, book))
        assert "is taking in another run" in await refusal(client, sessions, source([close(book, 9)], book))
        await holding.rollback()
    assert (first.joined, second.joined) == (False, True)
    assert (await imports.outcome(second)).books[book].attributed == 2
    await imports.outcome(first)
    assert len(await query(sessions, "SELECT 1 FROM book_runs WHERE book_id = :b", b=book)) == 1


def _position(book: str, position_id: str) -> TextClause:
    return text(
        "INSERT INTO positions (book_id, position_id, symbol, direction, opened_at) VALUES (:b, :p, 'X', 'long', now())"
    ).bindparams(b=book, p=position_id)


async def test_a_run_outlives_what_is_kept_of_its_import(book: str, client: Client, sessions: Sessions) -> None:
    assert await attributed_of(client, sessions, source([close(book, 0)], book, run_id="r1")) == {book: 1}
    await query(
        sessions,
        "UPDATE imports SET created_at = now() - interval '40 days' "
        "WHERE import_id = (SELECT import_id FROM book_runs WHERE book_id = :b)",
        b=book,
    )
    async with sessions.begin() as session:
        assert await store.imports.drop_older_than(session, 30) >= 1
    assert "run r1" in await refusal(client, sessions, source([close(book, 5)], book, run_id="r2"))


async def test_a_file_with_a_book_for_each_trade_is_refused(book: str, client: Client, sessions: Sessions) -> None:
    books = [f"{book}-{n}" for n in range(6)]
    assert set(await attributed_of(client, sessions, source([close(b, 0) for b in books[:5]]))) == set(books[:5])
    assert set(await attributed_of(client, sessions, source([close(b, 1) for b in books]))) == set(books)
    many = [(n, closed(f"{book}-x{n}").model_dump_json(exclude_none=True).encode()) for n in range(6)]
    for given in (imports.jsonl_source(many, "x.jsonl"), source([close(f"{book}-y{n}", 0) for n in range(6)])):
        with pytest.raises(NotAcceptable, match="more than 5 books"):
            await begin(client, sessions, given)
    assert await query(sessions, "SELECT 1 FROM books WHERE book_id LIKE :b", b=f"{book}-_%-%") == []


async def test_a_file_with_more_books_than_a_report_holds_is_refused(dsn: str, client: Client) -> None:
    """Though all of them exist, or have no trades."""
    names = [f"b-{i}" for i in range(BOOKS_AN_IMPORT + 1)]
    async with scratch_database(dsn) as scratch, sessions_on(scratch) as own:
        async with own.begin() as session:
            await store.rows.execute(session, store.books.creating(names))
        for many in (source(close(name, 0) for name in names), source([], *names)):
            with pytest.raises(NotAcceptable, match="names more than 5,000 books: import it in parts"):
                await begin(client, own, many)
        assert await query(own, "SELECT 1 FROM imports") == []


async def test_a_file_that_turns_out_to_be_none_while_it_is_read(book: str, client: Client, sessions: Sessions) -> None:
    def trades() -> Iterable[FileTrade]:
        yield close(book, 0)
        raise NotTrades("it ends in the middle of row 1: export it again.")

    with pytest.raises(NotAcceptable, match=r"^a\.json: it ends in the middle of row 1: export it again\.$"):
        await begin(client, sessions, source(trades(), book))
    assert await query(sessions, "SELECT 1 FROM books WHERE book_id = :b", b=book) == []


async def test_the_same_trade_in_other_digits_is_of_the_same_run(book: str, client: Client, sessions: Sessions) -> None:
    """As exported before and after an upgrade, without a run id."""
    before = source([close(book, n, realized_pnl="9.8", exit_price="50490") for n in (0, 1)], book)
    assert await attributed_of(client, sessions, before) == {book: 2}
    after = [close(book, n, realized_pnl="9.800000000000002", exit_price="50490.0") for n in (0, 1, 4)]
    report = await take(client, sessions, source(after, book))
    assert (report["books"][book]["attributed"], report["books"][book]["already_attributed"]) == (1, 2)
    assert report["books"][book]["rejected"] == []
    more = [close(book, n, realized_pnl="9.80001", exit_price="50490.0") for n in (0, 1, 4)]
    assert "realized_pnl" in await refusal(client, sessions, source(more, book))
