"""History in bulk."""

import asyncio
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from closeloop.cli.connections import database, temporal
from closeloop.cli.console import (
    REFUSALS_SHOWN,
    AsJson,
    PositionKeyOption,
    book_name,
    err,
    fail,
    hinting,
    out,
    print_json,
    print_json_streamed,
    run,
    settings,
    table,
)
from closeloop.cli.explained_trades import show_explained
from closeloop.cli.files import FileArgument, file_or_input, json_lines, json_messages, open_input
from closeloop.models.errors import NotAcceptable
from closeloop.models.imports import ImportReport
from closeloop.services import imports, trade_tables
from closeloop.services.imports import ImportExcerpt, ImportSource, RunningImport
from closeloop.store.errors import DATABASE_ERRORS

app = typer.Typer(
    help="Import history in bulk. A second import of the same trades attributes none of them again. Status 1 if a row "
    "is refused, or the whole file.",
    no_args_is_help=True,
)

PROGRESS_EVERY_SECONDS = 0.3
COLUMNS = ("read", "attributed", "were attributed", "still open", "corrected", "again", "refused", "noted")

AddOption = Annotated[
    bool,
    typer.Option("--add", help="Also into a book that holds the positions of another run. Without it, refused."),
]


@app.command()
def freqtrade(
    file: FileArgument,
    book: Annotated[
        str | None,
        typer.Option(
            "--book",
            help="Book for all trades. Default: the strategy's name (of a dry run, with -dry-run behind it).",
            callback=book_name,
        ),
    ] = None,
    add: AddOption = False,
    as_json: AsJson = False,
) -> None:
    """Import freqtrade's trades, with their PnL net of fees, funding and slippage.

    FILE: a backtest's result (.json, .zip, or its folder, of which the latest is taken), or a bot's trades: the answer
    of /api/v1/trades, what show-trades --print-json prints, or tradesv3.sqlite, which is only read. Trades that are
    still open, or that only the end of a backtest closed, are left out and counted.

    Rows of the report are counted from 0: row 0 is a book's first trade in the file. Status 1 if a row is refused, or
    the whole file: a book takes in one run, unless you say --add.
    """
    try:
        split_tags = settings().learning_policy().imports.split_tags
        source = imports.freqtrade_source(file_or_input(file), book, file, split_tags)
    except NotAcceptable as error:
        fail(str(error))
    import_and_report(source, as_json, add)


@app.command()
def jsonl(file: FileArgument, position_key: PositionKeyOption = None, as_json: AsJson = False) -> None:
    """Import JSON lines of closed positions (README, "Messages").

    realized_pnl is net of fees, funding and slippage, of the whole position.

    Rows of the report are counted from 0: row 0 is the file's first line. Status 1 if a row is refused.
    """
    import_and_report(imports.jsonl_source(json_lines(json_messages(file)), file, position_key), as_json)


@app.command()
def trades(
    file: FileArgument,
    map_: Annotated[
        str | None,
        typer.Option(
            "--map", metavar="NAME|MAP.yaml", help="A ready map's name, or a file. Default: the one that fits."
        ),
    ] = None,
    book: Annotated[
        str | None,
        typer.Option("--book", help="Book for all trades; needed where no map names one.", callback=book_name),
    ] = None,
    symbol: Annotated[str | None, typer.Option("--symbol", help="The symbol, where the table names none.")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show how the first rows are understood, and store nothing.")
    ] = False,
    add: AddOption = False,
    as_json: AsJson = False,
) -> None:
    """Import trades of another engine's table: CSV, JSON or JSON lines, read by a map (docs/trade-tables.md).

    Ready maps: NautilusTrader, Lean, backtesting.py, vectorbt, Jesse, Hummingbot. PnL is net of fees, funding and
    slippage. Rows of the report are counted from 0. Status 1 if a row is refused, or the whole file.
    """
    content = open_input(file)
    try:
        if explain:
            understood = trade_tables.explained(content, file, map_, book, symbol)
            print_json(understood) if as_json else show_explained(understood)
            return
        found = trade_tables.table_source(content, file, map_, book, symbol)
    except NotAcceptable as error:
        fail(str(error))
    if found.guessed:
        err.print(f"closeloop: read by the map {found.map}, by its columns: {found.about}")
    import_and_report(found.source, as_json, add)


def import_and_report(source: ImportSource, as_json: bool, add: bool = False) -> None:
    """Run an import and print its report; status 1 if a row was refused."""
    report = run(_import(source, as_json, add))
    if report.rejected:
        raise typer.Exit(1)


async def _import(source: ImportSource, as_json: bool, add: bool) -> ImportReport:
    running, report = await run_import(source, add)
    async with database() as session:
        if as_json:
            await print_json_streamed(imports.whole(session, running, report))
        else:
            _show(report, await imports.excerpt(session, report, REFUSALS_SHOWN))
    return report


def _show(report: ImportReport, excerpt: ImportExcerpt) -> None:
    if not report.books and not report.rejected:
        return err.print("closeloop: there was nothing to import in the input.")
    shown = table("book", *COLUMNS, numbers=COLUMNS)
    for name, b in report.books.items():
        noted = excerpt.notes.get(name, 0)
        counts = (b.read, b.attributed, b.already_attributed, b.still_open, b.corrected, b.repeated, b.refused, noted)
        shown.add_row(name, *map(str, counts))
    if report.books:
        out.print(shown)
    if corrected := sum(b.corrected for b in report.books.values()):
        err.print(f"corrected: the PnL of {_trades(corrected)} in the file was before fees; the net value was taken")
    if still_open := sum(b.still_open for b in report.books.values()):
        err.print(f"still open: {_trades(still_open)} had not closed when the file was written, and were left out")
    if repeated := sum(b.repeated for b in report.books.values()):
        err.print(
            f"again: {_trades(repeated)} {'is' if repeated == 1 else 'are'} on record under another id as well (by "
            "default: the same symbol, direction, size, PnL, time held, prices and scope; policy mining.same_trade): "
            "lessons are mined from each once, karma and weights count all of them",
            soft_wrap=True,
        )
    for book, row in excerpt.rejected:
        err.print(f"refused: book {book or '-'}, row {row.index}: {row.reason}")
    if (more := report.rejected - len(excerpt.rejected)) > 0:
        err.print(f"refused: {more} more rows; --json lists all of them")
    for book, note in excerpt.noted:
        err.print(f"noted: book {book}, row {note.index}: {note.field}: {note.reason}; the rest of the trade was taken")
    if (more := sum(excerpt.notes.values()) - len(excerpt.noted)) > 0:
        err.print(f"noted: {more} more fields; --json lists all of them")
    if excerpt.rejected or excerpt.noted:
        err.print("Rows are counted from 0: row 0 is the first.")
    return None


def _trades(number: int) -> str:
    return "1 trade" if number == 1 else f"{number} trades"


async def run_import(source: ImportSource, add: bool = False) -> tuple[RunningImport, ImportReport]:
    """Run an import, or join the one that runs already, with its progress shown."""
    policy = settings().learning_policy().imports
    async with temporal() as client:
        async with database() as session:
            running = await imports.begin(client, session, source, policy, add)
        if running.joined:
            err.print("This import is running already: waiting for it.")
        return running, await hinting(_watched(running))  # while it was staged, Ctrl-C dropped it


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
