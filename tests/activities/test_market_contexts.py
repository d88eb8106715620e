"""Contexts that were never sent: filled in as of the openings, marked, once; what an engine sent stays."""

import dataclasses
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from closeloop.activities.market_contexts import MarketContextActivities
from closeloop.models.lessons import BuiltLessons
from closeloop.models.market import Driver, Timeframe
from closeloop.models.market_contexts import FillContexts, FilledContexts
from closeloop.models.positions import ClosedPosition
from closeloop.store.database import Sessions
from tests.activities.attributing import position_row
from tests.activities.levering import contexts, give, naming
from tests.activities.patterning import PATTERN, POLICY, attribute_all, build, facts, learn, learn_missed, trades
from tests.closes import closed
from tests.services.markets import market, put_state

BOOK = "b"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ACTIONS = [{"pattern_key": PATTERN, "action_category": "entry"}]


@pytest.fixture
async def own(dsn: str) -> AsyncIterator[Sessions]:
    """With an hour of BTC in S3 from noon on, and of the bucket nano in S1; before noon BTC was in S0."""
    async with market(dsn) as sessions:
        await put_state(sessions, Driver.btc, Timeframe.h1, NOON - HOUR, "S0")
        await put_state(sessions, Driver.btc, Timeframe.h1, NOON, "S3")
        await put_state(sessions, Driver.nano, Timeframe.h1, NOON, "S1")
        yield sessions


def opened(position_id: str, at: datetime, **context: Any) -> ClosedPosition:
    """A close with an action, opened then."""
    return closed(
        BOOK,
        position_id,
        opened_at=at.isoformat(),
        closed_at=(at + HOUR).isoformat(),
        entry_context={"actions": ACTIONS} | context,
    )


async def fill(
    sessions: Sessions, after: str | None = None, *, batch: int = 500, run: str | None = None, book: str = BOOK
) -> FilledContexts:
    """Fill in a batch of a book's closes, as a workflow's run (of that id) would."""
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(environment.info, workflow_run_id=run or uuid.uuid4().hex)
    activities = MarketContextActivities(sessions, POLICY, batch)
    filled: FilledContexts = await environment.run(activities.fill_contexts, FillContexts(book=book, after=after))
    return filled


async def scopes(sessions: Sessions) -> dict[str, dict[str, str]]:
    return {row["position_id"]: row["scope"] for row in await facts(sessions, BOOK)}


async def test_what_was_known_at_the_opening_is_filled_in(own: Sessions) -> None:
    positions = [
        opened("before", NOON - timedelta(seconds=1), timeframe="1h"),
        opened("bucket", NOON, timeframe="1h", bucket="nano"),
        opened("long-ago", NOON - 30 * HOUR),
        opened("no-timeframe", NOON, scope={"mcap_bucket": "nano"}),
        opened("odd-timeframe", NOON + HOUR, timeframe="7h"),
    ]
    await learn(own, positions)
    before = [(await position_row(own, BOOK, p.position_id))["entry_context"] for p in positions]
    filled = await fill(own)
    assert (filled.closes, filled.filled, filled.without_ae, filled.no_states, filled.actions) == (5, 4, 2, 1, 4)
    assert filled.no_states_first == filled.no_states_last == NOON - 30 * HOUR
    # BTC S0 -0.30 and S3 0.20 x 1.0 x 0.40 x 0.55, nano S1 0.25 x 3.0 x 0.40 x 0.55: A is 0.434, and 0.709; E
    # is 0.566, and 0.39
    assert await scopes(own) == {
        "before": {"timeframe": "1h", "btc_meso": "S0", "A_mode": "mid", "E_mode": "mid"},
        "bucket": {
            "timeframe": "1h",
            "mcap_bucket": "nano",
            "btc_meso": "S3",
            "bucket_meso": "S1",
            "A_mode": "high",
            "E_mode": "low",
        },
        "long-ago": {},
        "no-timeframe": {"mcap_bucket": "nano", "btc_meso": "S3", "bucket_meso": "S1"},
        "odd-timeframe": {"timeframe": "7h", "btc_meso": "S3"},
    }
    found = {row["position_id"]: row for row in await contexts(own, BOOK)}
    assert {row["source"] for row in found.values()} == {"backfilled"}
    assert abs(found["bucket"]["a_value"] - 0.709) < 1e-12
    assert found["bucket"]["as_of"] == NOON
    # computed a second after its bar had ended: at that very instant nobody had it
    assert {name: row["known_then"] for name, row in found.items()} == {
        "before": True,
        "bucket": False,
        "no-timeframe": False,
        "odd-timeframe": True,
    }
    after = [(await position_row(own, BOOK, p.position_id))["entry_context"] for p in positions]
    assert after == before, "as they were sent"


async def test_what_came_with_states_of_its_own_stays(own: Sessions) -> None:
    levers = await give(own, BOOK, "lv-1", as_of=NOON, given_at=NOON, states={"btc_meso": "S2"})
    named = naming(BOOK, levers, "levers").model_copy(update={"opened_at": NOON, "closed_at": NOON + HOUR})
    said = [
        opened("flat", NOON, regime_states={"alt_macro": "S1"}),
        opened("nested", NOON, regime_states={"btc": {"macro": "S1"}}),
        opened("scope", NOON, scope={"usdtd_micro": "S1"}),
        named,
    ]
    await learn(own, said)
    before = await scopes(own), await contexts(own, BOOK)
    filled = await fill(own)
    assert (filled.closes, filled.filled, filled.sent, filled.already) == (4, 0, 3, 1)
    assert (await scopes(own), await contexts(own, BOOK)) == before


async def test_a_context_that_says_only_a_keeps_it(own: Sessions) -> None:
    await learn(own, [opened("a", NOON, timeframe="1h", A_value=0.1)])
    assert (await fill(own)).filled == 1
    assert await scopes(own) == {"a": {"timeframe": "1h", "btc_meso": "S3", "A_mode": "low", "E_mode": "mid"}}


async def test_once_and_batch_after_batch(own: Sessions) -> None:
    await learn(own, [opened(f"p-{i}", NOON) for i in range(5)])
    first = await fill(own, batch=2, run="a run")
    assert (first.filled, first.last) == (2, "p-1")
    again = await fill(own, batch=2, run="a run")
    assert again == first.model_copy(update={"actions": 0}), "an attempt that committed and died counts all the same"
    second = await fill(own, first.last, batch=2)
    third = await fill(own, second.last, batch=2)
    end = await fill(own, third.last, batch=2)
    assert (second.filled, third.filled, end.closes, end.last) == (2, 1, 0, None)
    assert (await fill(own)).already == 5
    assert len(await contexts(own, BOOK)) == 5


async def test_what_is_not_yet_learned_is_learned_with_it(own: Sessions) -> None:
    await attribute_all(own, [opened("p", NOON)])
    filled = await fill(own)
    assert (filled.filled, filled.actions) == (1, 0)
    await learn_missed(own, [BOOK])
    assert await scopes(own) == {"p": {"btc_meso": "S3"}}


async def test_groups_are_due_to_be_mined(own: Sessions) -> None:
    """Though none of their trades is new."""
    await learn(own, trades(BOOK, 60))
    opened_at = [row["opened_at"] for row in await facts(own, BOOK)]
    assert (await build(own, BOOK)).groups == 1
    assert (await build(own, BOOK)).groups == 0
    await put_state(own, Driver.alt, Timeframe.h1, opened_at[30], "S1")
    filled = await fill(own)
    # BTC's three bars, and ALT's: each is used for two hours after it ended
    assert (filled.filled, filled.no_states) == (7, 53)
    built: BuiltLessons = await build(own, BOOK)
    assert (built.groups, built.trades) == (1, 60)


async def test_a_book_that_nobody_knows(own: Sessions) -> None:
    with pytest.raises(ApplicationError, match="There is no book nobody") as refused:
        await fill(own, book="nobody")
    assert (refused.value.type, refused.value.non_retryable) == ("MarketBackfillRefused", True)
