"""A book's cycles by the guarded rule, on a real database: the evidence is stored, goes on, and is applied once."""

from collections.abc import AsyncIterator
from datetime import datetime

import pytest
from temporalio.client import Client

from closeloop.learning.guard import guard_reading
from closeloop.learning.overfitting import CycleTrade
from closeloop.models.policy import LearningPolicy
from closeloop.models.weights import CycleState, CycleView, GuardReading, OpenedCycle, WeightsVerdict
from tests.activities.weighing import AS_OF, BALANCED, DAY, HOUR, Desk, close, desk_on, history, learn_from
from tests.store.databases import query

WEEK = 7 * DAY
GUARDED = LearningPolicy.model_validate({"weights": {"revert": "guarded"}})
SEED = LearningPolicy()


@pytest.fixture(scope="module")
async def desk(dsn: str, client: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    async with desk_on(dsn, client, tmp_path_factory.mktemp("overlays")) as desk:
        yield desk


async def under_learned_weights(desk: Desk, book: str, policy: LearningPolicy = GUARDED) -> OpenedCycle:
    await learn_from(desk, history(book))
    cycle = await desk.open(book, activities=desk.cycles(policy))
    assert (await desk.decide(cycle, WeightsVerdict.approve)).accepted
    return cycle


async def week(
    desk: Desk, book: str, number: int, policy: LearningPolicy = GUARDED, risk: str | None = "1", n: int = 6
) -> CycleView:
    """A week in which the domain that was learned lost and the one that was unlearned won; then its cycle."""
    begin = AS_OF + (number - 1) * WEEK
    rows = [
        close(
            book,
            f"w{number}-{i}",
            begin + DAY + i * HOUR,
            -2.5 if i % 2 else 2.5,
            {"onchain": 0.9 if i % 2 else 0.0, "social": 0.0 if i % 2 else 0.9},
            opened=begin + 4 * HOUR,
            risk=risk,
        )
        for i in range(n)
    ]
    await learn_from(desk, rows)
    await desk.open(book, begin + WEEK, desk.cycles(policy))
    return await seen(desk, book, begin + WEEK)


async def seen(desk: Desk, book: str, as_of: datetime) -> CycleView:
    year, number, _ = as_of.isocalendar()
    return await desk.view(f"{book}/{year}-W{number:02}")


def guard(view: CycleView) -> GuardReading:
    assert view.guard is not None, view
    return view.guard


# Lower thresholds come sooner; the rule is the same.
SOON = LearningPolicy.model_validate({"weights": {"revert": "guarded", "guard_threshold": 2.0, "guard_full_r": 0.01}})


async def test_the_evidence_of_each_cycle_goes_on_from_the_one_before(desk: Desk, book: str) -> None:
    learned = (await under_learned_weights(desk, book)).new
    assert learned is not None
    wealth: list[float] | None = None
    for number in range(1, 5):
        found = guard(await week(desk, book, number))
        trades = [
            CycleTrade(0.0, -2.5 if i % 2 else 2.5, scores={("onchain" if i % 2 else "social"): 0.9}) for i in range(6)
        ]
        wanted = guard_reading(wealth, trades, learned, BALANCED, GUARDED.weights)
        assert found == wanted
        assert found.n == 6
        assert found.difference < 0
        wealth = found.wealth
        assert found.evidence > number  # it grows faster than without any difference
    events = [event["payload"]["guard"] for event in await desk.events(book) if event["payload"].get("guard")]
    assert GuardReading.model_validate(events[-1]) == found


async def test_enough_evidence_puts_the_preset_in_force_and_begins_at_nothing(desk: Desk, book: str) -> None:
    await under_learned_weights(desk, book, SOON)
    first = await week(desk, book, 1, SOON)
    assert (guard(first).evidence, first.state) == (pytest.approx((1.2 + 1.4 + 1.8) / 3), CycleState.proposed)
    second = await week(desk, book, 2, SOON)
    assert second.state == CycleState.preset_restored
    assert second.reason == "guarded: the preset would have done better, evidence 3.7 of 2"
    assert (guard(second).evidence, guard(second).wealth) == (pytest.approx(3.68), [0.0, 0.0, 0.0])
    active = await desk.active(book)
    assert active is not None
    assert (active.weights, active.source, active.since) == (BALANCED, "preset", AS_OF + 2 * WEEK)
    [event] = await desk.events(book, "reverted")
    assert event["payload"]["guard"]["evidence"] == guard(second).evidence
    third = await week(desk, book, 3, SOON)
    # Under the preset there is nothing to compare; and only what was opened since is learned from.
    assert (third.guard, third.learned, third.reason) == (None, False, "insufficient_data")


async def test_falls_in_a_row_do_not_count_by_the_guarded_rule(desk: Desk, book: str) -> None:
    await under_learned_weights(desk, book)
    for number in range(1, 6):
        begin = AS_OF + (number - 1) * WEEK
        rows = [
            close(book, f"f{number}-{i}", begin + DAY + i * HOUR, 1.0 - number, {"onchain": 0.5}, opened=begin + HOUR)
            for i in range(6)
        ]
        await learn_from(desk, rows)
        cycle = await desk.open(book, begin + WEEK, desk.cycles(GUARDED))
        assert cycle.state != CycleState.preset_restored
        assert (await seen(desk, book, begin + WEEK)).streak == 0


async def test_a_retry_and_a_restart_apply_a_cycle_once(desk: Desk, book: str) -> None:
    await under_learned_weights(desk, book)
    once = guard(await week(desk, book, 1))
    for _ in range(3):
        await desk.open(book, AS_OF + WEEK, desk.cycles(GUARDED))
        await desk.open(book, AS_OF + WEEK + HOUR, desk.cycles(GUARDED), workflow_id="another")
    assert guard(await seen(desk, book, AS_OF + WEEK)) == once
    rows = await query(desk.sessions, "SELECT 1 FROM weight_cycles WHERE book_id = :book", book=book)
    assert len(rows) == 2
    assert guard(await week(desk, book, 2)).evidence < 2 * once.evidence + 3


async def test_trades_without_r_leave_the_evidence_as_it_is(desk: Desk, book: str) -> None:
    await under_learned_weights(desk, book)
    before = guard(await week(desk, book, 1))
    without = guard(await week(desk, book, 2, risk=None))
    assert (without.n, without.wealth) == (0, before.wealth)
    idle = guard(await week(desk, book, 3, n=0))
    assert (idle.n, idle.wealth) == (0, before.wealth)
    assert guard(await week(desk, book, 4)).evidence > before.evidence


async def test_a_switch_of_the_policy_begins_at_nothing_each_time(desk: Desk, book: str) -> None:
    """seed, guarded, seed, guarded on one book: neither rule takes over what the other counted."""
    await under_learned_weights(desk, book, SEED)
    falls = [await week(desk, book, 1, SEED), await week(desk, book, 2, SEED)]
    assert [view.guard for view in falls] == [None, None]
    first = await week(desk, book, 3, GUARDED)
    second = await week(desk, book, 4, GUARDED)
    assert (first.streak, second.streak) == (0, 0)
    assert guard(second).evidence > guard(first).evidence
    back = await week(desk, book, 5, SEED)
    assert (back.guard, back.streak <= 1) == (None, True)
    assert back.state != CycleState.preset_restored
    again = await week(desk, book, 6, GUARDED)
    assert guard(again).wealth == pytest.approx(guard(first).wealth, rel=0.2)
    assert guard(again).evidence < guard(second).evidence


@pytest.mark.parametrize(("sign", "difference"), [("market", 1), ("trade", -1)])
async def test_the_sign_of_scores_is_the_policys(desk: Desk, book: str, sign: str, difference: int) -> None:
    """A short with bearish scores: its conviction is positive where scores mean the market."""
    policy = LearningPolicy.model_validate({"weights": {"revert": "guarded", "domain_score_sign": sign}})
    await under_learned_weights(desk, book, policy)
    begin = AS_OF
    rows = [
        close(
            book,
            f"s-{i}",
            begin + DAY + i * HOUR,
            2.0 if i % 2 else -2.0,
            {"onchain": -0.9 if i % 2 else 0.0, "social": 0.0 if i % 2 else -0.9},
            opened=begin + HOUR,
            risk="1",
            direction="short",
        )
        for i in range(6)
    ]
    await learn_from(desk, rows)
    await desk.open(book, begin + WEEK, desk.cycles(policy))
    found = guard(await seen(desk, book, begin + WEEK))
    assert found.n == 6
    if difference > 0:
        assert found.difference > 0
    else:
        assert (found.r_learned, found.r_preset, found.difference) == (None, None, 0.0)


async def test_a_cycle_after_a_former_learned_version_came_back_goes_on(desk: Desk, book: str) -> None:
    """The evidence is against what was learned, not against a version."""
    await under_learned_weights(desk, book)
    view = await week(desk, book, 1)
    cycle = await desk.open(book, AS_OF + WEEK, desk.cycles(GUARDED))
    if cycle.state is CycleState.proposed:
        await desk.decide(cycle, WeightsVerdict.approve)
        await desk.decide(cycle, WeightsVerdict.revert)
    assert guard(await week(desk, book, 2)).evidence > guard(view).evidence
