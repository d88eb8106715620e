"""Bulk imports: rows staged by the command that reads the file, attributed by a durable backfill."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel
from pydantic_core import from_json
from sqlalchemy import BigInteger, Column, DateTime, ForeignKeyConstraint, Integer, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from closeloop.models.values import BOOK_PATTERN


class ImportRequest(BaseModel):
    """Attribute the rows that were staged under this id."""

    import_id: str


class BookCounts(BaseModel):
    """What became of one book's rows. ``read`` counts all of them; ``still_open`` ones are no closes, and left out.

    ``corrected``: the file's own PnL was before fees, and the net one was taken. ``repeated``: attributed, and another
    trade again under another id (policy ``mining.same_trade``).
    """

    read: int = 0
    attributed: int = 0
    already_attributed: int = 0
    still_open: int = 0
    corrected: int = 0
    repeated: int = 0

    @property
    def refused(self) -> int:
        """How many rows of the book were refused."""
        return self.read - self.attributed - self.already_attributed - self.still_open


class ImportReport(BaseModel):
    """What an import did. Rejected rows are not repeated here (they may be many): ``import_rejections`` has them."""

    import_id: str
    books: dict[str, BookCounts] = {}
    rejected: int = 0


class RejectedRow(BaseModel):
    """A row of the input that was refused; ``index`` counts a file's lines or trades from 0."""

    index: int
    reason: str


class NotedRow(BaseModel):
    """An optional field that was left out of a row, by the input's own name for it; ``index`` as in RejectedRow."""

    index: int
    field: str
    reason: str


def book_of(payload: str) -> str | None:
    """The book that a row names, if as much as that can be read."""
    try:
        row = from_json(payload)
    except ValueError:
        return None
    book = row.get("book") if isinstance(row, dict) else None
    return book if isinstance(book, str) and BOOK_PATTERN.fullmatch(book) else None


class ImportProgress(BaseModel):
    """How far an import has come."""

    import_id: str
    done: int
    total: int


class Import(SQLModel, table=True):
    """One import. ``counts`` grows in the transaction that attributes the rows, so it is right after any crash.

    ``touched_at``: when the command that reads the file last staged rows. ``staged_at``: when all of them were, and
    ``content`` is their digest. ``started_at``: when a worker took it up.
    """

    __tablename__ = "imports"

    import_id: str = Col(sa_column=Column(Text, primary_key=True))
    source: str = Col(sa_column=Column(Text, nullable=False))
    total: int = Col(sa_column=Column(BigInteger, nullable=False))
    done: int = Col(default=0, sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    counts: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False, server_default=text("'{}'")))
    created_at: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )
    touched_at: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )
    staged_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    started_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    content: str | None = Col(default=None, sa_column=Column(Text))


class ImportRow(SQLModel, table=True):
    """A row waiting to be attributed: text as it was read, because it may not even be JSON."""

    __tablename__ = "import_rows"
    __table_args__ = (ForeignKeyConstraint(["import_id"], ["imports.import_id"], ondelete="CASCADE"),)

    import_id: str = Col(sa_column=Column(Text, primary_key=True))
    seq: int = Col(sa_column=Column(Integer, primary_key=True))
    row_index: int = Col(sa_column=Column(Integer, nullable=False))
    payload: str = Col(sa_column=Column(Text, nullable=False))


class ImportRejection(SQLModel, table=True):
    """A row that was refused, and why. ``book`` is null where none could be read."""

    __tablename__ = "import_rejections"
    __table_args__ = (ForeignKeyConstraint(["import_id"], ["imports.import_id"], ondelete="CASCADE"),)

    import_id: str = Col(sa_column=Column(Text, primary_key=True))
    seq: int = Col(sa_column=Column(Integer, primary_key=True))
    row_index: int = Col(sa_column=Column(Integer, nullable=False))
    book: str | None = Col(default=None, sa_column=Column(Text))
    reason: str = Col(sa_column=Column(Text, nullable=False))


class ImportNote(SQLModel, table=True):
    """An optional field that was left out of a row, and why. A row's field is noted once."""

    __tablename__ = "import_notes"
    __table_args__ = (ForeignKeyConstraint(["import_id"], ["imports.import_id"], ondelete="CASCADE"),)

    import_id: str = Col(sa_column=Column(Text, primary_key=True))
    seq: int = Col(sa_column=Column(Integer, primary_key=True))
    field: str = Col(sa_column=Column(Text, primary_key=True))
    row_index: int = Col(sa_column=Column(Integer, nullable=False))
    book: str = Col(sa_column=Column(Text, nullable=False))
    reason: str = Col(sa_column=Column(Text, nullable=False))
