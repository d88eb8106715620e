"""Bulk imports: rows staged by the command that reads the file, attributed by a durable backfill."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel
from sqlalchemy import BigInteger, Column, DateTime, ForeignKeyConstraint, Integer, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel


class ImportRequest(BaseModel):
    """Attribute the rows that were staged under this id."""

    import_id: str


class BookCounts(BaseModel):
    """What became of one book's rows."""

    read: int = 0
    attributed: int = 0
    already_attributed: int = 0


class ImportReport(BaseModel):
    """What an import did. Rejected rows are not repeated here (they may be many): ``import_rejections`` has them."""

    import_id: str
    books: dict[str, BookCounts] = {}
    rejected: int = 0


class RejectedRow(BaseModel):
    """A row of the input that was refused; ``index`` counts a file's lines or trades from 0."""

    index: int
    reason: str


class ImportedBook(BookCounts):
    """What became of one book's rows, with those that were refused."""

    rejected: list[RejectedRow] = []


class ImportResult(BaseModel):
    """What an import did, as its command reports it. ``rejected``: refused rows from which no book could be read."""

    books: dict[str, ImportedBook] = {}
    workflow_id: str
    rejected: list[RejectedRow] = []


class ImportProgress(BaseModel):
    """How far an import has come."""

    import_id: str
    done: int
    total: int


class Import(SQLModel, table=True):
    """One import. ``counts`` grows in the transaction that attributes the rows, so it is right after any crash."""

    __tablename__ = "imports"

    import_id: str = Col(sa_column=Column(Text, primary_key=True))
    source: str = Col(sa_column=Column(Text, nullable=False))
    total: int = Col(sa_column=Column(BigInteger, nullable=False))
    done: int = Col(default=0, sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    counts: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False, server_default=text("'{}'")))
    created_at: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )


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
