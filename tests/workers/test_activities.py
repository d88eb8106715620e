"""Every activity that there is is registered with a worker, once."""

import importlib
import inspect
import pkgutil
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity
from temporalio.client import Client

from closeloop import activities
from closeloop.models.policy import LearningPolicy
from closeloop.workers.wiring import build_llm_worker, build_market_worker, build_worker
from tests.conftest import NO_SOURCE


def every_activity() -> list[Callable[..., Any]]:
    """All methods and functions that are defined as activities."""
    found = []
    for module in pkgutil.iter_modules(activities.__path__):
        there = importlib.import_module(f"closeloop.activities.{module.name}")
        classes = [member for _, member in inspect.getmembers(there, inspect.isclass)]
        for holder in (there, *(member for member in classes if member.__module__ == there.__name__)):
            for _, member in inspect.getmembers(holder, inspect.isfunction):
                definition = activity._Definition.from_callable(member)
                if definition is not None and definition.name:
                    found.append(member)
    return found


async def test_every_activity_is_registered(client: Client, engine: AsyncEngine, tmp_path: Path) -> None:
    policy = LearningPolicy()
    # Queues of its own: a client takes one worker for a queue, and the session's own worker has the usual ones.
    own = uuid.uuid4().hex
    workers = (
        build_worker(
            client,
            engine,
            policy,
            concurrency=1,
            overlay_folder=tmp_path,
            corpus_folder=tmp_path,
            archive_folder=tmp_path,
            task_queue=f"{own}-database",
        ),
        build_market_worker(
            client, engine, policy, binance_url=NO_SOURCE, coingecko_url=NO_SOURCE, task_queue=f"{own}-market"
        ),
        build_llm_worker(client, engine, policy, model=None, budget=Decimal(1), task_queue=f"{own}-model"),
    )
    registered = [
        activity._Definition.must_from_callable(each).name
        for worker in workers
        for each in worker.config().get("activities", ())
    ]
    defined = [activity._Definition.must_from_callable(each).name for each in every_activity()]
    assert sorted(name or "" for name in registered) == sorted(name or "" for name in defined)
    assert len(registered) > 30
