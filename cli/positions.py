"""Closing positions by hand or from a file."""

from collections.abc import Mapping

import typer

from closeloop.cli.connections import temporal
from closeloop.cli.console import AsJson, PositionKeyOption, err, hinting, out, print_json, run
from closeloop.cli.files import FileArgument, json_lines, open_input
from closeloop.models.closes import read_close, with_position_key
from closeloop.models.positions import ClosedPosition, ClosesReport, RejectedClose
from closeloop.models.refusals import TOO_LONG
from closeloop.services.positions import close_all

app = typer.Typer(help="Positions.", no_args_is_help=True)


@app.command()
def close(file: FileArgument, position_key: PositionKeyOption = None, as_json: AsJson = False) -> None:
    """Close positions: one JSON object a line (README, "Messages"). Waits for outcomes; status 1 if any is refused.

    realized_pnl is net of fees, funding and slippage, of the whole position. A bad
    optional field is left out and noted.

    Rows are counted from 0: row 0 is the first line.
    """
    readable: dict[int, ClosedPosition] = {}
    unreadable: list[RejectedClose] = []
    for index, line in json_lines(open_input(file)):
        if line is None:
            unreadable.append(RejectedClose(index=index, reason=TOO_LONG))
            continue
        read = read_close(line if position_key is None else with_position_key(line, position_key))
        if read.position is None:
            unreadable.append(RejectedClose(index=index, reason=read.reason))
        else:
            readable[index] = read.position
    report = run(hinting(_close(readable))) if readable else ClosesReport()
    report.rejected[:0] = unreadable
    if as_json:
        print_json(report)
    else:
        for closed in report.closed:
            note = " (attributed before; nothing changed)" if closed.already_attributed else ""
            out.print(f"{closed.outcome.position_id}: {closed.sentence}{note}")
    for closed in report.closed:
        for left_out in closed.noted:
            err.print(f"noted: {closed.outcome.position_id}: {left_out.field} was left out: {left_out.reason}")
    for refused in report.rejected:
        position = "" if refused.position_id is None else f", position {refused.position_id}"
        err.print(f"refused: row {refused.index}{position}: {refused.reason}")
    if not report.closed and not report.rejected:
        err.print("closeloop: there was nothing to close in the input.")
    if report.rejected:
        raise typer.Exit(1)


async def _close(positions: Mapping[int, ClosedPosition]) -> ClosesReport:
    async with temporal() as client:
        return await close_all(client, positions)
