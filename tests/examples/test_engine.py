"""The engine of the README: Temporal's own client and plain JSON."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from closeloop.workers.addresses import temporal_config
from closeloop.workers.settings import Settings

ENGINE = Path(__file__).parents[2] / "examples" / "engine.py"


@pytest.mark.usefixtures("worker")
async def test_an_engine_closes_a_position_and_may_do_so_again(settings: Settings) -> None:
    for already in (False, True):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(ENGINE),
            env=dict(os.environ, TEMPORAL_ADDRESS=temporal_config(settings)["target_host"]),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        assert process.returncode == 0
        report = json.loads(out)
        assert report["outcome"]["rr"] == 2.0
        assert report["already_attributed"] is already


def test_the_engine_needs_none_of_our_code() -> None:
    lines = [line for line in ENGINE.read_text().splitlines() if line.startswith(("import ", "from "))]
    assert {line.split()[1].split(".")[0] for line in lines} == {"asyncio", "json", "os", "temporalio"}
