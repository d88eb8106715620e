"""The demo's simulated market: its turns can be found, it is the same in every run, and it is taken out again."""

from datetime import timedelta
from itertools import zip_longest

import numpy as np

from closeloop import store
from closeloop.cli import simulated_market as simulated
from closeloop.learning.market.bars import Bars
from closeloop.learning.market.engine import STATES, advance
from closeloop.models.market import MARKET_BOOK, Driver, RegimeBar, Timeframe
from closeloop.models.policy import MarketPolicy
from closeloop.services import market_tokens
from closeloop.store.database import Sessions
from closeloop.store.rows import execute, insertion
from tests.cli.markets import market_of
from tests.faults.stack_process import StackProcess
from tests.services.markets import put_state
from tests.store.databases import query

BTC = "BTC/USDT"
SIMULATED = (simulated.FIRST, simulated.UNTIL, simulated.TOKENS, [BTC, *simulated.TOKENS])


def test_its_turns_are_found() -> None:
    rows = [row for row in simulated.candles([BTC]) if row["asset"] == BTC]
    bars = Bars.of(
        (int((row["ends_at"] - simulated.HOUR).timestamp()),
         *(float(row[name]) for name in ("open", "high", "low", "close", "volume")))
        for row in rows
    )  # fmt: skip
    found, _ = advance(None, bars, Timeframe.h1, MarketPolicy(flip_atr=simulated.FLIP_ATR))
    turns = simulated.SWITCHES[1:]
    for switch, following in zip_longest(turns, turns[1:]):
        state = found.state[switch.hour : following.hour if following else simulated.HOURS]
        assert 0 < np.argmax(state == STATES.index(switch.state)) < 270
    assert found.published[simulated.SWITCHES[1].hour]


def test_it_is_the_same_in_every_run() -> None:
    assert list(simulated.candles([BTC])) == list(simulated.candles([BTC]))
    assert simulated.dominances() == simulated.dominances()
    assert simulated.entries() == simulated.entries()
    assert simulated.close(1, simulated.FIRST, "lv") == simulated.close(1, simulated.FIRST, "lv")
    assert simulated.HOURS % 24 == 0, "its last day is whole"


async def alone(sessions: Sessions) -> bool:
    async with sessions() as session:
        return await store.market.simulated.is_alone(session, *SIMULATED)


async def test_it_is_taken_out_again_and_is_never_beside_a_real_one(stack: StackProcess) -> None:
    candles = [row for row in simulated.candles([BTC]) if row["ends_at"] > simulated.UNTIL - timedelta(hours=3)]
    bar = dict.fromkeys(("open_usd", "high_usd", "low_usd", "close_usd"), 1) | {"driver": "BTC", "timeframe": "1h"}
    async with market_of(stack) as (_, sessions):
        assert await alone(sessions)
        async with sessions.begin() as session:
            await store.prices.add(session, candles)
            await market_tokens.record(session, enumerate(simulated.tokens()))
            await execute(session, insertion(RegimeBar, [bar | {"timestamp": simulated.FIRST, "book_id": MARKET_BOOK}]))
        await put_state(sessions, Driver.btc, Timeframe.h1, simulated.FIRST + simulated.HOUR, "S0")
        assert await alone(sessions)
        async with sessions.begin() as session:
            await store.market.simulated.forget(session, *SIMULATED)
        tables = ("price_history", "market_tokens", "regime_price_data_ohlc", "market_states", "market_changes")
        for table in tables:
            assert await query(sessions, f"SELECT * FROM {table}") == [], table

        real = (
            ("candle of BTC", lambda s: store.prices.add(s, [candles[0] | {"source": "binance"}])),
            ("bar", lambda s: execute(s, insertion(RegimeBar, [bar | {"timestamp": simulated.UNTIL}]))),
        )
        for name, write in real:
            async with sessions() as session:
                await write(session)
                assert not await store.market.simulated.is_alone(session, *SIMULATED), name
                await session.rollback()
