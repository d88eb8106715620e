"""Who fills in outcomes of decisions is killed, with SIGKILL, at each boundary: it ends as if nobody had died."""

import asyncio
import signal
from pathlib import Path

from tests.activities.deciding import DAY, MINUTE, T0, Record, record_on, rising
from tests.waiting import PATIENCE
from tests.workers.processes import line, script

AS_OF = T0 + 31 * DAY


async def one_run(record: Record, home: Path, die_at: int) -> int | None:
    """How many boundaries it passed; None where it was killed."""
    arguments = (record.dsn, AS_OF.isoformat(), "4", str(die_at))
    async with script("tests.faults.decisions_process", *arguments, home=home) as process:
        told = await line(process)
        status = await asyncio.wait_for(process.wait(), PATIENCE)
    assert status == (0 if told else -signal.SIGKILL)
    return int(told) if told else None


async def decide(record: Record) -> None:
    await record.decide(*({"symbol": f"S{n % 2}", "timestamp": T0 + n * MINUTE} for n in range(10)))
    for n in range(2):
        await record.trade(rising(31), asset=f"S{n}")


async def test_killed_at_each_boundary(dsn: str, tmp_path: Path) -> None:
    async with record_on(dsn) as undisturbed:
        await decide(undisturbed)
        await undisturbed.fill(AS_OF)
        expected = await undisturbed.outcomes()
    assert len(expected) == 10
    async with record_on(dsn) as record:
        await decide(record)
        deaths, seen = 0, 0
        while await one_run(record, tmp_path, deaths + 1) is None:
            deaths += 1
            found = await record.outcomes()
            assert len(found) >= seen, "what was committed stays"
            assert [row for row in found if row not in expected] == [], "and is whole"
            seen = len(found)
        assert deaths >= 8
        assert seen > 0
        assert await record.outcomes() == expected
