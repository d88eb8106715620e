"""Which run the trades of a file are of, and whether the book that they are to go into holds another one."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.models.closes import read_close
from closeloop.models.errors import NotPossibleNow
from closeloop.models.positions import ClosedPosition
from closeloop.models.runs import RunKind
from closeloop.store.imports import StagedRow
from closeloop.store.runs import Run, Span

COMPARED_ROWS = 500
COMPARED_BYTES = 4_000_000


@dataclass(frozen=True)
class StagedRun:
    """A run whose trades an import has staged for a book. ``closes``: how many."""

    import_id: str
    book: str
    run: Run
    closes: int


async def check_currency(session: AsyncSession, book: str, currency: str | None, name: str) -> None:
    """Raises NotPossibleNow where the book is in another currency than the file."""
    of_book = await store.runs.currency(session, book)
    if currency is not None and of_book is not None and currency != of_book:
        raise NotPossibleNow(
            f"Book {book} is in {of_book} and {name} is in {currency}. A book has one currency: nothing of the file "
            "was taken. Import it into a book of its own with --book NAME."
        )


async def admit(session: AsyncSession, staged: StagedRun, name: str, add: bool) -> None:
    """Record the run of what was staged for a book. The caller holds the lock of the book's runs.

    Raises NotPossibleNow where the book holds positions of another run, unless these are to be added to them.
    """
    if not staged.closes:
        return
    if not add:
        await _refuse_another(session, staged, name)
    await store.runs.record(session, staged.import_id, staged.book, staged.run)


async def _refuse_another(session: AsyncSession, staged: StagedRun, name: str) -> None:
    book, run = staged.book, staged.run
    known = await store.runs.of_book(session, book)
    if any(_is(run, other) for other in known):
        return
    if (other := await store.runs.unfinished(session, book, staged.import_id)) is not None:
        raise NotPossibleNow(
            f"Book {book} is taking in another run, by an import of {other} that has not come to its end: nothing of "
            f"{name} was taken. Wait for it (importing that file again sees it through), or import into another book "
            f"with --book NAME, or into this one all the same with --add."
        )
    held = await store.runs.span(session, book)
    if held is None:
        return
    if run.kind == RunKind.live:
        if all(other.kind == RunKind.live for other in known):
            return
        difference = "a bot's trades are no backtest's"
    else:
        begins = min([held.begins, *(other.begins for other in known)])
        ends = max([held.ends, *(other.ends for other in known)])
        found = await _difference(session, staged, max(begins, run.begins), min(ends, run.ends))
        if found is None:
            return
        difference = found
    raise NotPossibleNow(
        f"Book {book} holds positions of another run: nothing of {name} was taken. The book holds "
        f"{_held(held, known)}; the file is {_described(run)}: {difference}. Import it into a book of its own with "
        "--book NAME, or into this one all the same with --add."
    )


def _is(run: Run, other: Run) -> bool:
    """Whether the run is this one by what the files say; a bot's trades are all of one run."""
    return run.content == other.content or (run.run_id is not None and run.run_id == other.run_id)


async def _difference(session: AsyncSession, staged: StagedRun, begins: datetime, ends: datetime) -> str | None:
    """How the staged positions differ from the book's between two times that both cover; None if they are the same.

    A position that opened or closed at the very edge may be missing: there, a run begins or ends.
    """
    if begins > ends:
        return "they have no time in common"
    common, inside = 0, 0
    after: int | None = None
    while rows := await store.imports.waiting(session, staged.import_id, after, COMPARED_ROWS, COMPARED_BYTES):
        after = rows[-1].seq
        positions = {p.key: p for p in _positions(rows, staged.book) if p.opened_at >= begins and p.closed_at <= ends}
        same, differing = await store.positions.compare(session, positions)
        for key, fields in differing.items():
            return f"position {key.position_id!r} has another {', '.join(fields)}"
        for key, position in positions.items():
            within = begins < position.opened_at and position.closed_at < ends
            if within and key not in same:
                return f"position {key.position_id!r} is only in the file"
            inside += within
        common += len(same)
    if not common:
        return "no position is in both"
    more = await store.runs.positions_between(session, staged.book, begins, ends) - inside
    return f"{more} positions of {_days(begins, ends)} are only in the book" if more > 0 else None


def _positions(rows: Sequence[StagedRow], book: str) -> list[ClosedPosition]:
    read = (read_close(row.payload).position for row in rows)  # one that is none will be refused
    return [position for position in read if position is not None and position.book == book]


def _held(held: Span, known: Sequence[Run]) -> str:
    if not known:
        number = "1 position" if held.positions == 1 else f"{held.positions} positions"
        return f"{number} of {_days(held.begins, held.ends)} whose run is not on record"
    more = f" and {len(known) - 1} more" if len(known) > 1 else ""
    return f"{_described(known[0])} (from {known[0].source}){more}"


def _described(run: Run) -> str:
    kind = "a bot's trades" if run.kind == RunKind.live else "a run without an id"
    name = f"run {run.run_id[:12]}…" if run.run_id is not None else kind
    return f"{name} of {_days(run.begins, run.ends)}"


def _days(begins: datetime, ends: datetime) -> str:
    return f"{begins:%Y-%m-%d} to {ends:%Y-%m-%d}"
