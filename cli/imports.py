"""History in bulk."""

import asyncio
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from closeloop.cli.connections import database, temporal
from closeloop.cli.console import REFUSALS_SHOWN, AsJson, book_name, err, fail, hinting, out, print_json, run, table
from closeloop.cli.files import FileArgument, json_lines, open_input
from closeloop.models.errors import NotAcceptable
from closeloop.models.imports import ImportReport, ImportResult
from closeloop.services import imports
from closeloop.services.imports import ImportSource, RunningImport
from closeloop.store.errors import DATABASE_ERRORS

app = typer.Typer(
    help="Import history in bulk. A second import of the same trades attributes none of them again.",
    no_args_is_help=True,
)

PROGRESS_EVERY_SECONDS = 0.3


@app.command()
def freqtrade(
    file: FileArgument,
    book: Annotated[
        str | None,
        typer.Option("--book", help="Book for all trades. Default: the strategy's name.", callback=book_name),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Import trades exported by freqtrade (backtesting --export trades; .json or .zip)."""
    content = open_input(file).read()
    try:
        source = imports.freqtrade_source(content, book, file)
    except NotAcceptable as error:
        fail(str(error))
    _import(source, as_json)


@app.command()
def jsonl(file: FileArgument, as_json: AsJson = False) -> None:
    """Import JSON lines of closed positions (README, "Messages"); "index" in the report counts lines from 0."""
    _import(imports.jsonl_source(json_lines(open_input(file)), file), as_json)


def _import(source: ImportSource, as_json: bool) -> None:
    found = run(hinting(run_import(source)))
    if as_json:
        return print_json(found)
    if not found.books and not found.rejected:
        return err.print("closeloop: there was nothing to import in the input.")
    shown = table(
        "book",
        "read",
        "attributed",
        "were attributed",
        "refused",
        numbers=("read", "attributed", "were attributed", "refused"),
    )
    for name, b in found.books.items():
        shown.add_row(name, str(b.read), str(b.attributed), str(b.already_attributed), str(len(b.rejected)))
    if found.books:
        out.print(shown)
    refusals = [(name, row) for name, b in found.books.items() for row in b.rejected]
    refusals += [("-", row) for row in found.rejected]
    for name, row in refusals[:REFUSALS_SHOWN]:
        err.print(f"refused: book {name}, row {row.index}: {row.reason}")
    if len(refusals) > REFUSALS_SHOWN:
        err.print(f"refused: {len(refusals) - REFUSALS_SHOWN} more rows; --json lists all of them")
    return None


async def run_import(source: ImportSource) -> ImportResult:
    """Run an import, or join the one that runs already, with its progress shown."""
    async with temporal() as client:
        async with database() as session:
            running = await imports.begin(client, session, source)
        if running.joined:
            err.print("This import is running already: waiting for it.")
        report = await _watched(running)
    async with database() as session:
        return await imports.result(session, running, report)


async def _watched(running: RunningImport) -> ImportReport:
    outcome = asyncio.create_task(imports.outcome(running))
    columns = (TextColumn("attributing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=running.total)
        while not outcome.done():
            await asyncio.wait((outcome,), timeout=PROGRESS_EVERY_SECONDS)
            try:
                async with database() as session:
                    progress = await imports.progress(session, running)
                if progress:
                    bar.update(task, completed=progress.done, total=progress.total)
            except DATABASE_ERRORS:
                continue  # the import goes on without being watched
    return outcome.result()
