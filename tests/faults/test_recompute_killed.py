"""Who computes outcomes again is killed, with SIGKILL, beside a resolution: each is corrected once."""

import asyncio
import signal
from datetime import datetime
from pathlib import Path

from tests.activities.forecasting import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    T0,
    Floor,
    assert_outcome,
    floor_on,
    forecast,
    plain_outcome,
)
from tests.activities.test_price_imports import rows
from tests.waiting import PATIENCE, until
from tests.workers.processes import line, script

FIVE = 5 * MINUTE
AS_OF = T0 + 3 * DAY


def closes(rise: int) -> dict[datetime, int]:
    return {T0 - HOUR + i * FIVE: 1_000 + rise * (i % 97) for i in range(30 * 12)}


async def test_killed_in_the_middle_beside_a_resolution(dsn: str, tmp_path: Path) -> None:
    async with floor_on(dsn) as floor:
        said = [
            forecast(f"f-{i:05}", producer_id=f"p{i % 3}", issued_at=T0 + i * 7_919 % 86_400 * SECOND)
            for i in range(8_000)
        ]
        await floor.trade("ADA/BTC", closes(1))
        await floor.record(*said[:6_000])
        assert await floor.resolve(AS_OF) == 0
        right = closes(3)
        report = await floor.import_candles("ADA/BTC", rows(right), replace=True)
        assert report.affected > 5_000
        async with script("tests.faults.recompute_process", floor.dsn, home=tmp_path) as process:
            assert await line(process) == "ready"
            await until("the first page", lambda: corrected(floor))
            process.kill()
            assert await asyncio.wait_for(process.wait(), PATIENCE) == -signal.SIGKILL
        first = len(await floor.events("forecast.outcome_corrected.v1"))
        assert 0 < first < report.affected
        await floor.record(*said[6_000:])
        async with (
            script("tests.faults.recompute_process", floor.dsn, home=tmp_path) as one,
            script("tests.faults.recompute_process", floor.dsn, home=tmp_path) as other,
        ):
            await floor.resolve(AS_OF)
            told = [[await line(process) for _ in range(2)] for process in (one, other)]
        second = sum(int(count) for _, count in told)
        found = await floor.outcomes()
        assert set(found) == {one.forecast_id for one in said}
        for one_said in said:
            prices = [right[t - (t - T0) % FIVE] for t in (one_said.issued_at, one_said.target_at)]
            assert_outcome(found[one_said.forecast_id], plain_outcome(one_said, prices[0], prices[1]))
        events = await floor.events("forecast.outcome_corrected.v1")
        assert len(events) == len({one["forecast_id"] for one in events}) == first + second
        assert {row["revision"] for row in found.values()} == {0, 1}
        await floor.perform(AS_OF)
        [row] = await floor.sql(
            "SELECT sum(outcomes) AS outcomes, sum(correct) AS correct FROM producer_performance "
            "WHERE asset = '' AND horizon = '' AND regime = ''"
        )
        assert (row["outcomes"], row["correct"]) == (len(said), sum(o["direction_correct"] for o in found.values()))


async def corrected(floor: Floor) -> bool:
    return bool(await floor.sql("SELECT 1 FROM forecast_outcomes WHERE revision > 0 LIMIT 1"))
