"""The append-only record of what happened."""

from typing import Annotated

import typer
from pydantic_core import to_json

from closeloop.cli.connections import database
from closeloop.cli.console import AsJson, BeforeOption, BookOption, LastOption, at, out, print_json_list, run, table
from closeloop.services import events

app = typer.Typer(help="The append-only record of what happened.")


@app.callback(invoke_without_command=True)
def listing(
    kind: Annotated[str | None, typer.Option("--type", help="Only this type, such as learning.outcome.v1.")] = None,
    book: BookOption = None,
    last: LastOption = None,
    before: BeforeOption = None,
    as_json: AsJson = False,
) -> None:
    """List the events, oldest first."""
    run(_list(kind, book, last, before, as_json))


async def _list(kind: str | None, book: str | None, last: int | None, before: str | None, as_json: bool) -> None:
    async with database() as session:
        found = events.listing(session, kind=kind, book=book, last=last, before=before)
        if as_json:
            await print_json_list(found)
            return
        shown = table("id", "at (UTC)", "type", "payload", numbers=("id",))
        count = 0
        async for row in found:
            count += 1
            payload = to_json(row.payload).decode()
            shown.add_row(str(row.id), at(row.ts), row.type, payload if len(payload) <= 300 else payload[:299] + "…")
        if count == 0:
            out.print("No such events.")
        else:
            out.print(shown)
        if until := await events.left_until(session):
            out.print(
                f"Events of closes and forecasts from before {at(until)} UTC have left: 'closeloop storage' says more.",
                soft_wrap=True,
            )
