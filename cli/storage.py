"""What takes how much, and what will leave the database."""

from datetime import UTC, datetime
from pathlib import Path

from closeloop.cli.connections import database
from closeloop.cli.console import AsJson, at, out, print_json, run, settings, table
from closeloop.models.retention import ArchivesOf, StorageReport, TemporalFile, WillLeave
from closeloop.services import storage as service
from closeloop.workers.stack.home import Home

SMALL = 100_000  # bytes; smaller tables are one line together


def storage(as_json: AsJson = False) -> None:
    """What takes how much, and what will leave the database."""
    report = run(_report())
    if as_json:
        return print_json(report)
    return _print(report)


async def _report() -> StorageReport:
    async with database() as session:
        return await service.report(
            session, settings().learning_policy().retention, datetime.now(UTC), _temporal_file(settings().home)
        )


def _temporal_file(home: Path) -> TemporalFile | None:
    """The file of the local stack's server, with its write-ahead log; None where there is none."""
    path = Home(home).temporal_db
    sizes = []
    for part in (path, path.with_name(path.name + "-wal")):
        try:
            sizes.append(part.stat().st_size)
        except OSError:
            continue
    if not sizes:
        return None
    return TemporalFile(path=str(path), bytes=sum(sizes), retention_days=settings().temporal_retention_days)


def _print(report: StorageReport) -> None:
    numbers = ("rows (estimated)", "size", "of that indexes", "bytes a close")
    shown = table("table", *numbers, numbers=numbers, whole=("table",))
    large = [one for one in report.tables if one.bytes >= SMALL]
    for one in large:
        a_close = "-" if one.bytes_a_close is None else f"{one.bytes_a_close:,.0f}"
        rows = "-" if one.rows is None else f"{one.rows:,}"
        shown.add_row(one.table, rows, _size(one.bytes), _size(one.index_bytes), a_close)
    if rest := report.tables[len(large) :]:
        together = _size(sum(one.bytes for one in rest))
        shown.add_row(f"{len(rest)} smaller ones", "", together, _size(sum(one.index_bytes for one in rest)), "")
    out.print(shown)
    closes = "an unknown number of closes" if report.closes is None else f"about {report.closes:,} closes"
    out.print(f"database {_size(report.database_bytes)} with {closes}")
    if file := report.temporal_file:
        out.print(
            f"Temporal {_size(file.bytes)} in {file.path}; what ended is kept for {file.retention_days} days, and "
            "its space is used again",
            soft_wrap=True,
        )
    for archives in report.archives:
        out.print(_archives(archives), soft_wrap=True)
    for leaving in report.leaving:
        out.print(_leaving(leaving), soft_wrap=True)
    out.print(f"By the policy of {report.by_policy_of}.", soft_wrap=True)


def _archives(found: ArchivesOf) -> str:
    if not found.rows:
        sentence = f"{found.table}: nothing has left"
    else:
        sentence = f"{found.table}: {found.rows:,} rows from before {at(found.until)} UTC have left"
        if found.files:
            where = " and ".join(found.folders)
            sentence += f", {found.files:,} files of {_size(found.bytes)} in {where}"
    if found.unfinished:
        sentence += f"; {found.unfinished} unfinished batches, of which nothing has left: the next run begins anew"
    return sentence


def _leaving(found: WillLeave) -> str:
    if found.days is None:
        return f"{found.table}: kept for ever"
    rows = f"{found.rows:,} rows" if found.counted_to_the_end else f"more than {found.rows:,} rows"
    how = "into the archive" if found.archived else "for good: the policy keeps no archive"
    when = f"at {at(found.next_at)} UTC" if found.next_at > datetime.now(UTC) else "at the next look, which is due"
    return f"{found.table}: kept for {found.days} days; {rows} leave {when}, {how}"


def _size(size: int) -> str:
    """Bytes for a person."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size / 2**10:,.0f} KiB"
