"""The worker process: ``closeloop worker``."""

import asyncio
import contextlib
import logging
import signal

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.service import RPCError

from closeloop import store
from closeloop.gateways.presets import UnknownPreset, load_preset
from closeloop.learning.weights import InfeasibleBounds, preset_weights
from closeloop.models.launches import LLM_TASK_QUEUE, MARKET_TASK_QUEUE, TASK_QUEUE
from closeloop.store.database import sessions_of
from closeloop.store.errors import DATABASE_ERRORS
from closeloop.workers.addresses import database_url
from closeloop.workers.garbage import collect_rarely
from closeloop.workers.publishing import beat_of, published
from closeloop.workers.registration import missing_search_attributes, register_search_attributes
from closeloop.workers.settings import Settings
from closeloop.workers.stack.home import StackError
from closeloop.workers.telemetry import Telemetry
from closeloop.workers.wiring import build_workers, connect_temporal, open_database

READY = "worker ready"  # the line on stdout by which the supervisor knows that the worker polls
logger = logging.getLogger(__name__)


async def run_worker(settings: Settings, telemetry: Telemetry, announce: bool = True) -> None:
    """Poll until SIGINT or SIGTERM. Raises StackError and SettingsError with what to do where it cannot begin."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    policy = settings.learning_policy()
    beat = beat_of(settings, policy, (TASK_QUEUE, MARKET_TASK_QUEUE, LLM_TASK_QUEUE))
    engine = open_database(settings)
    try:
        begun = asyncio.create_task(_until_reachable(settings, telemetry, engine))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait((begun, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not begun.done():
            begun.cancel()
            return
        try:
            preset_weights(load_preset(policy.weights.default_preset), policy.weights)
        except (InfeasibleBounds, UnknownPreset) as error:
            raise StackError(f"The policy cannot be used: {error}") from None
        collect_rarely()
        async with contextlib.AsyncExitStack() as polling:
            await polling.enter_async_context(published(database_url(settings), beat))
            for worker in build_workers(begun.result(), engine, policy, settings):
                await polling.enter_async_context(worker)
                logger.info("worker started", extra={"task_queue": worker.task_queue, "policy": policy.policy_hash})
            if announce:
                print(READY, flush=True)
            await stopped
    finally:
        await engine.dispose()


async def _until_reachable(settings: Settings, telemetry: Telemetry, engine: AsyncEngine) -> Client:
    """Wait for the database and for Temporal: either may come up later than the worker."""
    while True:
        try:
            async with sessions_of(engine)() as session:
                found = await store.schema.revision(session)
            break
        except DATABASE_ERRORS as error:
            logger.warning("waiting for the database", extra={"reason": type(error).__name__})
            await asyncio.sleep(2)
    if found is not None and not store.schema.is_known(found):
        raise StackError(
            f"This worker is older than the database (schema revision {found}): upgrade it, to the version that the "
            "database was upgraded with."
        )
    if found != (needed := store.schema.newest()):
        raise StackError(
            f"The database's schema is at {found} and this worker needs {needed}: run 'closeloop db upgrade'."
        )
    while True:
        try:
            client = await connect_temporal(settings, telemetry)
            await _check_search_attributes(client)
            return client
        except RuntimeError as error:
            logger.warning("waiting for Temporal", extra={"reason": str(error)[:200]})
            await asyncio.sleep(2)


async def _check_search_attributes(client: Client) -> None:
    """Register the search attributes where that is allowed.

    Without them the workflow of a close would attribute it and then fail. Raises StackError.
    """
    try:
        await register_search_attributes(client)
    except RPCError:
        with contextlib.suppress(RPCError):  # a server that does not list them to this worker may still have them
            if missing := await missing_search_attributes(client):
                raise StackError(
                    f"The namespace {client.namespace} lacks the search attributes {', '.join(missing)}, and this "
                    "worker may not add them: somebody who may must run 'closeloop search-attributes apply'."
                ) from None
