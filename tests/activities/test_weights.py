"""A weight cycle in the database: evaluated, proposed, decided, applied, undone; each step once and on record."""

import asyncio
import math
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from scipy import stats
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from closeloop import store
from closeloop.learning.weights import preset_weights
from closeloop.models.approvals import ApprovalState, ApprovalVerdict, RecordApproval, RefusedApproval
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import ClosedPosition
from closeloop.models.values import Direction
from closeloop.models.weights import (
    CycleKey,
    CycleState,
    OpenedCycle,
    Preset,
    Weights,
    WeightsVerdict,
)
from tests.activities.weighing import AS_OF, BALANCED, DAY, HOUR, Desk, close, desk_on, history, key_of, learn_from
from tests.learning.test_weights import expected
from tests.store.databases import query

WEEK = 7 * DAY


@pytest.fixture(scope="module")
async def desk(dsn: str, client: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    async with desk_on(dsn, client, tmp_path_factory.mktemp("overlays")) as desk:
        yield desk


async def proposed(desk: Desk, book: str, as_of: datetime = AS_OF) -> OpenedCycle:
    """A cycle that proposes."""
    await learn_from(desk, history(book, as_of))
    cycle = await desk.open(book, as_of)
    assert cycle.state == CycleState.proposed, cycle
    return cycle


async def approved(desk: Desk, book: str) -> OpenedCycle:
    """A cycle whose proposal is in force."""
    cycle = await proposed(desk, book)
    assert (await desk.decide(cycle, WeightsVerdict.approve)).accepted
    return cycle


# -- what a cycle comes to ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "age", "reason"),
    [
        (0, None, "cold_start_baseline"),
        (40, 20 * DAY, "cold_start_baseline"),
        (40, 30 * DAY - HOUR, "cold_start_baseline"),
        (40, 30 * DAY, None),
        (19, 120 * DAY, "insufficient_data"),
        (20, 120 * DAY, None),
    ],
)
async def test_the_reason_for_no_proposal(
    desk: Desk, book: str, n: int, age: timedelta | None, reason: str | None
) -> None:
    if age:
        await learn_from(desk, history(book, n=n, age=age))
    cycle = await desk.open(book)
    assert cycle.reason == reason
    assert cycle.state == (CycleState.no_adjustment if reason else CycleState.proposed)
    assert (cycle.new is None, cycle.deadline is None) == (bool(reason), bool(reason))
    assert cycle.old == BALANCED
    assert await desk.kinds(book) == ["unchanged" if reason else "proposed"]
    assert await desk.active(book) is None  # nothing is applied that nobody approved


async def test_scores_that_tell_nothing_change_nothing(desk: Desk, book: str) -> None:
    await learn_from(
        desk,
        [close(book, "first", AS_OF - 100 * DAY, 1.0)]
        + [close(book, f"{i}", AS_OF - DAY - i * HOUR, 1.0 if i % 2 else -1.0, {"onchain": 0.5}) for i in range(30)],
    )
    cycle = await desk.open(book)
    assert (cycle.state, cycle.reason, cycle.new) == (CycleState.no_adjustment, "no_change", None)
    assert (cycle.evidence["onchain"].n, cycle.evidence["onchain"].p) == (30, None)


@pytest.mark.parametrize(
    ("age", "delta"), [(30 * DAY, 0.01), (90 * DAY - HOUR, 0.01), (90 * DAY, 0.02), (400 * DAY, 0.02)]
)
async def test_weights_and_evidence_are_those_of_an_independent_computation(
    desk: Desk, book: str, age: timedelta, delta: float
) -> None:
    rows = history(book, age=age)
    await learn_from(desk, rows)
    cycle = await desk.open(book)
    seen = [row for row in rows if row.closed_at > AS_OF - 30 * DAY]
    r, p = {}, {}
    for domain in ("onchain", "social", "technical"):
        pairs = [
            (row.conviction.domain_scores[domain], 1 if row.realized_pnl > 0 else -1)
            for row in seen
            if row.conviction and row.conviction.domain_scores
        ]
        wanted = stats.pearsonr([x for x, _ in pairs], [y for _, y in pairs])
        r[domain], p[domain] = wanted.statistic, wanted.pvalue
        found = cycle.evidence[domain]
        interval = wanted.confidence_interval(0.95)
        assert found.n == len(pairs) == 40
        assert (found.r, found.ci_low, found.ci_high, found.p) == pytest.approx(
            (wanted.statistic, interval.low, interval.high, wanted.pvalue), rel=1e-6, abs=1e-12
        )
    q = dict(zip(p, stats.false_discovery_control(list(p.values())), strict=True))
    assert {d: cycle.evidence[d].q for d in q} == pytest.approx(q, rel=1e-6)
    assert all(cycle.evidence[d].q is None and cycle.evidence[d].r == 0.0 for d in BALANCED.keys() - q.keys())
    assert cycle.new == pytest.approx(expected(BALANCED, r, delta, 0.05, 0.40), abs=1e-12)
    assert cycle.new is not None
    assert sum(cycle.new.values()) == 1.0
    assert cycle.new["onchain"] > BALANCED["onchain"]
    assert cycle.new["social"] < BALANCED["social"]
    assert max(abs(w - BALANCED[d]) for d, w in cycle.new.items()) <= delta + 1e-15


async def test_the_window_is_open_at_its_beginning_and_closed_at_its_end(desk: Desk, book: str) -> None:
    rows = [close(book, "first", AS_OF - 200 * DAY, 1.0)]
    rows += [close(book, f"{i}", AS_OF - DAY - i * HOUR, 1.0 if i % 3 else -1.0, {"social": i / 40}) for i in range(20)]
    rows.append(close(book, "at the beginning", AS_OF - 30 * DAY, 1.0, {"social": -1.0}))
    rows.append(close(book, "just inside", AS_OF - 30 * DAY + timedelta(microseconds=1), 1.0, {"social": 0.3}))
    rows.append(close(book, "at the end", AS_OF, 1.0, {"social": 0.2}))
    rows.append(close(book, "just after", AS_OF + timedelta(microseconds=1), 1.0, {"social": -1.0}))
    await learn_from(desk, rows)
    assert (await desk.open(book)).evidence["social"].n == 22


async def test_a_bearish_score_that_opened_a_winning_short_was_right(desk: Desk, book: str) -> None:
    longs, shorts, for_trade, mixed = (f"{book}-{name}" for name in ("longs", "shorts", "trade", "mixed"))
    rows = history(longs)
    negated = [
        row.model_copy(
            update={
                "book": shorts,
                "direction": Direction.short,
                "conviction": row.conviction
                and row.conviction.model_copy(
                    update={"domain_scores": {d: -s for d, s in (row.conviction.domain_scores or {}).items()}}
                ),
            }
        )
        for row in history(shorts)
    ]
    await learn_from(
        desk, [*rows, *negated, *history(for_trade, direction="short"), *history(mixed, direction="short")]
    )
    of_longs = await desk.open(longs)
    of_shorts = await desk.open(shorts)
    assert of_shorts.new == of_longs.new
    assert of_shorts.evidence == of_longs.evidence
    # Where an engine's scores already mean "for this trade", a short's are taken as they are.
    trade = desk.cycles(LearningPolicy(domain_score_sign="trade"))
    assert (await desk.open(for_trade, activities=trade)).new == of_longs.new
    reversed_ = await desk.open(mixed)
    assert reversed_.new is not None
    assert reversed_.new["onchain"] < BALANCED["onchain"]
    assert reversed_.evidence["onchain"].r == pytest.approx(-of_longs.evidence["onchain"].r)


async def test_what_closes_later_changes_nothing(desk: Desk, book: str) -> None:
    first, again = f"{book}-a", f"{book}-b"
    await learn_from(desk, history(first))
    before = await desk.open(first)
    later = [
        close(again, f"later-{i}", AS_OF + (i + 1) * HOUR, 100.0 if i % 2 else -1.0, {"social": 0.9 if i % 2 else -0.9})
        for i in range(50)
    ]
    await learn_from(desk, history(again) + later)
    after = await desk.open(again)
    assert (after.new, after.evidence, after.reason) == (before.new, before.evidence, before.reason)


async def test_the_same_data_in_another_order_gives_the_same_to_the_last_digit(desk: Desk, book: str) -> None:
    forwards, backwards, piecewise = (f"{book}-{i}" for i in "fbp")
    await learn_from(desk, history(forwards))
    await learn_from(desk, history(backwards)[::-1])
    rows = history(piecewise)
    for part in (rows[30:], rows[:7], rows[7:30]):
        await learn_from(desk, part)
    cycles = [await desk.open(name) for name in (forwards, backwards, piecewise)]
    assert cycles[0].new is not None
    assert cycles[0].new == cycles[1].new == cycles[2].new
    assert cycles[0].evidence == cycles[1].evidence == cycles[2].evidence
    views = [await desk.view(cycle.cycle_id) for cycle in cycles]
    assert [view.new for view in views] == [cycle.new for cycle in cycles]  # nothing is lost in the database


async def test_domains_that_the_preset_does_not_know_are_reported_not_learned(desk: Desk, book: str) -> None:
    rows = history(book)
    strange = [
        close(book, f"s-{i}", AS_OF - DAY, 1.0, {"astrology": 0.9, "zodiac": -0.5, "onchain": 0.8}) for i in range(5)
    ]
    await learn_from(desk, rows + strange)
    cycle = await desk.open(book)
    assert cycle.unknown_domains == ["astrology", "zodiac"]
    assert cycle.new is not None
    assert set(cycle.new) == set(cycle.evidence) == set(BALANCED)
    [event] = await desk.events(book, "proposed")
    assert event["payload"]["unknown_domains"] == ["astrology", "zodiac"]


async def test_of_many_unknown_domains_the_first_are_named(desk: Desk, book: str) -> None:
    scores = {f"d{i:03}{'x' * 190}": 0.5 for i in range(200)} | {"onchain": 0.8}
    await learn_from(desk, [*history(book), close(book, "s", AS_OF - DAY, 1.0, scores)])
    cycle = await desk.open(book)
    assert len(cycle.unknown_domains) == 21
    assert cycle.unknown_domains[0].startswith("d000xxx")
    assert {len(name) for name in cycle.unknown_domains[:-1]} == {80}
    assert cycle.unknown_domains[-1] == "and 180 more"


async def test_a_preset_outside_the_bounds_is_brought_inside(desk: Desk, book: str) -> None:
    own = Preset(name="own", weights={"onchain": 0.9, "social": 0.06, "technical": 0.04})
    policy = LearningPolicy(max_domain_weight=0.5)
    await learn_from(desk, history(book))
    cycle = await desk.open(book, activities=desk.cycles(policy, own))
    assert cycle.old == pytest.approx({"onchain": 0.5, "social": 0.26, "technical": 0.24}, abs=1e-12)
    assert sum(cycle.old.values()) == 1.0
    assert cycle.new is not None
    assert cycle.new["onchain"] <= 0.5
    assert preset_weights(own, policy.weights) == cycle.old


INFEASIBLE = LearningPolicy(min_domain_weight=0.2, max_domain_weight=0.3)


async def test_an_infeasible_policy_fails_with_a_type(desk: Desk, book: str) -> None:
    """A book that was set up before the policy was changed."""
    await learn_from(desk, history(book))
    async with desk.sessions.begin() as session:
        await store.books.hold(session, book)
        await store.books.set_preset(session, book, "balanced", BALANCED, None)
    with pytest.raises(ApplicationError, match="lower the floor") as failed:
        await desk.open(book, activities=desk.cycles(INFEASIBLE))
    assert (failed.value.type, failed.value.non_retryable) == ("PolicyInfeasible", True)
    assert await desk.kinds(book) == []


async def test_an_infeasible_policy_fails_with_a_type_for_a_book_that_nobody_set_up(desk: Desk, book: str) -> None:
    """Otherwise the activity is retried for ever and the cycle hangs."""
    await learn_from(desk, history(book))
    with pytest.raises(ApplicationError, match="lower the floor") as failed:
        await desk.open(book, activities=desk.cycles(INFEASIBLE))
    assert (failed.value.type, failed.value.non_retryable) == ("PolicyInfeasible", True)


# -- once --------------------------------------------------------------------------------------------------------------


async def test_as_of_must_be_after_the_last_cycles_and_not_in_the_future(desk: Desk, book: str) -> None:
    await desk.open(book)
    for as_of in (AS_OF - WEEK, AS_OF - timedelta(microseconds=1)):
        with pytest.raises(ApplicationError, match="must be after that of the last cycle") as failed:
            await desk.open(book, as_of)
        assert (failed.value.type, failed.value.non_retryable) == ("CycleRefused", True)
    with pytest.raises(ApplicationError, match="must not be in the future"):
        await desk.open(book, datetime.now(UTC) + DAY)
    assert len(await desk.kinds(book)) == 1


async def test_a_deadline_that_is_not_a_time_from_now_is_refused_or_passes(desk: Desk, book: str) -> None:
    """A length that no calendar holds can never succeed: retried, it would hang for ever."""
    await learn_from(desk, history(book))
    with pytest.raises(ApplicationError) as failed:
        await desk.open(book, deadline=timedelta.max)
    assert failed.value.non_retryable


async def test_a_deadline_of_nothing_is_not_three_days(desk: Desk, book: str) -> None:
    await learn_from(desk, history(book))
    before = datetime.now(UTC)
    cycle = await desk.open(book, deadline=timedelta(0))
    assert cycle.deadline is not None
    assert cycle.deadline - before < HOUR


async def test_the_policy_says_how_long_a_proposal_waits(desk: Desk, book: str) -> None:
    cycle = await proposed(desk, book)
    view = await desk.view(cycle.cycle_id)
    assert view.deadline == view.created_at + timedelta(hours=72)


async def test_the_same_period_is_the_same_cycle(desk: Desk, book: str) -> None:
    """From five places at once, with other instants of the week and other workflow ids."""
    await learn_from(desk, history(book))
    cycles = await asyncio.gather(
        *(desk.open(book, AS_OF + i * HOUR, workflow_id=f"by-hand/{book}/{i}") for i in range(5))
    )
    assert len({cycle.cycle_id for cycle in cycles}) == 1
    assert len({(cycle.workflow_id, cycle.as_of) for cycle in cycles}) == 1
    assert await desk.kinds(book) == ["proposed"]


async def test_two_periods_at_once_leave_one_proposal(desk: Desk, book: str) -> None:
    """Whichever comes first, at most one is open and the later one is the newer."""
    await learn_from(desk, history(book))
    answers = await asyncio.gather(
        desk.open(book, AS_OF), desk.open(book, AS_OF + WEEK), desk.open(book, AS_OF + 2 * WEEK), return_exceptions=True
    )
    for answer in answers:
        assert not isinstance(answer, BaseException) or (
            isinstance(answer, ApplicationError) and answer.type == "CycleRefused"
        ), answer
    rows = await query(
        desk.sessions, "SELECT as_of, state FROM weight_cycles WHERE book_id = :book ORDER BY as_of", book=book
    )
    assert rows[-1]["as_of"] == AS_OF + 2 * WEEK
    assert [row["state"] for row in rows[:-1]] == ["expired"] * (len(rows) - 1)


@pytest.mark.parametrize("limit", [None, 0.25])
async def test_a_repeated_attempt_answers_what_the_first_answered(desk: Desk, book: str, limit: float | None) -> None:
    """A worker may be killed after the transaction and before its answer: the next attempt's answer must still end the
    watch of the predecessor, report unknown domains, and let the policy approve."""
    await approved(desk, book)
    strange = [close(book, f"s-{i}", AS_OF + DAY, 1.0 if i % 2 else -1.0, {"astrology": 0.9}) for i in range(3)]
    await learn_from(desk, strange)
    activities = desk.cycles(LearningPolicy(self_approve_max_q=limit))
    first = await desk.open(book, AS_OF + WEEK, activities)
    assert first.predecessor == f"weights/{book}/2026-W15"
    assert first.unknown_domains == ["astrology"]
    assert await desk.open(book, AS_OF + WEEK, activities) == first


# -- decisions ---------------------------------------------------------------------------------------------------------


async def test_approved_weights_are_in_force_with_a_row_a_domain(desk: Desk, book: str) -> None:
    cycle = await proposed(desk, book)
    answer = await desk.decide(cycle, WeightsVerdict.approve, "ann", note="looks right")
    assert (answer.accepted, answer.state) == (True, ApprovalState.approved)
    assert answer.reason == "version 1 is in force"
    active = await desk.active(book)
    assert active is not None
    assert (active.weights, active.source, active.version) == (cycle.new, "learned", 1)
    rows = await query(desk.sessions, "SELECT * FROM learning_weights WHERE book_id = :book", book=book)
    assert {row["domain"]: (row["old_weight"], row["new_weight"]) for row in rows} == {
        d: (cycle.old[d], w) for d, w in (cycle.new or {}).items()
    }
    assert all(row["delta"] == row["new_weight"] - row["old_weight"] for row in rows)
    assert {row["reason"] for row in rows} == {"approved by ann: looks right"}
    [event] = await desk.events(book, "applied")
    assert (event["payload"]["operator"], event["payload"]["note"]) == ("ann", "looks right")
    view = await desk.view(cycle.cycle_id)
    assert (view.state, view.decided_by, view.note) == (CycleState.applied, "ann", "looks right")


async def test_a_repeated_attempt_at_a_decision_changes_nothing(desk: Desk, book: str) -> None:
    cycle = await proposed(desk, book)
    for verdict in (WeightsVerdict.approve, WeightsVerdict.revert):
        at = datetime.now(UTC)
        first = await desk.decide(cycle, verdict, at=at)
        again = await desk.decide(cycle, verdict, at=at)
        assert (again.accepted, again.state) == (True, first.state)
        assert again.reason == "this very word was carried out"
    assert await desk.kinds(book) == ["proposed", "applied", "reverted"]


async def test_of_two_approvals_at_once_one_is_accepted(desk: Desk, book: str) -> None:
    cycle = await proposed(desk, book)
    answers = await asyncio.gather(
        *(desk.decide(cycle, WeightsVerdict.approve, name) for name in ("ann", "bob", "cid"))
    )
    assert sorted(answer.accepted for answer in answers) == [False, False, True]
    by = (await desk.view(cycle.cycle_id)).decided_by
    assert all(f"approved by {by} at " in answer.reason for answer in answers if not answer.accepted)
    assert sorted(await desk.kinds(book)) == ["applied", "proposed", "word_refused", "word_refused"]
    assert len(await query(desk.sessions, "SELECT 1 FROM weight_versions WHERE book_id = :book", book=book)) == 1


@pytest.mark.parametrize("operator", ["", "   ", "\t"])
async def test_a_decision_without_an_operator_is_refused(desk: Desk, book: str, operator: str) -> None:
    cycle = await proposed(desk, book)
    answer = await desk.decide(cycle, WeightsVerdict.approve, operator)
    assert (answer.accepted, answer.reason) == (False, "operator: must not be empty")
    assert await desk.active(book) is None
    assert await desk.kinds(book) == ["proposed", "word_refused"]


async def test_the_deadline_itself_is_too_late(desk: Desk, book: str) -> None:
    cycle = await proposed(desk, book)
    assert cycle.deadline is not None
    late = await desk.decide(cycle, WeightsVerdict.approve, at=cycle.deadline)
    assert not late.accepted
    assert late.reason.startswith("expired: the deadline was ")
    assert (await desk.decide(cycle, WeightsVerdict.approve, at=cycle.deadline - timedelta(microseconds=1))).accepted


async def test_a_revert_restores_the_former_weights_to_the_last_bit(desk: Desk, book: str) -> None:
    """Of the preset, then of learned ones."""
    first = await approved(desk, book)
    second = await desk.open(book, AS_OF + WEEK)
    assert second.state == CycleState.proposed
    await desk.decide(second, WeightsVerdict.approve)
    answer = await desk.decide(second, WeightsVerdict.revert, "bob", note="worse")
    assert (answer.accepted, answer.reason) == (True, "version 3 has the former weights")
    active = await desk.active(book)
    assert active is not None
    assert first.new is not None
    assert (active.source, active.weights) == ("learned", first.new)
    assert [w.hex() for w in active.weights.values()] == [first.new[d].hex() for d in active.weights]
    repeated = await desk.decide(second, WeightsVerdict.revert, "cid")
    assert not repeated.accepted
    assert "reverted by bob" in repeated.reason

    other = f"{book}-2"
    cycle = await approved(desk, other)
    await desk.decide(cycle, WeightsVerdict.revert)
    active = await desk.active(other)
    assert active is not None
    assert (active.source, active.weights, active.version) == ("preset", BALANCED, 2)


async def test_a_proposal_that_nobody_decided_cannot_be_reverted(desk: Desk, book: str) -> None:
    cycle = await proposed(desk, book)
    answer = await desk.decide(cycle, WeightsVerdict.revert)
    assert (answer.accepted, answer.state) == (False, ApprovalState.pending)
    assert (await desk.decide(cycle, WeightsVerdict.approve)).accepted


async def test_the_next_cycle_supersedes_a_proposal(desk: Desk, book: str) -> None:
    cycle = await proposed(desk, book)
    await desk.open(book, AS_OF + WEEK)
    view = await desk.view(cycle.cycle_id)
    assert (view.state, view.reason) == (CycleState.expired, "superseded")
    answer = await desk.decide(cycle, WeightsVerdict.approve)
    assert not answer.accepted
    assert "superseded" in answer.reason
    assert await desk.active(book) is None


async def test_a_revert_after_the_next_cycle_began_is_refused(desk: Desk, book: str) -> None:
    """The next cycle proposes from the weights that this one applied. Its signal may not have arrived here yet."""
    cycle = await approved(desk, book)
    following = await desk.open(book, AS_OF + WEEK)
    assert following.old == cycle.new
    answer = await desk.decide(cycle, WeightsVerdict.revert)
    assert not answer.accepted
    assert await desk.weights(book) == cycle.new


async def test_a_proposal_from_weights_that_are_no_longer_in_force_moves_none_further_than_allowed(
    desk: Desk, book: str
) -> None:
    """While it waits, somebody deletes the overlay of the adjustment before it, which is a revert."""
    cycle = await approved(desk, book)
    await desk.overlays().write_overlay(_key(cycle))
    following = await desk.open(book, AS_OF + WEEK)
    assert following.state == CycleState.proposed
    overlay(desk, book).unlink()
    await desk.revert_deleted(_key(cycle))
    assert await desk.weights(book) == BALANCED
    await desk.decide(following, WeightsVerdict.approve)
    after = await desk.weights(book)
    assert max(abs(after[d] - w) for d, w in BALANCED.items()) <= 0.02 + 1e-12
    if after != BALANCED:
        await desk.decide(following, WeightsVerdict.revert)
        assert await desk.weights(book) == BALANCED


async def test_expiry_leaves_a_decided_cycle_alone(desk: Desk, book: str) -> None:
    cycle = await approved(desk, book)
    assert (await desk.expire(cycle)).state is ApprovalState.approved
    other = await proposed(desk, f"{book}-2")
    for _ in range(2):
        assert (await desk.expire(other)).state is ApprovalState.expired
        await desk.approvals().remind(key_of(other))
    assert await desk.kinds(f"{book}-2") == ["proposed", "expired"]


async def test_a_refused_word_is_on_record_once(desk: Desk, book: str) -> None:
    key = {"kind": "weights", "book": book, "id": "2026-W15"}
    word = RefusedApproval(**key, run_id="run", number=0, word="approve", reason="note: must be a text", operator="ann")
    for _ in range(2):
        await desk.approvals().refuse_word(word)
    await desk.approvals().refuse_word(word.model_copy(update={"number": 1}))
    for event in await desk.events(book):
        assert (event["payload"]["operator"], event["payload"]["outcome"]) == ("ann", "note: must be a text")
        assert event["payload"]["cycle_id"] == f"{book}/2026-W15"
    assert await desk.kinds(book) == ["word_refused", "word_refused"]


async def test_a_decision_on_no_cycle_fails_with_a_type(desk: Desk, book: str) -> None:
    at = datetime.now(UTC)
    record = RecordApproval(
        kind="weights", book=book, id="none", verdict=ApprovalVerdict.approve, operator="ann", at=at
    )
    with pytest.raises(ApplicationError) as failed:
        await desk.approvals().decide(record)
    assert (failed.value.type, failed.value.non_retryable) == ("ApprovalUnknown", True)


# -- the policy may approve by itself ----------------------------------------------------------------------------------


def supported(
    book: str,
    domains: tuple[str, ...],
    until: datetime = AS_OF,
    name: str = "h",
    n: int = 60,
    span: timedelta = 25 * DAY,
) -> list[ClosedPosition]:
    """Closes whose scores went with their outcome in each of these domains, alternately for and against."""
    return [
        close(
            book,
            f"{name}-{i:03}",
            until - span * (i + 1) / n,
            1.0 if i % 2 else -1.0,
            {
                d: (1 if i % 2 else -1) * (-1 if k % 2 else 1) * 0.5 + 0.03 * ((i + k) % 5)
                for k, d in enumerate(domains)
            },
        )
        for i in range(n)
    ]


async def test_the_policy_approves_only_what_is_supported_and_never_by_default(desk: Desk, book: str) -> None:
    willing = desk.cycles(LearningPolicy(self_approve_max_q=0.01, cold_start_days=0, warm_days=0))
    default = desk.cycles(LearningPolicy(cold_start_days=0, warm_days=0))
    every, some, off = (f"{book}-{i}" for i in ("every", "some", "off"))
    for name, domains in ((every, tuple(BALANCED)), (off, tuple(BALANCED)), (some, ("onchain", "social", "technical"))):
        await learn_from(desk, supported(name, domains))
    cycle = await desk.open(every, activities=willing)
    assert cycle.state == CycleState.proposed
    assert cycle.self_approved
    # What the others lose or gain so that the sum stays 1 does not count: three supported ones are enough.
    assert (await desk.open(some, activities=willing)).self_approved
    assert not (await desk.open(off, activities=default)).self_approved


async def test_what_is_not_supported_moves_nothing_that_approves_itself(desk: Desk, book: str) -> None:
    """technical is noise with some correlation: an operator is shown it, the policy leaves it out."""
    willing = desk.cycles(LearningPolicy(self_approve_max_q=0.01))
    by_hand, itself = f"{book}-hand", f"{book}-self"
    for name in (by_hand, itself):
        await learn_from(desk, history(name))
    full, reduced = await desk.open(by_hand), await desk.open(itself, activities=willing)
    assert full.evidence == reduced.evidence
    q = {domain: found.q for domain, found in full.evidence.items()}
    assert q["technical"] is not None
    assert q["technical"] > 0.01
    kept = {d: full.evidence[d].r for d in ("onchain", "social")}
    assert all((q[d] or 0.0) <= 0.01 for d in kept)
    assert reduced.new == pytest.approx(expected(BALANCED, kept, 0.02, 0.05, 0.40), abs=1e-12)
    assert (reduced.self_approved, full.self_approved) == (True, False)
    assert full.new != reduced.new
    view = await desk.view(reduced.cycle_id)
    assert (view.approves_itself, view.reason) == (True, None)


async def test_where_nothing_is_supported_the_full_proposal_waits(desk: Desk, book: str) -> None:
    rows = history(book)
    noise = [
        row.model_copy(
            update={
                "conviction": row.conviction
                and row.conviction.model_copy(update={"domain_scores": {"technical": ((i * 37) % 19) / 19 - 0.5}})
            }
        )
        for i, row in enumerate(rows)
    ]
    await learn_from(desk, noise)
    cycle = await desk.open(book, activities=desk.cycles(LearningPolicy(self_approve_max_q=0.01)))
    assert (cycle.state, cycle.self_approved, cycle.reason) == (CycleState.proposed, False, None)


async def test_after_a_person_reverted_the_policy_approves_nothing_until_a_person_did(watched: Desk, book: str) -> None:
    """By deleting the overlay file, and by word; a person's approval lets the policy go on."""
    willing = watched.cycles(LearningPolicy(self_approve_max_q=0.01))
    await learn_from(watched, [*supported(book, tuple(BALANCED)), close(book, "old", AS_OF - 200 * DAY, 1.0)])
    weeks = iter(range(1, 9))

    async def cycle() -> OpenedCycle:
        number = next(weeks)
        begin = AS_OF + (number - 1) * WEEK
        rows = supported(book, tuple(BALANCED), begin + 6 * DAY, f"w{number}", 40, 5 * DAY)
        await learn_from(watched, rows)
        return await watched.open(book, begin + WEEK, activities=willing)

    first = await watched.open(book, activities=willing)
    assert first.self_approved
    await watched.decide(first, WeightsVerdict.approve, "policy")
    await watched.overlays().write_overlay(_key(first))
    overlay(watched, book).unlink()
    await watched.revert_deleted(_key(first))
    assert await watched.weights(book) == BALANCED

    held = await cycle()
    assert (held.state, held.self_approved) == (CycleState.proposed, False)
    assert held.reason == "waits for a person: one reverted weights, and none has approved any since"
    still = await cycle()
    assert not still.self_approved
    await watched.decide(still, WeightsVerdict.approve, "ann")

    again = await cycle()
    assert again.self_approved
    await watched.decide(again, WeightsVerdict.approve, "policy")
    await watched.decide(again, WeightsVerdict.revert, "bob")
    by_word = await cycle()
    assert (by_word.state, by_word.self_approved) == (CycleState.proposed, False)
    causes = await query(
        watched.sessions, "SELECT cause FROM weight_versions WHERE book_id = :book ORDER BY version", book=book
    )
    assert [row["cause"] for row in causes] == ["itself", "reverted", "approved", "itself", "reverted"]


async def test_a_deletion_that_nobody_noticed_is_not_written_over_by_the_policy(watched: Desk, book: str) -> None:
    """The file goes, and the next cycle approves itself before anybody looked: the preset is in force, not the file."""
    willing = watched.cycles(LearningPolicy(self_approve_max_q=0.01, cold_start_days=0, warm_days=0))
    await learn_from(watched, supported(book, tuple(BALANCED)))
    first = await watched.open(book, activities=willing)
    await watched.decide(first, WeightsVerdict.approve, "policy")
    await watched.overlays().write_overlay(_key(first))
    overlay(watched, book).unlink()
    second = await watched.open(book, AS_OF + DAY * 7, activities=willing)
    assert second.self_approved
    await watched.decide(second, WeightsVerdict.approve, "policy")
    environment = ActivityEnvironment()
    await environment.run(watched.overlays().write_overlay, _key(second))
    assert not overlay(watched, book).exists()
    assert await watched.weights(book) == BALANCED
    view = await watched.view(second.cycle_id)
    assert (view.state, view.decided_by) == (CycleState.reverted, "overlay file deleted")
    third = await watched.open(book, AS_OF + DAY * 14, activities=willing)
    assert not third.self_approved


# -- degradation -------------------------------------------------------------------------------------------------------


async def week(
    desk: Desk,
    book: str,
    number: int,
    pnl: float,
    n: int = 6,
    risk: float | None = 5.0,
    opened: datetime | None = None,
) -> OpenedCycle:
    """Trades of the ``number``-th week after AS_OF with this mean, then the week's cycle."""
    begin = AS_OF + (number - 1) * WEEK
    rows = [
        close(
            book,
            f"w{number}-{i}",
            begin + DAY + i * HOUR,
            pnl + (1 if i % 2 else -1) * 0.5 * (n % 2 == 0),
            {"onchain": 0.5 + 0.05 * i, "social": 0.4 - 0.05 * i},
            opened=opened or begin + 4 * HOUR,
            risk=None if risk is None else repr(risk),
        )
        for i in range(n)
    ]
    await learn_from(desk, rows)
    return await desk.open(book, begin + WEEK)


async def streak(desk: Desk, cycle: OpenedCycle) -> int:
    [row] = await query(desk.sessions, "SELECT streak FROM weight_cycles WHERE cycle_id = :id", id=cycle.cycle_id)
    return int(row["streak"])


async def test_three_falls_in_a_row_go_back_to_the_preset_and_a_fourth_does_not(desk: Desk, book: str) -> None:
    cycle = await approved(desk, book)
    learned = await desk.weights(book)
    # The preset's cycle had 41 trades of about +1 each, the adjustment's first had 0.9.
    falls = [await week(desk, book, number, pnl) for number, pnl in ((1, 0.9), (2, 0.8), (3, 0.7))]
    assert [await streak(desk, fall) for fall in falls] == [1, 2, 3]
    assert [fall.state == CycleState.preset_restored for fall in falls] == [False, False, True]
    active = await desk.active(book)
    assert active is not None
    assert (active.weights, active.source, active.since) == (BALANCED, "preset", AS_OF + 3 * WEEK)
    assert learned == cycle.new
    [event] = await desk.events(book, "reverted")
    assert event["payload"]["operator"] == "closeloop"
    assert "3 cycles in a row" in event["payload"]["note"]
    assert falls[2].new is None
    assert falls[2].deadline is None

    straddling = [close(book, f"straddling-{i}", AS_OF + 3 * WEEK + HOUR, -9.0, {"onchain": 0.1}) for i in range(30)]
    await learn_from(desk, straddling)
    fourth = await week(desk, book, 4, -5.0)
    assert (fourth.state, fourth.reason) == (CycleState.no_adjustment, "insufficient_data")
    assert await streak(desk, fourth) == 0
    assert len(await desk.events(book, "reverted")) == 1
    # Only trades opened since then are learned from: six of the dozens that closed in the window.
    assert fourth.evidence["onchain"].n == 6
    performances = await query(
        desk.sessions, "SELECT performance_n FROM weight_cycles WHERE cycle_id = :id", id=fourth.cycle_id
    )
    assert performances[0]["performance_n"] == 6


async def test_a_better_week_ends_the_streak_and_few_positions_leave_it(desk: Desk, book: str) -> None:
    await approved(desk, book)
    seen = []
    for number, (pnl, n) in enumerate(
        [(0.9, 6), (0.8, 5), (-9.0, 4), (0.85, 6), (0.7, 6), (9.0, 4), (0.6, 6)], start=1
    ):
        seen.append(await streak(desk, await week(desk, book, number, pnl, n)))
    # 4 positions are compared with nothing, and nothing is compared with them: 0.85 after 0.8 is no fall.
    assert seen == [1, 2, 2, 0, 1, 1, 2]


async def test_r_is_compared_only_if_every_position_has_it(desk: Desk, book: str) -> None:
    await approved(desk, book)
    # In money each week is better than the one before, in R worse: the risk grows faster.
    seen = [
        await streak(desk, await week(desk, book, number, pnl, risk=risk))
        for number, (pnl, risk) in enumerate([(1.0, 100.0), (2.0, 1000.0), (3.0, None), (4.0, 10_000.0)], start=1)
    ]
    # The third has no R, so it is compared in money with both of its neighbours.
    assert seen == [1, 2, 0, 0]


async def test_positions_opened_under_the_former_weights_do_not_count(desk: Desk, book: str) -> None:
    await approved(desk, book)
    cycle = await week(desk, book, 1, -9.0, n=8, opened=AS_OF - HOUR)
    assert await streak(desk, cycle) == 0
    [row] = await query(
        desk.sessions, "SELECT performance_n, learned FROM weight_cycles WHERE cycle_id = :id", id=cycle.cycle_id
    )
    assert (row["performance_n"], row["learned"]) == (0, True)


async def test_cycles_under_the_preset_never_fall(desk: Desk, book: str) -> None:
    await learn_from(desk, history(book))
    await desk.open(book)
    falls = [await week(desk, book, number, -float(number)) for number in (1, 2, 3, 4)]
    assert [await streak(desk, fall) for fall in falls] == [0, 0, 0, 0]
    assert all(fall.state != CycleState.preset_restored for fall in falls)


async def test_an_approval_that_races_the_restoration_is_not_applied_over_it(desk: Desk, book: str) -> None:
    """The proposal that waits while performance falls has expired when the preset comes back."""
    await approved(desk, book)
    await week(desk, book, 1, 0.9)
    waiting = await week(desk, book, 2, 0.8)
    restored = await week(desk, book, 3, 0.7)
    assert restored.state == CycleState.preset_restored
    assert not (await desk.decide(waiting, WeightsVerdict.approve)).accepted
    assert await desk.weights(book) == BALANCED


# -- overlays ----------------------------------------------------------------------------------------------------------


def _key(cycle: OpenedCycle) -> CycleKey:
    return CycleKey(cycle_id=cycle.cycle_id, book=cycle.book)


def overlay(desk: Desk, book: str) -> Path:
    return desk.folder / f"learned_weights.{book}.yaml"


async def in_the_file(desk: Desk, book: str) -> Weights:
    content = yaml.safe_load(overlay(desk, book).read_text())
    assert content["book"] == book
    return dict(content["weights"])


@pytest.fixture(scope="module")
async def watched(dsn: str, client: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    """A desk whose books are all written: a look at the overlays sees those of the test only."""
    async with desk_on(dsn, client, tmp_path_factory.mktemp("watched")) as desk:
        yield desk


async def test_the_overlay_follows_every_change(watched: Desk, book: str) -> None:
    cycle = await approved(watched, book)
    assert not overlay(watched, book).exists()
    for _ in range(2):
        await watched.overlays().write_overlay(_key(cycle))
        assert await in_the_file(watched, book) == cycle.new
    await watched.decide(cycle, WeightsVerdict.revert)
    await watched.overlays().write_overlay(_key(cycle))
    assert not overlay(watched, book).exists()  # the preset is in force: nothing was learned
    report = await watched.look()
    assert book not in report.repaired
    assert all(key.book != book for key in report.deleted)


async def test_what_was_applied_and_not_written_is_repaired_not_reverted(watched: Desk, book: str) -> None:
    """As if the worker had been killed between the two; tests/faults does that."""
    cycle = await approved(watched, book)
    report = await watched.look()
    assert book in report.repaired
    assert all(key.book != book for key in report.deleted)
    assert await in_the_file(watched, book) == await watched.weights(book) == cycle.new
    assert book not in (await watched.look()).repaired


async def test_a_deleted_file_is_a_revert_with_its_reason(watched: Desk, book: str) -> None:
    cycle = await approved(watched, book)
    await watched.overlays().write_overlay(_key(cycle))
    overlay(watched, book).unlink()
    [key] = [key for key in (await watched.look()).deleted if key.book == book]
    for _ in range(2):
        await watched.revert_deleted(key)
    assert await watched.weights(book) == BALANCED
    view = await watched.view(cycle.cycle_id)
    assert view.state == CycleState.reverted
    assert view.note == f"learned_weights.{book}.yaml was deleted"
    assert view.decided_by is not None
    assert "overlay" in view.decided_by
    assert len(await watched.events(book, "reverted")) == 1
    assert all(key.book != book for key in (await watched.look()).deleted)


async def test_another_folder_or_none_is_no_deletion(watched: Desk, book: str, tmp_path: Path) -> None:
    """An empty mount, another machine, a folder that is away: what is missing there was not deleted."""
    cycle = await approved(watched, book)
    await watched.overlays().write_overlay(_key(cycle))
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".overlays").write_text("0123\n")
    for name in ("missing", "empty", "other"):
        report = await watched.look(tmp_path / name)
        assert all(key.book != book for key in report.deleted), name
    assert await watched.weights(book) == cycle.new


async def test_a_deletion_means_the_preset_until_somebody_approves_again(watched: Desk, book: str) -> None:
    """Not the weights of the adjustment before, which nobody approved since."""
    await approved(watched, book)
    second = await watched.open(book, AS_OF + WEEK)
    await watched.decide(second, WeightsVerdict.approve)
    await watched.overlays().write_overlay(_key(second))
    overlay(watched, book).unlink()
    [key] = [key for key in (await watched.look()).deleted if key.book == book]
    await watched.revert_deleted(key)
    for _ in range(2):
        active = await watched.active(book)
        assert active is not None
        assert (active.weights, active.source) == (BALANCED, "preset")
        assert not overlay(watched, book).exists()
        assert all(key.book != book for key in (await watched.look()).deleted)
    assert (await watched.view(second.cycle_id)).state == CycleState.reverted


async def test_a_folder_in_the_place_of_one_file_spoils_no_other(watched: Desk, book: str) -> None:
    early, late, blocked = f"{book}-a", f"{book}-z", f"{book}-m"
    cycles = {name: await approved(watched, name) for name in (early, blocked, late)}
    overlay(watched, blocked).mkdir()
    for cycle in cycles.values():
        await watched.overlays().write_overlay(_key(cycle))
    for name in (early, late):
        overlay(watched, name).unlink()
    report = await watched.look()
    assert {key.book for key in report.deleted} >= {early, late}
    assert "Is a directory" in report.failed[blocked] or "is no file" in report.failed[blocked]
    async with watched.sessions() as session:
        [told] = [one for one in await store.failures.listing(session, 50) if one.subject == blocked]
    assert told.task == "overlay"
    overlay(watched, blocked).rmdir()
    report = await watched.look()
    assert blocked in report.repaired
    assert await in_the_file(watched, blocked) == cycles[blocked].new
    async with watched.sessions() as session:
        assert blocked not in {one.subject for one in await store.failures.listing(session, 50)}


async def test_a_file_that_a_folder_replaced_is_no_deletion(watched: Desk, book: str) -> None:
    cycle = await approved(watched, book)
    await watched.overlays().write_overlay(_key(cycle))
    overlay(watched, book).unlink()
    overlay(watched, book).mkdir()
    report = await watched.look()
    assert "is no file" in report.failed[book]
    assert await watched.weights(book) == cycle.new
    overlay(watched, book).rmdir()


async def test_an_adjustment_approved_after_the_file_was_seen_missing_stays(watched: Desk, book: str) -> None:
    """The file that was deleted is of the adjustment before: nothing approved is lost."""
    cycle = await approved(watched, book)
    await watched.overlays().write_overlay(_key(cycle))
    following = await watched.open(book, AS_OF + WEEK)
    overlay(watched, book).unlink()
    [key] = [key for key in (await watched.look()).deleted if key.book == book]
    await watched.decide(following, WeightsVerdict.approve)
    await watched.revert_deleted(key)
    assert await watched.weights(book) == following.new


async def test_a_deletion_and_an_operators_revert_at_once_are_the_preset(watched: Desk, book: str) -> None:
    await approved(watched, book)
    second = await watched.open(book, AS_OF + WEEK)
    await watched.decide(second, WeightsVerdict.approve)
    await watched.overlays().write_overlay(_key(second))
    overlay(watched, book).unlink()
    [key] = [key for key in (await watched.look()).deleted if key.book == book]
    await watched.decide(second, WeightsVerdict.revert)
    await watched.revert_deleted(key)
    assert await watched.weights(book) == BALANCED  # the deletion asked for more: the preset
    assert not overlay(watched, book).exists()


async def test_each_book_has_a_file_of_its_own(watched: Desk, book: str) -> None:
    names = ["default", f"{book}.x", f"{book}.x.yaml", f"{book}-", f"-{book}"]
    cycles = {name: await approved(watched, name) for name in names}
    for cycle in cycles.values():
        await watched.overlays().write_overlay(_key(cycle))
    written = {
        name: watched.folder / ("learned_weights.yaml" if name == "default" else f"learned_weights.{name}.yaml")
        for name in names
    }
    assert {name: yaml.safe_load(path.read_text())["book"] for name, path in written.items()} == {n: n for n in names}


async def test_the_weights_of_many_cycles_stay_exact(desk: Desk, book: str) -> None:
    await learn_from(desk, history(book))
    before = BALANCED
    for number in range(6):
        cycle = await desk.open(book, AS_OF + number * DAY * 3.5 * 2)
        assert cycle.old == before
        if cycle.new is None:
            break
        assert math.fsum(cycle.new.values()) == sum(cycle.new.values()) == 1.0
        await desk.decide(cycle, WeightsVerdict.approve)
        before = await desk.weights(book)
        assert before == cycle.new
    assert before != BALANCED
