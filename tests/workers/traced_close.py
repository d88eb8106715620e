"""One close, from client to activity, in a process that is traced if its settings say so. Run by test_telemetry.py.

``python -m tests.workers.traced_close QUEUE MESSAGE`` prints ``closed``, waits for a line, then flushes and leaves.
"""

import asyncio
import os
import sys

from closeloop.models.launches import position_close_id
from closeloop.models.positions import ClosedPosition
from closeloop.workers.settings import Settings
from closeloop.workers.telemetry import Telemetry
from closeloop.workers.wiring import connect_temporal, open_database
from tests.workers.own_worker import own_worker


async def main(queue: str, message: str) -> None:
    position = ClosedPosition.model_validate_json(message)
    settings = Settings.load()
    telemetry = Telemetry(settings)
    client = await connect_temporal(settings, telemetry)
    engine = open_database(settings)
    async with own_worker(client, engine, settings.home, task_queue=queue):
        await client.execute_workflow(
            "PositionCloseWorkflow", position, id=position_close_id(position), task_queue=queue
        )
        print("closed", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
    await engine.dispose()
    telemetry.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
    os._exit(0)  # as the project's own entry points leave: nothing is sent after this
