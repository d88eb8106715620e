"""The same trades again under other ids: counted, and mined once; true trades that look alike are not thrown away."""

import random
import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from temporalio.testing import ActivityEnvironment

from closeloop import store
from closeloop.activities.imports import ImportActivities
from closeloop.models.imports import BookCounts, ImportRequest
from closeloop.models.lessons import BuiltLessons, LessonStatus
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import ClosedPosition, Direction
from closeloop.services import lessons
from closeloop.store.database import Sessions
from closeloop.store.imports import StagedRow
from tests.activities.patterning import FIRST, LEARNERS, build, events_of, learn, trade, trades

DAY = timedelta(days=1)
BY_RESULT = LearningPolicy.model_validate({"mining": {"same_trade": "result"}})
NEVER = LearningPolicy.model_validate({"mining": {"same_trade": "never"}})


def again(positions: Sequence[ClosedPosition], name: str, later: timedelta, **changes: Any) -> list[ClosedPosition]:
    """The same trades under other ids, so much later."""
    return [
        p.model_copy(
            update={
                "position_id": f"{name}-{p.position_id}",
                "opened_at": p.opened_at + later,
                "closed_at": p.closed_at + later,
            }
            | changes
        )
        for p in positions
    ]


async def imported(
    sessions: Sessions, positions: Sequence[ClosedPosition], policy: LearningPolicy | None = None
) -> dict[str, BookCounts]:
    """Counts by book of an import of these."""
    import_id = uuid.uuid4().hex
    rows = [StagedRow(i, i, p.model_dump_json(exclude_none=True)) for i, p in enumerate(positions)]
    async with sessions.begin() as session:
        await store.imports.create(session, import_id, "a test")
        await store.imports.stage(session, import_id, rows, [])
    activities = ImportActivities(sessions, policy or LearningPolicy(), LEARNERS)
    await ActivityEnvironment().run(activities.attribute_import, ImportRequest(import_id=import_id))
    report = await ActivityEnvironment().run(activities.report_import, ImportRequest(import_id=import_id))
    books: dict[str, BookCounts] = report.books
    return books


async def mined(sessions: Sessions, book: str, policy: LearningPolicy | None = None, **how: Any) -> BuiltLessons:
    return await build(sessions, book, policy=policy or LearningPolicy(), force=True, **how)


async def test_five_copies_of_noise_give_no_lesson_and_are_told(book: str, sessions: Sessions) -> None:
    once = trades(book, 900, seed=77)
    copies = [p for n in range(1, 6) for p in again(once, f"copy{n}", n * 3 * DAY)]
    await learn(sessions, [*once, *copies])
    naive = await mined(sessions, book, NEVER)
    assert (naive.trades, naive.repeated) == (5400, 0)
    assert naive.actionable > 0, "copies taken for evidence make lessons of noise"
    report = await mined(sessions, book)
    assert (report.trades, report.repeated, report.actionable) == (900, 4500, 0)
    assert "4500 more trades are one of these again under another id: mined once" in report.sentence
    assert (await events_of(sessions, book, "learning.lessons.built.v1"))[-1]["repeated"] == 4500
    async with sessions() as session:
        [baseline] = [
            view for view in await store.lessons.listing(session, book) if view.status is LessonStatus.baseline
        ]
        explained = await lessons.explain(session, baseline.lesson_id)
    assert baseline.n == explained.inside.n == 900
    assert {trade.position_id for trade in explained.trades} == {p.position_id for p in once}


async def test_a_book_with_copies_gives_what_the_book_without_them_gives(book: str, sessions: Sessions) -> None:
    once = trades(book, 300)
    await learn(sessions, once)
    await mined(sessions, book)
    with_copies = f"{book}-x"
    # The copies come first, out of order, and under ids that sort before those of the originals.
    every = [
        p.model_copy(update={"book": with_copies}) for p in [*again(once, "a", DAY), *again(once, "b", 9 * DAY), *once]
    ]
    random.Random(5).shuffle(every)
    for start in range(0, len(every), 250):
        await learn(sessions, every[start : start + 250])
    await mined(sessions, with_copies)
    async with sessions() as session:
        found, wanted = [
            sorted(v.model_dump_json(exclude={"book", "lesson_id", "explained_by"}) for v in views)
            for views in (
                await store.lessons.listing(session, with_copies),
                await store.lessons.listing(session, book),
            )
        ]
    assert found == wanted


async def test_a_copy_that_closes_later_never_removes_what_was_known_before_it(book: str, sessions: Sessions) -> None:
    once = trades(book, 100)
    await learn(sessions, again(once, "copy", 30 * DAY))
    await learn(sessions, once)
    between = FIRST + timedelta(hours=99)
    assert [(r.trades, r.repeated) for r in [await mined(sessions, book, as_of=between)]] == [(100, 0)]
    report = await mined(sessions, book)
    assert (report.trades, report.repeated) == (100, 100)


async def test_copies_are_no_new_trades(book: str, sessions: Sessions) -> None:
    once = trades(book, 100)
    await learn(sessions, once)
    await build(sessions, book)
    await learn(sessions, again(once, "copy", DAY))
    report = await build(sessions, book)
    assert (report.version, report.skipped) == (None, 1)
    assert "100 trades, 100 when it was last mined" in report.skipped_groups[0].reason


async def test_fewer_than_33_trades_stay_fewer_however_often_they_come(book: str, sessions: Sessions) -> None:
    once = trades(book, 30)
    await learn(sessions, [*once, *(p for n in range(1, 6) for p in again(once, f"c{n}", n * DAY))])
    report = await build(sessions, book)
    assert (report.trades, report.candidates) == (30, 0)


async def test_a_bot_of_fixed_size_and_fixed_results_keeps_its_trades(book: str, sessions: Sessions) -> None:
    """A grid: one size, two results, held for times that differ by seconds, in prices that come again."""
    rng = random.Random(3)
    positions = []
    for i in range(600):
        opened = FIRST + timedelta(hours=i, seconds=rng.randrange(3600))
        rr, level = rng.choice([-1.0, 2.0]), 100 + rng.randrange(5)
        made = trade(book, f"p-{i}", rr, {"chain": f"v{rng.randrange(3)}"}, opened)
        held = timedelta(microseconds=rng.randrange(60_000_000, 40_000_000_000))
        positions.append(
            made.model_copy(
                update={"opened_at": opened, "closed_at": opened + held, "entry_price": made.entry_price * level}
            )
        )
    await learn(sessions, positions)
    report = await mined(sessions, book)
    assert (report.trades, report.repeated) == (600, 0)


async def test_on_candles_prices_and_scope_tell_true_trades_apart(book: str, sessions: Sessions) -> None:
    """Held for a multiple of five minutes, stopped out at a fixed distance: equal results at other prices differ."""
    rng = random.Random(4)
    positions = []
    for i in range(300):
        made = trade(book, f"p-{i}", rng.choice([-1.0, 2.0]), {"chain": f"v{i % 3}"}, FIRST + timedelta(hours=i))
        price = made.entry_price + i // 3
        positions.append(made.model_copy(update={"entry_price": price, "exit_price": price + 1}))
    await learn(sessions, positions)
    assert (await mined(sessions, book)).repeated == 0
    by_result = await mined(sessions, book, BY_RESULT)
    assert (by_result.trades, by_result.repeated) == (2, 298), "by the five alone, nothing is left of it"


async def test_one_field_that_differs_makes_another_trade(book: str, sessions: Sessions) -> None:
    [one] = trades(book, 1)
    variants = [
        {"symbol": "other"},
        {"direction": Direction.short},
        {"size": one.size + 1},
        {"realized_pnl": one.realized_pnl + 1},
        {"entry_price": one.entry_price + 1},
        {"exit_price": one.exit_price + 1},
        {"opened_at": one.opened_at + timedelta(microseconds=1)},
        {"entry_context": {**(one.entry_context or {}), "scope": {"chain": "elsewhere"}}},
    ]
    others = [one.model_copy(update={"position_id": f"other-{i}"} | change) for i, change in enumerate(variants)]
    books = await imported(sessions, [one, *others])
    assert (books[book].attributed, books[book].repeated) == (9, 0)
    assert (await mined(sessions, book)).repeated == 0


async def test_an_import_counts_them_once_each(book: str, sessions: Sessions) -> None:
    once = trades(book, 40)
    other = [p.model_copy(update={"book": f"{book}-y"}) for p in once]  # in another book they are no repeats
    first = await imported(sessions, [*once, *again(once[:10], "c", DAY), *other])
    assert (first[book].attributed, first[book].repeated, first[f"{book}-y"].repeated) == (50, 10, 0)
    # 1.0 and 1.00 are one number.
    finer = [
        p.model_copy(update={"realized_pnl": p.realized_pnl * 1, "size": p.size.scaleb(-2).scaleb(2)}) for p in once
    ]
    second = await imported(sessions, [*once, *again(finer, "d", 2 * DAY)])
    assert (second[book].already_attributed, second[book].attributed, second[book].repeated) == (40, 40, 40)
    never = await imported(sessions, again(once, "e", 3 * DAY), NEVER)
    assert never[book].repeated == 0
