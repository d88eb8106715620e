"""Closing positions by hand or from a file, and what of an engine's own rows cannot be read."""

import typer

from closeloop.cli.connections import database, temporal
from closeloop.cli.console import (
    AsJson,
    BeforeOption,
    BookOption,
    LastOption,
    PositionKeyOption,
    at,
    err,
    hinting,
    out,
    print_json,
    run,
    table,
)
from closeloop.cli.files import FileArgument, json_lines, json_messages
from closeloop.gateways.json_messages import JsonMessages
from closeloop.models.closes import read_close, with_position_key
from closeloop.models.positions import ClosedPosition, ClosesReport, RejectedClose
from closeloop.models.refusals import TOO_LONG
from closeloop.models.unreadable import UnreadablePositionView
from closeloop.services import positions
from closeloop.services.positions import close_all

app = typer.Typer(help="Positions.", no_args_is_help=True)


@app.command()
def close(file: FileArgument, position_key: PositionKeyOption = None, as_json: AsJson = False) -> None:
    """Close positions: JSON objects (README, "Messages"), one a line or in an array, also gzipped.

    realized_pnl is net of fees, funding and slippage, of the whole position. A bad
    optional field is left out and noted. Waits for outcomes; status 1 if any is refused.

    Rows are counted from 0: row 0 is the first line, or the first element of an array.
    """
    report = run(_close(json_messages(file), position_key))
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


async def _close(messages: JsonMessages, position_key: PositionKeyOption) -> ClosesReport:
    readable: dict[int, ClosedPosition] = {}
    unreadable: list[RejectedClose] = []
    for index, content in json_lines(messages):
        if content is None:
            unreadable.append(RejectedClose(index=index, reason=TOO_LONG))
            continue
        read = read_close(content if position_key is None else with_position_key(content, position_key))
        if read.position is None:
            unreadable.append(RejectedClose(index=index, reason=read.reason))
        else:
            readable[index] = read.position
    report = ClosesReport()
    if readable:
        async with temporal() as client:
            report = await hinting(close_all(client, readable))
    report.rejected[:0] = unreadable
    return report


@app.command()
def unreadable(
    book: BookOption = None, last: LastOption = None, before: BeforeOption = None, as_json: AsJson = False
) -> None:
    """Positions that an engine wrote into the database and that cannot be read as closes, and why.

    Each is left alone until it changes: correct the row, and the next catch-up takes it. --before takes
    BOOK/POSITION.
    """

    async def load() -> list[UnreadablePositionView]:
        async with database() as session:
            return await positions.unreadable(session, book=book, last=last, before=before)

    found = run(load())
    if as_json:
        return print_json(found)
    if not found:
        return out.print("Every closed position on record can be read.")
    shown = table("book", "position", "since (UTC)", "why")
    for one in found:
        shown.add_row(one.book, one.position_id, at(one.since), one.reason)
    return out.print(shown)


@app.command("read-again")
def read_again(book: BookOption = None) -> None:
    """Let the next catch-up read the unreadable positions again though they have not changed, as after an upgrade."""

    async def forget() -> int:
        async with database() as session:
            return await positions.read_again(session, book)

    count = run(forget())
    out.print(f"{count} positions are read again by the next catch-up" if count else "There is nothing to read again.")
