"""Starting the workflows of closes after their commit. What is not started here, the catch-up finds on record."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from opentelemetry import context
from opentelemetry.context import Context
from temporalio.client import Client
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from closeloop.models.positions import ClosedPosition
from closeloop.services import positions

logger = logging.getLogger(__name__)

AT_ONCE = 4  # workflows that are being started
MOST_WAITING = 20
"""Closes that wait for their workflow to be started; with more, they come in numbers, and are attributed together."""


class Starter:
    """A close that comes alone gets a workflow of its own; closes that come in numbers are attributed together."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._waiting: asyncio.Queue[tuple[ClosedPosition, Context]] = asyncio.Queue(MOST_WAITING)
        self._together = asyncio.Event()

    def alone(self, close: ClosedPosition) -> None:
        """Have the workflow of a close started, soon."""
        try:
            self._waiting.put_nowait((close, context.get_current()))  # the workflow's trace is the request's
        except asyncio.QueueFull:
            while not self._waiting.empty():  # they too, in a hundredth of the time
                self._waiting.get_nowait()
            self._together.set()

    def together(self, closes: Sequence[ClosedPosition]) -> None:
        """Have closes attributed together, soon."""
        if closes:
            self._together.set()

    async def keep_starting(self) -> None:
        """Start what is to be started; for ever."""
        await asyncio.gather(self._keep_telling(), *(self._keep_starting() for _ in range(AT_ONCE)))

    async def _keep_starting(self) -> None:
        while True:
            close, of_request = await self._waiting.get()
            attached = context.attach(of_request)
            try:
                with contextlib.suppress(WorkflowAlreadyStartedError):
                    await self._quietly(positions.start_close(self._client, close))
            finally:
                context.detach(attached)

    async def _keep_telling(self) -> None:
        while True:
            await self._together.wait()
            self._together.clear()
            if not await self._quietly(positions.start_received(self._client)):
                await asyncio.sleep(1)
                self._together.set()  # Temporal is away; what waits is on record, and it is tried again
            await asyncio.sleep(0.2)  # many batches a second need no signal each

    async def _quietly(self, starting: "asyncio.Future[object] | object") -> bool:
        try:
            await starting  # type: ignore[misc]
        except WorkflowAlreadyStartedError:
            raise
        except (RPCError, RuntimeError, OSError, TimeoutError) as error:
            logger.warning("a workflow is started later, by the catch-up", extra={"reason": str(error)[:200]})
            return False
        return True
