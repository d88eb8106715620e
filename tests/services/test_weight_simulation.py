"""A simulated walk is what the book's own cycles do, cycle for cycle; it writes nothing and reads nothing later."""

import random
from collections.abc import AsyncIterator
from datetime import datetime

import pytest
from sqlalchemy import text
from temporalio.client import Client

from closeloop.gateways.presets import load_preset
from closeloop.models.errors import NotAcceptable, NotOnRecord
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import ClosedPosition
from closeloop.models.weights import CycleState, SimulatedRule, WeightsSimulation, WeightsVerdict
from closeloop.services.weight_simulation import simulate
from tests.activities.weighing import AS_OF, BALANCED, DAY, HOUR, Desk, close, desk_on, learn_from
from tests.store.databases import query

WEEK = 7 * DAY
WEEKS = 22
BEGIN = AS_OF - WEEKS * WEEK


@pytest.fixture(scope="module")
async def desk(dsn: str, client: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    async with desk_on(dsn, client, tmp_path_factory.mktemp("overlays")) as desk:
        yield desk


def policy(rule: str, **changes: object) -> LearningPolicy:
    """What is falling soon, or counts soon, so that either rule reverts within the history."""
    values = {"revert": rule, "guard_threshold": 4.0, "degrading_cycles": 2} | changes
    return LearningPolicy.model_validate({"weights": values})


def past(book: str, seed: int, risk: str | None = "2") -> list[ClosedPosition]:
    """Half a year of trades of a few days each: first onchain is right, then it is wrong."""
    rng, rows = random.Random(seed), []
    for i in range(12 * WEEKS):
        closed = BEGIN + WEEK * rng.uniform(0, WEEKS)
        turned = closed > BEGIN + WEEK * WEEKS / 2
        scores = {domain: rng.uniform(-0.3, 1) for domain in BALANCED}
        pnl = 4 * (scores["onchain"] - 0.35) * (-1 if turned else 1) + rng.gauss(0, 1)
        direction = rng.choice(["long", "short"])
        sign = -1 if direction == "short" else 1
        scores = {domain: sign * score for domain, score in scores.items()}
        opened = closed - HOUR * rng.uniform(1, 100)
        row = close(book, f"t{i:04}", closed, pnl, scores, opened=opened, risk=risk, direction=direction)
        rows.append(row)
    return rows


async def simulated(desk: Desk, book: str, of: LearningPolicy, as_of: datetime) -> WeightsSimulation:
    async with desk.sessions() as session:
        return await simulate(session, of, load_preset("balanced"), book, as_of, lambda _: None)


def rule(found: WeightsSimulation, name: str) -> SimulatedRule:
    [one] = [each for each in found.rules if each.rule == name]
    return one


@pytest.mark.parametrize("name", ["seed", "guarded"])
async def test_a_walk_is_what_the_books_own_cycles_do(desk: Desk, book: str, name: str) -> None:
    """Each proposal is approved at once, as it is simulated; then weights and reverts are the same to the last bit.

    The scores of some trades came a week or more after their close: neither knows them before.
    """
    await learn_from(desk, past(book, 1))
    late = (
        "UPDATE attributions SET completed_at = closed_at + interval '9 days' WHERE book_id = :b AND position_id ~ '3$'"
    )
    async with desk.sessions.begin() as session:
        await session.execute(text(late), {"b": book})
    until = AS_OF
    expected = await simulated(desk, book, policy(name), until)
    activities, reverts = desk.cycles(policy(name)), []
    as_of = expected.first_cycle
    assert as_of == BEGIN + WEEK
    while as_of <= until:
        cycle = await desk.open(book, as_of, activities)
        if cycle.state is CycleState.proposed:
            assert (await desk.decide(cycle, WeightsVerdict.approve)).accepted
        elif cycle.state is CycleState.preset_restored:
            reverts.append(as_of)
        as_of += WEEK
    walked = rule(expected, name)
    assert walked.reverts == reverts
    assert reverts
    assert (await desk.weights(book)) == walked.weights
    rows = await query(desk.sessions, "SELECT learned FROM weight_cycles WHERE book_id = :book", book=book)
    assert (walked.learned_cycles, expected.cycles) == (sum(row["learned"] for row in rows), len(rows))
    # Nothing of it depends on what the book's own cycles did, nor on which rule is the policy's.
    assert (await simulated(desk, book, policy(name), until)).rules == expected.rules


async def test_what_closed_later_is_not_read_and_nothing_is_written(desk: Desk, book: str) -> None:
    rows = past(book, 2)
    middle = BEGIN + 12 * WEEK
    await learn_from(desk, [row for row in rows if row.closed_at <= middle])
    before = await simulated(desk, book, policy("seed"), middle)
    await learn_from(desk, [row for row in rows if row.closed_at > middle])
    assert await simulated(desk, book, policy("seed"), middle) == before
    assert (await simulated(desk, book, policy("seed"), AS_OF)).n > before.n
    for table in ("weight_cycles", "weight_versions"):
        assert await query(desk.sessions, f"SELECT 1 FROM {table} WHERE book_id = :b", b=book) == []
    assert await desk.kinds(book) == []


async def test_rules_that_never_go_back_do_not(desk: Desk, book: str) -> None:
    await learn_from(desk, past(book, 3))
    found = await simulated(desk, book, policy("seed"), AS_OF)
    assert [each.rule for each in found.rules] == ["seed", "guarded", "none", "preset"]
    none, preset = rule(found, "none"), rule(found, "preset")
    assert (none.reverts, preset.reverts, preset.weights, preset.learned_trades) == ([], [], BALANCED, 0)
    assert (none.against_none, none.against_none_standard_error) == (0.0, 0.0)
    assert preset.against_none == pytest.approx((preset.mean or 0) - (none.mean or 0))
    assert (found.unit, found.nothing, found.n, found.positions) == ("R", None, 12 * WEEKS, 12 * WEEKS)


async def test_without_r_it_is_in_money_and_the_guarded_rule_stays(desk: Desk, book: str) -> None:
    await learn_from(desk, past(book, 4, risk=None))
    found = await simulated(desk, book, policy("guarded"), AS_OF)
    assert (found.unit, rule(found, "guarded").reverts) == ("USDT", [])
    assert rule(found, "guarded").mean == rule(found, "none").mean


async def test_too_little_is_said_in_words(desk: Desk, book: str) -> None:
    await desk.make(book)
    empty = await simulated(desk, book, policy("seed"), AS_OF)
    assert (empty.rules, empty.cycles) == ([], 0)
    assert empty.nothing is not None
    assert empty.nothing.startswith(f"Book {book} has no closed position by then. A cycle needs 20 positions")
    rows = [close(book, f"{i}", BEGIN + i * HOUR, 1.0, {"onchain": 0.5}) for i in range(12)]
    await learn_from(desk, rows)
    few = await simulated(desk, book, policy("seed"), BEGIN + 8 * WEEK)
    assert few.rules == []
    assert few.nothing is not None
    assert "12 closed positions over 0 days, 12 of them with a score" in few.nothing


async def test_a_wrong_book_and_a_wrong_time_are_refused(desk: Desk, book: str) -> None:
    with pytest.raises(NotOnRecord):
        await simulated(desk, f"{book}-not", policy("seed"), AS_OF)
    await learn_from(desk, [close(book, "old", datetime.fromisoformat("1890-01-01T00:00:00Z"), 1.0)])
    with pytest.raises(NotAcceptable, match="is its time right"):
        await simulated(desk, book, policy("seed"), AS_OF)
