"""History in bulk."""

import asyncio
import hashlib
import uuid
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any

import typer
from pydantic_core import to_json
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from closeloop import store
from closeloop.cli.connections import database, temporal
from closeloop.cli.console import AsJson, book_name, err, fail, hinting, out, print_json, run, table
from closeloop.cli.files import TOO_LONG, FileArgument, json_lines, open_input
from closeloop.gateways.freqtrade import NotAnExport, read_export
from closeloop.models.imports import ImportReport, ImportRequest
from closeloop.models.launches import TASK_QUEUE
from closeloop.models.search_attributes import LIFECYCLE
from closeloop.models.values import BOOK_PATTERN
from closeloop.store.errors import DATABASE_ERRORS
from closeloop.store.imports import Refusal, StagedRow

app = typer.Typer(
    help="Import history in bulk. A second import of the same trades attributes none of them again.",
    no_args_is_help=True,
)

STAGED_AT_ONCE = 2_000
STAGED_CHARACTERS = 8_000_000
PATIENCE_SECONDS = 600
_AWAY = (RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED)


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
        rows = list(_freqtrade_rows(content, book))
    except NotAnExport as error:
        fail(f"{file} is no freqtrade export: {error}.")
    digest = hashlib.sha256(b"freqtrade\0" + (book or "").encode() + b"\0" + content)
    _import(iter(rows), digest, f"freqtrade {file}", as_json)


@app.command()
def jsonl(file: FileArgument, as_json: AsJson = False) -> None:
    """Import JSON lines of closed positions (README, "Messages"); "index" in the report counts lines from 0."""
    digest = hashlib.sha256(b"jsonl\0")
    opened = open_input(file)

    def rows() -> Iterator[StagedRow | Refusal]:
        for seq, (index, line) in enumerate(json_lines(opened)):
            digest.update(b"too long" if line is None else line)
            digest.update(b"\n")
            yield _jsonl_row(seq, index, line)

    _import(rows(), digest, f"jsonl {file}", as_json)


def _jsonl_row(seq: int, index: int, line: bytes | None) -> StagedRow | Refusal:
    if line is None:
        return Refusal(seq, index, None, TOO_LONG)
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return Refusal(seq, index, None, "the line is not UTF-8")
    if "\0" in text:  # PostgreSQL holds no NUL; JSON allows none unescaped either
        return Refusal(seq, index, None, "the line is not JSON: it has a NUL character")
    return StagedRow(seq, index, text)


def _freqtrade_rows(content: bytes, book: str | None) -> Iterator[StagedRow | Refusal]:
    for seq, trade in enumerate(read_export(content, book)):
        name = book or trade.strategy
        readable = name if BOOK_PATTERN.fullmatch(name) else None
        if trade.message is None:
            yield Refusal(seq, trade.index, readable, trade.reason or "")
        elif readable is None:
            reason = f"book: the strategy's name {name!r} is no book's name; choose one with --book"
            yield Refusal(seq, trade.index, None, reason)
        else:
            yield StagedRow(seq, trade.index, to_json(trade.message).decode())


def _import(rows: Iterator[StagedRow | Refusal], digest: "hashlib._Hash", source: str, as_json: bool) -> None:
    report = run(hinting(run_import(rows, digest, source)))
    if as_json:
        return print_json(report)
    shown = table(
        "book",
        "read",
        "attributed",
        "were attributed",
        "refused",
        numbers=("read", "attributed", "were attributed", "refused"),
    )
    for name, b in report["books"].items():
        shown.add_row(name, str(b["read"]), str(b["attributed"]), str(b["already_attributed"]), str(len(b["rejected"])))
    out.print(shown)
    refusals = [(name, r) for name, b in report["books"].items() for r in b["rejected"]]
    refusals += [("-", r) for r in report.get("rejected", [])]
    for name, refusal in refusals[:20]:
        err.print(f"refused: book {name}, row {refusal['index']}: {refusal['reason']}")
    if len(refusals) > 20:
        err.print(f"refused: {len(refusals) - 20} more rows; --json lists all of them")
    return None


async def run_import(rows: Iterator[StagedRow | Refusal], digest: "hashlib._Hash", source: str) -> dict[str, Any]:
    """Stage the rows, start (or join) the import's workflow, show progress, and read the report."""
    import_id = uuid.uuid4().hex
    async with temporal() as client:
        async with database() as session, session.begin():
            total = await _stage(session, import_id, rows, source)
        # The same file is the same import while one is under way: whoever comes second waits for the first.
        workflow_id = f"import/{digest.hexdigest()[:24]}"
        try:
            handle = await client.start_workflow(
                "BackfillWorkflow",
                ImportRequest(import_id=import_id),
                id=workflow_id,
                task_queue=TASK_QUEUE,
                static_summary=f"Import {total} closes from {source}"[:200],
                search_attributes=TypedSearchAttributes([SearchAttributePair(LIFECYCLE, "import")]),
                result_type=ImportReport,
            )
        except WorkflowAlreadyStartedError:
            err.print("This import is running already: waiting for it.")
            handle = client.get_workflow_handle(workflow_id, result_type=ImportReport)
            async with database() as session, session.begin():
                await store.imports.drop(session, import_id)
        report = await _wait(client, handle, import_id, total)
    return await _full_report(report, workflow_id)


async def _stage(session: AsyncSession, import_id: str, rows: Iterator[StagedRow | Refusal], source: str) -> int:
    await store.imports.create(session, import_id, source[:500])
    total = 0
    while batch := _next_batch(rows):
        staged = [row for row in batch if isinstance(row, StagedRow)]
        await store.imports.stage(session, import_id, staged, [row for row in batch if isinstance(row, Refusal)])
        total += len(batch)
    return total


def _next_batch(rows: Iterator[StagedRow | Refusal]) -> list[StagedRow | Refusal]:
    """The next rows, not more than memory should hold at once."""
    batch: list[StagedRow | Refusal] = []
    size = 0
    for row in islice(rows, STAGED_AT_ONCE):
        batch.append(row)
        size += len(row.payload) if isinstance(row, StagedRow) else 0
        if size > STAGED_CHARACTERS:
            break
    return batch


async def _wait(client: Client, handle: WorkflowHandle[Any, ImportReport], import_id: str, total: int) -> ImportReport:
    result = asyncio.create_task(_result(handle))
    columns = (TextColumn("attributing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=total)
        while not result.done():
            await asyncio.wait((result,), timeout=0.3)
            try:
                async with database() as session:
                    progress = await store.imports.progress(session, import_id)
                if progress:
                    bar.update(task, completed=progress.done, total=progress.total)
            except DATABASE_ERRORS:
                continue  # the import goes on without being watched
    try:
        return result.result()
    except WorkflowFailureError as error:
        fail(f"The import ended without a report ({error.cause}): look at workflow {handle.id} in the Temporal UI.")


async def _result(handle: WorkflowHandle[Any, ImportReport]) -> ImportReport:
    """Wait out a server that is restarted meanwhile: the import itself goes on by itself."""
    loop = asyncio.get_running_loop()
    away_since: float | None = None
    while True:
        asked = loop.time()
        try:
            return await handle.result()
        except RPCError as error:
            if loop.time() - asked > 30:
                away_since = None  # it had been back
            away_since = away_since or loop.time()
            if error.status not in _AWAY or loop.time() - away_since > PATIENCE_SECONDS:
                raise
            await asyncio.sleep(1)


async def _full_report(report: ImportReport, workflow_id: str) -> dict[str, Any]:
    books: dict[str, dict[str, Any]] = {
        book: {**counts.model_dump(), "rejected": []} for book, counts in report.books.items()
    }
    unreadable: list[dict[str, Any]] = []
    async with database() as session:
        async for row in store.imports.rejections(session, report.import_id):
            refusal = {"index": row["row_index"], "reason": row["reason"]}
            (unreadable if row["book"] is None else books[row["book"]]["rejected"]).append(refusal)
    return {"books": books, "workflow_id": workflow_id} | ({"rejected": unreadable} if unreadable else {})
