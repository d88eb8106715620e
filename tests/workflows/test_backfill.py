"""History in bulk: staged rows become attributions once, whatever is among them and whoever imports them again."""

import asyncio
import json
import random
import uuid
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from closeloop import store
from closeloop.activities.imports import CHUNK_ROWS, ImportActivities
from closeloop.models.imports import BookCounts, ImportProgress, ImportReport, ImportRequest
from closeloop.models.launches import TASK_QUEUE
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import ClosedPosition
from closeloop.store.database import Sessions
from closeloop.store.imports import RefusedImportRow, StagedRow
from tests.activities.attributing import Tally, attributed, karma_of_book, tally
from tests.activities.test_concurrency import sequential
from tests.closes import closed, message, series
from tests.store.databases import query, scratch_database, sessions_on
from tests.waiting import PATIENCE, eventually

pytestmark = pytest.mark.usefixtures("worker")


async def stage(
    sessions: Sessions, rows: Iterable[str | dict[str, Any]], refused: Iterable[RefusedImportRow] = ()
) -> str:
    """Stage rows as the importers do; returns the import's id. The index of a row is ten times its place."""
    import_id = uuid.uuid4().hex
    staged = [
        StagedRow(seq, 10 * seq, row if isinstance(row, str) else json.dumps(row)) for seq, row in enumerate(rows)
    ]
    async with sessions.begin() as session:
        await store.imports.create(session, import_id, "a test")
        await store.imports.stage(session, import_id, staged, list(refused))
    return import_id


async def backfill(client: Client, import_id: str, seconds: float = PATIENCE) -> ImportReport:
    handle = await client.start_workflow(
        "BackfillWorkflow",
        ImportRequest(import_id=import_id),
        id=f"import/{uuid.uuid4().hex}",
        task_queue=TASK_QUEUE,
        result_type=ImportReport,
    )
    try:
        return await asyncio.wait_for(handle.result(), seconds)
    except TimeoutError:
        await handle.terminate("it would be retried for ever")
        raise


async def rejections(sessions: Sessions, import_id: str) -> list[tuple[int, str | None, str]]:
    async with sessions() as session:
        return [(row.index, book, row.reason) async for book, row in store.imports.rejections(session, import_id)]


def messages(positions: Iterable[ClosedPosition]) -> list[str]:
    return [position.model_dump_json(exclude_none=True) for position in positions]


async def test_rows_are_counted_by_book_and_the_refused_are_named(
    book: str, client: Client, sessions: Sessions
) -> None:
    other = f"{book}-other"
    await attributed(sessions, closed(book, "known"), closed(other, "changed"))
    rows: list[str | dict[str, Any]] = [
        message(book, "a"),
        "{not json",
        message(book, "b") | {"direction": "sideways", "size": -1},
        message(other, "a"),
        message(book, "known"),
        message(other, "changed", realized_pnl="11"),
        message("no such book!", "a"),
        "[1, 2]",
        {"book": book},
        message(book, "a"),
        message(book, "a", symbol="ETH/USDT"),
        message(book, "late", closed_at="2999-01-01T00:00:00Z"),
        message(other, "b"),
    ]
    import_id = await stage(sessions, rows, [RefusedImportRow(100, 1000, None, "too long to be read")])
    report = await backfill(client, import_id)
    assert report.books == {
        book: BookCounts(read=7, attributed=1, already_attributed=2, repeated=1),
        other: BookCounts(read=3, attributed=2, repeated=2),
    }
    found = await rejections(sessions, import_id)
    assert [(index, name) for index, name, _ in found] == [
        (10, None),
        (20, book),
        (50, other),
        (60, None),
        (70, None),
        (80, book),
        (100, book),
        (110, book),
        (1000, None),
    ]
    assert report.rejected == len(found)
    reasons = {index: reason for index, _, reason in found}
    assert "JSON" in reasons[10]
    assert "direction: " in reasons[20]
    assert "size: must be positive" in reasons[20]
    assert reasons[50].endswith("differing: realized_pnl")
    assert reasons[60].startswith("book: ")
    assert "position_id: " in reasons[80]
    assert reasons[100].endswith("differing: symbol")
    assert reasons[110].startswith("closed_at: must not be in the future")
    assert reasons[1000] == "too long to be read"
    assert (await tally(sessions, book)).attributions == 2
    assert (await tally(sessions, other)).attributions == 3
    async with sessions() as session:
        assert await store.imports.progress(session, import_id) == ImportProgress(
            import_id=import_id, done=14, total=14
        )
    assert await query(sessions, "SELECT 1 FROM import_rows WHERE import_id = :id", id=import_id) == []


async def test_karma_is_put_in_order_at_the_end(book: str, client: Client, sessions: Sessions) -> None:
    positions = series(book, 80)
    late, early = positions[:10], positions[10:]
    await attributed(sessions, *early[:20])
    import_id = await stage(sessions, messages(random.Random(2).sample(early[20:] + late, 60)))
    report = await backfill(client, import_id)
    assert report.books == {book: BookCounts(read=60, attributed=60)}
    assert await karma_of_book(sessions, book) == sequential(positions)


async def test_a_second_import_of_the_same_rows_attributes_none(book: str, client: Client, sessions: Sessions) -> None:
    rows = messages(series(book, 40))
    await backfill(client, await stage(sessions, rows))
    karma, counts = await karma_of_book(sessions, book), await tally(sessions, book)
    report = await backfill(client, await stage(sessions, rows))
    assert report.books == {book: BookCounts(read=40, already_attributed=40)}
    assert await karma_of_book(sessions, book) == karma
    assert await tally(sessions, book) == counts == Tally(40, 40, 40, 40, convictions=40)


async def test_a_running_import_goes_on_where_it_was_cut_off(book: str, client: Client, sessions: Sessions) -> None:
    """An attempt that dies after a chunk: the next one takes the rest, and the counts are those of all."""
    count = CHUNK_ROWS + CHUNK_ROWS // 4
    positions = series(book, count)
    import_id = await stage(sessions, ["{broken", *messages(positions)])
    environment = ActivityEnvironment()
    environment.on_heartbeat = lambda *details: environment.cancel()
    with pytest.raises(asyncio.CancelledError):
        await environment.run(
            ImportActivities(sessions, LearningPolicy(), []).attribute_import, ImportRequest(import_id=import_id)
        )
    partly = (await tally(sessions, book)).attributions
    assert 0 < partly < count
    async with sessions() as session:
        progress = await store.imports.progress(session, import_id)
    assert progress == ImportProgress(import_id=import_id, done=partly + 1, total=count + 1)
    report = await backfill(client, import_id)
    assert report == ImportReport(
        import_id=import_id, books={book: BookCounts(read=count, attributed=count)}, rejected=1
    )
    assert await tally(sessions, book) == Tally(count, count, count, count, convictions=count)
    assert await karma_of_book(sessions, book) == sequential(positions)


async def test_two_imports_of_the_same_rows_at_once_attribute_each_once(
    book: str, client: Client, sessions: Sessions
) -> None:
    positions = series(book, 600)
    orders = [random.Random(seed).sample(positions, len(positions)) for seed in (1, 2)]
    imports = [await stage(sessions, messages(order)) for order in orders]
    reports = await asyncio.gather(*(backfill(client, import_id) for import_id in imports))
    total = Counter[str]()
    for report in reports:
        assert report.rejected == 0
        assert report.books[book].read == 600
        total.update(report.books[book].model_dump())
    assert +total == {"read": 1200, "attributed": 600, "already_attributed": 600}
    assert await tally(sessions, book) == Tally(600, 600, 600, 600, convictions=600)
    assert await karma_of_book(sessions, book) == sequential(positions)


async def test_two_runs_of_one_import_take_turns(book: str, client: Client, sessions: Sessions) -> None:
    """A retry runs while the first attempt, given up by Temporal, still works: no row is taken twice."""
    import_id = await stage(sessions, messages(series(book, 300)))
    activities = ImportActivities(sessions, LearningPolicy(), [])
    request = ImportRequest(import_id=import_id)
    await asyncio.gather(*(ActivityEnvironment().run(activities.attribute_import, request) for _ in range(4)))
    report = await backfill(client, import_id)
    assert report.books == {book: BookCounts(read=300, attributed=300)}


async def test_an_import_without_rows_is_over_at_once(client: Client, sessions: Sessions) -> None:
    import_id = await stage(sessions, [])
    assert await backfill(client, import_id) == ImportReport(import_id=import_id)


async def test_an_unknown_import_fails_with_a_type(client: Client) -> None:
    with pytest.raises(WorkflowFailureError) as failed:
        await backfill(client, "there is no such import", 20)
    assert root_cause(failed.value).type == "ImportUnknown"


# Each of them can be read as JSON, and PostgreSQL cannot hold it, or cannot hold what is said about it.
POISON: dict[str, dict[str, Any]] = {
    "a zero of a hundred thousand places": {"realized_pnl": "0E-99999"},
    "a NUL in a domain's name": {"conviction": {"conviction_id": "c", "domain_scores": {"on\0chain": 0.5}}},
    "a NUL in a free text": {"entry_context": {"note": "a\0b"}},
    "a NUL in a free name": {"entry_context": {"a\0b": {"c": float("nan")}}},
}


async def test_a_row_that_the_database_cannot_hold_does_not_stop_the_rest(
    book: str, client: Client, sessions: Sessions
) -> None:
    async def one(number: int, change: dict[str, Any]) -> str:
        name = f"{book}-{number}"
        good, too = message(name, "good", size="1"), message(name, "too", size="2")
        import_id = await stage(sessions, [good, message(name, "bad", **change), too])
        try:
            report = await backfill(client, import_id)
        except (TimeoutError, WorkflowFailureError) as error:
            return f"the import did not end: {error!r}"
        if report.books[name] == BookCounts(read=3, attributed=3):
            return "stored"
        assert report.books[name] == BookCounts(read=3, attributed=2)
        [(index, _, reason)] = await rejections(sessions, import_id)
        assert index == 10
        assert reason
        return "refused"

    ends = await asyncio.gather(*(one(number, change) for number, change in enumerate(POISON.values())))
    assert {name: end for name, end in zip(POISON, ends, strict=True) if end not in ("stored", "refused")} == {}


async def test_rows_that_pass_the_door_and_not_the_database_are_refused_one_by_one(dsn: str) -> None:
    """A constraint that only this database has stands for an error that no code expects."""
    async with scratch_database(dsn) as scratch, sessions_on(scratch) as sessions:
        await query(sessions, "ALTER TABLE positions ADD CONSTRAINT whim CHECK (exit_reason <> 'poison')")
        bad = (1, 6, 7, 20, 38)
        rows = [
            message("b", f"p-{i:02}", size=f"{i + 1}", exit_reason="poison" if i in bad else "roi") for i in range(40)
        ]
        import_id = await stage(sessions, rows)
        activities = ImportActivities(sessions, LearningPolicy(), [])
        request = ImportRequest(import_id=import_id)
        await asyncio.wait_for(ActivityEnvironment().run(activities.attribute_import, request), PATIENCE)
        report = await ActivityEnvironment().run(activities.report_import, request)
        assert report.books == {"b": BookCounts(read=40, attributed=35)}
        found = await rejections(sessions, import_id)
        assert [(index, book) for index, book, _ in found] == [(10 * i, "b") for i in bad]
        assert all("whim" in reason for _, _, reason in found)
        assert await tally(sessions, "b") == Tally(35, 35, 35, 35, convictions=35)


async def test_the_memo_tells_what_came_out(book: str, client: Client, sessions: Sessions) -> None:
    import_id = await stage(sessions, ["{broken", *messages(series(book, 3))])
    handle = await client.start_workflow(
        "BackfillWorkflow", ImportRequest(import_id=import_id), id=f"import/{book}", task_queue=TASK_QUEUE
    )
    await handle.result()
    memo = await (await handle.describe()).memo()
    assert memo["outcome"] == f"3 closes attributed, 0 had been, 1 rows refused; books: {book}"

    async def listed() -> list[str]:
        return [w.id async for w in client.list_workflows('Lifecycle = "import"')]

    assert f"import/{book}" in await eventually(listed, lambda ids: f"import/{book}" in ids)


def root_cause(error: BaseException) -> ApplicationError:
    """The typed error at the bottom of a failed workflow."""
    while (cause := getattr(error, "cause", None)) is not None:
        error = cause
    assert isinstance(error, ApplicationError), error
    return error
