"""History in bulk: a file's rows are staged, attributed by a durable workflow, and counted in its report."""

import asyncio
import contextlib
import hashlib
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import to_json
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from closeloop import store
from closeloop.gateways.freqtrade import read_freqtrade
from closeloop.gateways.freqtrade.files import MAX_BYTES
from closeloop.gateways.trades import FileRun, FileTrade, NotTrades, TradeFile
from closeloop.models import launches
from closeloop.models.closes import with_position_key
from closeloop.models.errors import NotAcceptable, NotPossibleNow, RunFailed, Unavailable
from closeloop.models.imports import ImportProgress, ImportReport, ImportRequest, NotedRow, RejectedRow, book_of
from closeloop.models.policy import ImportsPolicy
from closeloop.models.refusals import TOO_LONG
from closeloop.models.runs import RunKind
from closeloop.models.values import BOOK_PATTERN
from closeloop.services.launching import start
from closeloop.services.runs import StagedRun, admit, check_currency
from closeloop.store.errors import DATABASE_ERRORS
from closeloop.store.imports import RefusedImportRow, RowNote, StagedImport, StagedRow
from closeloop.store.runs import Run

STAGED_ROWS_AT_ONCE = 2_000
STAGING_KEPT_HOURS = 24  # after which rows whose command stages no more are deleted
BOOKS_AN_IMPORT = 5_000  # its report has a line for each, and karma is rebuilt of each
STAGED_CHARACTERS_AT_ONCE = 8_000_000  # a batch ends with the row that exceeds it: memory stays bounded
SERVER_AWAY_AT_MOST_SECONDS = 600  # after this, waiting for an import's result gives up
SERVER_WAS_BACK_AFTER_SECONDS = 30  # a question that waited this long was heard: the time away is counted anew
_AWAY_STATUSES = (RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED)

Digest = Any  # of hashlib, which has no public name for it


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row of the input: ``row`` is what is staged or refused, None for a trade that is still open.

    ``book`` is None where none could be read; ``opened_at`` and ``closed_at`` are of a trade whose run is known.
    """

    row: StagedRow | RefusedImportRow | None
    book: str | None
    corrected: bool = False
    notes: tuple[RowNote, ...] = ()
    opened_at: datetime | None = None
    closed_at: datetime | None = None


@dataclass(frozen=True)
class ImportSource:
    """What is to be imported: its rows, which can be read once, its name for the audit trail, and for a sentence.

    Once all rows are read, ``digest`` is of the whole content: the same content is the same import. ``runs``: of the
    books whose trades are known to be of one run.
    """

    name: str
    file: str
    rows: Iterator[SourceRow]
    digest: Digest
    runs: Mapping[str, FileRun] = field(default_factory=dict)


@dataclass(frozen=True)
class RunningImport:
    """An import whose workflow runs. ``joined``: it was running already when it was asked for."""

    import_id: str
    total: int
    joined: bool
    handle: WorkflowHandle[Any, ImportReport]


def jsonl_source(lines: Iterable[tuple[int, bytes | None]], name: str, position_key: str | None = None) -> ImportSource:
    """JSON lines of closed positions: (index from 0, line; None for one that is too long).

    ``position_key``: what identifies the position of a line that does not say it.
    """
    digest = hashlib.sha256(f"jsonl\0{position_key or ''}\0".encode())

    def rows() -> Iterator[SourceRow]:
        for seq, (index, line) in enumerate(lines):
            digest.update(b"too long" if line is None else line)
            digest.update(b"\n")
            if line is not None and position_key is not None:
                line = with_position_key(line, position_key)
            row = _jsonl_row(seq, index, line)
            yield SourceRow(row, book_of(row.payload) if isinstance(row, StagedRow) else None)

    return ImportSource(f"jsonl {name}", _spoken(name), rows(), digest)


def freqtrade_source(file: Path | BinaryIO, book: str | None, name: str, split_tags: bool = False) -> ImportSource:
    """Trades of one of freqtrade's files, in ``book``, or else in a book of the strategy's name. Raises NotAcceptable.

    ``split_tags``: an enter tag of several words is of several producers.
    """
    try:
        content = file if isinstance(file, Path) else file.read(MAX_BYTES + 1)
        return trades_source(read_freqtrade(content, book, split_tags), "freqtrade", name)
    except NotTrades as error:
        raise NotAcceptable(f"{_spoken(name)} cannot be imported as freqtrade's: {error}.") from None


def trades_source(file: TradeFile, kind: str, name: str) -> ImportSource:
    """Trades that a reader found in a file. ``kind`` is what reads it, the word behind ``closeloop import``.

    Where the file turns out to be none of trades, while it is read, NotAcceptable is raised.
    """
    digest = hashlib.sha256(kind.encode() + b"\0")
    runs = {book: run for book, run in file.runs.items() if BOOK_PATTERN.fullmatch(book)}
    for book in sorted(runs):
        digest.update(repr((book, runs[book])).encode(errors="replace"))

    def rows() -> Iterator[SourceRow]:
        try:
            for seq, trade in enumerate(file.trades):
                row = _trade_row(seq, trade, trade.book in runs)
                payload = row.row.payload if isinstance(row.row, StagedRow) else ""
                digest.update(f"{trade.book}\0{trade.index}\0{trade.reason}\0{payload}\n".encode(errors="replace"))
                yield row
        except NotTrades as error:
            raise NotAcceptable(f"{_spoken(name)}: {error}") from None

    return ImportSource(f"{kind} {name}", _spoken(name), rows(), digest, runs)


async def begin(
    client: Client, session: AsyncSession, source: ImportSource, policy: ImportsPolicy, add: bool = False
) -> RunningImport:
    """Stage the rows and start the import's workflow, or join the one that imports the same content. Commits.

    Rows are committed in batches, and count once all of them are staged. Where the process dies before, nothing of the
    file was taken and the catch-up drops the rows after a day; where it dies after, the catch-up starts the workflow.

    ``add``: also where a book holds another run's positions. Raises NotPossibleNow where one does and this is not
    said, or where the book is in another currency; NotAcceptable where the file is not what it should be, or names more
    new books than the policy allows: then nothing of the file is stored. Raises Unavailable where Temporal does not
    answer.
    """
    import_id = uuid.uuid4().hex
    try:
        total = await _stage(session, import_id, source, policy, add)
    except BaseException:
        with contextlib.suppress(*DATABASE_ERRORS):  # what is left, the catch-up drops after a day
            async with session.begin():
                await store.imports.drop(session, import_id)
        raise
    staged = StagedImport(import_id, source.digest.hexdigest(), total, source.name[:500])
    try:
        handle, joined = await _start(client, staged)
    except RPCError as error:
        raise Unavailable(
            f"{source.file} is staged, and Temporal refused or does not answer ({error.message[:200]}): a worker takes "
            "the import up by itself some minutes after Temporal is back. Importing it again is harmless."
        ) from None
    if joined:
        async with session.begin():
            await store.imports.drop(session, import_id)
    return RunningImport(import_id, total, joined, handle)


async def start_staged(client: Client, staged: StagedImport) -> bool:
    """Start an import that was staged and not started, because the command that read its file died.

    False where another import of the same content runs: this one waits for its end.
    """
    _, joined = await _start(client, staged)
    return not joined


async def _start(client: Client, staged: StagedImport) -> tuple[WorkflowHandle[Any, ImportReport], bool]:
    """The workflow that takes an import in, and whether that is another import of the same content, which runs."""
    request = ImportRequest(import_id=staged.import_id)
    launch = launches.backfill(request, staged.content, staged.total, staged.source)
    try:
        return await start(client, launch), False
    except WorkflowAlreadyStartedError:
        handle = client.get_workflow_handle(launch.id, result_type=ImportReport)
        return handle, await _asked(handle) != request


async def _asked(handle: WorkflowHandle[Any, ImportReport]) -> ImportRequest:
    """What an import's workflow was started with: the catch-up may have started this very import."""
    async for event in handle.fetch_history_events(page_size=1):
        payloads = event.workflow_execution_started_event_attributes.input.payloads
        return ImportRequest.model_validate_json(payloads[0].data)
    raise AssertionError("a history begins with what was asked")


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


@dataclass(frozen=True)
class ImportExcerpt:
    """The first rows of an import that were refused or noted, each with its book, and how many notes each book has."""

    rejected: list[tuple[str | None, RejectedRow]]
    noted: list[tuple[str, NotedRow]]
    notes: dict[str, int]


async def excerpt(session: AsyncSession, report: ImportReport, rows: int) -> ImportExcerpt:
    """At most ``rows`` of what was refused, and of what was noted."""
    return ImportExcerpt(
        rejected=[found async for found in store.imports.rejections(session, report.import_id, rows)],
        noted=[note async for note in store.imports.notes(session, report.import_id, limit=rows)],
        notes=await store.imports.note_counts(session, report.import_id),
    )


def whole(session: AsyncSession, running: RunningImport, report: ImportReport) -> dict[str, Any]:
    """The whole report: ``books`` by name, each with its counts, ``rejected`` and ``noted``; ``rejected`` rows from
    which no book could be read; ``workflow_id``.

    The lists may be long: each is an iterator that reads from the database, to be read one after the other.
    """
    return {
        "books": {
            book: {
                **counts.model_dump(),
                "rejected": store.imports.rejections_of(session, report.import_id, book),
                "noted": _without_book(store.imports.notes(session, report.import_id, book)),
            }
            for book, counts in report.books.items()
        },
        "rejected": store.imports.rejections_of(session, report.import_id, None),
        "workflow_id": running.handle.id,
    }


async def _without_book(notes: AsyncIterator[tuple[str, NotedRow]]) -> AsyncIterator[NotedRow]:
    async for _, note in notes:
        yield note


def _jsonl_row(seq: int, index: int, line: bytes | None) -> StagedRow | RefusedImportRow:
    if line is None:
        return RefusedImportRow(seq, index, None, TOO_LONG)
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return RefusedImportRow(seq, index, None, "the line is not UTF-8")
    if "\0" in text:  # PostgreSQL holds no NUL; JSON allows none unescaped either
        return RefusedImportRow(seq, index, None, "the line is not JSON: it has a NUL character")
    return StagedRow(seq, index, text)


def _spoken(name: str) -> str:
    return "the input" if name == "-" else name


def _trade_row(seq: int, trade: FileTrade, of_a_run: bool) -> SourceRow:
    if not BOOK_PATTERN.fullmatch(trade.book):
        reason = trade.reason or f"book: {trade.book[:80]!r} is no book's name; choose one with --book"
        return SourceRow(RefusedImportRow(seq, trade.index, None, reason), None)
    if trade.still_open:
        return SourceRow(None, trade.book)
    if trade.message is None:
        return SourceRow(
            RefusedImportRow(seq, trade.index, trade.book, trade.reason or "it cannot be read"), trade.book
        )
    return SourceRow(
        StagedRow(seq, trade.index, to_json(trade.message).decode()),
        trade.book,
        corrected=trade.corrected,
        notes=tuple(RowNote(seq, trade.index, trade.book, n.field, n.reason) for n in trade.notes),
        opened_at=_instant(trade.message.get("opened_at")) if of_a_run else None,
        closed_at=_instant(trade.message.get("closed_at")) if of_a_run else None,
    )


def _instant(value: Any) -> datetime | None:
    """A time of a message; None where it is none, for which the message will be refused."""
    try:
        found = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo is not None else None


class _Staging:
    """What is known of the rows that are being staged."""

    def __init__(self, source: ImportSource, policy: ImportsPolicy) -> None:
        self._source = source
        self._policy = policy
        self._known: set[str] = set()
        self._new: set[str] = set()
        self._spans: dict[str, tuple[datetime, datetime]] = {}
        self._closes: Counter[str] = Counter()

    async def take(self, session: AsyncSession, import_id: str, batch: list[SourceRow]) -> None:
        """Stage some rows. Raises NotAcceptable where they name too many new books."""
        await self._count_books(session, {row.book for row in batch if row.book is not None})
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for row in batch:
            if row.book is not None and row.row is None:
                counts[row.book]["still_open"] += 1
            elif row.book is not None and row.corrected:
                counts[row.book]["corrected"] += 1
            if row.book is not None and row.book in self._source.runs:
                self._note_span(row.book, row)
        await store.imports.stage(
            session,
            import_id,
            [row.row for row in batch if isinstance(row.row, StagedRow)],
            [row.row for row in batch if isinstance(row.row, RefusedImportRow)],
            counts,
            [note for row in batch for note in row.notes],
        )

    def runs(self, import_id: str) -> Iterator[StagedRun]:
        """The runs of what was staged, once all of it is."""
        content = self._source.digest.hexdigest()
        for book, (first, last) in sorted(self._spans.items()):
            said = self._source.runs[book]
            run = Run(
                kind=RunKind.live if said.live else RunKind.backtest,
                run_id=said.run_id,
                begins=min(first, said.begins or first),
                ends=max(last, said.ends or last),
                currency=said.currency,
                source=self._source.name[:500],
                content=content,
            )
            yield StagedRun(import_id, book, run, self._closes[book])

    def _note_span(self, book: str, row: SourceRow) -> None:
        if row.opened_at is None or row.closed_at is None:
            return
        first, last = self._spans.get(book, (row.opened_at, row.closed_at))
        self._spans[book] = min(first, row.opened_at), max(last, row.closed_at)
        self._closes[book] += 1

    async def _count_books(self, session: AsyncSession, named: set[str]) -> None:
        if unknown := named - self._known - self._new:
            existing = await store.books.existing(session, unknown)
            self._known |= existing
            self._new |= unknown - existing
        _refuse_too_many(self._source, len(self._known) + len(self._new))
        if len(self._new) > self._policy.max_new_books:
            examples = ", ".join(sorted(self._new)[:3])
            raise NotAcceptable(
                f"{self._source.file} would create more than {self._policy.max_new_books} books ({examples}, ...): is "
                "what it has for a book the strategy's name, and no id of a producer or a trade? Nothing of it was "
                "taken. The policy's imports.max_new_books sets the limit."
            )


def _refuse_too_many(source: ImportSource, books: int) -> None:
    if books > BOOKS_AN_IMPORT:
        raise NotAcceptable(
            f"{source.file} names more than {BOOKS_AN_IMPORT:,} books: import it in parts. Nothing of it was taken."
        )


async def _stage(session: AsyncSession, import_id: str, source: ImportSource, policy: ImportsPolicy, add: bool) -> int:
    """Stage all rows, each batch in a transaction of its own: what reads may wait for its input as long as it likes."""
    _refuse_too_many(source, len(source.runs))
    async with session.begin():
        for book in sorted(source.runs):
            await check_currency(session, book, source.runs[book].currency, source.file)
        await store.imports.create(session, import_id, source.name[:500])
        if source.runs:  # a book of the file is reported also where it has no trades
            await store.imports.settle(session, import_id, 0, {book: {"read": 0} for book in source.runs}, [])
    staging = _Staging(source, policy)
    total = 0
    while batch := _next_batch(source.rows):
        async with session.begin():
            await _touch(session, import_id, source)
            await staging.take(session, import_id, batch)
        total += len(batch)
    async with session.begin():
        await _touch(session, import_id, source)
        for book in sorted(source.runs):
            await store.locks.book_runs(session, book)
            await check_currency(session, book, source.runs[book].currency, source.file)
        for staged in staging.runs(import_id):
            await admit(session, staged, source.file, add)
        await store.imports.complete(session, import_id, source.digest.hexdigest())
    return total


async def _touch(session: AsyncSession, import_id: str, source: ImportSource) -> None:
    if not await store.imports.touch(session, import_id):
        raise NotPossibleNow(
            f"{source.file} said nothing for more than {STAGING_KEPT_HOURS} hours, and what had been read of it was "
            "dropped: nothing of it was taken. Import it again."
        )


def _next_batch(rows: Iterator[SourceRow]) -> list[SourceRow]:
    """The next rows, not more than memory should hold at once."""
    batch: list[SourceRow] = []
    size = 0
    for row in islice(rows, STAGED_ROWS_AT_ONCE):
        batch.append(row)
        size += len(row.row.payload) if isinstance(row.row, StagedRow) else 0
        if size > STAGED_CHARACTERS_AT_ONCE:
            break
    return batch
