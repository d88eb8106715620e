"""Lessons, overrides and research asked without a command: typed answers, typed refusals, pages."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from sqlalchemy import text
from temporalio.client import Client

from closeloop import store
from closeloop.models.errors import NotAcceptable, NotOnRecord, RunFailed
from closeloop.models.launches import TASK_QUEUE
from closeloop.models.lessons import LessonRequest
from closeloop.models.overrides import OverrideRequest
from closeloop.services import lessons, overrides, research
from closeloop.store.database import Sessions
from tests.activities.overriding import SCOPE, materialize, mined
from tests.activities.patterning import AS_OF, EDGE, build, learn, of_three_symbols, trades
from tests.services.running import publish, setup
from tests.store.databases import query, scratch_database, sessions_on


async def test_what_is_not_on_record(sessions: Sessions) -> None:
    async with sessions() as session:
        for asked in (
            lessons.find(session, "nothing"),
            lessons.explain(session, "nothing"),
            lessons.listing(session, shadows=True, before="nothing"),
            overrides.find(session, "nothing"),
            overrides.listing(session, before="nothing"),
            research.find(session, "nothing"),
            research.find(session, 10**18),
        ):
            with pytest.raises(NotOnRecord, match="There is no "):
                await asked
        with pytest.raises(NotOnRecord, match="There is no research with the id nothing"):
            [view async for view in research.listing(session, before="nothing")]


async def test_pages_of_lessons_are_cut_from_the_end(book: str, sessions: Sessions) -> None:
    effects = [0.9, -0.8, 0.5, 0.3]
    await mined(sessions, book, *({"scope": {"chain": f"c{i}"}, "effect": effect} for i, effect in enumerate(effects)))
    async with sessions() as session:
        whole = await lessons.listing(session, book, shadows=True)
        assert [view.effect for view in whole] == effects
        assert await lessons.listing(session, book, shadows=True, last=3) == whole[1:]
        assert await lessons.listing(session, book, shadows=True, last=9) == whole
        assert await lessons.listing(session, book, shadows=True, before=whole[2].lesson_id) == whole[:2]
        assert await lessons.listing(session, book, shadows=True, last=1, before=whole[2].lesson_id) == whole[1:2]
        assert await lessons.listing(session, book, shadows=True, before=whole[0].lesson_id) == []


async def test_what_stood_out_and_is_no_lesson_is_told(book: str, sessions: Sessions) -> None:
    async with sessions() as session:
        assert (await lessons.nothing_accepted(session, book)).groups == 0
    await learn(sessions, of_three_symbols(book))
    report = await build(sessions, book)
    assert report.lessons == 0
    assert report.untold > 0
    assert f"; {report.untold} conditions stood out and could not be told from luck" in report.sentence
    needed = "3 symbols (1 in the scope, 2 outside it): too few to tell a token lesson from luck; it takes 6 or more."
    assert report.strongest is not None
    assert report.strongest.startswith("chain=v")
    assert report.strongest.endswith(needed)
    async with sessions() as session:
        found = await lessons.nothing_accepted(session, book)
        assert (found.groups, found.untold, found.strongest) == (1, report.untold, report.strongest)
        # Mined by a version that did not keep what stood out: nothing is said of it.
        await session.execute(text("UPDATE learning_lessons SET evidence = NULL WHERE book_id = :b"), {"b": book})
        found = await lessons.nothing_accepted(session, book)
        assert (found.groups, found.untold, found.strongest) == (1, 0, None)


async def test_an_explanation_adds_up(book: str, sessions: Sessions) -> None:
    positions = trades(book, 900, edge=EDGE)
    await learn(sessions, positions)
    await build(sessions, book)
    async with sessions() as session:
        [lesson] = [view for view in await lessons.listing(session, book, shadows=True) if view.actionable]
        found = await lessons.explain(session, lesson.lesson_id)
    assert (found.lesson, found.inside.n, len(found.trades)) == (lesson, lesson.n, lesson.n)
    assert found.inside.n + found.outside.n == 900
    rr = [trade.rr for trade in found.trades]
    assert found.inside.avg_rr == pytest.approx(sum(rr) / len(rr)) == pytest.approx(lesson.avg_rr)
    assert sum(period.n for period in found.periods) == lesson.n
    assert [period.start for period in found.periods] == sorted(period.start for period in found.periods)
    excess = sum(period.excess_rr * period.n for period in found.periods) / lesson.n
    assert found.outside.avg_rr is not None
    assert excess == pytest.approx(found.inside.avg_rr - found.outside.avg_rr)
    assert [version.version for version in found.history] == [1]


async def test_the_book_to_match_in_where_none_is_named(dsn: str, client: Client) -> None:
    async with scratch_database(dsn) as scratch, sessions_on(scratch) as own:
        for books, named in (([], "default"), (["a"], "a")):
            for book in books:
                await mined(own, book, {"scope": SCOPE})
                await materialize(own, client, book)
            async with own() as session:
                assert await overrides.only_book(session) == named
        await mined(own, "b", {"scope": SCOPE})
        await materialize(own, client, "b")
        async with own() as session:
            with pytest.raises(NotAcceptable, match="say which of a, b"):
                await overrides.only_book(session)


async def test_the_budget_of_a_day(dsn: str) -> None:
    async with scratch_database(dsn) as scratch, sessions_on(scratch) as own:
        await query(own, "INSERT INTO books (book_id) VALUES ('b')")
        await query(
            own,
            "INSERT INTO llm_calls (dedupe_key, book_id, model, prompt_version, reserved_usd, outcome, cost_usd, run, "
            "held_until) VALUES ('k', 'b', 'm', 'v', 0.5, 'answered', 0.25, 'r', now()), "
            "('l', 'b', 'm', 'v', 0.5, NULL, NULL, 'r', now())",
        )
        async with own.begin() as session:
            nobody = await research.status(session)
            await publish(session, "w-1", research=setup(key_present=False))
            without_a_key = await research.status(session)
            await publish(session, "w-1", research=setup())
            await publish(session, "w-2", pid=2, queues=[TASK_QUEUE])  # of another queue: it is never asked
            of_a_model = await research.status(session)
    assert (nobody.model, nobody.budget_usd_per_day, nobody.left_today_usd, nobody.workers) == (None, None, None, {})
    assert nobody.spent_today_usd == Decimal("0.75")
    assert without_a_key.model == "statistics"
    assert of_a_model.model_dump(mode="json") == {
        "model": "a-model",
        "budget_usd_per_day": "0.5",
        "spent_today_usd": "0.75",  # a call under way counts at what it may cost
        "left_today_usd": "0",
        "calls_today": 2,
        "outcomes_today": {"answered": 1, "under way": 1},
        "workers": {"1@host": {"model": "a-model", "key_present": True, "budget_usd_per_day": "0.5"}},
    }


@pytest.mark.usefixtures("worker")
async def test_a_run_that_fails_says_what_did_not_happen_and_why(book: str, client: Client, sessions: Sessions) -> None:
    with pytest.raises(RunFailed, match=rf"^The lessons were not built: There is no book {book}\. .*[^.]\.$"):
        await lessons.build(client, LessonRequest(book=book))
    async with sessions.begin() as session:
        await store.books.hold(session, book)
    future = datetime(2999, 1, 1, tzinfo=UTC)
    with pytest.raises(RunFailed, match=r"^The lessons were not built: as_of: must not be in the future\.$"):
        await lessons.build(client, LessonRequest(book=book, as_of=future))
    with pytest.raises(RunFailed, match=r"^The overrides stay as they were: as_of: must not be in the future\.$"):
        await overrides.materialize(client, OverrideRequest(book=book, as_of=future))
    report = await lessons.build(client, LessonRequest(book=book, as_of=AS_OF))
    assert (report.failed, [built.version for built in report.books]) == ({}, [None])
