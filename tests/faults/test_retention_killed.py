"""Who lets events leave is killed, with SIGKILL, at each boundary of a batch: nothing is lost, nothing doubled."""

import asyncio
import signal
from collections import Counter
from pathlib import Path

from tests.activities.retaining import NOW, Store, ordered, store_on
from tests.waiting import PATIENCE
from tests.workers.processes import line, script

BATCH = 7


async def one_run(kept: Store, home: Path, die_at: int) -> int | None:
    """How many boundaries it passed; None where it was killed."""
    arguments = (kept.dsn, str(kept.folder), NOW.isoformat(), str(BATCH), str(die_at))
    async with script("tests.faults.retention_process", *arguments, home=home) as process:
        told = await line(process)
        status = await asyncio.wait_for(process.wait(), PATIENCE)
    assert status == (0 if told else -signal.SIGKILL)
    return int(told) if told else None


async def test_killed_at_each_boundary(dsn: str, tmp_path: Path) -> None:
    async with store_on(dsn, tmp_path / "archive") as kept:
        await kept.close(*(f"p-{n:02}" for n in range(200)))
        await kept.age(91)
        before = ordered(await kept.rows())
        deaths, left_behind = 0, 0
        while await one_run(kept, tmp_path, deaths + 1) is None:
            deaths += 1
            there = ordered(await kept.rows())
            finished = ordered(await kept.archived())
            assert Counter(there + finished) == Counter(before), f"killed at boundary {deaths}"
            left_behind += len(list(kept.folder.glob("*"))) > len(await finished_files(kept))
            if len(there) < 2 * BATCH:  # enough for another whole batch, so that later boundaries are met too
                break
        assert deaths > 12
        assert left_behind > 0
        assert await one_run(kept, tmp_path, 0) is not None
        assert await kept.rows() == []
        assert ordered(await kept.archived()) == before
        assert {file.name for file in kept.folder.iterdir()} == await finished_files(kept)


async def finished_files(kept: Store) -> set[str]:
    rows = await kept.finished()
    return {row["file"] for row in rows}
