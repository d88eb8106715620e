"""What leaves the database after a while, and the archives that it goes into."""

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, Field
from sqlalchemy import BigInteger, Column, DateTime, Identity, Index, Text, text
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from closeloop.models.bounded import add_failure
from closeloop.models.values import Utc

ARCHIVE_UNWRITABLE = "ArchiveUnwritable"
"""Type of the error where the archive cannot be written; nothing has left then."""


class Leaving(StrEnum):
    """Tables that rows leave. All others keep theirs for ever."""

    events = "events"
    lesson_history = "lesson_history"
    market_levers = "market_levers"


LEAVING_BEFORE_LEVERS = (Leaving.events, Leaving.lesson_history)
"""What left in runs that began before levers were given."""


class RetentionRequest(BaseModel):
    """Let go what is old ``as_of`` an instant. ``so_far`` and ``done`` are of the runs before a continue-as-new."""

    as_of: Utc | None = None
    by_schedule: bool = False
    so_far: "RetentionReport | None" = None
    done: list[Leaving] = []


class LeavingBatch(BaseModel):
    """Let the next batch of a table's rows leave."""

    table: Leaving
    as_of: Utc


class LeftBatch(BaseModel):
    """What left: rows, and the bytes of their file (0 without an archive). ``more``: whether to ask again."""

    rows: int = 0
    bytes: int = 0
    more: bool = False


class TableLeft(BaseModel):
    """Rows of a table that left, in how many batches, and the bytes of their files."""

    rows: int = 0
    batches: int = 0
    bytes: int = 0


class RetentionReport(BaseModel):
    """What left by table, and why it failed for a table."""

    as_of: Utc
    left: dict[Leaving, TableLeft] = {}
    failed: dict[str, str] = {}

    def add(self, table: Leaving, batch: LeftBatch) -> None:
        """Count a batch."""
        if batch.rows:
            left = self.left.setdefault(table, TableLeft())
            left.rows += batch.rows
            left.batches += 1
            left.bytes += batch.bytes

    def fail(self, table: Leaving, reason: str) -> None:
        """Say why a table's rows stay."""
        add_failure(self.failed, table, reason)

    @property
    def sentence(self) -> str:
        """All of it, for a person."""
        parts = [
            f"{left.rows:,} rows of {table} left" + (f", {left.bytes:,} bytes of archive" if left.bytes else "")
            for table, left in self.left.items()
        ]
        parts += [f"{table}: nothing more left: {reason}" for table, reason in self.failed.items()]
        return "; ".join(parts) or "nothing was old enough to leave"


class Archive(SQLModel, table=True):
    """A batch of rows that left, or that a run was about to let go.

    The row is committed before its file is written. The transaction that deletes the rows sets ``done_at``: a row
    without it names a file of which nothing was deleted. ``file`` is null where the policy keeps no archive.
    """

    __tablename__ = "archives"
    __table_args__ = (
        Index("archives_unfinished", "archive_id", postgresql_where=text("done_at IS NULL")),
        Index("archives_source", "source", "archive_id"),
    )

    archive_id: int | None = Col(default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    source: str = Col(sa_column=Column(Text, nullable=False))
    horizon: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    folder: str | None = Col(default=None, sa_column=Column(Text))
    file: str | None = Col(default=None, sa_column=Column(Text))
    rows: int | None = Col(default=None, sa_column=Column(BigInteger))
    bytes: int | None = Col(default=None, sa_column=Column(BigInteger))
    begun_at: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )
    done_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))


class TableSize(BaseModel):
    """How large a table is. ``rows`` is PostgreSQL's estimate, null before it has counted; ``bytes`` with indexes."""

    table: str
    rows: int | None
    bytes: int
    index_bytes: int
    bytes_a_close: float | None = Field(description="Of all bytes, by the attributions on record; null without any.")


class TemporalFile(BaseModel):
    """The file of the local stack's Temporal server, with its write-ahead log."""

    path: str
    bytes: int
    retention_days: int = Field(description="After which the server deletes the history of what has ended.")


class ArchivesOf(BaseModel):
    """What left a table: rows, and its files. ``unfinished``: batches that a killed run left, of which nothing left."""

    table: Leaving
    rows: int
    files: int
    bytes: int
    until: datetime | None = Field(description="What was older than this has left, newest batch; null: nothing has.")
    folders: list[str] = Field(description="Where workers wrote the files, the newest first; at most ten.")
    unfinished: int


class WillLeave(BaseModel):
    """What of a table leaves next. ``days``: for how long rows are kept; null: for ever."""

    table: Leaving
    days: int | None
    archived: bool
    next_at: datetime
    rows: int = Field(description="That are old enough at next_at, as far as they were counted.")
    counted_to_the_end: bool = True


class StorageReport(BaseModel):
    """What takes how much, and what will leave."""

    closes: int | None = Field(description="Attributions on record, estimated; null before PostgreSQL has counted.")
    database_bytes: int
    tables: list[TableSize]
    temporal_file: TemporalFile | None
    archives: list[ArchivesOf]
    leaving: list[WillLeave]
    by_policy_of: str = Field(description="Whose policy says what leaves: the workers', or this command's.")
