"""Closing positions."""

from temporalio.client import Client, WorkflowHandle

from closeloop.models.launches import position_close
from closeloop.models.positions import ClosedPosition, CloseReport
from closeloop.services.launching import start


async def start_close(client: Client, position: ClosedPosition) -> WorkflowHandle[object, CloseReport]:
    """Start a position's workflow. Raises WorkflowAlreadyStartedError while one of it runs."""
    return await start(client, position_close(position))
