"""Overrides of lessons: made, replaced, ended, asked about; and what they say of a scope."""

import contextlib
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from closeloop import store
from closeloop.models.approvals import ApprovalVerdict, RecordApproval
from closeloop.models.overrides import OverrideStatus, OverrideView
from closeloop.models.policy import LearningPolicy
from closeloop.services import approvals
from closeloop.services.override_decisions import OverrideProposal, override_key
from closeloop.store.database import Sessions
from tests.activities.overriding import SCOPE, matched, materialize, mined, overrides
from tests.activities.patterning import AS_OF, EDGE, PATTERN, POLICY, build, learn, trades
from tests.store.databases import query

DAY = timedelta(days=1)
LARGE = {"effect": 2.0}  # 1 + 0.2 * 2 * 200 / 250 = 1.32


@pytest.fixture(autouse=True)
async def ended_workflows(book: str, client: Client) -> AsyncIterator[None]:
    """No worker runs here: what was asked of operators is ended with the test."""
    yield
    async for execution in client.list_workflows(f'WorkflowType = "ApprovalWorkflow" AND Book = "{book}"'):
        # What the list shows as open may have ended since: visibility follows later.
        with contextlib.suppress(RPCError):
            await client.get_workflow_handle(execution.id).terminate()


def by_status(views: list[OverrideView], status: OverrideStatus) -> list[OverrideView]:
    return [view for view in views if view.status is status]


async def test_a_lesson_becomes_an_override_that_names_it(book: str, sessions: Sessions, client: Client) -> None:
    [lesson] = await mined(sessions, book, {})
    report = await materialize(sessions, client, book, run="r-1")
    [view] = await overrides(sessions, book)
    assert (view.scope, view.pattern_key, view.action_category) == (SCOPE, PATTERN, "entry")
    assert view.size_multiplier == pytest.approx(1 + 0.2 * 0.5 * 200 / 250)
    assert view.threshold_adjustments == {"ts_threshold": pytest.approx(-0.024 * 0.5 * 200 / 250)}
    assert view.confidence == pytest.approx(200 / 250)
    assert view.expires_at == AS_OF - DAY + timedelta(days=30)
    assert (view.lesson_id, view.lesson_version, view.run, view.policy_hash) == (
        lesson,
        1,
        "r-1",
        POLICY.overrides.hash,
    )
    assert (report.created, report.active, report.pending, report.ended) == (1, 1, 0, 0)


async def test_it_is_traced_to_its_lesson_and_that_to_its_trades(book: str, sessions: Sessions, client: Client) -> None:
    positions = trades(book, 900, edge=EDGE)
    await learn(sessions, positions)
    as_of = positions[-1].closed_at
    await build(sessions, book, as_of)
    await materialize(sessions, client, book, as_of)
    [row] = await query(
        sessions,
        "SELECT o.lesson_version = r.version AS same_run, r.policy_hash, l.n, (SELECT count(DISTINCT position_id) FROM "
        "pattern_trade_events e WHERE (e.book_id, e.pattern_key, e.action_category) = (l.book_id, l.pattern_key, "
        "l.action_category) AND e.scope @> l.scope AND e.closed_at <= l.as_of) AS trades FROM pm_overrides o "
        "JOIN learning_lessons l USING (lesson_id) "
        "JOIN lesson_runs r ON (r.book_id, r.version) = (l.book_id, l.version) "
        "WHERE o.book_id = :book",
        book=book,
    )
    assert row["same_run"]
    assert row["n"] == row["trades"] > 33
    assert (await matched(sessions, book, {**EDGE, "age_bucket": "v0"}, as_of)).size_multiplier > 1.0
    assert (await matched(sessions, book, {"chain": "v0"}, as_of)).size_multiplier == 1.0


async def test_it_is_left_as_it_is_while_its_lesson_says_the_same(
    book: str, sessions: Sessions, client: Client
) -> None:
    await mined(sessions, book, {})
    await materialize(sessions, client, book)
    before = await overrides(sessions, book)
    report = await materialize(sessions, client, book, AS_OF + DAY)
    assert await overrides(sessions, book) == before
    assert (report.created, report.ended, report.active) == (0, 0, 1)


async def test_a_new_version_of_its_lesson_replaces_it(book: str, sessions: Sessions, client: Client) -> None:
    await mined(sessions, book, {})
    await materialize(sessions, client, book)
    await mined(sessions, book, {"effect": 0.6, "n": 250})
    await materialize(sessions, client, book)
    views = await overrides(sessions, book)
    [new] = by_status(views, OverrideStatus.active)
    [old] = by_status(views, OverrideStatus.ended)
    assert (new.lesson_version, old.lesson_version) == (2, 1)
    assert (old.reason, old.ended_at) == (f"replaced by {new.override_id}", AS_OF)


@pytest.mark.parametrize(
    "changes",
    [{"actionable": False}, {"actionable": False, "half_life_hours": 50.0}, None],
    ids=["not actionable", "too fast", "retired"],
)
async def test_it_ends_with_its_lesson(
    book: str, sessions: Sessions, client: Client, changes: dict[str, Any] | None
) -> None:
    await mined(sessions, book, {})
    await materialize(sessions, client, book)
    await mined(sessions, book, *([] if changes is None else [changes]))
    report = await materialize(sessions, client, book)
    [view] = await overrides(sessions, book)
    assert (view.status, view.reason) == (OverrideStatus.ended, "its lesson is no longer actionable")
    assert (report.ended, report.active) == (1, 0)
    assert (await matched(sessions, book, SCOPE)).size_multiplier == 1.0


async def test_it_expires_two_half_lives_after_the_newest_trade(book: str, sessions: Sessions, client: Client) -> None:
    await mined(sessions, book, {"half_life_hours": 100.0, "newest_trade_at": AS_OF})
    await materialize(sessions, client, book)
    ends = AS_OF + timedelta(hours=200)
    [view] = await overrides(sessions, book)
    assert view.expires_at == ends
    just_before = ends - timedelta(microseconds=1)
    assert (await matched(sessions, book, SCOPE, just_before)).size_multiplier > 1.0
    assert (await matched(sessions, book, SCOPE, ends)).size_multiplier == 1.0, "no run is needed for it to be silent"
    await materialize(sessions, client, book, just_before)
    assert (await overrides(sessions, book))[0].status is OverrideStatus.active
    await materialize(sessions, client, book, ends)
    [view] = await overrides(sessions, book)
    assert (view.status, view.reason, view.ended_at) == (OverrideStatus.ended, "expired", ends)


async def test_one_whose_newest_trade_is_too_old_is_not_made(book: str, sessions: Sessions, client: Client) -> None:
    await mined(sessions, book, {"newest_trade_at": AS_OF - timedelta(days=30)})
    assert (await materialize(sessions, client, book)).created == 0


async def test_a_large_one_waits_for_an_operator(book: str, sessions: Sessions, client: Client) -> None:
    await mined(sessions, book, LARGE)
    report = await materialize(sessions, client, book)
    [view] = await overrides(sessions, book)
    assert view.size_multiplier == pytest.approx(1.32)
    assert (view.status, report.pending, report.active) == (OverrideStatus.pending, 1, 0)
    assert (await matched(sessions, book, SCOPE)).size_multiplier == 1.0
    description = await client.get_workflow_handle(f"override/{book}/{view.override_id}").describe()
    summary = await description.static_summary()
    assert summary is not None
    assert "size x 1.32" in summary
    await materialize(sessions, client, book, AS_OF + DAY)
    assert [v.override_id for v in await overrides(sessions, book)] == [view.override_id], "it is asked once"


@pytest.mark.parametrize(("limit", "status"), [(0.33, OverrideStatus.active), (0.31, OverrideStatus.pending)])
async def test_the_limit_is_the_policys(
    book: str, sessions: Sessions, client: Client, limit: float, status: OverrideStatus
) -> None:
    await mined(sessions, book, LARGE)
    await materialize(sessions, client, book, policy=LearningPolicy(override_approval_limit=limit))
    assert [view.status for view in await overrides(sessions, book)] == [status]


async def test_what_is_in_force_stays_while_a_larger_one_waits(book: str, sessions: Sessions, client: Client) -> None:
    await mined(sessions, book, {})
    await materialize(sessions, client, book)
    await mined(sessions, book, LARGE)
    await materialize(sessions, client, book)
    views = await overrides(sessions, book)
    assert {view.status for view in views} == {OverrideStatus.active, OverrideStatus.pending}
    assert (await matched(sessions, book, SCOPE)).size_multiplier == pytest.approx(1.08)
    # A lesson that comes back to earth withdraws the question.
    await mined(sessions, book, {"effect": 0.7})
    await materialize(sessions, client, book)
    views = await overrides(sessions, book)
    assert [view.status for view in views] == [OverrideStatus.active, OverrideStatus.ended, OverrideStatus.ended]
    assert (await matched(sessions, book, SCOPE)).size_multiplier == pytest.approx(1.112)


async def test_overrides_never_go_back_in_time(book: str, sessions: Sessions, client: Client) -> None:
    await mined(sessions, book, {})
    with pytest.raises(ApplicationError, match="must not be before"):
        await materialize(sessions, client, book, AS_OF - timedelta(seconds=1))
    await materialize(sessions, client, book, AS_OF + DAY)
    with pytest.raises(ApplicationError, match="must not be before"):
        await materialize(sessions, client, book, AS_OF)
    with pytest.raises(ApplicationError, match="future"):
        await materialize(sessions, client, book, AS_OF + timedelta(days=36_500))


async def test_what_has_ended_is_not_brought_back_by_looking_back(
    book: str, sessions: Sessions, client: Client
) -> None:
    await mined(sessions, book, {})
    await materialize(sessions, client, book)
    await materialize(sessions, client, book, AS_OF + timedelta(days=40))
    [ended] = await overrides(sessions, book)
    assert ended.status is OverrideStatus.ended
    with pytest.raises(ApplicationError, match="must not be before"):
        await materialize(sessions, client, book)


async def test_a_policy_that_changes_and_changes_back(book: str, sessions: Sessions, client: Client) -> None:
    await mined(sessions, book, {})
    other = LearningPolicy(override_size_slope=0.1)
    for policy in (POLICY, other, POLICY):
        await materialize(sessions, client, book, policy=policy)
    assert [view.policy_hash for view in by_status(await overrides(sessions, book), OverrideStatus.active)] == [
        POLICY.overrides.hash
    ]
    assert len(await overrides(sessions, book)) == 3


async def refused_by_ann(sessions: Sessions, client: Client, book: str, policy: LearningPolicy = POLICY) -> None:
    """A large override that an operator rejected."""
    await mined(sessions, book, LARGE)
    await materialize(sessions, client, book, policy=policy)
    refusal = (
        "UPDATE pm_overrides SET status = 'rejected', verdict = 'reject', decided_by = 'ann', decided_at = now() "
        "WHERE book_id = :book"
    )
    await query(sessions, refusal, book=book)


async def statuses(sessions: Sessions, book: str) -> list[OverrideStatus]:
    return sorted(view.status for view in await overrides(sessions, book))


@pytest.mark.parametrize("changes", [{"karma_alpha": 0.2}, {"approval_hours": 1.0}, {"mining_growth": 0.2}])
async def test_a_number_that_overrides_do_not_read_asks_nothing_again(
    book: str, sessions: Sessions, client: Client, changes: dict[str, Any]
) -> None:
    await refused_by_ann(sessions, client, book)
    await materialize(sessions, client, book, policy=LearningPolicy(**changes))
    assert await statuses(sessions, book) == [OverrideStatus.rejected]


async def test_a_number_that_overrides_read_asks_again(book: str, sessions: Sessions, client: Client) -> None:
    await refused_by_ann(sessions, client, book)
    await materialize(sessions, client, book, policy=LearningPolicy(override_specificity_power=2.0))
    assert await statuses(sessions, book) == [OverrideStatus.pending, OverrideStatus.rejected]


async def test_what_was_decided_before_the_policy_had_sections_stays_decided(
    book: str, sessions: Sessions, client: Client
) -> None:
    of_0_1 = LearningPolicy(override_specificity_power=2.0)
    await refused_by_ann(sessions, client, book, of_0_1)
    mark = "UPDATE pm_overrides SET policy_hash = :hash WHERE book_id = :book"
    await query(sessions, mark, book=book, hash=of_0_1.flat_hash)
    await materialize(sessions, client, book, policy=of_0_1)
    # And from then on, whatever else of the policy changes.
    await materialize(sessions, client, book, policy=LearningPolicy(override_specificity_power=2.0, karma_alpha=0.2))
    assert await statuses(sessions, book) == [OverrideStatus.rejected]
    # Of a policy that was another one, it is asked about again.
    await query(sessions, mark, book=book, hash=of_0_1.flat_hash)
    await materialize(sessions, client, book)
    assert await statuses(sessions, book) == [OverrideStatus.pending, OverrideStatus.rejected]


async def test_what_is_in_force_since_before_the_policy_had_sections_stays(
    book: str, sessions: Sessions, client: Client
) -> None:
    await mined(sessions, book, {})
    await materialize(sessions, client, book)
    await query(
        sessions, "UPDATE pm_overrides SET policy_hash = :hash WHERE book_id = :book", book=book, hash=POLICY.flat_hash
    )
    report = await materialize(sessions, client, book)
    assert (report.created, report.ended, report.active) == (0, 0, 1)


async def test_a_repeated_attempt_answers_the_same(book: str, sessions: Sessions, client: Client) -> None:
    await mined(sessions, book, {}, LARGE | {"scope": {"chain": "base"}})
    first = await materialize(sessions, client, book, run="r")
    before = await overrides(sessions, book)
    assert await materialize(sessions, client, book, run="r") == first
    assert await overrides(sessions, book) == before
    assert (first.created, first.pending) == (2, 1)


# -- matching ---------------------------------------------------------------------------------------------------------


async def test_nothing_that_matches_is_exactly_one(book: str, sessions: Sessions, client: Client) -> None:
    async with sessions.begin() as session:
        await store.books.hold(session, book)
    found = await matched(sessions, book, SCOPE)
    assert (found.size_multiplier, found.threshold_adjustments, found.spoke) == (1.0, {}, [])
    await mined(sessions, book, {})
    await materialize(sessions, client, book)
    for scope in ({}, {"chain": "base"}, {"mcap_bucket": "nano"}):
        assert (await matched(sessions, book, scope)).size_multiplier == 1.0
    assert (await matched(sessions, book, SCOPE, pattern_key="other")).spoke == []
    assert (await matched(sessions, book, SCOPE, action_category="exit")).spoke == []
    await mined(sessions, f"{book}-other")
    assert (await matched(sessions, f"{book}-other", SCOPE)).spoke == []


async def test_all_overrides_in_the_scope_count_by_confidence_and_specificity(
    book: str, sessions: Sessions, client: Client
) -> None:
    await mined(
        sessions,
        book,
        {"effect": 0.5, "n": 50},
        {"scope": {"chain": "solana", "mcap_bucket": "nano"}, "effect": -0.5, "n": 150},
        {"scope": {"chain": "base"}, "effect": 1.0},
    )
    await materialize(sessions, client, book)
    found = await matched(sessions, book, {"chain": "solana", "mcap_bucket": "nano", "age_bucket": "old"})
    one, two = 0.5 * 2**1.5, 0.75 * 3**1.5
    assert {len(voice.scope): (voice.multiplier, voice.weight) for voice in found.spoke} == {
        1: (pytest.approx(1.05), pytest.approx(one)),
        2: (pytest.approx(0.925), pytest.approx(two)),
    }
    assert found.size_multiplier == pytest.approx((1.05 * one + 0.925 * two) / (one + two))
    assert found.threshold_adjustments["ts_threshold"] == pytest.approx((-0.006 * one + 0.009 * two) / (one + two))


async def test_a_match_agrees_with_containment_as_python_sees_it(book: str, sessions: Sessions, client: Client) -> None:
    rng = random.Random(9)
    names = ["chain", "age_bucket", "A_mode", "intent", "mood", "Mood", "zz", "_"]
    scopes: dict[str, dict[str, str]] = {}
    while len(scopes) < 150:
        scope = {name: f"v{rng.randrange(2)}" for name in rng.sample(names, rng.choice((1, 2, 3)))}
        scopes[str(sorted(scope.items()))] = scope
    await mined(sessions, book, *({"scope": scope} for scope in scopes.values()))
    await materialize(sessions, client, book)
    for _ in range(100):
        current = {name: f"v{rng.randrange(2)}" for name in rng.sample(names, rng.randrange(1, len(names) + 1))}
        found = {str(sorted(voice.scope.items())) for voice in (await matched(sessions, book, current)).spoke}
        assert found == {key for key, scope in scopes.items() if scope.items() <= current.items()}


@pytest.mark.parametrize(
    ("stored", "current", "speaks"),
    [
        ({"rank": "3"}, {"rank": 3}, True),
        ({"rank": "3"}, {"rank": 3.0}, True),
        ({"flag": "true"}, {"flag": True}, True),
        ({"A_mode": "high"}, {"A_value": 0.9}, True),
        ({"chain": "solana"}, {"chain": " solana "}, True),
        ({"chain": "solana"}, {"chain": ["solana"]}, False),
        ({"chain": "solana"}, {"chain": {"solana": "solana"}}, False),
        ({"chain": "solana"}, {"chain": None}, False),
        ({"chain": "solana"}, {"chain=solana": "x"}, False),
        ({"chain": "x' OR '1' = '1"}, {"chain": "solana"}, False),
        ({"chain": "%"}, {"chain": "solana"}, False),
    ],
)
async def test_scopes_of_odd_values(
    book: str, sessions: Sessions, client: Client, stored: dict[str, str], current: dict[str, Any], speaks: bool
) -> None:
    await mined(sessions, book, {"scope": stored})
    await materialize(sessions, client, book)
    assert bool((await matched(sessions, book, current)).spoke) is speaks


@pytest.mark.parametrize(
    "scope",
    [{"chain": "a\x00b"}, {"a\x00": "b"}, {"chain": float("nan")}, {f"d{i}": 1 for i in range(1_001)}],
    ids=["NUL", "NUL in a name", "NaN", "many"],
)
async def test_scopes_that_are_refused(book: str, sessions: Sessions, scope: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        await matched(sessions, book, scope)


async def test_a_huge_scope_is_answered(book: str, sessions: Sessions, client: Client) -> None:
    await mined(sessions, book, {})
    await materialize(sessions, client, book)
    found = await matched(sessions, book, {**{f"d{i}": "x" * 1_000 for i in range(900)}, **SCOPE})
    assert len(found.spoke) == 1


async def test_a_match_answers_what_was_in_force_then(book: str, sessions: Sessions, client: Client) -> None:
    """Not what a later run made, and what a later run has ended."""
    days = [AS_OF + timedelta(days=number) for number in range(3)]
    sizes = []
    for day, effect in zip(days, (0.2, 0.3, None), strict=True):
        await mined(sessions, book, {"effect": effect or 0.3, "actionable": effect is not None}, as_of=day)
        await materialize(sessions, client, book, day)
        sizes.append((await matched(sessions, book, SCOPE, day)).size_multiplier)
    assert sizes[0] > 1.0
    assert sizes[1] > sizes[0]
    assert sizes[2] == 1.0
    before = [(await matched(sessions, book, SCOPE, day - timedelta(seconds=1))).size_multiplier for day in days]
    assert before == [1.0, sizes[0], sizes[1]]
    assert [(await matched(sessions, book, SCOPE, day)).size_multiplier for day in days] == sizes


async def test_one_that_an_operator_approved_is_in_force_from_then_on(
    book: str, sessions: Sessions, client: Client
) -> None:
    """And the one that it replaces until then: never both, never neither."""
    await mined(sessions, book, {"effect": 0.2})
    await materialize(sessions, client, book)
    small = (await matched(sessions, book, SCOPE)).size_multiplier
    later = AS_OF + timedelta(days=1)
    await mined(sessions, book, {"effect": 2.0}, as_of=later)
    await materialize(sessions, client, book, later)
    [waiting] = [view for view in await overrides(sessions, book) if view.status is OverrideStatus.pending]
    async with sessions.begin() as session:
        subject = OverrideProposal()
        record = RecordApproval(
            **override_key(book, waiting.override_id).model_dump(),
            verdict=ApprovalVerdict.approve,
            operator="ann",
            at=waiting.created_at + timedelta(hours=5),
        )
        assert (await approvals.decide(session, subject, record)).accepted
    hours = [(await matched(sessions, book, SCOPE, later + timedelta(hours=h))).size_multiplier for h in (0, 4, 5, 6)]
    assert hours[:2] == [small, small]
    assert hours[2] == hours[3] > small
