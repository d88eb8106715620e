"""Who advances the market's series is killed, with SIGKILL, within and between transactions, again and again: in the
end there is what there would have been, and each state was written once."""

import asyncio
import signal
from pathlib import Path

from closeloop.models.market import Driver
from tests.activities.market_minutes import ALT, BTC, MINUTE, T0, TOKENS, Market, market_on, walk
from tests.waiting import PATIENCE
from tests.workers.processes import line, script

MINUTES, BATCH = 240, 100
UNTIL = T0 + MINUTES * MINUTE
LATE = 50  # a candle that comes when all is done


async def one_run(market: Market, home: Path, die_at: int) -> int | None:
    """How many boundaries it passed; None where it was killed."""
    arguments = (market.dsn, UNTIL.isoformat(), str(BATCH), str(die_at))
    async with script("tests.faults.market_series_process", *arguments, home=home) as process:
        told = await line(process)
        status = await asyncio.wait_for(process.wait(), PATIENCE)
    assert status == (0 if told else -signal.SIGKILL)
    return int(told) if told else None


async def test_killed_again_and_again(dsn: str, tmp_path: Path) -> None:
    candles = [each for seed, asset in enumerate((BTC, *ALT, *TOKENS)) for each in walk(asset, MINUTES, seed)]
    async with market_on(dsn) as market:

        async def begin() -> None:
            await market.clear()
            for asset in TOKENS:
                await market.belong(asset, Driver.big)
            await market.trade(candles[:LATE] + candles[LATE + 1 :])
            await market.poll({each.end: each.close for each in walk("d", MINUTES, 9)[::10]})

        await begin()
        await market.advance_all(UNTIL)
        before = await market.computed()
        await market.trade([candles[LATE]])
        await market.advance_all(UNTIL)
        after, revised = await market.computed(), await market.revised()
        await begin()
        for die_at in (9, 23):  # in the first batch, and in the second
            assert await one_run(market, tmp_path, die_at) is None
            await market.trade(candles[:1])  # others write meanwhile, and say what is on record already
            assert await market.revised() == {}
        assert await one_run(market, tmp_path, 0) is not None
        (await market.computed()).check(before)
        assert await market.revised() == {}
        await market.trade([candles[LATE]])
        assert await one_run(market, tmp_path, 12) is None
        assert await one_run(market, tmp_path, 0) is not None
        (await market.computed()).check(after)
        assert await market.revised() == revised != {}
