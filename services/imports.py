"""History in bulk: a file's rows are staged, attributed by a durable workflow, and counted in its report."""

import asyncio
import hashlib
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pydantic_core import to_json
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from closeloop import store
from closeloop.gateways.freqtrade import NotAnExport, read_export
from closeloop.models import launches
from closeloop.models.errors import NotAcceptable, RunFailed
from closeloop.models.imports import ImportedBook, ImportProgress, ImportReport, ImportRequest, ImportResult
from closeloop.models.refusals import TOO_LONG
from closeloop.models.values import BOOK_PATTERN
from closeloop.services.launching import start
from closeloop.store.imports import RefusedImportRow, StagedRow

STAGED_ROWS_AT_ONCE = 2_000
STAGED_CHARACTERS_AT_ONCE = 8_000_000  # a batch ends with the row that exceeds it: memory stays bounded
SERVER_AWAY_AT_MOST_SECONDS = 600  # after this, waiting for an import's result gives up
SERVER_WAS_BACK_AFTER_SECONDS = 30  # a question that waited this long was heard: the time away is counted anew
_AWAY_STATUSES = (RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED)

Row = StagedRow | RefusedImportRow
Digest = Any  # of hashlib, which has no public name for it


@dataclass(frozen=True)
class ImportSource:
    """What is to be imported: its rows, which can be read once, and its name for the audit trail.

    Once all rows are read, ``digest`` is of the whole content: the same content is the same import.
    """

    name: str
    rows: Iterator[Row]
    digest: Digest


@dataclass(frozen=True)
class RunningImport:
    """An import whose workflow runs. ``joined``: it was running already when it was asked for."""

    import_id: str
    total: int
    joined: bool
    handle: WorkflowHandle[Any, ImportReport]


def jsonl_source(lines: Iterable[tuple[int, bytes | None]], name: str) -> ImportSource:
    """JSON lines of closed positions: (index from 0, line; None for one that is too long)."""
    digest = hashlib.sha256(b"jsonl\0")

    def rows() -> Iterator[Row]:
        for seq, (index, line) in enumerate(lines):
            digest.update(b"too long" if line is None else line)
            digest.update(b"\n")
            yield _jsonl_row(seq, index, line)

    return ImportSource(f"jsonl {name}", rows(), digest)


def freqtrade_source(content: bytes, book: str | None, name: str) -> ImportSource:
    """Trades that freqtrade exported, in ``book``, or else in a book of the strategy's name. Raises NotAcceptable."""
    try:
        rows = list(_freqtrade_rows(content, book))
    except NotAnExport as error:
        raise NotAcceptable(f"{name} is no freqtrade export: {error}.") from None
    digest = hashlib.sha256(b"freqtrade\0" + (book or "").encode() + b"\0" + content)
    return ImportSource(f"freqtrade {name}", iter(rows), digest)


async def begin(client: Client, session: AsyncSession, source: ImportSource) -> RunningImport:
    """Stage the rows and start the import's workflow, or join the one that imports the same content. Commits."""
    import_id = uuid.uuid4().hex
    async with session.begin():
        total = await _stage(session, import_id, source)
    launch = launches.backfill(ImportRequest(import_id=import_id), source.digest.hexdigest(), total, source.name)
    try:
        return RunningImport(import_id, total, False, await start(client, launch))
    except WorkflowAlreadyStartedError:
        async with session.begin():
            await store.imports.drop(session, import_id)
        handle = client.get_workflow_handle(launch.id, result_type=ImportReport)
        return RunningImport(import_id, total, True, handle)


async def progress(session: AsyncSession, running: RunningImport) -> ImportProgress | None:
    """How far an import has come; None for one that was joined."""
    return await store.imports.progress(session, running.import_id)


async def outcome(running: RunningImport) -> ImportReport:
    """Wait for an import's end, also across a restart of Temporal's server. Raises RunFailed; RPCError where the server
    stays away for more than ten minutes."""
    loop = asyncio.get_running_loop()
    away_since: float | None = None
    while True:
        asked = loop.time()
        try:
            return await running.handle.result()
        except WorkflowFailureError as error:
            raise RunFailed(
                f"The import ended without a report ({error.cause}): look at workflow {running.handle.id} in the "
                "Temporal UI."
            ) from None
        except RPCError as error:
            if loop.time() - asked > SERVER_WAS_BACK_AFTER_SECONDS:
                away_since = None
            away_since = away_since or loop.time()
            if error.status not in _AWAY_STATUSES or loop.time() - away_since > SERVER_AWAY_AT_MOST_SECONDS:
                raise
            await asyncio.sleep(1)


async def result(session: AsyncSession, running: RunningImport, report: ImportReport) -> ImportResult:
    """The report with the rows that were refused, book by book."""
    found = ImportResult(
        books={book: ImportedBook(**counts.model_dump()) for book, counts in report.books.items()},
        workflow_id=running.handle.id,
    )
    async for book, row in store.imports.rejections(session, report.import_id):
        (found.rejected if book is None else found.books[book].rejected).append(row)
    return found


def _jsonl_row(seq: int, index: int, line: bytes | None) -> Row:
    if line is None:
        return RefusedImportRow(seq, index, None, TOO_LONG)
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return RefusedImportRow(seq, index, None, "the line is not UTF-8")
    if "\0" in text:  # PostgreSQL holds no NUL; JSON allows none unescaped either
        return RefusedImportRow(seq, index, None, "the line is not JSON: it has a NUL character")
    return StagedRow(seq, index, text)


def _freqtrade_rows(content: bytes, book: str | None) -> Iterator[Row]:
    for seq, trade in enumerate(read_export(content, book)):
        name = book or trade.strategy
        readable = name if BOOK_PATTERN.fullmatch(name) else None
        if trade.message is None:
            yield RefusedImportRow(seq, trade.index, readable, trade.reason or "")
        elif readable is None:
            reason = f"book: the strategy's name {name!r} is no book's name; choose one with --book"
            yield RefusedImportRow(seq, trade.index, None, reason)
        else:
            yield StagedRow(seq, trade.index, to_json(trade.message).decode())


async def _stage(session: AsyncSession, import_id: str, source: ImportSource) -> int:
    await store.imports.create(session, import_id, source.name[:500])
    total = 0
    while batch := _next_batch(source.rows):
        staged = [row for row in batch if isinstance(row, StagedRow)]
        await store.imports.stage(
            session, import_id, staged, [row for row in batch if isinstance(row, RefusedImportRow)]
        )
        total += len(batch)
    return total


def _next_batch(rows: Iterator[Row]) -> list[Row]:
    """The next rows, not more than memory should hold at once."""
    batch: list[Row] = []
    size = 0
    for row in islice(rows, STAGED_ROWS_AT_ONCE):
        batch.append(row)
        size += len(row.payload) if isinstance(row, StagedRow) else 0
        if size > STAGED_CHARACTERS_AT_ONCE:
            break
    return batch
