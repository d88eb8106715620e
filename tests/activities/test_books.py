"""A book that fails is reported and holds up none of the others."""

from collections.abc import AsyncIterator

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from closeloop.activities.books import each_book
from closeloop.activities.transactions import DATABASE_AWAY, DATABASE_REFUSED
from tests.activities.forecasting import HOUR, T0, Floor, every, floor_on, forecast

BOOKS = ["a", "b", "c"]


@pytest.fixture(scope="module")
async def module_floor(dsn: str) -> AsyncIterator[Floor]:
    async with floor_on(dsn) as floor:
        yield floor


@pytest.fixture
async def floor(module_floor: Floor) -> Floor:
    await module_floor.clear()
    return module_floor


async def go_over(floor: Floor, errors: dict[str, Exception]) -> tuple[list[str], dict[str, str]]:
    done = []

    async def work(book: str) -> None:
        if book in errors:
            raise errors[book]
        done.append(book)

    failed = await ActivityEnvironment().run(each_book, floor.sessions, "a task", BOOKS, work)
    return done, failed


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("of no use"), "ValueError: of no use"),
        (ApplicationError("out of range", type=DATABASE_REFUSED, non_retryable=True), "out of range"),
    ],
)
async def test_a_broken_book_is_reported_once(floor: Floor, error: Exception, reason: str) -> None:
    for _ in range(2):  # the activity is retried in the same run of its workflow
        assert await go_over(floor, {"b": error}) == (["a", "c"], {"b": reason})
    told = await floor.events("learning.book_failed.v1")
    assert told == [{"book": "b", "task": "a task", "reason": reason}]


async def test_a_database_that_is_away_is_no_fault_of_the_book(floor: Floor) -> None:
    done = []

    async def work(book: str) -> None:
        if book == "a":
            raise ApplicationError("the database: away", type=DATABASE_AWAY)
        done.append(book)

    with pytest.raises(ApplicationError) as raised:
        await ActivityEnvironment().run(each_book, floor.sessions, "a task", BOOKS, work)
    assert raised.value.type == DATABASE_AWAY
    assert not raised.value.non_retryable
    assert done == ["b", "c"]
    assert await floor.events("learning.book_failed.v1") == []


async def test_a_book_whose_performance_cannot_be_written_holds_up_no_other(floor: Floor) -> None:
    await floor.trade("ADA/BTC", every(5 * (HOUR / 60), T0, T0 + 3 * HOUR))
    await floor.record(*(forecast(f"f-{book}", book=book) for book in BOOKS))
    await floor.resolve(T0 + 2 * HOUR)
    await floor.sql("ALTER TABLE producer_performance ADD CONSTRAINT b_is_broken CHECK (book_id <> 'b')")
    try:
        report = await floor.perform(T0 + 2 * HOUR)
    finally:
        await floor.sql("ALTER TABLE producer_performance DROP CONSTRAINT b_is_broken")
    assert report.books == ["a", "c"]
    assert list(report.failed) == ["b"]
    assert "b_is_broken" in report.failed["b"]
    [told] = await floor.events("learning.book_failed.v1")
    assert (told["book"], told["task"]) == ("b", "performance")
    assert {row["book_id"] for row in await floor.sql("SELECT book_id FROM producer_performance")} == {"a", "c"}
    assert (await floor.perform(T0 + 2 * HOUR)).books == BOOKS  # mended, it is up to date with the next run
