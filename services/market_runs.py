"""Runs of the market that are asked for by hand."""

import asyncio
import contextlib
from collections.abc import Callable

from temporalio.client import Client, WorkflowQueryFailedError
from temporalio.service import RPCError

from closeloop.models import launches
from closeloop.models.market_runs import MarketReport, MarketRequest
from closeloop.services.launching import result, start

ASKED_EVERY_SECONDS = 1.0
Told = Callable[[MarketReport], None]


async def collect(client: Client, request: MarketRequest, told: Told | None = None) -> MarketReport:
    """Collect, and bring a timeframe's series up to now, in a workflow, and wait for it; ``told`` hears of it.

    Where one that was asked for by hand is under way, that is waited for. Raises RunFailed with what it failed for.
    """
    handle = await start(client, launches.market(request))
    waiting = asyncio.ensure_future(result(handle))
    try:
        while told is not None:
            done, _ = await asyncio.wait((waiting,), timeout=ASKED_EVERY_SECONDS)
            if done:
                break
            with contextlib.suppress(RPCError, WorkflowQueryFailedError):  # it goes on without being watched
                told(await handle.query("so_far", result_type=MarketReport))
        report: MarketReport = await waiting
        return report
    finally:
        waiting.cancel()
