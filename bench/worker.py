"""A worker process for both sides of the comparison, with the same settings."""

import asyncio
import os
import signal

from temporalio.worker import Worker

from bench.empty import QUEUE, EmptyWorkflow, nothing
from closeloop.models.launches import TASK_QUEUE
from closeloop.models.policy import LearningPolicy
from closeloop.workers.garbage import collect_rarely
from closeloop.workers.settings import Settings
from closeloop.workers.telemetry import Telemetry
from closeloop.workers.wiring import build_worker, connect_temporal, open_database, workflow_runner


async def main() -> None:
    """Poll both queues until SIGTERM."""
    settings = Settings.load()
    client = await connect_temporal(settings, Telemetry(settings))
    engine = open_database(settings)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    ours = build_worker(
        client,
        engine,
        LearningPolicy(),
        concurrency=settings.worker_concurrency,
        overlay_folder=settings.overlay_folder(),
        corpus_folder=settings.corpus_folder(),
        archive_folder=settings.archive_folder(),
        task_queue=TASK_QUEUE,
    )
    empty = Worker(
        client,
        task_queue=QUEUE,
        workflows=[EmptyWorkflow],
        activities=[nothing],
        workflow_runner=workflow_runner(),
        max_concurrent_activities=settings.worker_concurrency,
    )
    collect_rarely()
    async with ours, empty:
        print("ready", flush=True)
        await stop.wait()
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)
