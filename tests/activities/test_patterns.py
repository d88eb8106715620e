"""Learners of actions and timeframes: each outcome is learned once, however often and by however many it is given."""

import asyncio
import math
import random
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.activities.learners import learn_owed
from closeloop.activities.patterns import MAX_TIMEFRAMES, PatternEvents, TimeframeCoefficients
from closeloop.models.positions import ClosedPosition, PositionKey, PositionOutcome
from closeloop.store.database import Sessions
from tests.activities.patterning import (
    FIRST,
    LEARNERS,
    NAMES,
    PATTERN,
    POLICY,
    attribute_all,
    config,
    events_of,
    facts,
    learn,
    learn_missed,
    owed,
    tell,
    trade,
    trades,
)
from tests.closes import closed
from tests.store.databases import backend, query, wait_until_blocked


async def outcomes(sessions: Sessions, positions: Sequence[ClosedPosition]) -> list[PositionOutcome]:
    async with sessions() as session:
        return list((await store.attributions.load(session, [p.key for p in positions])).values())


async def test_an_action_becomes_a_row_with_the_scope_in_which_it_was_taken(book: str, sessions: Sessions) -> None:
    context = {
        "timeframe": "4h",
        "bucket": "nano",
        "A_value": 0.9,
        "E_value": 0.1,
        "regime_states": {"btc_macro": "S3", "alt": {"meso": "S1"}},
        "scope": {"chain": "solana", "rank": 3},
        "actions": [
            {"pattern_key": PATTERN, "action_category": "entry", "at": "2026-01-01T00:00:00Z"},
            {"pattern_key": "pm.trim", "action_category": "trim"},
        ],
    }
    await learn(sessions, [closed(book, entry_context=context)])
    first, second = await facts(sessions, book)
    scope = {
        "timeframe": "4h",
        "mcap_bucket": "nano",
        "A_mode": "high",
        "E_mode": "low",
        "btc_macro": "S3",
        "alt_meso": "S1",
        "chain": "solana",
        "rank": "3",
    }
    assert first["scope"] == second["scope"] == scope
    assert (first["pattern_key"], first["action_category"], first["rr"], first["pnl"]) == (PATTERN, "entry", 2.0, 10)
    assert (second["pattern_key"], second["action_category"], second["acted_at"]) == ("pm.trim", "trim", None)
    assert (first["symbol"], first["policy_hash"]) == ("BTC/USDT", POLICY.patterns.hash)
    assert await owed(sessions, book) == []


async def test_an_unknown_dimension_is_kept_and_reported_once(book: str, sessions: Sessions) -> None:
    await learn(sessions, [trade(book, f"p-{i}", 1, {"mood": "calm"}, FIRST) for i in range(3)])
    await learn(sessions, [trade(book, "p-9", 1, {"mood": "wild"}, FIRST)])
    assert [row["scope"]["mood"] for row in await facts(sessions, book)] == ["calm", "calm", "calm", "wild"]
    told = await events_of(sessions, book, "learning.scope.unknown_dimension.v1")
    assert told == [{"book": book, "dimension": "mood", "position_id": "p-0"}]


async def test_a_missing_dimension_is_absent(book: str, sessions: Sessions) -> None:
    await learn(sessions, [trade(book, "p-1", 1, {"chain": None, "intent": ""}, FIRST, timeframe=None)])
    assert [row["scope"] for row in await facts(sessions, book)] == [{}]


@pytest.mark.parametrize(
    ("actions", "rows", "reason"),
    [
        ("buy", 0, "must be a list"),
        ([{"pattern_key": "k"}], 0, "action_category"),
        (["buy", {"pattern_key": "k", "action_category": "entry"}], 1, "valid dictionary"),
        ([{"pattern_key": "x" * 201, "action_category": "entry"}], 0, "1 to 200 bytes"),
        ([{"pattern_key": 7, "action_category": "entry"}], 0, "pattern_key"),
        ([{"pattern_key": "k\nk", "action_category": "entry"}], 0, "control characters"),
        ([{"pattern_key": "k", "action_category": "entry", "at": "yesterday"}], 0, "time"),
        ([], 0, None),
    ],
)
async def test_an_action_that_cannot_be_read_is_left_out_and_reported(
    book: str, sessions: Sessions, actions: Any, rows: int, reason: str | None
) -> None:
    await learn(sessions, [closed(book, entry_context={"timeframe": "1h", "actions": actions})])
    assert len(await facts(sessions, book)) == rows
    told = await events_of(sessions, book, "learning.action.unreadable.v1")
    assert len(told) == (reason is not None)
    if reason is not None:
        assert reason in told[0]["reason"]
    assert await owed(sessions, book) == [], "it was taken in all the same"
    assert (await config(sessions, book))["global_rr"]["n"] == 1


@pytest.mark.parametrize(
    "scope",
    [
        {"chain": "x" * 100_000},
        {"chain": {"nested": {"deeply": [1, 2, {"x": None}]}}},
        {"chain": True, "age_bucket": 1.5, "intent": [1, 2]},
        {"'; DROP TABLE pm_overrides; --": "' OR 1 = 1"},
        {"a=b": "c=d", "": "empty", " ": "blank"},
        {"chain": "a\nb"},
        {f"d{i}": "x" for i in range(2_000)},
        {"\u202e": "🚀", "chain": "ａ"},
    ],
    ids=["long", "nested", "types", "sql", "separators", "lines", "many", "unicode"],
)
async def test_odd_scopes_are_stored_bounded(book: str, sessions: Sessions, scope: dict[str, Any]) -> None:
    await learn(sessions, [trade(book, "p-1", 1, scope, FIRST)])
    [row] = await facts(sessions, book)
    assert all(isinstance(value, str) and 0 < len(value.encode()) <= 64 for value in row["scope"].values())
    assert all(0 < len(name.encode()) <= 64 for name in row["scope"])
    assert len(row["scope"]) <= 28 + 64
    assert row["scope"]["timeframe"] == "1h"


async def test_an_outcome_that_is_given_twice_is_learned_once(book: str, sessions: Sessions) -> None:
    positions = trades(book, 20)
    await learn(sessions, positions)
    before = await config(sessions, book), await facts(sessions, book)
    known = await outcomes(sessions, positions)
    for learner in LEARNERS:
        await tell(sessions, learner, known)
        await tell(sessions, learner, known[:3] * 2)
    await learn_missed(sessions, [book])
    assert (await config(sessions, book), await facts(sessions, book)) == before
    assert before[0]["global_rr"]["n"] == 20


@pytest.mark.parametrize("learner", LEARNERS, ids=NAMES)
async def test_what_a_failing_transaction_learned_is_learned_again(
    book: str, sessions: Sessions, learner: PatternEvents | TimeframeCoefficients
) -> None:
    positions = trades(book, 5)
    await attribute_all(sessions, positions)
    known = await outcomes(sessions, positions)
    async with sessions() as session:
        await learn_owed(session, learner, known)
        await session.rollback()
    assert len(await owed(sessions, book)) == 10
    await learn_missed(sessions, [book])
    assert (await config(sessions, book))["global_rr"]["n"] == len(await facts(sessions, book)) == 5


@pytest.mark.parametrize("learner", LEARNERS, ids=NAMES)
async def test_two_transactions_with_one_outcome_take_turns(
    book: str, sessions: Sessions, learner: PatternEvents | TimeframeCoefficients
) -> None:
    positions = trades(book, 1)
    await attribute_all(sessions, positions)
    known = await outcomes(sessions, positions)
    async with sessions() as one, sessions() as other:
        waiting = await backend(other)
        await learn_owed(one, learner, known)
        second = asyncio.create_task(learn_owed(other, learner, known))
        await wait_until_blocked(sessions, [waiting])
        await one.commit()
        await second
        await other.commit()
    if learner.name == "pattern-events":
        assert len(await facts(sessions, book)) == 1
    else:
        assert (await config(sessions, book))["global_rr"]["n"] == 1


async def test_concurrent_closes_lose_nothing(book: str, sessions: Sessions) -> None:
    """Eighty closes of four timeframes, each in a transaction of its own, all at once, in a random order."""
    rng = random.Random(3)
    positions = [
        trade(
            book,
            f"p-{i:03}",
            rng.gauss(0.3, 1),
            {"chain": "a"},
            FIRST + timedelta(hours=rng.randrange(2_000)),
            timeframe=f"{1 + i % 4}h",
        )
        for i in range(80)
    ]
    await attribute_all(sessions, positions)
    known = await outcomes(sessions, positions)
    rng.shuffle(known)
    await asyncio.gather(*(tell(sessions, learner, [outcome]) for outcome in known for learner in LEARNERS))
    assert len(await facts(sessions, book)) == 80
    found = await config(sessions, book)
    assert found["global_rr"]["n"] == 80
    for name in ("1h", "2h", "3h", "4h"):
        own = [outcome for outcome in known if int(outcome.position_id[2:]) % 4 == int(name[0]) - 1]
        assert found["timeframe_weights"][name]["n"] == 20
        assert math.isclose(found["timeframe_weights"][name]["rr_short"], decayed(own, 14), rel_tol=1e-9)
        assert math.isclose(found["timeframe_weights"][name]["rr_long"], decayed(own, 90), rel_tol=1e-9)
    assert math.isclose(found["global_rr"]["rr_short"], decayed(known, 14), rel_tol=1e-9)


def decayed(known: Sequence[PositionOutcome], tau_days: float) -> float:
    """The mean with weights e^(-age / tau), from the definition."""
    newest = max(outcome.closed_at for outcome in known)
    weights = [math.exp(-((newest - o.closed_at) / timedelta(days=tau_days))) for o in known]
    return sum(w * (o.rr or 0.0) for w, o in zip(weights, known, strict=True)) / sum(weights)


async def test_batches_that_overlap_do_not_deadlock(book: str, sessions: Sessions) -> None:
    positions = trades(book, 60)
    await attribute_all(sessions, positions)
    known = await outcomes(sessions, positions)
    rng = random.Random(5)
    batches = [rng.sample(known, 40) for _ in range(8)]
    await asyncio.gather(*(tell(sessions, learner, batch) for batch in batches for learner in LEARNERS))
    await learn_missed(sessions, [book])
    assert len(await facts(sessions, book)) == (await config(sessions, book))["global_rr"]["n"] == 60


async def test_a_trade_without_its_risk_teaches_no_coefficient(book: str, sessions: Sessions) -> None:
    positions = [trade(book, "p-1", 1, {}, FIRST), trade(book, "p-2", 1, {}, FIRST).model_copy(update={"risk": None})]
    await learn(sessions, positions)
    assert (await config(sessions, book))["global_rr"]["n"] == 1
    assert [row["rr"] for row in await facts(sessions, book)] == [1.0, None]
    assert await owed(sessions, book) == []


async def test_timeframes_without_end_do_not_grow_a_row_without_end(book: str, sessions: Sessions) -> None:
    count = MAX_TIMEFRAMES + 20
    await learn(sessions, [trade(book, f"p-{i:03}", 1, {}, FIRST, timeframe=f"t{i:03}") for i in range(count)])
    found = await config(sessions, book)
    assert len(found["timeframe_weights"]) <= MAX_TIMEFRAMES
    assert found["global_rr"]["n"] == count, "all count in the mean of all"


async def test_outcomes_attributed_without_learners_leave_no_row_in_unlearned(book: str, sessions: Sessions) -> None:
    await attribute_all(sessions, trades(book, 2), learners=[])
    assert await owed(sessions, book) == []


class Choking(PatternEvents):
    """Cannot take in one position."""

    def __init__(self, on: str) -> None:
        super().__init__(POLICY)
        self._on = on

    async def take_in(
        self, session: AsyncSession, outcomes: Sequence[PositionOutcome], contexts: Mapping[PositionKey, Any]
    ) -> None:
        await super().take_in(session, outcomes, contexts)
        if any(outcome.position_id == self._on for outcome in outcomes):
            raise RuntimeError("cannot swallow this")


async def test_one_outcome_that_cannot_be_taken_in_holds_up_no_other(book: str, sessions: Sessions) -> None:
    positions = trades(book, 5)
    await attribute_all(sessions, positions, learners=["pattern-events"])
    report = await learn_missed(sessions, [book], [Choking(positions[2].position_id)])
    assert report.learned == {"pattern-events": 4}
    assert report.failed == {"pattern-events": f"{book}/{positions[2].position_id}: RuntimeError: cannot swallow this"}
    assert await owed(sessions, book) == [("pattern-events", positions[2].position_id)]
    await learn_missed(sessions, [book])
    assert len(await facts(sessions, book)) == 5


async def test_only_the_books_that_are_named_are_caught_up(book: str, sessions: Sessions) -> None:
    other = f"{book}-other"
    await attribute_all(sessions, trades(book, 2) + trades(other, 3))
    assert (await learn_missed(sessions, [other])).learned == dict.fromkeys(NAMES, 3)
    assert len(await owed(sessions, book)) == 4


async def test_the_attribution_is_not_touched(book: str, sessions: Sessions) -> None:
    positions = trades(book, 3)
    await attribute_all(sessions, positions)
    sql = "SELECT * FROM attributions WHERE book_id = :book ORDER BY position_id"
    before = await query(sessions, sql, book=book)
    await learn_missed(sessions, [book])
    assert await query(sessions, sql, book=book) == before
