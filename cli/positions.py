"""Closing positions by hand or from a file."""

import asyncio
import contextlib
from collections.abc import Sequence

import typer
from pydantic import ValidationError
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ActivityError, ApplicationError, WorkflowAlreadyStartedError

from closeloop.cli.connections import temporal
from closeloop.cli.console import AsJson, err, hinting, out, print_json, run
from closeloop.cli.files import TOO_LONG, FileArgument, json_lines, open_input
from closeloop.models.positions import ClosedPosition, CloseReport
from closeloop.models.refusals import describe
from closeloop.services.positions import start_close

app = typer.Typer(help="Positions.", no_args_is_help=True)
AT_ONCE = 20


class Refused(Exception):
    """A close that was refused; the message names the field and the reason."""


@app.command()
def close(file: FileArgument, as_json: AsJson = False) -> None:
    """Close positions: one JSON object a line (README, "Messages"). Waits for outcomes; status 1 if any is refused."""
    readable: list[ClosedPosition] = []
    refused: list[dict[str, object]] = []
    for index, line in json_lines(open_input(file)):
        try:
            if line is None:
                raise Refused(TOO_LONG)
            readable.append(ClosedPosition.model_validate_json(line))
        except ValidationError as error:
            refused.append({"index": index, "reason": describe(error)})
        except Refused as error:
            refused.append({"index": index, "reason": str(error)})
    reports = run(hinting(_close_all(readable))) if readable else []
    for position, report in zip(readable, reports, strict=True):
        if isinstance(report, Refused):
            refused.append({"position_id": position.position_id, "reason": str(report)})
    closed = [report for report in reports if isinstance(report, CloseReport)]
    if as_json:
        print_json({"closed": closed, "rejected": refused})
    else:
        for report in closed:
            note = " (attributed before; nothing changed)" if report.already_attributed else ""
            out.print(f"{report.outcome.position_id}: {report.sentence}{note}")
    for item in refused:
        where = item.get("position_id") or f"line {int(str(item['index'])) + 1}"
        err.print(f"refused: {where}: {item['reason']}")
    if not closed and not refused:
        err.print("closeloop: there was nothing to close in the input.")
    if refused:
        raise typer.Exit(1)


async def _close_all(positions: Sequence[ClosedPosition]) -> list[CloseReport | Refused]:
    turnstile = asyncio.Semaphore(AT_ONCE)
    async with temporal() as client:

        async def one(position: ClosedPosition) -> CloseReport | Refused:
            async with turnstile:
                try:
                    return await close_position(client, position)
                except Refused as error:
                    return error

        return await asyncio.gather(*(one(position) for position in positions))


async def close_position(client: Client, position: ClosedPosition) -> CloseReport:
    """Run a position's workflow and wait for its report. Raises Refused.

    If the position's workflow is running already, it is waited for and then asked again, because the one under way
    may have been sent with other content.
    """
    while True:
        try:
            handle = await start_close(client, position)
            break
        except WorkflowAlreadyStartedError:
            with contextlib.suppress(WorkflowFailureError):
                await client.get_workflow_handle(position.key.workflow_id).result()
    try:
        return await handle.result()
    except WorkflowFailureError as error:
        raise Refused(_cause(error)) from None


def _cause(error: BaseException) -> str:
    while isinstance(error, WorkflowFailureError | ActivityError) and error.cause is not None:
        error = error.cause
    return error.message if isinstance(error, ApplicationError) else str(error)
