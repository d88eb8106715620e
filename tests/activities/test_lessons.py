"""Building lessons: what is mined, when it is mined again, what is kept of the past, and that nothing else matters."""

import asyncio
import random
from datetime import timedelta
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError

from closeloop import store
from closeloop.activities.lessons import mining_hash
from closeloop.models.lessons import BuiltLessons, LessonStatus, LessonView
from closeloop.models.policy import LearningPolicy
from closeloop.store.database import Sessions
from tests.activities.patterning import (
    AS_OF,
    EDGE,
    FIRST,
    PATTERN,
    POLICY,
    attribute_all,
    build,
    events_of,
    learn,
    learn_missed,
    trade,
    trades,
)
from tests.store.databases import query

COUNT = 900


async def lessons(sessions: Sessions, book: str) -> list[LessonView]:
    async with sessions() as session:
        return await store.lessons.listing(session, book)


async def history(sessions: Sessions, book: str) -> list[dict[str, Any]]:
    rows = await query(
        sessions,
        "SELECT h.* FROM lesson_history h JOIN learning_lessons l USING (lesson_id) WHERE l.book_id = :book "
        "ORDER BY lesson_id, h.version",
        book=book,
    )
    return [dict(row) for row in rows]


def of(views: list[LessonView], status: LessonStatus) -> list[LessonView]:
    return [view for view in views if view.status is status]


async def test_a_planted_edge_is_found_as_planted_and_traced_to_its_trades(book: str, sessions: Sessions) -> None:
    positions = trades(book, COUNT, edge=EDGE)
    await learn(sessions, positions)
    report = await build(sessions, book)
    views = await lessons(sessions, book)
    [found] = of(views, LessonStatus.active)
    inside = [
        p
        for p in positions
        if p.entry_context and EDGE.items() <= p.entry_context["scope"].items()  # type: ignore[union-attr, operator]
    ]
    mean = sum(float(p.realized_pnl) for p in inside) / len(inside)
    assert (found.scope, found.actionable, found.n) == (EDGE, True, len(inside))
    assert found.avg_rr == pytest.approx(mean)
    assert found.effect is not None
    assert found.effect_low is not None
    assert found.effect_high is not None
    assert found.effect_low < 1.0 < found.effect_high
    assert found.win_rate == pytest.approx(sum(p.realized_pnl > 0 for p in inside) / len(inside))
    assert found.newest_trade_at == max(p.opened_at for p in inside)
    assert (found.version, found.as_of, found.policy_hash) == (1, AS_OF, mining_hash(POLICY))
    [baseline] = of(views, LessonStatus.baseline)
    assert (baseline.scope, baseline.n, baseline.actionable) == ({}, COUNT, False)
    assert {view.explained_by for view in of(views, LessonStatus.shadow)} <= {found.lesson_id, None}
    assert (report.version, report.trades, report.groups, report.actionable) == (1, COUNT, 1, 1)
    [told] = await events_of(sessions, book, "learning.lessons.built.v1")
    assert told == report.model_dump(mode="json")


async def test_nothing_that_closed_after_as_of_is_read(book: str, sessions: Sessions) -> None:
    await learn(sessions, trades(book, 200))
    as_of = FIRST + timedelta(hours=99)
    await build(sessions, book, as_of)
    [baseline] = of(await lessons(sessions, book), LessonStatus.baseline)
    assert (baseline.n, baseline.as_of) == (100, as_of)


async def test_the_same_events_give_the_same_lessons_in_any_order_of_arrival(book: str, sessions: Sessions) -> None:
    positions = trades(book, COUNT, edge=EDGE)
    orders = {f"{book}-{name}": list(positions) for name in ("a", "b", "c")}
    random.Random(1).shuffle(orders[f"{book}-b"])
    orders[f"{book}-c"].reverse()
    found = []
    for name, order in orders.items():
        for start in range(0, COUNT, 100):
            await learn(sessions, [p.model_copy(update={"book": name}) for p in order[start : start + 100]])
        await build(sessions, name)
        found.append(
            [
                view.model_dump_json(exclude={"book", "lesson_id", "explained_by"})
                for view in await lessons(sessions, name)
            ]
        )
    # The ids hold the book's name, and come last in the order of the list.
    assert sorted(found[0]) == sorted(found[1]) == sorted(found[2])
    assert len(found[0]) > 2


async def test_built_again_from_the_same_facts_it_says_the_same(book: str, sessions: Sessions) -> None:
    await learn(sessions, trades(book, COUNT, edge=EDGE))
    await build(sessions, book)
    before = await lessons(sessions, book)
    await build(sessions, book, force=True)
    after = await lessons(sessions, book)
    assert [v.model_copy(update={"version": 1}) for v in after] == before
    assert {view.version for view in after} == {2}


async def test_a_trade_counts_once_however_many_actions_it_had(book: str, sessions: Sessions) -> None:
    actions = [{"pattern_key": PATTERN, "action_category": "add"}] * 3
    await learn(sessions, [trade(book, f"p-{i}", i / 7, {}, FIRST, actions=actions) for i in range(40)])
    await build(sessions, book)
    [baseline] = await lessons(sessions, book)
    assert (baseline.n, baseline.action_category) == (40, "add")


async def test_late_and_repeated_events_change_only_what_they_should(book: str, sessions: Sessions) -> None:
    """A trade that comes late is in the next version; one that comes again is in none a second time."""
    positions = trades(book, COUNT, edge=EDGE)
    late, on_time = positions[100:110], positions[:100] + positions[110:]
    await learn(sessions, on_time)
    await build(sessions, book)
    await attribute_all(sessions, positions)
    await learn_missed(sessions, [book])
    await build(sessions, book, force=True)
    twice = await lessons(sessions, book)
    await learn(sessions, [p.model_copy(update={"book": f"{book}-x"}) for p in positions])
    await build(sessions, f"{book}-x")
    same = await lessons(sessions, f"{book}-x")
    names = {"book", "lesson_id", "explained_by", "version"}
    assert sorted(v.model_dump_json(exclude=names) for v in twice if v.status is not LessonStatus.retired) == sorted(
        v.model_dump_json(exclude=names) for v in same
    )
    assert len(late) == 10


async def test_a_group_is_mined_again_after_ten_percent_new_trades(book: str, sessions: Sessions) -> None:
    first = await _grown(sessions, book, 200, 0)
    assert (first.version, first.skipped) == (1, 0)
    few = await _grown(sessions, book, 19, 200)
    assert (few.version, few.skipped) == (None, 1)
    assert "219 trades, 200 when it was last mined" in few.skipped_groups[0].reason
    enough = await _grown(sessions, book, 1, 219)
    assert (enough.version, enough.trades) == (2, 220)
    forced = await build(sessions, book, force=True)
    assert forced.version == 3


async def test_another_policy_mines_again(book: str, sessions: Sessions) -> None:
    await _grown(sessions, book, 100, 0)
    policy = LearningPolicy(lesson_min_effect=0.2)
    report = await build(sessions, book, policy=policy)
    assert (report.version, report.policy_hash) == (2, mining_hash(policy))
    assert {view.policy_hash for view in await lessons(sessions, book)} == {mining_hash(policy)}


UNREAD: list[dict[str, Any]] = [
    {"karma_alpha": 0.2},
    {"override_size_slope": 0.1},
    {"mode_low_below": 0.3},
    {"approval_hours": 1.0},
    {"lesson_min_effect": LearningPolicy().mining.min_effect},
]


@pytest.mark.parametrize("changes", UNREAD)
async def test_a_number_that_mining_does_not_read_mines_nothing_again(
    book: str, sessions: Sessions, changes: dict[str, Any]
) -> None:
    await _grown(sessions, book, 100, 0)
    assert (await build(sessions, book, policy=LearningPolicy(**changes))).version is None


async def test_what_was_mined_before_the_policy_had_sections_stays_mined(book: str, sessions: Sessions) -> None:
    await _grown(sessions, book, 100, 0)
    of_0_1 = LearningPolicy(mining_growth=0.5)
    mark = "UPDATE lesson_groups SET policy_hash = :hash WHERE book_id = :book"
    await query(sessions, mark, book=book, hash=of_0_1.flat_hash)
    assert (await build(sessions, book, policy=of_0_1)).version is None
    # And from then on, whatever else of the policy changes.
    later = LearningPolicy(mining_growth=0.5, karma_alpha=0.2)
    assert (await build(sessions, book, policy=later)).version is None
    # Of a policy that was another one, it is mined again.
    await query(sessions, mark, book=book, hash=of_0_1.flat_hash)
    assert (await build(sessions, book, policy=POLICY)).version == 2


async def _grown(sessions: Sessions, book: str, count: int, first: int) -> BuiltLessons:
    await learn(sessions, trades(book, count, seed=first + 1, first=first))
    return await build(sessions, book)


async def test_only_the_groups_that_are_due_are_mined(book: str, sessions: Sessions) -> None:
    await learn(sessions, trades(book, 100))
    await build(sessions, book)
    other = [{"pattern_key": "another", "action_category": "exit"}]
    await learn(sessions, [trade(book, f"o-{i}", i / 7, {}, FIRST, actions=other) for i in range(50)])
    report = await build(sessions, book)
    assert (report.version, report.groups, report.trades, report.skipped) == (2, 1, 50, 1)
    assert {view.pattern_key: view.version for view in await lessons(sessions, book)} == {PATTERN: 1, "another": 2}


async def test_lessons_that_vanish_are_retired_and_their_past_is_kept(book: str, sessions: Sessions) -> None:
    await learn(sessions, trades(book, COUNT, edge=EDGE))
    await build(sessions, book)
    [found] = of(await lessons(sessions, book), LessonStatus.active)
    # The edge turns round: over all, nothing is left of it.
    await learn(sessions, trades(book, COUNT, seed=2, edge=EDGE, lift=-1.0, first=COUNT))
    report = await build(sessions, book)
    views = {view.lesson_id: view for view in await lessons(sessions, book)}
    assert (views[found.lesson_id].status, views[found.lesson_id].actionable) == (LessonStatus.retired, False)
    assert report.retired >= 1
    assert report.actionable == 0
    past = [row for row in await history(sessions, book) if row["lesson_id"] == found.lesson_id]
    assert [(row["version"], row["status"], row["actionable"]) for row in past] == [
        (1, "active", True),
        (2, "retired", False),
    ]
    assert past[0]["effect"] == found.effect
    # Retired stays retired, without a line in every later version.
    await build(sessions, book, force=True)
    assert len([row for row in await history(sessions, book) if row["lesson_id"] == found.lesson_id]) == 2


async def test_the_history_has_a_line_only_where_something_changed_and_none_of_shadows(
    book: str, sessions: Sessions
) -> None:
    await learn(sessions, trades(book, COUNT, edge=EDGE))
    await build(sessions, book)
    views = await lessons(sessions, book)
    [found] = of(views, LessonStatus.active)
    shadows = of(views, LessonStatus.shadow)
    assert shadows
    first = await history(sessions, book)
    assert {row["status"] for row in first} == {"active", "baseline"}
    await build(sessions, book, force=True)
    assert await history(sessions, book) == first, "the same trades say the same"
    async with sessions() as session:
        told = await store.lessons.history(session, found.lesson_id)
        of_shadow = await store.lessons.history(session, shadows[0].lesson_id)
    assert [(past.version, past.status) for past in told] == [(1, "active"), (2, "active")], "and the newest is told"
    assert [(past.version, past.status) for past in of_shadow] == [(2, "shadow")]
    # Shadows of other trades take the place of these: none stays as retired.
    await learn(sessions, trades(book, COUNT, seed=2, edge=EDGE, lift=-1.0, first=COUNT))
    await build(sessions, book)
    assert [view.lesson_id for view in of(await lessons(sessions, book), LessonStatus.retired)] == [found.lesson_id]


async def test_noise_gives_nothing_to_act_on(book: str, sessions: Sessions) -> None:
    await learn(sessions, trades(book, COUNT, seed=77))
    report = await build(sessions, book)
    assert (report.actionable, report.version) == (0, 1)
    assert report.candidates > 50


async def test_weights_of_a_regime_are_learned_and_scored_with(book: str, sessions: Sessions) -> None:
    positions = trades(book, COUNT, edge=EDGE)
    for index, position in enumerate(positions):
        assert position.entry_context is not None
        position.entry_context["regime_states"] = {"btc_macro": "Recover" if index % 2 else "Dip"}
    await learn(sessions, positions)
    await build(sessions, book)
    rows = await query(sessions, "SELECT * FROM learning_regime_weights WHERE book_id = :book ORDER BY 4", book=book)
    assert [row["regime_signature"] for row in rows] == ["macro=Dip", "macro=Recover"]
    for row in rows:
        assert row["weights"].keys() == {"time_efficiency", "field_coherence", "recurrence", "variance"}
        assert sum(row["weights"].values()) == pytest.approx(1.0)
        assert (row["n"], row["version"], row["policy_hash"]) == (COUNT // 2, 1, mining_hash(POLICY))
    [found] = of(await lessons(sessions, book), LessonStatus.active)
    assert found.edge_score is not None
    assert found.edge_score > 0
    assert all(0 <= value <= 1 for value in found.factors.values())


async def test_an_attempt_that_is_repeated_answers_what_the_first_one_wrote(book: str, sessions: Sessions) -> None:
    await learn(sessions, trades(book, 100))
    first = await build(sessions, book, run="the-run")
    await learn(sessions, trades(book, 100, first=100))
    assert await build(sessions, book, run="the-run") == first
    assert {view.version for view in await lessons(sessions, book)} == {1}


async def test_two_runs_at_once_write_one_version_after_the_other(book: str, sessions: Sessions) -> None:
    await learn(sessions, trades(book, 300))
    answers = await asyncio.gather(
        *(build(sessions, book, force=True, run=f"run-{i}") for i in range(4)), return_exceptions=True
    )
    written = [answer for answer in answers if isinstance(answer, BuiltLessons)]
    lost = [answer for answer in answers if isinstance(answer, BaseException)]
    assert all(isinstance(error, ApplicationError) and error.type == "LessonsChanged" for error in lost)
    assert all(not error.non_retryable for error in lost if isinstance(error, ApplicationError)), "it is tried again"
    versions = await query(sessions, "SELECT version FROM lesson_runs WHERE book_id = :book ORDER BY 1", book=book)
    assert [row["version"] for row in versions] == list(range(1, len(written) + 1))


async def test_as_of_never_goes_back_and_is_not_in_the_future(book: str, sessions: Sessions) -> None:
    await learn(sessions, trades(book, 100))
    await build(sessions, book)
    with pytest.raises(ApplicationError, match="as_of: must not be before that of the last run"):
        await build(sessions, book, AS_OF - timedelta(seconds=1))
    with pytest.raises(ApplicationError, match="future"):
        await build(sessions, book, AS_OF + timedelta(days=36_500))


async def test_a_book_without_actions_has_nothing_to_build(book: str, sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await store.books.hold(session, book)
    report = await build(sessions, book)
    assert (report.version, report.skipped, report.sentence) == (None, 0, f"{book}: nothing is due")


async def test_trades_without_r_are_left_out(book: str, sessions: Sessions) -> None:
    await learn(sessions, [p.model_copy(update={"risk": None}) for p in trades(book, 50)])
    assert (await build(sessions, book)).version is None
